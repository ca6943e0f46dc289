"""vlnr1 demo: the ROS graph follows five sentences in apartments that nobody has seen before.

    vlnr1 demo --policy models/nano --out demo

Leaves a video an episode and one sheet with all of them below --out. The same seed gives the same
apartments and sentences. Ends with 1 when the graph broke; a missed goal is only a missed goal.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import threading
import time
from concurrent import futures
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from sim_bridge.floor_plan import FloorPlan
from sim_bridge.ros.graph import BUILT_IN, Graph, GraphError
from sim_bridge.video import Decision, Moment, Take, draw_sheet, write_video
from sim_bridge.worlds import files
from sim_bridge.worlds.episodes import SUCCESS_M
from sim_bridge.worlds.generate import DATASET, make_split, split_folder
from vlnr1_ros.navigation.card import NavigationCard
from vlnr1_ros.navigation.errors import UserError
from vlnr1_ros.resources import given_or_shipped

SPLIT = 'val_unseen'
# one episode each, every one in an apartment of its own
TIERS = ('room', 'door', 'room', 'door', 'apartment')
TIER_TITLES = {'room': 'within a room', 'door': 'through one door',
               'apartment': 'across the apartment'}
FPS, SPEED, CAMERA_HZ = 20, 2.0, 10.0
# twice what the expert needs for the longest way: whoever has not stopped by then is lost
MAX_STEPS = 150
PROGRESS_S = 5.0
COLUMNS = '{:<14} {:<21} {:>6} {:>6} {:>8} {:>6}'


def make_worlds(out, seed, count):
    """Generate `count` apartments below `out`, with an episode of each tier in each."""
    make_split(str(out), seed, SPLIT, count, dict.fromkeys(TIER_TITLES, 1), processes=2,
               report=lambda line: say(f'    {line}'))


def choose_episodes(out, tiers):
    """One episode for each of `tiers`, in different apartments as long as there are some."""
    episodes = files.read_json_gz(f'{split_folder(str(out), SPLIT)}/{SPLIT}.json.gz')['episodes']
    chosen = []
    for tier in tiers:
        fitting = [e for e in episodes if e['info']['tier'] == tier and e not in chosen]
        if not fitting:
            raise UserError(f'the apartments below {out} offer too few episodes '
                            f'{TIER_TITLES[tier]}; choose another --seed')
        used = {e['scene_id'] for e in chosen}
        chosen.append(min(fitting, key=lambda e: e['scene_id'] in used))
    return chosen


def plan_maker(out, episode):
    """A function (width, height) -> FloorPlan of the episode's apartment."""
    name = Path(episode['scene_id']).name.split('.')[0]
    layout = Path(out) / 'scene_datasets' / DATASET / f'{name}.layout.json'
    goals = [goal['position'] for goal in episode['goals']]
    return partial(FloorPlan, json.loads(layout.read_text(encoding='utf-8')), episode['info'],
                   goals, episode['reference_path'])


def read_take(folder, policy, episode, result):
    """The record of an episode as a Take."""
    record = json.loads((Path(folder) / 'record.json').read_text(encoding='utf-8'))
    poses = np.array(record['poses'], float)
    moments = []
    for k, seconds in enumerate(record['frame_s']):
        rgb = cv2.imread(f'{folder}/frame_{k:06d}.jpg')[:, :, ::-1]
        _, x, _, z, yaw_rad = poses[np.argmin(np.abs(poses[:, 0] - seconds))]
        moments.append(Moment(seconds, rgb, x, z, yaw_rad))
    decisions = [Decision(seconds, actions) for seconds, actions in record['decisions']]
    return Take(policy, TIER_TITLES[episode['info']['tier']],
                episode['instruction']['instruction_text'], moments, decisions,
                reached(result), outcome(result))


def reached(result):
    """Whether the robot stopped at the named object."""
    return bool(result['metrics']['grounded_success'])


def outcome(result):
    """One short line on how an episode ended."""
    metrics = result['metrics']
    steps = metrics['steps_taken']
    if reached(result):
        return f'reached in {steps} steps, SPL {metrics["grounded_spl"]:.2f}'
    how = 'stopped' if result['ended_by'] == 'stop' else 'no stop,'
    return f'missed: {how} {metrics["distance_to_goal"]:.1f} m away'


def table(policy, episodes, results):
    """The lines of the closing table."""
    lines = [COLUMNS.format('policy', 'tier', 'radius', 'steps', 'success', 'SPL')]
    radius = f'{SUCCESS_M:.1f} m'
    for episode, result in zip(episodes, results):
        title, metrics = TIER_TITLES[episode['info']['tier']], result['metrics']
        lines.append(COLUMNS.format(
            policy, title, radius, metrics['steps_taken'],
            'yes' if reached(result) else 'missed', f'{metrics["grounded_spl"]:.2f}'))
    spl = np.mean([result['metrics']['grounded_spl'] for result in results])
    lines.append(COLUMNS.format(policy, 'all', radius, '', f'{sum(map(reached, results))} of '
                                f'{len(results)}', f'{spl:.2f}'))
    near = sum(bool(result['metrics']['success']) for result in results)
    return [*lines, f"by VLN-CE's plain radius of 3.0 m: {near} of {len(results)}"]


