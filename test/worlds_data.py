"""A small generated data set, made once a test session."""

import gzip
import json
from functools import lru_cache
from pathlib import Path

from sim_bridge.embedded.scenes import load_scene
from sim_bridge.worlds import generate

SPLITS = {'train': 5, 'val_seen': 2, 'calibration': 1, 'val_unseen': 3}
TIERS = {'room': 10, 'door': 6, 'apartment': 6}
SEED = 3


class WorldsData:
    """Reads back what the generator wrote; knows nothing of how it was made."""

    def __init__(self, root):
        self.root = Path(root)
        self.scenes = self.root / 'scene_datasets' / 'apartments'

    def read(self, split, suffix=''):
        folder = self.root / 'datasets' / 'apartments' / 'v1' / split
        with gzip.open(folder / f'{split}{suffix}.json.gz', 'rt') as file:
            return json.load(file)

    def episodes(self, split):
        return self.read(split)['episodes']

    def all_episodes(self):
        """(episode, ground truth) of every split."""
        for split in SPLITS:
            truths = self.read(split, '_gt')
            for episode in self.episodes(split):
                yield episode, truths[episode['episode_id']]

    def layout(self, episode):
        name = Path(episode['scene_id']).name.split('.')[0]
        return json.loads((self.scenes / f'{name}.layout.json').read_text())

    def scene(self, episode):
        """(Scene, NavMesh)"""
        return load_scene(str(self.root / 'scene_datasets' / episode['scene_id']), 0.1, 1.5)


@lru_cache
def worlds_data(base):
    """The data set below the folder `base`."""
    root = Path(base) / 'worlds'
    for split, count in SPLITS.items():
        generate.make_split(str(root), SEED, split, count, TIERS, report=lambda line: None)
    return WorldsData(root)
