"""VLN-Ego on disk: one folder per episode, written whole or not at all.

    ROOT/ego.json                                       how every episode below was made
    ROOT/<split>/ep_<episode_id>/traj_<trajectory_id>/
        instruction.txt                                 the sentence
        action_list.json                                actions taken; the last is 0 after a stop
        step_<i>.jpg, or one frames.npy (T, H, W, 3)    what was seen BEFORE action i
        labels.json                                     T x n actions the expert takes from frame i
        meta.json                                       scene, tier, swapped sentence, ...
"""
from __future__ import annotations

import errno
import io
import json
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Iterable, Iterator

import cv2
import numpy as np

from sim_bridge.benchmarks import APARTMENTS
from vlnr1_ros.navigation.actions import Action, ActionSet
from vlnr1_ros.navigation.camera import Camera
from vlnr1_ros.navigation.errors import UserError

SETTINGS_FILE = 'ego.json'
IMAGE_FORMATS = ('jpg', 'npy')
EPISODE_PREFIX, TRAJECTORY_PREFIX = 'ep_', 'traj_'
PARTIAL_PREFIX = '.partial_'
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Full chroma resolution: instructions name colours, and at model size an object is a few pixels.
JPEG_SETTINGS = [cv2.IMWRITE_JPEG_QUALITY, 95,
                 cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]


@dataclass(frozen=True)
class EgoSettings:
    """Everything that decides what an episode's files hold; equal for a whole root folder.

    ``source`` is 'replay' (the expert acts), 'noise' (bursts of random actions), 'policy' (a
    policy acts), 'bag' (recordings of a robot) or 'import' (made by other programs). Frames are
    stored at ``frame_width`` x ``frame_height`` pixels. ``preset`` names the benchmark; the
    agent's size, sliding and the expert's path are its.
    """

    action_set: ActionSet = field(default_factory=ActionSet)
    horizon: int = 6
    camera: Camera = field(default_factory=Camera)
    frame_width: int = 224
    frame_height: int = 224
    image_format: str = 'jpg'
    source: str = 'replay'
    preset: str = APARTMENTS.name
    dataset: str = ''
    roles: list[str] = field(default_factory=list)
    languages: list[str] = field(default_factory=list)
    noise: float = 0.0
    policy: str = ''
    beta: float = 0.0
    max_steps: int = 250
    seed: int = 0

    def __post_init__(self):
        if not 1 <= self.horizon <= 64:
            raise UserError(f'horizon is {self.horizon}; give 1 to 64 actions')
        if self.image_format not in IMAGE_FORMATS:
            raise UserError(f'image format {self.image_format!r} is unknown; '
                            f'known are {", ".join(IMAGE_FORMATS)}')
        if not (0.0 <= self.noise < 1.0 and 0.0 <= self.beta <= 1.0):
            raise UserError(f'noise {self.noise} and beta {self.beta} are probabilities: '
                            'give noise from 0 to below 1 and beta from 0 to 1')
        if self.max_steps < 1:
            raise UserError(f'max_steps is {self.max_steps}; give a whole number from 1')

    def check(self, root: Path) -> None:
        """Refuse a root made with other settings, so that none are mixed."""
        if not (root / SETTINGS_FILE).exists():
            return
        there = asdict(EgoSettings.load(root))
        for name, value in asdict(self).items():
            if value != there[name]:
                raise UserError(f'{root} was made with {name} {there[name]}, not {value}; '
                                'give the same settings or another --out')

    def bind(self, root: Path) -> None:
        """Make the root and its ``ego.json``; refuse one made with other settings."""
        self.check(root)
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_error(root, error) from None
        write_whole(root / SETTINGS_FILE, (json.dumps(asdict(self), indent=2) + '\n').encode())

    @classmethod
    def load(cls, root: str | os.PathLike) -> EgoSettings:
        """Read ``ego.json``; the error names the command that makes such a folder."""
        path = Path(root) / SETTINGS_FILE
        if not path.is_file():
            raise UserError(f'{root} holds no VLN-Ego samples ({SETTINGS_FILE} is missing); make '
                            f'them with: vlnr1 ego --data DATA --split train --out {root}')
        try:
            data = json.loads(path.read_text(encoding='utf-8'))
            data['action_set'] = ActionSet(**data['action_set'])
            data['camera'] = Camera(**data['camera'])
            return cls(**data)
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f'{path} is damaged ({error}); make the samples anew') from None


