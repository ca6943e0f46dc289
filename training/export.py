"""VLN-Ego samples as conversation JSON: the format of the published VLN-Ego files.

One record per decision (training/conversation_file.py). Image paths are relative to the JSON file.
The card that made the prompts is written beside it.
"""
from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from training.conversation_file import IMAGE
from training.ego_dataset import EgoDataset
from training.ego_files import PARTIAL_PREFIX, write_error
from vlnr1_ros.navigation.card import FILE_NAME, NavigationCard
from vlnr1_ros.navigation.errors import UserError
from vlnr1_ros.navigation.prompt import check_instruction


def conversation(record, t: int, card: NavigationCard, base: Path) -> dict:
    """The record of decision ``t``: prompt by the card's template, images relative to base."""
    history = card.sampler.indices(t)
    # A sentence that contains the placeholder would shift every image after it.
    instruction = check_instruction(record.instruction).replace(IMAGE, ' ')
    prompt = card.template.conversation(instruction, len(history), card.action_set, card.horizon)
    answer = card.action_set.encode(record.labels[t, :card.horizon])
    return {'conversations': [{'from': 'human', 'value': prompt},
                              {'from': 'gpt', 'value': answer}],
            'images': [os.path.relpath(path, base).replace(os.sep, '/')
                       for path in record.frame_paths(history + [t])]}


def export(folder: Path, split: str, path: Path, card_folder: str | os.PathLike | None = None,
           tiers: list[str] | None = None) -> int:
    """Write every decision of a split to ``path``; returns how many records.

    card_folder: whose prompt, sampler and horizon to use; without one the default prompt with the
    data's own actions and camera. Raises UserError when card and data disagree.
    """
    data = EgoDataset(folder, split, tiers)
    card = NavigationCard.load(card_folder) if card_folder else default_card(data)
    data.check(card)
    decisions = np.concatenate(data.decisions(card))
    base = path.resolve().parent
    if (base / FILE_NAME).exists() and NavigationCard.load(base) != card:
        raise UserError(f'{base} holds another card ({FILE_NAME}), which this export would '
                        'replace; give --export a file in another folder')
    partial = path.with_name(f'{PARTIAL_PREFIX}{os.getpid()}_{path.name}')
    try:
        base.mkdir(parents=True, exist_ok=True)
        with partial.open('w', encoding='utf-8') as file:
            separator = '[\n'
            for episode, t in decisions:
                record = conversation(data.episodes[episode], int(t), card, base)
                file.write(separator + json.dumps(record, ensure_ascii=False))
                separator = ',\n'
            file.write('\n]\n')
        card.save(base)
        os.replace(partial, path)
    except OSError as error:
        raise write_error(path, error) from None
    finally:
        partial.unlink(missing_ok=True)
    return len(decisions)


def default_card(data: EgoDataset) -> NavigationCard:
    """The default prompt and sampler with the actions, camera and frame size of some samples."""
    settings = data.settings
    return replace(
        NavigationCard(), action_set=settings.action_set, horizon=settings.horizon,
        execute=min(NavigationCard.execute, settings.horizon), camera=settings.camera,
        frame_width=settings.frame_width, frame_height=settings.frame_height,
        training_data=settings.dataset)
