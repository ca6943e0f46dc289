"""Inspect VLN-Ego samples: do labels, turn angle and frames belong together?

    vlnr1 ego check ego84 --split train
    vlnr1 ego check imported --card runs/model

The turn angle and the offset between a frame and its first label are measured from the images
(`ego_motion`), not read from the files. A card is compared with the samples' own, where they have
one, in prompt and history rule as well. Ends with exit code 1 where something does not fit.
"""
from __future__ import annotations

import argparse
import os
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from training.ego_dataset import EgoDataset, EpisodeRecord
from training.ego_motion import motion_between, turn_between
from vlnr1_ros.navigation.actions import Action
from vlnr1_ros.navigation.camera import Camera
from vlnr1_ros.navigation.card import FILE_NAME, NavigationCard
from vlnr1_ros.navigation.errors import UserError

OFFSETS = (-1, 0, 1, 2)
"""Label k of frame i is action i + k + offset; 0 is right."""
TURN_SLACK_DEG = 2.0
ENOUGH = 20
"""Measured motions below which nothing is claimed."""


@dataclass
class Findings:
    """What was measured of some episodes.

    turn_deg: median angle between frames that a turn lies between, None without turns. offset:
    the label offset that explains the images best. agreement: {offset: share of frames it
    explains}. padded: share of labels past the end that are stop. stopped: share of episodes whose
    last action is stop. faults: what does not fit, in words.
    """

    episodes: int = 0
    motions: int = 0
    turn_deg: float | None = None
    offset: int | None = None
    agreement: dict[int, float] = field(default_factory=dict)
    padded: float | None = None
    stopped: float = 0.0
    faults: list[str] = field(default_factory=list)


def seen_motions(record: EpisodeRecord, turn_deg: float, camera: Camera) -> list[Action | None]:
    """The motion between each frame and the next, from the images: T - 1 of them."""
    frames = record.frames(range(len(record)))
    return [motion_between(before, after, turn_deg, camera)
            for before, after in zip(frames, frames[1:])]


def seen_turns(record: EpisodeRecord, camera: Camera) -> list[float]:
    """Absolute angles between frames whose images show a turn."""
    frames = record.frames(range(len(record)))
    found = [turn_between(before, after, camera) for before, after in zip(frames, frames[1:])]
    return [abs(angle) for angle in found if angle]


def agreement(motions: list[list[Action | None]], labels: list[np.ndarray]) -> dict[int, float]:
    """{offset: share of frames whose first label is the motion seen that many frames later}."""
    found = {}
    for offset in OFFSETS:
        right = [motions_of[i + offset] == first
                 for motions_of, labels_of in zip(motions, labels)
                 for i, first in enumerate(labels_of[:, 0])
                 if 0 <= i + offset < len(motions_of) and motions_of[i + offset] is not None]
        found[offset] = float(np.mean(right)) if right else 0.0
    return found


def inspect(data: EgoDataset, episodes: int, seed: int = 0) -> Findings:
    """Measure a number of episodes drawn by the seed."""
    order = np.random.default_rng(seed).permutation(len(data.episodes))[:episodes]
    records = [data.episodes[i] for i in order]
    camera = data.settings.camera
    found = Findings(episodes=len(records))
    angles = [angle for record in records for angle in seen_turns(record, camera)]
    found.turn_deg = float(np.median(angles)) if angles else None
    motions = [seen_motions(record, found.turn_deg or data.settings.action_set.turn_deg, camera)
               for record in records]
    found.motions = sum(motion is not None for of in motions for motion in of)
    if found.motions >= ENOUGH:
        found.agreement = agreement(motions, [record.labels for record in records])
        found.offset = max(found.agreement, key=found.agreement.get)
    past = [label for record in records if record.actions[-1] == Action.STOP
            for i, row in enumerate(record.labels) for label in row[len(record) - i:]]
    found.padded = float(np.mean(np.array(past) == Action.STOP)) if past else None
    found.stopped = float(np.mean([record.actions[-1] == Action.STOP for record in records]))
    _judge(found, data)
    return found


