"""Run episodes through the ROS 2 graph: navigator, driver and bridge as three real processes.

    with Graph('expert', 'data', 'val_unseen', ['1', '2']) as graph:
        for result in graph.results():
            print(result['episode_id'], result['metrics']['success'])
        result = graph.run('3', 'Stop by the blue lamp.')

In discrete mode there is no driver: the bridge executes plans itself.
Everything stays on loopback, in a domain and a namespace of its own, and ends with the caller.
"""
from __future__ import annotations

import ctypes
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Iterator, Sequence

import yaml

from sim_bridge.config import EnvironmentConfig
from vlnr1_ros.navigation.card import NavigationCard
from vlnr1_ros.navigation.errors import UserError
from vlnr1_ros.resources import given_or_shipped

MODULES = {'driver': 'vlnr1_ros.nodes.driver', 'navigator': 'vlnr1_ros.nodes.navigator',
           'sim_bridge': 'sim_bridge.ros.bridge'}
VELOCITY, DISCRETE = 'velocity', 'discrete'
BUILT_IN = ('expert', 'random', 'forward', 'stop')  # policies without a checkpoint
LOG_LINES = 12
POLL_S = 0.05
END_TIMEOUT_S = 10.0
PR_SET_PDEATHSIG = 1


class GraphError(UserError):
    """A node died or an episode broke; the message names the node and its last lines."""


def isolated_environment(log_dir: str | os.PathLike, domain_id: int | None = None) -> dict:
    """This process's environment, changed so that nothing leaves the machine or meets others."""
    environment = dict(os.environ)
    environment.update(
        ROS_AUTOMATIC_DISCOVERY_RANGE='LOCALHOST',
        ROS_DOMAIN_ID=str(1 + os.getpid() % 100 if domain_id is None else domain_id),
        ROS_LOG_DIR=str(log_dir), RCUTILS_COLORIZED_OUTPUT='0', PYTHONUNBUFFERED='1')
    environment.setdefault('OMP_NUM_THREADS', '1')
    if os.environ.get('ROS_DISTRO') == 'humble':
        environment['ROS_LOCALHOST_ONLY'] = '1'  # Humble knows no discovery range
    # A peer, a discovery server or a profile would carry the traffic off the machine all the same.
    for name in ('ROS_STATIC_PEERS', 'ROS_DISCOVERY_SERVER', 'ROS_SUPER_CLIENT',
                 'FASTDDS_DEFAULT_PROFILES_FILE', 'FASTRTPS_DEFAULT_PROFILES_FILE',
                 'FASTDDS_BUILTIN_TRANSPORTS'):
        environment.pop(name, None)
    return environment


def environment_parameters(config: EnvironmentConfig) -> dict:
    """Parameters of the bridge that open the environment of that configuration."""
    camera = config.camera
    return {'dataset': os.path.abspath(config.dataset), 'split': config.split,
            'scenes_dir': os.path.abspath(config.scenes_dir), 'width': int(camera.width),
            'height': int(camera.height), 'hfov_deg': float(camera.hfov_deg),
            'camera_height_m': float(camera.height_m), 'forward_m': float(config.forward_m),
            'turn_deg': float(config.turn_deg), 'allow_sliding': bool(config.allow_sliding),
            'max_steps': int(config.max_steps), 'simulator': config.simulator,
            'success_distance_m': float(config.success_distance_m),
            'benchmark': config.benchmark, 'roles': ' '.join(config.roles),
            'languages': ' '.join(config.languages),
            'agent_radius_m': float(config.agent_radius_m),
            'agent_height_m': float(config.agent_height_m),
            'follow_reference': bool(config.follow_reference)}


