"""Episodes as VLN-CE stores them, for habitat-lab: R2R, RxR and everything in their format.

habitat-lab's own R2RVLN-v1 wants a vocabulary (RxR has none), goals and a reference path (the test
splits have neither) and refuses what RxR says about an instruction. Import through
`sim_bridge.config`, which makes habitat-lab importable first.
"""
from __future__ import annotations

import gzip
import json
import os
from dataclasses import dataclass, field
from typing import List

import attr
from habitat.config.default_structured_configs import DatasetConfig
from habitat.core.registry import registry
from habitat.datasets.vln.r2r_vln_dataset import DEFAULT_SCENE_PATH_PREFIX, VLNDatasetV1
from habitat.tasks.nav.nav import NavigationGoal
from habitat.tasks.vln.vln import InstructionData, VLNEpisode
from hydra.core.config_store import ConfigStore

ABOUT_INSTRUCTION = ('instruction_id', 'language')
"""What of RxR's instruction goes into an episode's `info`, beside `role`."""
_KNOWN = frozenset(field.name for field in attr.fields(VLNEpisode))


@dataclass
class VLNCEDatasetConfig(DatasetConfig):
    """`data_path` may hold {role}; no roles: one file. No languages: all of them."""

    type: str = 'VLNCE'
    roles: List[str] = field(default_factory=list)
    languages: List[str] = field(default_factory=list)


ConfigStore.instance().store(group='habitat/dataset/vln', name='vlnce',
                             package='habitat.dataset', node=VLNCEDatasetConfig())


@registry.register_dataset(name='VLNCE')
class VLNCEDataset(VLNDatasetV1):
    """Episodes without goals have an empty list of them, and so with the reference path."""

    def __init__(self, config=None):
        self.episodes = []
        for role in (config.roles or ['']) if config is not None else ():
            path = config.data_path.format(split=config.split, role=role)
            with gzip.open(path, 'rt', encoding='utf-8') as file:
                found = json.load(file)['episodes']
            self.episodes += [_episode(one, config.scenes_dir, role) for one in found
                              if not config.languages
                              or one['instruction']['language'] in config.languages]


def _episode(raw, scenes_dir, role):
    raw = {key: value for key, value in raw.items() if key in _KNOWN}
    instruction = raw['instruction']
    scene = raw['scene_id']
    if scene.startswith(DEFAULT_SCENE_PATH_PREFIX):
        scene = scene[len(DEFAULT_SCENE_PATH_PREFIX):]
    info = dict(raw.get('info') or {})
    info.update({key: instruction[key] for key in ABOUT_INSTRUCTION if key in instruction})
    if role:
        info['role'] = role
    raw.update(
        episode_id=str(raw['episode_id']), scene_id=os.path.join(scenes_dir, scene), info=info,
        goals=[NavigationGoal(**goal) for goal in raw.get('goals') or []],
        reference_path=raw.get('reference_path') or [],
        trajectory_id=str(raw.get('trajectory_id', raw['episode_id'])),
        instruction=InstructionData(instruction['instruction_text'],
                                    instruction.get('instruction_tokens')))
    return VLNEpisode(**raw)
