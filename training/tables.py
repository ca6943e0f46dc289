"""The paper's ablations at nano's scale, and intervals of what they change.

    python -m training.tables gamma --ego build/nano/ego_far --data data
    python -m training.tables gamma group --seeds 0 1 2 --figures docs/figures
    python -m training.tables stages --model runs/sft --dagger runs/dagger

Each row is a short run of `vlnr1 sft`, `vlnr1 rft` or packed SFT from one checkpoint, evaluated on
the same episodes as the checkpoint itself; commands are printed before they run. What is finished
below --work is kept, and an interrupted run goes on, when the same command is given again.
Differences are paired by episode: the mean over seeds of each episode, minus that of the
checkpoint or of one row, with a 95 % bootstrap interval over episodes.
"""
from __future__ import annotations

import argparse
import json
import re
import sys
from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from training.evaluate import evaluate
from training.evaluate_config import EvaluateConfig
from training.recipe_step import run_step
from vlnr1_ros.navigation import metrics
from vlnr1_ros.navigation.card import NavigationCard
from vlnr1_ros.navigation.errors import UserError
from vlnr1_ros.navigation.memory import Average, Exponential, Growing, LongShort

RFT = ('--learning_rate', '5e-5', '--per_device_train_batch_size', '64')
"""Ours: at the paper's 1e-6 a model of this size hardly moves in so few steps."""
STOP = ('--stop_weight', '1')
SFT = ('--learning_rate', '1e-4', '--per_device_train_batch_size', '16')
PACKED = ('--lr', '6e-4', '--final-lr', '0.02', '--warmup', '50')
PACKED_PACE, DRIVEN_PACE = 2.6, 0.05
"""An update takes 0.16 and 8.5 s, one of RFT (8 answers to 8 prompts) 0.42: the same wall time."""
DRIVEN = ('--closed_loop', '--learning_rate', '5e-5', '--per_device_train_batch_size', '128')
MEASURE = 'grounded_success'
PLAIN = 'as it is'


@dataclass(frozen=True)
class Row:
    """One line of a table: what is trained, and how its card differs from the checkpoint's."""

    name: str
    verb: str = 'rft'
    flags: tuple[str, ...] = ()
    card: dict = field(default_factory=dict)
    data: tuple[str, ...] = ('ego',)
    """Arguments of this module that name what it is trained on."""
    pace: float = 1.0
    """Updates for each of --steps, where an update is quicker or slower than one of RFT."""


@dataclass(frozen=True)
class Table:
    """An ablation of arXiv 2506.17221, section 4.3, or a comparison of its section 4.2."""

    title: str
    tiers: tuple[str, ...]
    rows: tuple[Row, ...]
    train_tiers: tuple[str, ...] = ()
    """Default: those that are evaluated."""
    base: str = PLAIN
    """The row that the others are compared with."""


def _samplers(**of_card):
    return tuple(Row(name.replace('_', ' '), 'sft', SFT, {'sampler': sampler})
                 for name, sampler in of_card.items())


def _rft(flag, values):
    """A row a value; None is what `vlnr1 rft` does by itself, the same run in every table."""
    return tuple(Row(name, flags=(*RFT, *((flag, value) if value else ())))
                 for name, value in values.items())


TABLES = {
    'stages': Table('after SFT', ('room', 'door', 'apartment'), (
        Row('SFT longer', 'packed_sft', PACKED, pace=PACKED_PACE),
        Row('DAgger', 'packed_sft', PACKED, data=('ego', 'dagger'), pace=PACKED_PACE),
        Row('RFT', flags=RFT),
        Row('RFT with the stop term', flags=(*RFT, *STOP)),
        Row('the same, states of DAgger', flags=(*RFT, *STOP), data=('ego', 'dagger')),
        Row('closed-loop RFT', flags=DRIVEN, data=('apartments',), pace=DRIVEN_PACE))),
    'reward': Table('reward of RFT', ('door',), _rft('--reward', {
        'hard': 'hard', 'uniform': 'uniform', 'linear': 'linear', 'time-decayed': None}) + (
            Row('with the stop term', flags=(*RFT, *STOP)),)),
    'gamma': Table('decay of the time-decayed reward', ('door',), _rft('--gamma', {
        'gamma 0.5': '0.5', 'gamma 0.7': None, 'gamma 0.9': '0.9', 'gamma 1.0': '1.0'})),
    'group': Table('answers to a prompt in RFT', ('door',), _rft('--num_generations', {
        'group of 2': '2', 'group of 4': '4', 'group of 8': None})),
    'actions': Table('predicted actions', ('door',), tuple(
        Row(f'{n} action{"s" if n > 1 else ""}', 'sft', SFT,
            {'horizon': n, 'execute': min(n, 3)}) for n in (1, 4, 6, 8)), base='6 actions'),
    'memory': Table('frames of the history', ('apartment',), _samplers(
        average_8=Average(8), average_16=Average(16), exponential=Exponential(8),
        long_short=LongShort(), growing=Growing(3, 6, 6, 4)), base='growing'),
    # of a checkpoint that was trained within rooms only
    'generalisation': Table('after SFT within rooms', ('door', 'apartment'), (
        Row('RFT through one door', flags=RFT),), train_tiers=('door',)),
}


