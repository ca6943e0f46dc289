"""Result files (JSON lines) and the tables made from them.

    vlnr1 report results/nano.jsonl results/random.jsonl
    vlnr1 report --leaderboard r2r results/mine_r2r_test.jsonl -o predictions.json

A file's first line is {"settings": ...}; every other line is one episode, with its metrics or
with the error that ended it. Intervals are 95 %: Wilson for rates, bootstrap for means.
"""
from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.agreement import agreement
from training.leaderboard import LEADERBOARDS, export
from vlnr1_ros.navigation import metrics
from vlnr1_ros.navigation.errors import UserError

ALL = 'all'
TIERS = ('room', 'door', 'apartment')


@dataclass(frozen=True)
class Row:
    """One line of a table: what it is called, where it comes from, how it is shown."""

    title: str
    key: str
    kind: str


ROWS = (
    Row('SR, at the named object, 1.0 m (%)', 'grounded_success', 'rate'),
    Row('OSR, at the named object (%)', 'grounded_oracle_success', 'rate'),
    Row('SPL, at the named object (%)', 'grounded_spl', 'percent'),
    Row('stopped beside the object in the sentence (%)', 'at_told_object', 'rate'),
    Row('SR, {radius:g} m (%)', 'success', 'rate'),
    Row('OSR, {radius:g} m (%)', 'oracle_success', 'rate'),
    Row('SPL, {radius:g} m (%)', 'spl', 'percent'),
    Row('NE (m)', 'distance_to_goal', 'mean'),
    Row('nDTW (%)', 'ndtw', 'percent'),
    Row('SDTW (%)', 'sdtw', 'percent'),
    Row('TL (m)', 'path_length', 'mean'),
    Row('collisions', 'collisions', 'mean'),
    Row('steps', 'steps_taken', 'mean'),
)
# of a driven base, in simulated time
TIMES = (
    Row('time (s)', 'seconds', 'mean'),
    Row('time to the goal, where it was reached (s)', 'seconds_to_goal', 'mean'),
    Row('decision time while driving, but for the first (%)', 'decisions_hidden', 'percent'),
)


class ResultFile:
    """One line per episode, appended as it ends, so that a killed run loses nothing finished.

    Raises UserError when the file was made with other settings or is no result file.
    """

    def __init__(self, path: str | os.PathLike, settings: dict):
        self.path = Path(path)
        self.settings = settings
        self._lines: dict[str, dict] = {}
        if self.path.exists() and self.path.stat().st_size:
            found, lines = read(self.path)
            _check_settings(self.path, found, settings)
            self._lines = {line['episode_id']: line for line in lines if 'error' not in line}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._write(self._lines.values())
        self._file = open(self.path, 'a', encoding='utf-8')

    def __contains__(self, episode_id: str) -> bool:
        return episode_id in self._lines

    def add(self, line: dict) -> None:
        """Append one episode; it is in the file when this returns."""
        self._lines[line['episode_id']] = line
        self._file.write(json.dumps(line) + '\n')
        self._file.flush()

    def lines(self, episode_ids: list[str]) -> list[dict]:
        """Those of the episodes that have a line, in the given order."""
        return [self._lines[key] for key in episode_ids if key in self._lines]

    def finish(self, episode_ids: list[str]) -> None:
        """Put the lines in the given order, so that the same run gives the same file."""
        self.close()
        order = {key: place for place, key in enumerate(episode_ids)}
        self._write(sorted(self._lines.values(),
                           key=lambda line: order.get(line['episode_id'], len(order))))

    def close(self) -> None:
        """Close the file as it is."""
        self._file.close()

    def _write(self, lines):
        temporary = self.path.with_name(self.path.name + '.part')
        with open(temporary, 'w', encoding='utf-8') as file:
            for line in [{'settings': self.settings}, *lines]:
                file.write(json.dumps(line) + '\n')
        os.replace(temporary, self.path)


def read(path: str | os.PathLike) -> tuple[dict, list[dict]]:
    """(settings, episode lines) of a result file; a half-written last line is left out."""
    path = Path(path)
    try:
        text = path.read_text(encoding='utf-8')
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f'{path} cannot be read ({error}); give a file that vlnr1 evaluate '
                        'wrote') from None
    whole = text[:text.rfind('\n') + 1].splitlines()
    try:
        lines = [json.loads(line) for line in whole]
        return lines[0]['settings'], [line for line in lines[1:] if line['episode_id']]
    except (ValueError, LookupError, TypeError):
        raise UserError(f'{path} is not a result file of vlnr1 evaluate; give another --out '
                        'or remove it') from None


def _check_settings(path, found, wanted):
    for key in [*wanted, *(k for k in found if k not in wanted)]:
        if found.get(key) != wanted.get(key):
            raise UserError(f'{path} was made with {key} {found.get(key)!r}, this run has '
                            f'{wanted.get(key)!r}; give another --out or remove the file')


def tables(lines: list[dict], radius_m: float = 3.0) -> str:
    """Markdown tables of every metric, a column a tier and, with several tiers, one for all.

    A second one holds the episodes whose wordings training never had. Episodes that ended in an
    error are not counted; those whose goal cannot be reached are, as failures, but not in NE.
    """
    lines = [line for line in lines if 'error' not in line]
    unseen = [line for line in lines if line.get('held_out_wording')]
    parts = [_table(lines, radius_m)]
    if unseen:
        parts += ['of these, wordings never seen in training', _table(unseen, radius_m)]
    lost = [line['episode_id'] for line in lines
            if 'success' in line and line.get('distance_to_goal') is None]
    if lost:
        parts.append(f'no way leads to the goal of {len(lost)} episodes ({", ".join(lost[:5])}'
                     f'{", ..." if len(lost) > 5 else ""}): failures, left out of NE')
    return '\n\n'.join(parts)


