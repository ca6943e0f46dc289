"""The bridge against its targets; ends with 1 when one is missed.

    vlnr1 bench bridge
    vlnr1 bench bridge --data data --split val_unseen --only free --seconds 10

latency   from the image in the simulator's hands to a node's callback, against a bare rclpy
          publisher and subscriber of an image of that size; all four processes run at once, so
          that a busy machine disturbs both pairs alike.
lockstep  simulated against wall time over whole episodes through navigator, driver and bridge,
          50 Hz control and a 10 Hz camera; start-up and the opening of scenes are not counted.
free      images a second that arrive, and those lost, of a camera of 30 Hz and 640x480 in wall
          time: with reliable images, and with best effort, for which the kernel must allow a
          socket buffer of 4 MB (net.core.rmem_max; vlnr1 doctor looks).

Without --data two apartments are generated first.
"""
from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Iterator

from sim_bridge.bench import generated
from sim_bridge.config import EnvironmentConfig
from sim_bridge.environment import load_episodes
from sim_bridge.ros.graph import Graph, GraphError, end_with_parent, isolated_environment
from vlnr1_ros.navigation.errors import UserError

MAX_LATENCY_RATIO = 1.3
MIN_LOCKSTEP_TIMES = 8.0
MIN_FREE_HZ, FREE_HZ, FREE_CONTROL_HZ = 29.0, 30.0, 60.0
WIDTH, HEIGHT = 640, 480
LATENCY_HZ = 10.0
BARE_LATENCY_HZ = 0.97 * LATENCY_HZ
"""Not the same, or all images of both would meet on the wire, or none."""
FIRST_IMAGE_WITHIN_S = 180.0
WARM_UP_S, TAIL_S = 2.0, 0.5
FIGURES = ('latency', 'lockstep', 'free')


class Processes:
    """Children of `bench_nodes` in one folder, which holds what they write."""

    def __init__(self, folder: Path, environment: dict):
        self._folder, self._environment = folder, environment
        self._running: dict[str, subprocess.Popen] = {}

    def start(self, name: str, role: str, namespace: str, parameters: dict) -> Path:
        """Start one; returns the file it writes to."""
        arguments = ['--ros-args', '-r', f'__ns:={namespace}', '-r', '/clock:=clock']
        for key, value in parameters.items():
            arguments += ['-p', f'{key}:={value}']
        file = self._folder / f'{name}.txt'
        with open(self._folder / f'{name}.log', 'wb') as log:
            self._running[name] = subprocess.Popen(
                [sys.executable, '-m', 'sim_bridge.ros.bench_nodes', role, str(file), *arguments],
                env=self._environment, stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, preexec_fn=end_with_parent)
        return file

    def sleep(self, seconds: float) -> None:
        """Sleep; GraphError when one of them has ended."""
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s:
            for name, process in self._running.items():
                if process.poll() is not None:
                    lines = (self._folder / f'{name}.log').read_text(errors='replace').strip()
                    raise GraphError(f'{name} ended with code {process.returncode}; its last '
                                     f'line: {lines.splitlines()[-1] if lines else "none"}')
            time.sleep(0.1)

    def end(self) -> None:
        """End them all."""
        for process in self._running.values():
            process.send_signal(signal.SIGINT)
        for process in self._running.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def processes() -> Iterator[Processes]:
    """Started in a domain of their own, on this machine only."""
    with tempfile.TemporaryDirectory(prefix='vlnr1_bench_') as folder:
        environment = isolated_environment(folder, random.SystemRandom().randint(1, 100))
        team = Processes(Path(folder), environment)
        try:
            yield team
        finally:
            team.end()


def heard(file: Path, kind: str) -> dict[int, int]:
    """{stamp_ns: heard_ns} of one kind of message in a listener's file."""
    return {int(stamp): int(at) for name, stamp, at in map(str.split, _lines(file))
            if name == kind}


def had(file: Path) -> dict[int, int]:
    """{stamp_ns: had_ns} in a sender's file."""
    return {int(stamp): int(at) for stamp, at in map(str.split, _lines(file))}


def _lines(file):
    text = file.read_text('utf-8') if file.exists() else ''
    return [line for line in text.splitlines(True) if line.endswith('\n')]


def _wait_for_images(team, *listeners):
    until_s = time.monotonic() + FIRST_IMAGE_WITHIN_S
    while not all(heard(listener, 'image') for listener in listeners):
        if time.monotonic() > until_s:
            raise GraphError(f'no image came within {FIRST_IMAGE_WITHIN_S:g} s')
        team.sleep(0.2)


def free_bridge(config: EnvironmentConfig, episode_id: str, camera_hz: float,
                control_hz: float) -> dict:
    """Parameters of a bridge in wall time that nobody drives."""
    return {'dataset': config.dataset, 'scenes_dir': config.scenes_dir, 'split': config.split,
            'episodes': f'"{episode_id}"', 'simulator': config.simulator, 'lockstep': 'false',
            'participants': '[]', 'episode_timeout_s': 1e5, 'width': WIDTH, 'height': HEIGHT,
            'camera_hz': camera_hz, 'control_hz': control_hz}


