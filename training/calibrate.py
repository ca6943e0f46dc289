"""Choose a checkpoint's stop bias in closed loop, on apartments kept for that.

    python -m training.calibrate build/nano/model --data build/nano/data --episodes 40

*Stop* is about one label in thirty, so a model calls it too late at the natural threshold. The
bias, a logit added to *stop*, is chosen by the mean success over the tiers; it never sees the
apartments that results are reported on.
"""
from __future__ import annotations

import argparse
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from training.evaluate import evaluate
from training.evaluate_config import EvaluateConfig
from vlnr1_ros.navigation.card import NavigationCard
from vlnr1_ros.navigation.errors import UserError


def mean_success(lines: list[dict]) -> float:
    """Success at the named object, averaged over tiers of equal weight.

    UserError when an episode ended in an error: its tier is not known.
    """
    tiers: dict = {}
    for line in lines:
        if 'error' in line:
            raise UserError(f'episode {line["episode_id"]} ended in an error: {line["error"]}')
        tiers.setdefault(line['tier'], []).append(line.get('grounded_success', 0.0))
    return float(np.mean([np.mean(values) for values in tiers.values()]))


def success_with_bias(checkpoint: Path, bias: float, work: Path, data: str, split: str,
                      episodes: int, workers: int, max_steps: int) -> float:
    """Closed-loop mean success of a checkpoint with another stop bias; its files stay as is."""
    copy = work / f'bias_{bias:+.2f}'
    shutil.copytree(checkpoint, copy, dirs_exist_ok=True)
    replace(NavigationCard.load(checkpoint), stop_bias=bias).save(copy)
    _, lines = evaluate(EvaluateConfig(
        policy=str(copy), split=split, episodes=episodes, data=data, workers=workers,
        max_steps=max_steps, out=str(work / f'{copy.name}.jsonl')))
    return mean_success(lines)


def main(argv: list[str] | None = None) -> int:
    """Try the biases and write the best one into the checkpoint's card."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawTextHelpFormatter)
    add = parser.add_argument
    add('checkpoint', type=Path, help='checkpoint folder; its card is rewritten')
    add('--data', default='data', help='folder with datasets/ and scene_datasets/')
    add('--split', default='calibration', help='split of apartments kept for this')
    add('--episodes', type=int, default=40, help='episodes a tier and bias')
    add('--biases', type=float, nargs='+', default=[0.0, 0.75, 1.5, 2.25],
        help='logits to try')
    add('--workers', type=int, default=0, help='processes (0: one a core)')
    add('--max-steps', type=int, default=150, help='actions after which an episode ends')
    args = parser.parse_args(argv)
    work = args.checkpoint.with_name(args.checkpoint.name + '.calibration')
    found = {bias: success_with_bias(args.checkpoint, bias, work, args.data, args.split,
                                     args.episodes, args.workers, args.max_steps)
             for bias in args.biases}
    best = max(found, key=lambda bias: (found[bias], -bias))
    replace(NavigationCard.load(args.checkpoint), stop_bias=best).save(args.checkpoint)
    for bias, success in found.items():
        print(f'stop bias {bias:+.2f}: mean success {100 * success:.1f} %'
              + ('  <- chosen' if bias == best else ''))
    return 0


if __name__ == '__main__':
    from vlnr1_ros.command import run

    raise SystemExit(run('calibrate', main, sys.argv[1:]))