def arguments(row: Row, table: Table, args: argparse.Namespace, seed: int,
              out: Path) -> list[str]:
    """What the training of a row is told."""
    data = [folder for name in row.data for folder in getattr(args, name)]
    tiers = table.train_tiers or table.tiers
    steps = max(1, round(row.pace * args.steps))
    kept = str(max(1, steps // 4))
    if row.verb == 'packed_sft':
        return ['--init', args.model, '--ego', *data, '--tiers', ','.join(tiers), *row.flags,
                '--steps', str(steps), '--seed', str(seed), '--out', str(out / 'run'),
                '--save-steps', kept]
    return ['--model', args.model, '--data', *data, '--tiers', *tiers, *row.flags,
            *(['--card', str(out / 'card')] if row.card else []),
            '--max_steps', str(steps), '--seed', str(seed), '--output_dir', str(out / 'run'),
            '--save_steps', kept, '--save_total_limit', '1',
            '--limit', str(args.samples), '--report_to', 'none']


def trained(row: Row, table: Table, args: argparse.Namespace, seed: int, out: Path) -> Path:
    """The checkpoint of a row, trained unless it is there."""
    if row.card:
        (out / 'card').mkdir(exist_ok=True)
        replace(NavigationCard.load(args.model), **row.card).save(out / 'card')
    run_step(out / 'done', f'{row.name}, seed {seed}', f'training.{row.verb}',
             *arguments(row, table, args, seed, out))
    return out / 'run'


def tried(checkpoint: Path, table: Table, args: argparse.Namespace, out: Path) -> list[dict]:
    """Episode lines of a checkpoint; those that are there are not run again."""
    _, lines = evaluate(EvaluateConfig(
        policy=str(checkpoint), split=args.split, episodes=args.episodes, data=args.data,
        tier=list(table.tiers), workers=args.workers, out=str(out)))
    return lines


def fill(name: str, args: argparse.Namespace) -> dict[str, list[list[dict]]]:
    """{row name: episode lines of each seed}; the first row is the checkpoint as it is."""
    table = TABLES[name]
    episodes = f'{"_".join(table.tiers)}.jsonl'
    found = {PLAIN: [tried(args.model, table, args, args.work / f'as_it_is-{episodes}')]}
    for seed in args.seeds:
        for row in table.rows:
            out = args.work / folder_name(row, table, seed)
            out.mkdir(parents=True, exist_ok=True)
            checkpoint = trained(row, table, args, seed, out)
            found.setdefault(row.name, []).append(
                tried(checkpoint, table, args, out / episodes))
    return found


def folder_name(row: Row, table: Table, seed: int) -> str:
    """Of a training run: what it is told, so that tables share the runs that they have in common.
    """
    told = (row.verb, *row.flags, *row.card.values(), *row.data,
            *(table.train_tiers or table.tiers), seed)
    return re.sub(r'[^\w.-]+', '_', ' '.join(map(str, told))).replace('--', '')


def per_episode(seeds: list[list[dict]]) -> dict[str, float]:
    """{episode id: mean success over seeds}; an error is a failure."""
    values = defaultdict(list)
    for lines in seeds:
        for line in lines:
            values[line['episode_id']].append(float(line.get(MEASURE) or 0.0))
    return {key: float(np.mean(value)) for key, value in values.items()}


def difference(seeds: list[list[dict]], base: list[list[dict]]
               ) -> tuple[float, tuple[float, float]]:
    """(mean difference of success, its 95 % interval), paired by the episodes of both."""
    mine, theirs = per_episode(seeds), per_episode(base)
    paired = [mine[key] - theirs[key] for key in sorted(mine.keys() & theirs.keys())]
    return float(np.mean(paired)), metrics.mean_interval(paired)


def markdown(title: str, found: dict[str, list[list[dict]]], base_name: str = PLAIN) -> str:
    """The table: SR of each row in percent, and its difference from one of them."""
    base = found[base_name]
    lines = [f'| {title} | seeds | episodes | SR (%) | difference, 95 % interval |',
             '|---|---|---|---|---|']
    for name, seeds in found.items():
        values = per_episode(seeds)
        change, (low, high) = difference(seeds, base)
        shown = '' if seeds is base else \
            f'{100 * change:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]'
        lines.append(f'| {name} | {len(seeds)} | {len(values)} | '
                     f'{100 * np.mean(list(values.values())):.1f} | {shown} |')
    return '\n'.join(lines)


def draw(title: str, found: dict[str, list[list[dict]]], path: Path,
         base_name: str = PLAIN) -> None:
    """A bar a row: difference of success from one of them, with its interval."""
    from matplotlib import pyplot

    base = found[base_name]
    names = [name for name in found if name not in (PLAIN, base_name)]
    changes = [difference(found[name], base) for name in names]
    means = 100 * np.array([mean for mean, _ in changes])
    ends = 100 * np.array([interval for _, interval in changes])
    figure, axes = pyplot.subplots(figsize=(1.2 + 1.2 * len(names), 3.2), layout='constrained')
    axes.bar(names, means, yerr=abs(ends.T - means), capsize=4, color='#4c72b0', width=0.6)
    axes.axhline(0, color='black', linewidth=0.8)
    axes.set_ylabel(f'SR against "{base_name}" (points)')
    axes.set_title(title, fontsize=10)
    axes.tick_params(axis='x', labelsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def parsed(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line of this module."""
    parser = argparse.ArgumentParser(prog='training.tables', description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('tables', nargs='+', choices=list(TABLES), help='which to fill')
    add('--model', default='models/nano', help='checkpoint that all rows start from')
    add('--ego', nargs='+', default=['build/nano/ego_far', 'build/nano/ego_room'],
        help='VLN-Ego folders; for the table actions made with --horizon 8')
    add('--dagger', nargs='+', default=['build/nano/ego_dagger'],
        help='VLN-Ego folders of runs of --model (vlnr1 ego --policy), for the table stages')
    add('--apartments', nargs=1, default=['build/nano/data'],
        help='folder whose split train closed-loop RFT drives in, for the table stages')
    add('--data', default='data', help='folder with datasets/ and scene_datasets/')
    add('--split', default='val_unseen', help='episodes that are tried')
    add('--episodes', type=int, default=200, help='of them, a tier')
    add('--seeds', type=int, nargs='+', default=[0], help='training runs of each row')
    add('--steps', type=int, default=150, help='updates of each run')
    add('--samples', type=int, default=20000, help='decisions that each run draws from')
    add('--workers', type=int, default=0, help='processes of an evaluation (0: one a core)')
    add('--work', type=Path, default=Path('build/tables'), help='folder to work in')
    add('--figures', type=Path, help='folder for the pictures')
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Fill the tables."""
    args = parsed(argv)
    keep_settings(args)
    for name in args.tables:
        found = fill(name, args)
        table = TABLES[name]
        print('\n' + markdown(table.title, found, table.base) + '\n', flush=True)
        if args.figures:
            draw(table.title, found, args.figures / f'{name}.png', table.base)
    return 0


def keep_settings(args: argparse.Namespace) -> None:
    """Refuse to mix runs of other settings into what is below --work."""
    path = args.work / 'settings.json'
    mine = {key: getattr(args, key) for key in (
        'model', 'ego', 'dagger', 'apartments', 'data', 'split', 'episodes', 'steps', 'samples')}
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(mine, indent=2) + '\n', 'utf-8')
    for key, value in json.loads(path.read_text('utf-8')).items():
        if value != mine[key]:
            raise UserError(f'{path.parent} was made with {key} {value}, this run has '
                            f'{mine[key]}; give another --work')


if __name__ == '__main__':
    from vlnr1_ros.command import run

    raise SystemExit(run('tables', main, sys.argv[1:]))
