"""How fast the environment steps, and what each of its parts costs.

    vlnr1 bench sim
    vlnr1 bench sim --data data --split val_unseen --camera 640x480 --turn-deg 15

The variants take turns over the same episodes with the same actions, so that a busy machine
disturbs all of them alike; the best round counts, as the least disturbed one, and CPU time leaves
out what other processes take. Without --data two apartments are generated first. Opening a scene
and resetting are not counted. Ends with 1 when one of TARGETS is missed.
"""
from __future__ import annotations

import argparse
import itertools
import os
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace

from sim_bridge.client import EnvironmentVector, RemoteEnvironment
from sim_bridge.config import EnvironmentConfig, simulator_name
from sim_bridge.environment import Environment
from vlnr1_ros.navigation.camera import Camera, parse_size
from vlnr1_ros.navigation.errors import UserError

REFERENCE = 'rgb, all measures'
SERVER = REFERENCE + ', through the server'
PLANS = SERVER + ', three actions a question'
TWO_SERVERS = REFERENCE + ', two servers at once'
TARGETS = {(PLANS, REFERENCE): 0.8, (TWO_SERVERS, SERVER): 1.6}
"""{(variant, the one it is held against): how many times its steps a second there must be}"""


@dataclass
class Variant:
    """One way to run the environment, and the seconds its rounds took.

    `cpu_s` knows of this process only: it stays empty where the work is done elsewhere.
    """

    name: str
    environment: Environment | RemoteEnvironment | TwoServers
    plan: int = 1   # actions asked for at once
    wall_s: list = field(default_factory=list)
    cpu_s: list = field(default_factory=list)


class TwoServers:
    """Two environments that do the same at the same time."""

    count = 2

    def __init__(self, config: EnvironmentConfig, python: str):
        self._vector = EnvironmentVector(config, python, self.count)
        self.close = self._vector.close

    def reset(self, episode_id):
        """Both to the start of an episode."""
        self._vector.reset([episode_id] * self.count)

    def step(self, action):
        """One action in both."""
        self._vector.step([action] * self.count)

    def metrics(self):
        """Of both."""
        return [one.metrics() for one in self._vector.environments]


def variants(config: EnvironmentConfig, python: str) -> list[Variant]:
    """The reference first: RGB with every measure, as in evaluation. Servers run in `python`."""
    def open_one(name, render=True, **changes):
        environment = Environment(replace(config, **changes))
        environment.set_render(render)
        return Variant(name, environment)

    server = RemoteEnvironment(config, python)
    # a policy decides on several actions at once, and evaluation asks for those at once
    team = [open_one(REFERENCE), Variant(SERVER, server), Variant(PLANS, server, plan=3),
            Variant(TWO_SERVERS, TwoServers(config, python))]
    if simulator_name(config.simulator) == 'habitat-sim':
        return team     # which has room for one simulator a process
    return [*team, open_one('rgb and depth, all measures', depth=True),
            open_one('rgb, no measures', measures=False),
            open_one('no images, all measures', render=False),
            open_one('rgb, all measures, map', top_down_map=True)]


def expert_actions(environment: Environment, episode_id: str) -> list[int]:
    """The actions of the expert, stop included."""
    environment.reset(episode_id)
    plan = environment.expert_plan(environment.config.max_steps)
    return plan[:plan.index(0) + 1] if 0 in plan else plan


def measure(config: EnvironmentConfig, python: str, episodes: int,
            rounds: int) -> tuple[list[Variant], int]:
    """(variants with the seconds of every round, steps of a round)."""
    team = variants(config, python)
    first = team[0].environment
    actions = {e.episode_id: expert_actions(first, e.episode_id)
               for e in itertools.islice(first.episodes, episodes)}
    for number in range(rounds + 1):
        for variant in team:
            wall_s, cpu_s = _play(variant, actions)
            # the first round compiles and fills caches
            if number:
                variant.wall_s.append(wall_s)
                if isinstance(variant.environment, Environment):
                    variant.cpu_s.append(cpu_s)
    for variant in team:
        variant.environment.close()
    return team, sum(map(len, actions.values()))