def _judge(found: Findings, data: EgoDataset):
    said = data.settings.action_set.turn_deg
    if found.turn_deg is not None and abs(found.turn_deg - said) > TURN_SLACK_DEG:
        found.faults.append(
            f'turns are {found.turn_deg:g} degrees in the images, {said:g} in the files: set '
            f'turn_deg to {found.turn_deg:g}, or merge turns')
    if found.offset:
        found.faults.append(
            f'the first label of a frame is the action {found.offset} frames later '
            f'({found.agreement[found.offset]:.0%} of frames, {found.agreement[0]:.0%} without '
            'offset): the action due now is never learnt')
    if found.padded is not None and found.padded < 1.0:
        found.faults.append(f'{1 - found.padded:.0%} of the labels past the end are not stop')


def prompt_faults(card: NavigationCard) -> list[str]:
    """Angles and lengths that the prompt names and the actions do not have, in words."""
    text = card.template.text
    said = {'turn_deg': re.findall(r'[Tt]urn (?:left|right) ([\d.]*\d) deg', text),
            'forward_m': [float(cm) / 100
                          for cm in re.findall(r'[Ff]orward ([\d.]*\d) cm', text)]}
    return [f'the prompt says {name} {float(value):g}, the actions have '
            f'{getattr(card.action_set, name):g}' for name, values in said.items()
            for value in dict.fromkeys(values)
            if abs(float(value) - getattr(card.action_set, name)) > 1e-6]


def card_faults(card: NavigationCard, own: NavigationCard) -> list[str]:
    """Where a card asks or remembers otherwise than the samples' own card, in words."""
    found = []
    mine, theirs = card.template.text, own.template.text
    if mine != theirs:
        same = len(os.path.commonprefix([mine, theirs]))
        found.append(f"the card's prompt is not that of the samples: after {same} characters it "
                     f'has {mine[same:same + 40]!r}, theirs {theirs[same:same + 40]!r}')
    for what, mine, theirs in (
            ('history_separator', card.template.history_separator, own.template.history_separator),
            ('history rule', card.sampler, own.sampler)):
        if mine != theirs:
            found.append(f"the card's {what} is {mine!r}, that of the samples {theirs!r}")
    return found


def report(found: Findings, card: NavigationCard | None = None) -> str:
    """The findings as text. card: the one that the samples were compared with."""
    turn = '-' if found.turn_deg is None else f'{found.turn_deg:g}'
    shares = ', '.join(f'{offset:+d}: {share:.0%}' for offset, share in found.agreement.items())
    lines = [f'{found.episodes} episodes, {found.motions} motions between frames',
             f'turn angle in the images (degrees)  {turn}',
             f'frames explained by label offset    {shares or "too few motions to tell"}',
             f'labels past the end that are stop   '
             f'{"-" if found.padded is None else format(found.padded, ".0%")}',
             f'episodes that end with stop         {found.stopped:.0%}',
             f'history rule of the card            {card.sampler if card else "no card"}']
    return '\n'.join([*lines, *(f'FAULT: {fault}' for fault in found.faults)]
                     + ([] if found.faults else ['no fault found']))


def main(argv: list[str] | None = None) -> int:
    """The command line of this module; 1 where something does not fit."""
    parser = argparse.ArgumentParser(prog='vlnr1 ego check', description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('folder', type=Path, help='VLN-Ego samples')
    add('--split', default='train', help='which split (default: train)')
    add('--card', help='checkpoint whose actions, horizon and frames the samples must serve, and '
        'whose prompt and history rule must be those of the card in the folder, where it has one '
        '(default: that card)')
    add('--episodes', type=int, default=20, help='measure this many (default: 20)')
    add('--seed', type=int, default=0, help='draws them')
    args = parser.parse_args(argv)
    if args.episodes < 1:
        raise UserError(f'--episodes {args.episodes} must be 1 or more')
    data = EgoDataset(args.folder, args.split)
    own = NavigationCard.load(args.folder) if (args.folder / FILE_NAME).is_file() else None
    card = NavigationCard.load(args.card) if args.card else own
    found = inspect(data, args.episodes, args.seed)
    if card:
        found.faults += prompt_faults(card) + (card_faults(card, own) if own else [])
        try:
            found.faults += data.check(card)
        except UserError as error:
            found.faults.append(str(error))
    print(report(found, card))
    return 1 if found.faults else 0


if __name__ == '__main__':
    from vlnr1_ros.command import run

    sys.exit(run('ego check', main, sys.argv[1:]))