def latency(config: EnvironmentConfig, episode_id: str, seconds: float) -> tuple[float, float]:
    """Median seconds (through the bridge, bare) from having an image to hearing it."""
    with processes() as team:
        files = {
            'bridge': team.start('bridge', 'bridge', '/bridge', free_bridge(
                config, episode_id, LATENCY_HZ, 50.0)),
            'bare': team.start('bare', 'bare', '/bare', {
                'width': WIDTH, 'height': HEIGHT, 'camera_hz': BARE_LATENCY_HZ})}
        listeners = {name: team.start(f'{name}_listener', 'listen', f'/{name}', {})
                     for name in files}
        _wait_for_images(team, *listeners.values())
        team.sleep(WARM_UP_S)
        from_ns = time.monotonic_ns()
        team.sleep(seconds)
        medians = []
        for name, file in files.items():
            had_ns = had(file)
            took = [at - had_ns[stamp] for stamp, at in heard(listeners[name], 'image').items()
                    if had_ns.get(stamp, 0) > from_ns]
            medians.append(statistics.median(took) * 1e-9)
    return medians[0], medians[1]


def lockstep(data: str, split: str, policy: str, episodes: list[str]) -> float:
    """Simulated over wall seconds."""
    simulated_s = wall_s = 0.0
    with Graph(policy, data, split, episodes) as graph:
        for result in graph.results():
            simulated_s += result['sim_s']
            wall_s += result['wall_s']
    return simulated_s / wall_s


def free(config: EnvironmentConfig, episode_id: str, seconds: float, reliability: str
         ) -> tuple[float, float]:
    """(images a second that arrived, share of those sent that did not)."""
    with processes() as team:
        quality = {'image_reliability': reliability}
        listener = team.start('listener', 'listen', '/free', quality)
        team.start('bridge', 'bridge', '/free', {
            **free_bridge(config, episode_id, FREE_HZ, FREE_CONTROL_HZ), **quality})
        _wait_for_images(team, listener)
        team.sleep(WARM_UP_S)
        from_ns = time.monotonic_ns()
        team.sleep(seconds)
        to_ns = time.monotonic_ns()
        team.sleep(TAIL_S)
        sent = {stamp for stamp, at in heard(listener, 'info').items() if from_ns <= at < to_ns}
        came = sent & set(heard(listener, 'image'))
    if not sent:
        raise GraphError(f'the bridge sent nothing within {seconds:g} s')
    return len(came) / ((to_ns - from_ns) * 1e-9), 1 - len(came) / len(sent)


def _say(text: str, good: bool) -> bool:
    print(text + ('  (met)' if good else '  MISSED'), flush=True)
    return good


def measure(args: argparse.Namespace, data: str) -> bool:
    """Measure and print; whether every target is met."""
    data = os.path.abspath(data)
    config = EnvironmentConfig(dataset=f'{data}/datasets/apartments/v1', split=args.split,
                               scenes_dir=f'{data}/scene_datasets')
    ids = [e.episode_id for e in itertools.islice(load_episodes(config), args.episodes)]
    met = True
    if 'latency' in args.only:
        ours_s, bare_s = latency(config, ids[0], args.seconds)
        ratio = ours_s / bare_s
        met &= _say(f'latency of a {WIDTH}x{HEIGHT} image: {1e3 * ours_s:.2f} ms through the '
                    f'bridge, {1e3 * bare_s:.2f} ms bare, ratio {ratio:.2f} (at most '
                    f'{MAX_LATENCY_RATIO})', ratio <= MAX_LATENCY_RATIO)
    if 'lockstep' in args.only:
        times = lockstep(data, args.split, args.policy, ids)
        met &= _say(f'lockstep, {len(ids)} episodes of {args.policy}: {times:.1f} times wall time '
                    f'(at least {MIN_LOCKSTEP_TIMES:g})', times >= MIN_LOCKSTEP_TIMES)
    if 'free' in args.only:
        for text in ('reliable', 'best effort'):
            hz, loss = free(config, ids[0], args.seconds, text.replace(' ', '_'))
            met &= _say(f'free run, {text} images: {hz:.2f} Hz of {FREE_HZ:g}, {100 * loss:.1f} % '
                        'lost', hz >= MIN_FREE_HZ and loss == 0)
    return met


def main(argv: list[str] | None = None) -> int:
    """The command line of this module."""
    parser = argparse.ArgumentParser(prog='vlnr1 bench bridge', description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('--data', help='folder with datasets/ and scene_datasets/ (default: generate some)')
    add('--split', default='val_unseen', help='which episodes')
    add('--episodes', type=int, default=12, help='lockstep: the first so many of the split')
    add('--policy', default='expert', help='lockstep: expert, random, forward, stop or a '
        'checkpoint')
    add('--seconds', type=float, default=60.0, help='latency and free run: how long to measure')
    add('--only', nargs='+', choices=FIGURES, default=FIGURES, help='which figures')
    args = parser.parse_args(argv)
    if args.episodes < 1 or args.seconds <= 0:
        raise UserError(f'--episodes {args.episodes} and --seconds {args.seconds:g} must be '
                        'positive')
    with tempfile.TemporaryDirectory() as folder:
        return 0 if measure(args, args.data or generated(folder)) else 1


if __name__ == '__main__':
    from vlnr1_ros.command import run

    sys.exit(run('bench bridge', main, sys.argv[1:]))
