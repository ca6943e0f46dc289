"""Result files in the form the two public leaderboards take.

Formats after VLN-CE's inference (github.com/jacobkrantz/VLN-CE, vlnce_baselines/common/
base_il_trainer.py and environments.py): R2R one JSON object {episode id: [{position, heading,
stop}, ...]} with the start and the pose after every action, heading the yaw about +Y in radians,
positive to the left; RxR one JSON line {instruction_id, path} an episode, positions that did not
change left out, sorted by instruction_id.
"""
from __future__ import annotations

import json
import os

from vlnr1_ros.navigation.errors import UserError

LEADERBOARDS = ('r2r', 'rxr')


def export(board: str, files: list[tuple[str, dict, list[dict]]], out: str) -> int:
    """Write (name, settings, lines) of result files as one submission; returns its episodes.

    Raises UserError on files of another benchmark, episodes that ended in an error or come twice.
    """
    merged: dict = {}
    for name, settings, lines in files:
        if settings.get('preset') != board:
            raise UserError(f'{name} was made with preset {settings.get("preset")}, the {board} '
                            f'leaderboard takes runs of: vlnr1 evaluate --preset {board}')
        for line in lines:
            if 'path' not in line:
                raise UserError(f'{name}: episode {line["episode_id"]} has no path '
                                f'({line.get("error", "not written")}); run the same vlnr1 '
                                'evaluate again, it repeats what ended in an error')
            if line['episode_id'] in merged:
                raise UserError(f'episode {line["episode_id"]} is there twice, again in {name}')
            merged[line['episode_id']] = line
    if not merged:
        raise UserError('the result files hold no episode')
    _write(out, _r2r(merged) if board == 'r2r' else _rxr(merged))
    return len(merged)


def _r2r(lines):
    return json.dumps({key: _poses(line) for key, line in lines.items()})


def _poses(line):
    stopped = line['actions'].endswith('0')
    poses = [{'position': pose[:3], 'heading': pose[3], 'stop': False} for pose in line['path']]
    poses[-1]['stop'] = stopped
    return poses


def _rxr(lines):
    rows = [{'instruction_id': int(line['instruction_id']), 'path': _changed(line['path'])}
            for line in lines.values()]
    rows.sort(key=lambda row: row['instruction_id'])
    return ''.join(json.dumps(row) + '\n' for row in rows)


def _changed(poses):
    path = [poses[0][:3]]
    path += [after[:3] for before, after in zip(poses, poses[1:]) if after[:3] != before[:3]]
    return path


def _write(out, text):
    part = out + '.part'
    with open(part, 'w', encoding='utf-8') as file:
        file.write(text)
    os.replace(part, out)