@dataclass
class EgoEpisode:
    """One run before it is written.

    frames: T uint8 (H, W, 3) at the stored size. actions: T ids. labels: T lists of n ids, the
    action due from frame i first. meta: JSON-able facts about the episode.
    """

    episode_id: str
    trajectory_id: str
    instruction: str
    frames: list[np.ndarray]
    actions: list[int]
    labels: list[list[int]]
    meta: dict


def shifted_labels(actions: list[int], horizon: int) -> list[list[int]]:
    """T x n labels of a run that the expert drove: actions i .. i+n-1, past the end stop."""
    padded = [int(action) for action in actions] + [int(Action.STOP)] * horizon
    return [padded[i:i + horizon] for i in range(len(actions))]


def episode_folder(root: Path, split: str, episode_id: str, trajectory_id: str) -> Path:
    """Where an episode lies; an id that would leave the root is refused."""
    for name in (episode_id, trajectory_id):
        if not name or any(c in name for c in '/\\\0') or name.startswith('.'):
            raise UserError(f'{name!r} cannot be part of a folder name; give the episodes ids '
                            'of letters and digits')
    return (root / split / f'{EPISODE_PREFIX}{episode_id}'
            / f'{TRAJECTORY_PREFIX}{trajectory_id}')


def write_episode(root: Path, split: str, episode: EgoEpisode, image_format: str) -> Path:
    """Write an episode under a temporary name and rename it; UserError when the disk is full."""
    return write_files(root, split, episode.episode_id, episode.trajectory_id,
                       episode_files(episode, image_format))


def write_files(root: Path, split: str, episode_id: str, trajectory_id: str,
                files: Iterable[tuple[str, bytes]]) -> Path:
    """write_episode for what episode_files gave, wherever it was made."""
    final = episode_folder(root, split, episode_id, trajectory_id)
    partial = root / split / f'{PARTIAL_PREFIX}{os.getpid()}_{final.parent.name}_{final.name}'
    try:
        partial.mkdir(parents=True)
        for name, data in files:
            (partial / name).write_bytes(data)
        final.parent.mkdir(exist_ok=True)
        os.rename(partial, final)
    except OSError as error:
        raise write_error(final, error) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return final


def episode_files(episode: EgoEpisode, image_format: str) -> Iterator[tuple[str, bytes]]:
    """(name, content) of every file of an episode's folder."""
    yield 'instruction.txt', episode.instruction.encode()
    yield 'action_list.json', json.dumps([int(a) for a in episode.actions]).encode()
    yield 'labels.json', json.dumps([[int(a) for a in row] for row in episode.labels]).encode()
    yield 'meta.json', json.dumps(episode.meta).encode()
    if image_format == 'npy':
        buffer = io.BytesIO()
        np.save(buffer, np.stack(episode.frames))
        yield 'frames.npy', buffer.getvalue()
    else:
        for i, frame in enumerate(episode.frames):
            yield f'step_{i}.jpg', encode_jpeg(frame)


def encode_jpeg(rgb: np.ndarray) -> bytes:
    """JPEG bytes of a uint8 (H, W, 3) RGB frame."""
    return cv2.imencode('.jpg', cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), JPEG_SETTINGS)[1].tobytes()


def write_whole(path: Path, data: bytes) -> None:
    """Write one file under a temporary name and rename it."""
    temporary = path.with_name(f'{PARTIAL_PREFIX}{os.getpid()}_{path.name}')
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise write_error(path, error) from None


def write_error(path: Path, error: OSError) -> UserError:
    """What to say when something could not be written."""
    if error.errno in DISK_FULL:
        return UserError(f'no room left to write {path} ({error.strerror}); free some space and '
                         'run the same command again, what is finished is kept')
    return UserError(f'cannot write {path}: {error.strerror}; choose another --out')


def remove_partials(root: Path, split: str) -> None:
    """Delete what killed runs left behind (not what other live processes are writing)."""
    for path in (root / split).glob(PARTIAL_PREFIX + '*'):
        pid = path.name[len(PARTIAL_PREFIX):].split('_')[0]
        if not _alive(int(pid)):
            shutil.rmtree(path, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
