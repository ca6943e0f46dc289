"""Conversation JSON of any length, one record after the other: a list of

    {"conversations": [{"from": "human", "value": PROMPT}, {"from": "gpt", "value": ACTIONS}],
     "images": ["train/ep_1/traj_1/step_0.jpg", ...]}

with one `<image>` in PROMPT for every image, the newest frame last.
"""
from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator

from vlnr1_ros.navigation.errors import UserError

IMAGE = '<image>'
CHUNK_CHARACTERS = 1 << 20
LONGEST_RECORD = 1 << 24
_SPACE = re.compile(r'\s*')


@dataclass(frozen=True)
class Conversation:
    """One decision as text. number: of the record in its file, from 0."""

    number: int
    prompt: str
    answer: str
    images: list[str]


def conversations(path: Path) -> Iterator[Conversation]:
    """The records of a file, checked one by one; a few megabytes of it are in memory at a time.

    Raises UserError that names the record which is cut short, is no JSON, has other parts than one
    question, one answer and a list of images, or another number of images than its prompt.
    """
    number = 0
    try:
        for record in _values(path):
            yield _conversation(path, number, record)
            number += 1
    except OSError as error:
        raise UserError(f'{path} cannot be read ({error.strerror})') from None
    except ValueError as error:
        raise UserError(f'{path}: record {number} is no JSON, or the file is cut short there '
                        f'({error}); a list of conversations is needed') from None
    if not number:
        raise UserError(f'{path} holds no records; a list of conversations is needed')


def _conversation(path, number, record) -> Conversation:
    try:
        human, answer = record['conversations']
        found = Conversation(number, human['value'], answer['value'],
                             [str(image) for image in record['images']])
        places = found.prompt.count(IMAGE)
        found.answer.strip()
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError(f'{path}: record {number} is not one question, one answer and a list '
                        'of images') from None
    if places != len(found.images) or not places:
        raise UserError(f'{path}: record {number} has {places} {IMAGE} but '
                        f'{len(found.images)} images')
    return found


def _values(path):
    with path.open(encoding='utf-8') as file:
        reader = _Reader(file)
        if not reader.take('['):
            raise ValueError('it does not begin with [')
        if reader.take(']'):
            return
        while True:
            yield reader.value()
            if reader.take(']'):
                return
            if not reader.take(','):
                raise ValueError('no comma follows')


class _Reader:
    """The unread part of a JSON text."""

    def __init__(self, file):
        self._file, self._text, self._at = file, '', 0

    def take(self, sign: str) -> bool:
        """Whether `sign` is what comes next; if so it is read."""
        self._skip_space()
        found = self._text[self._at:self._at + 1] == sign
        self._at += found
        return found

    def value(self):
        """The value that comes next. ValueError where none does."""
        self._skip_space()
        while True:
            try:
                value, self._at = json.JSONDecoder().raw_decode(self._text, self._at)
                return value
            except ValueError:
                if len(self._text) - self._at > LONGEST_RECORD or not self._more():
                    raise

    def _skip_space(self):
        while True:
            self._at = _SPACE.match(self._text, self._at).end()
            if self._at < len(self._text) or not self._more():
                return

    def _more(self):
        chunk = self._file.read(CHUNK_CHARACTERS)
        self._text, self._at = self._text[self._at:] + chunk, 0
        return bool(chunk)
