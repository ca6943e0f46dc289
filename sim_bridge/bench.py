"""How fast the environment steps, and what each of its parts costs.

    vlnr1 bench
    vlnr1 bench --data data --split val_unseen --camera 640x480 --turn-deg 15

The variants take turns over the same episodes with the same actions, so that a busy machine
disturbs all of them alike; the best round counts, as the least disturbed one, and CPU time leaves
out what other processes take. Without --data two apartments are generated first. Opening a scene
and resetting are not counted.
"""
from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from dataclasses import dataclass, field, replace

from sim_bridge.config import EnvironmentConfig
from sim_bridge.environment import Environment
from vlnr1_ros.navigation.camera import Camera
from vlnr1_ros.navigation.errors import UserError

REFERENCE = 'rgb, all measures'


@dataclass
class Variant:
    """One way to run the environment, and the seconds its rounds took."""

    name: str
    environment: Environment
    wall_s: list = field(default_factory=list)
    cpu_s: list = field(default_factory=list)


def variants(config: EnvironmentConfig) -> list[Variant]:
    """The reference first: RGB with every measure, as in evaluation."""
    def open_one(name, render=True, **changes):
        environment = Environment(replace(config, **changes))
        environment.set_render(render)
        return Variant(name, environment)

    return [open_one(REFERENCE), open_one('rgb and depth, all measures', depth=True),
            open_one('rgb, no measures', measures=False),
            open_one('no images, all measures', render=False),
            open_one('rgb, all measures, map', top_down_map=True)]


def expert_actions(environment: Environment, episode_id: str) -> list[int]:
    """The actions of the expert, stop included."""
    environment.reset(episode_id)
    plan = environment.expert_plan(environment.config.max_steps)
    return plan[:plan.index(0) + 1] if 0 in plan else plan


def measure(config: EnvironmentConfig, episodes: int, rounds: int) -> tuple[list[Variant], int]:
    """(variants with the seconds of every round, steps of a round)."""
    team = variants(config)
    first = team[0].environment
    actions = {e.episode_id: expert_actions(first, e.episode_id)
               for e in itertools.islice(first.episodes, episodes)}
    for number in range(rounds + 1):
        for variant in team:
            wall_s, cpu_s = _play(variant.environment, actions)
            # the first round compiles and fills caches
            if number:
                variant.wall_s.append(wall_s)
                variant.cpu_s.append(cpu_s)
    for variant in team:
        variant.environment.close()
    return team, sum(map(len, actions.values()))


def _play(environment, actions):
    wall_s = cpu_s = 0.0
    for episode_id, plan in actions.items():
        environment.reset(episode_id)
        began = time.perf_counter(), time.process_time()
        for action in plan:
            environment.step(action)
        environment.metrics()
        wall_s += time.perf_counter() - began[0]
        cpu_s += time.process_time() - began[1]
    return wall_s, cpu_s


def table(team: list[Variant], steps: int) -> str:
    """Markdown table of best rounds; the last column is CPU time against the reference's."""
    reference_s = min(team[0].cpu_s)
    rows = ['| environment | steps/s | steps a CPU second | CPU time |', '|---|---|---|---|']
    for variant in team:
        wall_s, cpu_s = min(variant.wall_s), min(variant.cpu_s)
        rows.append(f'| {variant.name} | {steps / wall_s:.0f} | {steps / cpu_s:.0f} | '
                    f'{cpu_s / reference_s:.2f} |')
    return '\n'.join(rows)


def _generated(folder):
    from sim_bridge.worlds.generate import main as worlds

    tiers = 'room=2,door=2,apartment=2'
    if worlds(['--out', folder, '--split', 'val_unseen=2', '--tiers', tiers]):
        raise UserError('no apartments could be generated for the measurement')
    return folder


def main(argv: list[str] | None = None) -> int:
    """The command line of this module."""
    parser = argparse.ArgumentParser(prog='vlnr1 bench', description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('--data', help='folder with datasets/ and scene_datasets/ (default: generate some)')
    add('--dataset', default='apartments/v1', help='folder of the splits under DATA/datasets')
    add('--split', default='val_unseen', help='which episodes (default: val_unseen)')
    add('--camera', default='224x224', help='WIDTHxHEIGHT (default: 224x224)')
    add('--turn-deg', type=float, default=30.0, help='degrees per turn (default: 30)')
    add('--simulator', default='auto', help='auto, habitat-sim or embedded')
    add('--episodes', type=int, default=6, help='episodes a round (default: 6)')
    add('--rounds', type=int, default=10, help='rounds, of which the best counts (default: 10)')
    args = parser.parse_args(argv)
    if args.episodes < 1 or args.rounds < 1:
        raise UserError(f'--episodes {args.episodes} and --rounds {args.rounds} must be 1 or more')
    with tempfile.TemporaryDirectory() as folder:
        data = args.data or _generated(folder)
        config = EnvironmentConfig(
            dataset=f'{data}/datasets/{args.dataset}', split=args.split,
            scenes_dir=f'{data}/scene_datasets', camera=_camera(args.camera),
            turn_deg=args.turn_deg, simulator=args.simulator)
        team, steps = measure(config, args.episodes, args.rounds)
    print(f'{steps} steps a round, {args.rounds} rounds, {args.camera}', table(team, steps),
          sep='\n\n')
    return 0


def _camera(text):
    try:
        width, height = map(int, text.split('x'))
    except ValueError:
        raise UserError(f'--camera {text!r} is no WIDTHxHEIGHT such as 224x224') from None
    return Camera(width, height)


if __name__ == '__main__':
    import sys

    from vlnr1_ros.command import run

    sys.exit(run('bench', main, sys.argv[1:]))