class Progress:
    """Says every few seconds how far the robot has got, while the graph drives."""

    def __init__(self, records, episodes):
        self._records = Path(records)
        self._numbers = {e['episode_id']: k for k, e in enumerate(episodes, 1)}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._done.set()
        self._thread.join()

    def _watch(self):
        while not self._done.wait(PROGRESS_S):
            # the record that is being written, a frame every tenth of a simulated second
            for folder in self._records.glob('episode_*.tmp'):
                number = self._numbers.get(folder.stem.partition('_')[2])
                seconds = len(list(folder.glob('*.jpg'))) / CAMERA_HZ
                say(f'    episode {number} of {len(self._numbers)}: {seconds:.0f} s driven')


def say(text):
    print(text, flush=True)


def drive(policy, worlds, episodes, out):
    """Follow the episodes through the graph; videos and a sheet go to `out`.

    Returns (results, error): the results of the episodes that ended, and why the graph broke, or
    ''.
    """
    records = out / 'records'
    shutil.rmtree(records, ignore_errors=True)
    graph = Graph(policy, worlds, SPLIT, [e['episode_id'] for e in episodes], records,
                  parameters={'sim_bridge': {'camera_hz': CAMERA_HZ, 'max_steps': MAX_STEPS}})
    results, drawings, error = [], [], ''
    # one video is drawn while the robot follows the next sentence
    with futures.ThreadPoolExecutor(max_workers=1) as painter:
        try:
            with graph, Progress(records, episodes):
                for k, (episode, result) in enumerate(zip(episodes, graph.results()), 1):
                    results.append(result)
                    say(f'{k}. {TIER_TITLES[episode["info"]["tier"]]}: "{result["instruction"]}"\n'
                        f'    {outcome(result)}')
                    drawings.append(painter.submit(
                        draw, policy, worlds, episode, result,
                        out / f'{k}_{episode["info"]["tier"]}.mp4'))
        except GraphError as broken:
            error = str(broken)
        if drawings:
            say('Drawing')
            takes, plans = zip(*(drawing.result() for drawing in drawings))
            write_sheet(out / 'sheet.png', draw_sheet(takes, plans))
    shutil.rmtree(records, ignore_errors=True)
    return results, error


def draw(policy, worlds, episode, result, path):
    """Write an episode's video; returns its take and its floor plan's maker, for the sheet."""
    take = read_take(result['record'], policy, episode, result)
    plan_of = plan_maker(worlds, episode)
    write_video(path, take, plan_of, FPS, SPEED)
    return take, plan_of


def write_sheet(path, picture):
    """Write a PNG, whole or not at all."""
    part = path.with_suffix('.part.png')
    Image.fromarray(picture).save(part, optimize=True)
    os.replace(part, path)


def show(policy, seed, out, tiers=TIERS):
    """Everything `vlnr1 demo` does; `out` is a Path. Returns the exit code."""
    begun_s = time.monotonic()
    if policy not in BUILT_IN:
        NavigationCard.load(given_or_shipped(policy))
    worlds = out / 'worlds' / f'seed_{seed}'
    for old in (*out.glob('[0-9]_*.mp4'), *out.glob('sheet.png')):
        old.unlink()
    say(f'Generating {len(tiers)} apartments nobody has seen (seed {seed})')
    make_worlds(worlds, seed, len(tiers))
    episodes = choose_episodes(worlds, tiers)
    say(f'Starting navigator ({policy}), driver and simulated robot on loopback')
    results, error = drive(policy, worlds, episodes, out)
    say('')
    if results:
        say('\n'.join(table(policy, episodes, results)))
        say(f'\nA video of each episode and all of them in sheet.png: {out.resolve()}')
    if error:
        print(f'vlnr1 demo: the graph broke: {error}', file=sys.stderr)
    say(f'{time.monotonic() - begun_s:.0f} s')
    return int(bool(error))


def main(argv=None):
    parser = argparse.ArgumentParser(prog='vlnr1 demo', description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--policy', default='models/nano',
                        help=f'{", ".join(BUILT_IN)}, or a checkpoint folder '
                        '(default: models/nano)')
    parser.add_argument('--seed', type=int, default=0,
                        help='of the apartments and their sentences (default: 0)')
    parser.add_argument('--out', type=Path, default=Path('demo'),
                        help='folder for videos and sheet (default: demo)')
    args = parser.parse_args(argv)
    if args.seed < 0:
        raise UserError(f'--seed {args.seed}: give 0 or more')
    return show(args.policy, args.seed, args.out)


if __name__ == '__main__':
    from vlnr1_ros.command import run

    sys.exit(run('demo', main, sys.argv[1:]))