class Graph:
    """Starts the nodes on entry and ends them on exit, whatever happens in between.

    policy: expert, random, forward, stop, a checkpoint, or a server's URL (turn_deg, 30 when left
    out, must be its model's). data: folder that `vlnr1 worlds` wrote.
    episodes: ids of those that :meth:`results` runs. record_dir: where the bridge records every
    episode (see `record.py`). seed: the navigator's. mode: velocity or discrete. parameters: more
    ROS parameters, {node: {name: value}}.
    """

    def __init__(self, policy: str, data: str | os.PathLike, split: str, episodes: Sequence[str],
                 record_dir: str | os.PathLike | None = None, seed: int = 0,
                 turn_deg: float | None = None, domain_id: int | None = None,
                 parameters: dict[str, dict] | None = None, mode: str = VELOCITY):
        self._policy = policy
        self._episodes = [str(episode) for episode in episodes]
        self._domain_id = domain_id
        self.namespace = f'/vlnr1_{os.getpid()}_{random.SystemRandom().randrange(16**4):04x}'
        forward_m, turn_deg = self._action_set(turn_deg)
        data = Path(data).resolve()
        common = {'forward_m': forward_m, 'turn_deg': turn_deg, 'lockstep': True}
        self._parameters = {
            'driver': dict(common),
            # No rule of a robot's comes between the policy and the episode: as in process.
            'navigator': {**common, 'policy': self._policy, 'seed': seed,
                          'when_stuck': 'ignore', 'crop': False, 'start_active': True},
            'sim_bridge': {
                **common, 'mode': mode, 'split': split,
                'dataset': str(data / 'datasets' / 'apartments' / 'v1'),
                'scenes_dir': str(data / 'scene_datasets'), 'episodes': ' '.join(self._episodes),
                'record_dir': str(Path(record_dir).resolve()) if record_dir else ''}}
        for node, values in (parameters or {}).items():
            self._parameters[node].update(values)
        if mode == DISCRETE:
            del self._parameters['driver']
        self._processes: dict[str, subprocess.Popen] = {}

    def _action_set(self, turn_deg: float | None) -> tuple[float, float]:
        """Forward step and turn that all three nodes must agree on."""
        if self._policy in BUILT_IN or '://' in self._policy:
            return 0.25, float(turn_deg or 30.0)
        self._policy = str(given_or_shipped(self._policy))
        actions = NavigationCard.load(self._policy).action_set
        if turn_deg is not None and turn_deg != actions.turn_deg:
            raise UserError(f'turn_deg is {turn_deg:g}, but {self._policy} turns by '
                            f'{actions.turn_deg:g}; leave turn_deg out')
        return actions.forward_m, actions.turn_deg

    def __enter__(self) -> Graph:
        self.folder = Path(tempfile.mkdtemp(prefix='vlnr1_graph_'))
        self._results = self.folder / 'results.jsonl'
        self._requests = self.folder / 'requests.jsonl'
        self._parameters['sim_bridge'].update(results_file=str(self._results),
                                              requests_file=str(self._requests))
        self._read_bytes = 0
        self.environment = isolated_environment(self.folder / 'log', self._domain_id)
        try:
            for node in self._parameters:
                self._processes[node] = self._start(node)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_) -> None:
        for process in self._processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        deadline_s = time.monotonic() + END_TIMEOUT_S
        for process in self._processes.values():
            try:
                process.wait(max(0.0, deadline_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def pid(self, node: str) -> int:
        """Process id of `navigator`, `sim_bridge` or, in velocity mode, `driver`."""
        return self._processes[node].pid

    def results(self) -> Iterator[dict]:
        """Result of every episode of `episodes` as it ends, in order.

        A dict with episode_id, instruction, ended_by (stop, max_steps, timeout), metrics, actions
        (ids executed), decisions ([seconds, [ids]]), trajectory (seconds, x, y, z, yaw in
        habitat's frame), in discrete mode path (x, y, z, yaw at the start and after every
        action), deciding_s (simulated time that decisions took) and hidden_s (of that, while the
        base drove), nearest_candidate where the episode has some, sim_s, wall_s, and record
        where one was asked for. GraphError when a node dies or an episode ends as an error.
        """
        for _ in self._episodes:
            yield self._next_result()

    def run(self, episode_id: str, instruction: str | None = None) -> dict:
        """Run one more episode, with other words if some are given; returns its result.

        To be called when all :meth:`results` were taken. GraphError as there.
        """
        request = {'episode_id': str(episode_id)}
        if instruction is not None:
            request['instruction'] = instruction
        with open(self._requests, 'a', encoding='utf-8') as file:
            file.write(json.dumps(request) + '\n')
        return self._next_result()

    def _next_result(self) -> dict:
        while not (line := self._next_line()):
            self._check_alive()
            time.sleep(POLL_S)
        result = json.loads(line)
        if result['error']:
            self._check_alive()
            raise GraphError(f'episode {result["episode_id"]}: {result["error"]}')
        return result

    def _next_line(self) -> bytes:
        if not self._results.exists():
            return b''
        with open(self._results, 'rb') as file:
            file.seek(self._read_bytes)
            line = file.readline()
        if not line.endswith(b'\n'):
            return b''
        self._read_bytes += len(line)
        return line

    def _start(self, node: str) -> subprocess.Popen:
        file = self.folder / f'{node}.yaml'
        file.write_text(yaml.safe_dump({'/**': {'ros__parameters': self._parameters[node]}}),
                        encoding='utf-8')
        command = [sys.executable, '-m', MODULES[node], '--ros-args', '-r',
                   f'__ns:={self.namespace}', '--params-file', str(file)]
        with open(self._log(node), 'wb') as log:
            return subprocess.Popen(command, env=self.environment, stdin=subprocess.DEVNULL,
                                    stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                                    preexec_fn=end_with_parent)

    def _log(self, node: str) -> Path:
        return self.folder / f'{node}.txt'

    def _check_alive(self):
        for node, process in self._processes.items():
            code = process.poll()
            if code is not None:
                raise GraphError(f'{node} ended with code {code}; its last lines: '
                                 f'{self._last_lines(node)}')

    def _last_lines(self, node: str) -> str:
        lines = self._log(node).read_text('utf-8', errors='replace').strip().splitlines()
        return ' | '.join(line.strip() for line in lines[-LOG_LINES:]) or 'none'


def end_with_parent():
    """Ask the kernel (Linux) to end this child with its parent; for preexec_fn."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