def _table(lines, radius_m):
    columns = _columns(lines)
    rows = [['', *(f'{name} (n={len(group)})' for name, group in columns)]]
    for row in ROWS + TIMES:
        cells = [_cell(row, group) for _, group in columns]
        if any(cells):
            rows.append([row.title.format(radius=radius_m), *(cell or '-' for cell in cells)])
    return _markdown(rows)


def _columns(lines):
    tiers = [tier for tier in TIERS if any(line.get('tier') == tier for line in lines)]
    groups = [(tier, [line for line in lines if line.get('tier') == tier]) for tier in tiers]
    return groups if len(tiers) == 1 else [*groups, (ALL, lines)]


def _cell(row, lines):
    values = np.array([line[row.key] for line in lines if line.get(row.key) is not None], float)
    if not len(values):
        return ''
    scale = 1.0 if row.kind == 'mean' else 100.0
    if row.kind == 'rate':
        low, high = metrics.wilson_interval(int(values.sum()), len(values))
    else:
        low, high = metrics.mean_interval(values)
    digits = 2 if row.kind == 'mean' else 1
    return ' '.join([f'{values.mean() * scale:.{digits}f}',
                     f'[{low * scale:.{digits}f}, {high * scale:.{digits}f}]'])


def _markdown(rows):
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    text = ['| ' + ' | '.join(cell.ljust(width) for cell, width in zip(row, widths)) + ' |'
            for row in rows]
    text.insert(1, '|' + '|'.join('-' * (width + 2) for width in widths) + '|')
    return '\n'.join(text)


def comparison(files: list[tuple[str, dict, list[dict]]]) -> str:
    """Markdown table, a row a file: SR at the named object (SR at 3 m in brackets) per tier."""
    files = [(name, settings, [line for line in lines if 'error' not in line])
             for name, settings, lines in files]
    names = list(dict.fromkeys(n for _, _, lines in files for n, _ in _columns(lines)))
    rows = [['file', 'policy', *names]]
    for name, settings, lines in files:
        columns = dict(_columns(lines))
        policy = settings.get('policy', '') + (' (swapped words)' if settings.get('swap') else '')
        rows.append([name, policy, *(_rates(columns.get(column, [])) for column in names)])
    return 'SR at the named object, 1.0 m, in brackets the plain radius (%)\n\n' + _markdown(rows)


def _agreement(files):
    """Markdown table: in how many episodes the other files are as the first one."""
    rows = agreement(files, [row.key for row in ROWS])
    return 'the same episodes, one by one\n\n' + _markdown(
        [['file', 'against', 'in both', 'same actions', 'same actions and metrics'],
         *([str(cell) for cell in (other, first, *counts)] for first, other, *counts in rows)])


def _rates(lines):
    shown = []
    for key in ('grounded_success', 'success'):
        values = [line[key] for line in lines if line.get(key) is not None]
        shown.append(f'{100 * np.mean(values):.1f}' if values else '-')
    return f'{shown[0]} ({shown[1]})'


def describe(settings: dict) -> str:
    """One line that says what a result file holds."""
    swapped = ', another object of the room named' if settings.get('swap') else ''
    spoken = ''.join(f', {" ".join(settings[key])}' for key in ('roles', 'languages')
                     if settings.get(key))
    benchmark = '' if settings.get('preset') in (None, 'apartments') else settings['preset'] + ' '
    return (f'{settings.get("policy")} on {benchmark}{settings.get("split")}{spoken}, '
            f'{settings.get("turn_deg"):g} degrees, {settings.get("simulator")}{swapped}')


def errors(lines: list[dict]) -> str:
    """What to say about episodes that ended in an error; empty when there are none."""
    failed = [line for line in lines if 'error' in line]
    if not failed:
        return ''
    shown = '; '.join(f'{line["episode_id"]}: {line["error"]}' for line in failed[:5])
    return f'{len(failed)} episodes ended in an error and are not counted: {shown}'


def main(argv: list[str] | None = None) -> int:
    """Make the tables of result files again."""
    parser = argparse.ArgumentParser(prog='vlnr1 report', description=main.__doc__)
    parser.add_argument('files', nargs='+', help='JSON lines that vlnr1 evaluate wrote')
    parser.add_argument('--leaderboard', choices=LEADERBOARDS,
                        help='write what this leaderboard takes instead of tables')
    parser.add_argument('-o', '--out', help='file for the leaderboard')
    args = parser.parse_args(argv)
    if bool(args.leaderboard) != bool(args.out):
        raise UserError('--leaderboard and --out FILE go together')
    files = [(Path(path).stem, *read(path)) for path in args.files]
    if args.leaderboard:
        print(f'{export(args.leaderboard, files, args.out)} episodes in {args.out}')
        return 0
    for _, settings, lines in files:
        print(describe(settings), '',
              tables(lines, settings.get('success_distance_m', 3.0)), errors(lines), sep='\n')
    if len(files) > 1:
        print(comparison(files), '', _agreement(files), sep='\n')
    return 0


if __name__ == '__main__':
    from vlnr1_ros.command import run

    sys.exit(run('report', main, sys.argv[1:]))
