"""How much faster than the wall clock lockstep runs.

    python -m sim_bridge.ros.bench --data data --split val_unseen --episodes 12 --policy expert

Simulated seconds against wall seconds over whole episodes through the three processes, 50 Hz
control and a 10 Hz camera; start-up and the opening of scenes are not counted.
"""
from __future__ import annotations

import argparse
import itertools

from sim_bridge.config import EnvironmentConfig
from sim_bridge.environment import load_episodes
from sim_bridge.ros.graph import Graph


def main(argv: list[str] | None = None) -> int:
    """The command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('--data', default='data', help='folder with datasets/ and scene_datasets/')
    add('--split', default='val_unseen', help='which episodes')
    add('--episodes', type=int, default=12, help='the first so many of the split')
    add('--policy', default='expert', help='expert, random, forward, stop or a checkpoint')
    args = parser.parse_args(argv)
    everything = load_episodes(EnvironmentConfig(
        dataset=f'{args.data}/datasets/apartments/v1', split=args.split,
        scenes_dir=f'{args.data}/scene_datasets'))
    ids = [e.episode_id for e in itertools.islice(everything, args.episodes)]
    simulated_s = wall_s = 0.0
    with Graph(args.policy, args.data, args.split, ids) as graph:
        for result in graph.results():
            simulated_s += result['sim_s']
            wall_s += result['wall_s']
            print(f'{result["episode_id"]}: {result["sim_s"]:.1f} s simulated in '
                  f'{result["wall_s"]:.1f} s ({result["sim_s"] / result["wall_s"]:.1f} times), '
                  f'{result["ended_by"]}', flush=True)
    print(f'all: {simulated_s:.1f} s in {wall_s:.1f} s, {simulated_s / wall_s:.1f} times')
    return 0


if __name__ == '__main__':
    import sys

    from vlnr1_ros.command import run

    sys.exit(run('bench', main, sys.argv[1:]))
