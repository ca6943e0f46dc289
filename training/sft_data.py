"""Rows for TRL's trainers, made when they are asked for: each frame is stored once.

Every row has a prompt and images. The answer is a completion to imitate (SFT) or, with
`as_column`, plain text in the column `answer` that a reward compares with (RFT).
"""
from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
from datasets import Dataset
from PIL import Image

from training.conversation_file import IMAGE, conversations
from training.ego_dataset import EgoDataset
from vlnr1_ros.navigation.camera import resize
from vlnr1_ros.navigation.card import NavigationCard
from vlnr1_ros.navigation.errors import UserError

NO_IMAGE = ('{} is missing or no image; give the folder that image paths start from with '
            '--image_folder')


def ego_rows(data: EgoDataset, decisions: np.ndarray, card: NavigationCard,
             as_column: bool = False) -> Dataset:
    """One row per decision, (N, 2) of episode and frame, of VLN-Ego samples."""
    episodes, frames = decisions.T
    index = Dataset.from_dict({'episode': episodes, 't': frames})

    def make(batch):
        return _rows(zip(batch['episode'], batch['t']),
                     lambda episode, t: _ego_row(data, card, episode, t), as_column)

    return index.with_transform(make)


def conversation_rows(path: Path, card: NavigationCard, image_folder: Path,
                      as_column: bool = False) -> Dataset:
    """One row per record of a conversation JSON; prompt and answer stand in the file.

    Every record is checked before anything is trained: its number of images, that they are there,
    that the prompt is the card's and the answer as many of its actions as the horizon.
    """
    table = {'prompt': [], 'answer': [], 'images': []}
    listed: dict[Path, set[str]] = {}
    for record in conversations(path):
        where = f'{path}: record {record.number}'
        try:
            labels = card.action_set.decode(record.answer)
        except UserError as error:
            raise UserError(f'{where}: {error}; give a --card with the actions of this data') \
                from None
        if len(labels) != card.horizon:
            raise UserError(f'{where} answers {len(labels)} actions, the card predicts '
                            f'{card.horizon}; give a --card with the horizon of this data')
        if card.template.instruction_of(record.prompt, len(record.images) - 1, card.action_set,
                                        card.horizon) is None:
            raise UserError(f"{where} has another prompt than the card's; give the --card of this "
                            'data, or make samples with its prompt: vlnr1 ego import')
        for name in record.images:
            _must_exist(image_folder / name, listed)
        for name, value in zip(table, (record.prompt, record.answer, record.images)):
            table[name].append(value)

    def make(batch):
        return _rows(zip(batch['prompt'], batch['answer'], map(tuple, batch['images'])),
                     lambda *record: _conversation_row(*record, card, image_folder), as_column)

    return Dataset.from_dict(table).with_transform(make)


def _ego_row(data, card, episode, t):
    sample = data.sample(episode, t, card)
    blocks = card.template.blocks(sample['instruction'], len(sample['frames']) - 1,
                                  card.action_set, card.horizon)
    return blocks, card.action_set.encode(sample['labels']), sample['frames']


def _conversation_row(prompt, answer, images, card, folder):
    blocks = []
    for i, text in enumerate(prompt.split(IMAGE)):
        blocks += [{'type': 'image'}] * (i > 0) + [{'type': 'text', 'text': text}] * bool(text)
    return blocks, answer, [_frame(folder / name, card) for name in images]


def _rows(keys, decision, as_column) -> dict[str, list]:
    """Columns of the decisions that `decision(*key)` makes.

    What is asked for several times at once, as RFT does for the answers of a group, is made once.
    """
    keys = list(keys)
    made = {key: decision_row(*decision(*key), as_column) for key in dict.fromkeys(keys)}
    return {name: [made[key][name] for key in keys] for name in made[keys[0]]}


def decision_row(blocks: list[dict], answer: str, frames, as_column: bool = False) -> dict:
    """One row for TRL: the template's blocks, the right answer, uint8 frames (H, W, 3)."""
    given = {'answer': answer} if as_column else {'completion': [
        {'role': 'assistant', 'content': [{'type': 'text', 'text': answer}]}]}
    return {'prompt': [{'role': 'user', 'content': blocks}], **given,
            'images': [Image.fromarray(frame) for frame in frames]}


def _frame(path: Path, card: NavigationCard) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise UserError(NO_IMAGE.format(path))
    if card.blind:
        return np.zeros((card.frame_height, card.frame_width, 3), np.uint8)
    return resize(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), card.frame_width, card.frame_height)


def _must_exist(path: Path, listed: dict[Path, set[str]]) -> None:
    """listed: what folders hold, each asked once: quicker than asking for every image."""
    if path.parent not in listed:
        listed[path.parent] = set(os.listdir(path.parent)) if path.parent.is_dir() else set()
    if path.name not in listed[path.parent]:
        raise UserError(NO_IMAGE.format(path))