def _play(variant, actions):
    wall_s = cpu_s = 0.0
    environment = variant.environment
    for episode_id, path in actions.items():
        environment.reset(episode_id)
        began = time.perf_counter(), time.process_time()
        for at in range(0, len(path), variant.plan):
            if variant.plan > 1:
                environment.steps(path[at:at + variant.plan])
            else:
                environment.step(path[at])
        environment.metrics()
        wall_s += time.perf_counter() - began[0]
        cpu_s += time.process_time() - began[1]
    return wall_s, cpu_s


def steps_a_second(variant: Variant, steps: int) -> float:
    """Of its best round, counting every environment it runs."""
    return getattr(variant.environment, 'count', 1) * steps / min(variant.wall_s)


def table(team: list[Variant], steps: int) -> str:
    """Markdown table of best rounds; the last column is CPU time against the reference's."""
    reference_s = min(team[0].cpu_s)
    rows = ['| environment | steps/s | steps a CPU second | CPU time |', '|---|---|---|---|']
    for variant in team:
        row = f'| {variant.name} | {steps_a_second(variant, steps):.0f} | '
        cpu_s = min(variant.cpu_s, default=None)
        rows.append(row + ('- | - |' if cpu_s is None else
                           f'{steps / cpu_s:.0f} | {cpu_s / reference_s:.2f} |'))
    return '\n'.join(rows)


def figures(team: list[Variant], steps: int) -> tuple[str, list[str]]:
    """(Markdown table of the ratios that TARGETS names, what was missed of them)."""
    speed = {variant.name: steps_a_second(variant, steps) for variant in team}
    rows, missed = ['| steps/s of | against | times | at least |', '|---|---|---|---|'], []
    for (name, other), least in TARGETS.items():
        times = speed[name] / speed[other]
        rows.append(f'| {name} | {other} | {times:.2f} | {least} |')
        if times < least:
            missed.append(f'{name}: {times:.2f} times {other}, not {least}')
    return '\n'.join(rows), missed


def generated(folder: str) -> str:
    """Two apartments with twelve episodes in a folder, which is returned."""
    from sim_bridge.worlds.generate import main as worlds

    tiers = 'room=2,door=2,apartment=2'
    if worlds(['--out', folder, '--split', 'val_unseen=2', '--tiers', tiers]):
        raise UserError('no apartments could be generated for the measurement')
    return folder


def main(argv: list[str] | None = None) -> int:
    """The command line of this module."""
    parser = argparse.ArgumentParser(prog='vlnr1 bench sim', description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('--data', help='folder with datasets/ and scene_datasets/ (default: generate some)')
    add('--dataset', default='apartments/v1', help='folder of the splits under DATA/datasets')
    add('--split', default='val_unseen', help='which episodes (default: val_unseen)')
    add('--camera', default='224x224', help='WIDTHxHEIGHT (default: 224x224)')
    add('--turn-deg', type=float, default=30.0, help='degrees per turn (default: 30)')
    add('--simulator', default='auto', help='auto, habitat-sim or embedded')
    add('--habitat-python', default=sys.executable, help='interpreter of the servers')
    add('--episodes', type=int, default=6, help='episodes a round (default: 6)')
    add('--rounds', type=int, default=10, help='rounds, of which the best counts (default: 10)')
    args = parser.parse_args(argv)
    if args.episodes < 1 or args.rounds < 1:
        raise UserError(f'--episodes {args.episodes} and --rounds {args.rounds} must be 1 or more')
    with tempfile.TemporaryDirectory() as folder:
        data = args.data or generated(folder)
        config = EnvironmentConfig(
            dataset=f'{data}/datasets/{args.dataset}', split=args.split,
            scenes_dir=f'{data}/scene_datasets', camera=Camera(*parse_size(args.camera)),
            turn_deg=args.turn_deg, simulator=args.simulator)
        team, steps = measure(config, args.habitat_python, args.episodes, args.rounds)
    ratios, missed = figures(team, steps)
    print(f'{steps} steps a round, {args.rounds} rounds, {args.camera}, {os.cpu_count()} cores',
          table(team, steps), ratios, sep='\n\n')
    for what in missed:
        print(f'missed: {what}', file=sys.stderr)
    return 1 if missed else 0


if __name__ == '__main__':
    from vlnr1_ros.command import run

    sys.exit(run('bench sim', main, sys.argv[1:]))
