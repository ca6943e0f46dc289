"""VLN-Ego samples in memory's reach: which episodes there are, and any decision of them."""
from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Iterable, Sequence

import cv2
import numpy as np

from training.ego_files import EgoSettings
from vlnr1_ros.navigation.camera import resize
from vlnr1_ros.navigation.card import NavigationCard
from vlnr1_ros.navigation.errors import UserError


@dataclass(frozen=True)
class EpisodeRecord:
    """One written episode. actions: (T,) ids; labels: (T, n) ids; meta: its ``meta.json``."""

    folder: Path
    instruction: str
    actions: np.ndarray
    labels: np.ndarray
    meta: dict

    def __len__(self) -> int:
        """Frames, which is also decisions that can be trained on."""
        return len(self.actions)

    @property
    def tier(self) -> str | None:
        """room, door, apartment, or None where the data has no tiers."""
        return self.meta.get('tier')

    def frame_paths(self, indices: Iterable[int]) -> list[Path]:
        """The image files of some frames; UserError where frames lie in one array."""
        if (self.folder / 'frames.npy').exists():
            raise UserError(f'{self.folder} holds frames.npy, no image files; make the samples '
                            'with --image-format jpg')
        return [self.folder / f'step_{i}.jpg' for i in indices]

    def frames(self, indices: Sequence[int]) -> list[np.ndarray]:
        """uint8 (H, W, 3) RGB frames at the stored size; only those asked for are read."""
        array = self.folder / 'frames.npy'
        try:
            if array.exists():
                stored = np.load(array, mmap_mode='r')
                return [np.array(stored[i]) for i in indices]
            return [_read_image(path) for path in self.frame_paths(indices)]
        except (OSError, ValueError, IndexError) as error:
            raise UserError(f'{self.folder} is damaged ({error}); delete it and run vlnr1 ego '
                            'again') from None


class EgoDataset:
    """Every episode of one split of one or several VLN-Ego folders with the same actions.

    ``episodes`` stand folder by folder. The folders' ``cameras`` may differ, as those of R2R and
    RxR do.
    """

    def __init__(self, folders: str | os.PathLike | Sequence, split: str = 'train',
                 tiers: Sequence[str] | None = None):
        roots = [folders] if isinstance(folders, (str, os.PathLike)) else list(folders)
        if not roots:
            raise UserError('no VLN-Ego folder given')
        all_settings = [EgoSettings.load(root) for root in roots]
        self.settings = all_settings[0]
        for root, settings in zip(roots, all_settings):
            for name in ('action_set', 'horizon', 'frame_width', 'frame_height'):
                ours, theirs = getattr(self.settings, name), getattr(settings, name)
                if ours != theirs:
                    raise UserError(f'{root} has {name} {theirs}, {roots[0]} has {ours}; '
                                    'they cannot be mixed')
        self.cameras = [settings.camera for settings in all_settings]
        by_root = [[e for e in _read_episodes(Path(root) / split)
                    if not tiers or e.tier in tiers] for root in roots]
        self._folders = list(map(len, by_root))
        self.episodes = [e for episodes in by_root for e in episodes]
        if not self.episodes:
            which = f' of tier {" or ".join(tiers)}' if tiers else ''
            raise UserError(f'no episode{which} in split {split!r} of '
                            f'{", ".join(map(str, roots))}; make some with vlnr1 ego')

    def decisions(self, card: NavigationCard) -> list[np.ndarray]:
        """All that a model with this card can learn from: (episode, frame), int32 (N, 2) a folder.
        """
        pairs = []
        for i, episode in enumerate(self.episodes):
            frames = np.array(card.decision_frames(len(episode)), np.int32)
            pairs.append(np.stack([np.full_like(frames, i), frames], axis=1))
        ends = np.cumsum([0, *self._folders])
        return [np.concatenate(pairs[begin:end] or [np.empty((0, 2), np.int32)])
                for begin, end in zip(ends, ends[1:])]

    def check(self, card: NavigationCard) -> list[str]:
        """Refuse a card whose actions, horizon or frames the data cannot serve.

        Returns the differences of the cameras in words: a matter for a warning.
        """
        ours = self.settings
        if card.action_set != ours.action_set:
            raise UserError(f'the card acts with {card.action_set}, the data with '
                            f'{ours.action_set}; make the samples with --turn-deg '
                            f'{card.action_set.turn_deg:g}, or use another card')
        if card.horizon > ours.horizon:
            raise UserError(f'the card predicts {card.horizon} actions, the data labels '
                            f'{ours.horizon}; make the samples with --horizon {card.horizon}')
        if card.frame_width > ours.frame_width or card.frame_height > ours.frame_height:
            raise UserError(f'the card wants frames of {card.frame_width}x{card.frame_height}, '
                            f'the data has {ours.frame_width}x{ours.frame_height}; make the '
                            'samples with a larger --frame-size')
        return list(dict.fromkeys(difference for camera in self.cameras
                                  for difference in card.camera.differences(camera)))

    def sample(self, episode: int, t: int, card: NavigationCard) -> dict:
        """One decision: the sentence, what was seen, what to do.

        Returns instruction (str), frames (history by the card's sampler, oldest first, then the
        current one; uint8 at the card's size, black for a blind card), indices (of those frames)
        and labels (card.horizon ids, the action due now first).
        """
        record = self.episodes[episode]
        indices = card.sampler.indices(t) + [t]
        if card.blind:
            frames = [np.zeros((card.frame_height, card.frame_width, 3), np.uint8)] * len(indices)
        else:
            frames = [resize(frame, card.frame_width, card.frame_height)
                      for frame in record.frames(indices)]
        return {'instruction': record.instruction, 'frames': frames, 'indices': indices,
                'labels': record.labels[t, :card.horizon].tolist()}


def _read_image(path: Path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise OSError(f'{path.name} is missing or no image')
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _read_episodes(split_folder: Path) -> list[EpisodeRecord]:
    records = []
    for folder in sorted(split_folder.glob('ep_*/traj_*')):
        try:
            actions = np.array(json.loads((folder / 'action_list.json').read_text()), np.int8)
            labels = np.array(json.loads((folder / 'labels.json').read_text()), np.int8)
            meta = json.loads((folder / 'meta.json').read_text(encoding='utf-8'))
            instruction = (folder / 'instruction.txt').read_text(encoding='utf-8')
            if labels.shape[:1] != actions.shape or not len(actions):
                raise ValueError(f'{len(actions)} actions but {len(labels)} labels')
            files = set(os.listdir(folder))
            lost = [name for name in (f'step_{i}.jpg' for i in range(len(actions)))
                    if name not in files]
            if lost and 'frames.npy' not in files:
                raise ValueError(f'{lost[0]} is missing')
        except (OSError, ValueError) as error:
            raise UserError(f'{folder} is damaged ({error}); delete it and run vlnr1 ego '
                            'again') from None
        records.append(EpisodeRecord(folder, instruction, actions, labels, meta))
    return records
