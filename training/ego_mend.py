"""One episode of another program's VLN-Ego, checked and mended.

Labels are made anew from the actions where these are known (the published files skip the action
that is due), and what the images show is measured.
"""
from __future__ import annotations

import io
import json
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from training.ego_files import EgoSettings, encode_jpeg, shifted_labels
from training.ego_motion import turn_between
from training.ego_released import Found, Tally
from vlnr1_ros.navigation.actions import Action
from vlnr1_ros.navigation.camera import Camera, resize
from vlnr1_ros.navigation.errors import UserError
from vlnr1_ros.navigation.prompt import check_instruction

TURNS = (Action.TURN_LEFT, Action.TURN_RIGHT)
ENOUGH_TURNS = 40
"""Turns from which the angle is told; episodes are looked at until so many were seen."""
FEWEST_TURNS = 5
LOOKED_AT = 20


class Dropped(Exception):
    """Why an episode is left out."""


class Importer:
    """Turns found episodes into files of ours; counts what it does."""

    def __init__(self, settings: EgoSettings, tally: Tally):
        self._settings, self._mended = settings, tally
        self.labelled, self.offsets = 0, Counter()

    def files(self, found: Found) -> list[tuple[str, bytes]]:
        """(name, content) of every file of an episode. Raises Dropped."""
        try:
            instruction = check_instruction(found.instruction)
        except UserError:
            raise Dropped('episodes without an instruction, or with one too long') from None
        actions, labels = self._actions_and_labels(found)
        frames = self._frames(found, actions)
        meta = {'episode_id': found.episode_id, 'trajectory_id': found.trajectory_id,
                'instruction': instruction, 'stopped': actions[-1] == Action.STOP}
        return [('instruction.txt', instruction.encode()),
                ('action_list.json', json.dumps(actions).encode()),
                ('labels.json', json.dumps(labels).encode()),
                ('meta.json', json.dumps(meta).encode()), *frames]

    def _actions_and_labels(self, found):
        horizon = self._settings.horizon
        actions = action_list(found.folder)
        if actions is None:
            labels = [found.rows.get(t) for t in range(len(found.rows))]
            if not labels:
                raise Dropped('episodes without an action_list.json')
            if None in labels:
                raise Dropped('episodes that lack records of some frames and action_list.json')
            if any(row[1:] != after[:-1] for row, after in zip(labels, labels[1:])):
                raise Dropped('episodes whose labels contradict one another from frame to frame')
            self._mended.add('episodes without action_list.json, whose labels stay as they were',
                             found.name)
            return [row[0] for row in labels], labels
        if not actions or any(action not in list(Action) for action in actions):
            raise Dropped('episodes with other actions than 0 to 3')
        if Action.STOP in actions[:-1]:
            raise Dropped('episodes with a stop before the end')
        if actions[-1] != Action.STOP:
            raise Dropped('episodes that do not end with stop')
        labels = shifted_labels(actions, horizon)
        late = shifted_labels([*actions[1:], Action.STOP], horizon)
        if any(t >= len(actions) for t in found.rows):
            raise Dropped('episodes with more records than actions')
        for t, row in found.rows.items():
            self.labelled += 1
            fits = {0: row == labels[t], 1: row == late[t]}
            self.offsets.update(offset for offset, right in fits.items() if right)
            if not any(fits.values()):
                self._mended.add('records whose labels are not in action_list.json, made anew',
                                 f'{found.name}, frame {t}')
        missing = len(actions) - len(found.rows)
        if found.rows and missing:
            self._mended.add('episodes that lacked records, made from action_list.json',
                             found.name)
        return actions, labels

    def _frames(self, found, actions):
        """(name, JPEG bytes) of every frame."""
        files = step_images(found.folder)
        if len(files) < len(actions) or set(files) < set(range(len(actions))):
            raise Dropped('episodes with a frame missing on disk')
        if len(files) > len(actions):
            raise Dropped('episodes with more frames than actions')
        frames, before = [], b''
        for t in range(len(actions)):
            data = files[t].read_bytes()
            if data == before and actions[t - 1] in TURNS:
                raise Dropped('episodes that show the same frame after a turn')
            frames.append((f'step_{t}.jpg', self._stored(data)))
            before = data
        return frames

    def _stored(self, data):
        """Bytes of the frame as it is kept: as it is where it has the right size and format."""
        settings = self._settings
        try:
            with Image.open(io.BytesIO(data)) as image:
                size = image.size
                keep = (image.format == 'JPEG' and image.mode == 'RGB'
                        and size == (settings.frame_width, settings.frame_height))
                # an eighth of the size shows as well whether the file is whole, and is quicker
                image.draft('RGB', (size[0] // 8, size[1] // 8) if keep else size)
                image = image.convert('RGB')
        except (OSError, ValueError, SyntaxError):
            raise Dropped('episodes with a frame that is no image or cut short') from None
        if size != (settings.camera.width, settings.camera.height):
            raise Dropped(f'episodes with a frame of another size than {settings.camera.width}x'
                          f'{settings.camera.height}')
        return data if keep else encode_jpeg(resize(
            np.asarray(image), settings.frame_width, settings.frame_height))


def action_list(folder: Path) -> list[int] | None:
    """The actions of an episode folder, None without them. Raises Dropped when damaged."""
    try:
        actions = json.loads((folder / 'action_list.json').read_text(encoding='utf-8'))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        raise Dropped('episodes with a damaged action_list.json') from None
    if not isinstance(actions, list):
        raise Dropped('episodes with a damaged action_list.json')
    return actions


def step_images(folder: Path) -> dict[int, Path]:
    """{frame: its image} of an episode folder."""
    return {int(path.stem[5:]): path for path in folder.glob('step_*.*')
            if path.stem[5:].isdecimal()}


def measured_turn(episodes, camera: Camera) -> float | None:
    """Median angle of the turns that the first episodes show, None where too few do.

    camera: only its field of view counts.
    """
    angles: list[float] = []
    for found in islice(episodes, LOOKED_AT):
        files = step_images(found.folder)
        frames = [_picture(files[t]) for t in sorted(files)]
        for before, after in zip(frames, frames[1:]):
            if before is not None and after is not None and before.shape == after.shape:
                angles += filter(None, [turn_between(before, after, camera)])
        if len(angles) >= ENOUGH_TURNS:
            break
    return float(np.median(np.abs(angles))) if len(angles) >= FEWEST_TURNS else None


def _picture(path):
    """An RGB frame, None where it cannot be read."""
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert('RGB'))
    except (OSError, ValueError, SyntaxError):
        return None


def image_size(episodes) -> tuple[int, int]:
    """(width, height) of the first frame that can be read."""
    for found in episodes:
        for path in step_images(found.folder).values():
            try:
                with Image.open(path) as image:
                    return image.size
            except (OSError, ValueError, SyntaxError):
                continue
    raise UserError('none of the frames is on disk; give --images, the folder of the ep_* folders '
                    'with their step_*.jpg')
