"""The protocols numbers are compared under: R2R-CE, RxR-CE, and our generated apartments.

Every value of R2R and RXR is VLN-CE's (github.com/jacobkrantz/VLN-CE, habitat_extensions/config):
`vlnce_task.yaml` for R2R, with habitat-lab 0.1.7's defaults where it is silent (camera 1.25 m
above the floor, agent 1.5 m high with a radius of 0.1 m, steps of 0.25 m), and
`rxr_vlnce_english_task.yaml` for RxR. RxR's two actions that tilt the camera are left out: VLN-R1
has none.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Tuple

from vlnr1_ros.navigation.camera import Camera
from vlnr1_ros.navigation.errors import UserError

ROLES = ('guide', 'follower')
LANGUAGES = ('en-US', 'en-IN', 'hi-IN', 'te-IN')

_MP3D = ('get the Matterport3D scenes: sign the terms at https://niessner.github.io/Matterport/ '
         'and run (Python 2.7) download_mp.py --task habitat -o data/scene_datasets/mp3d')


@dataclass(frozen=True)
class Preset:
    """A benchmark's settings; lengths in metres, angles in degrees.

    dataset: folder of the splits under DATA/datasets. camera: None takes the policy's. roles,
    languages: which of RxR's files and episodes; empty where the files are not divided.
    follow_reference: the expert walks the reference path, not the shortest way. get_episodes,
    get_scenes: what to do when the files are missing.
    """

    name: str
    dataset: str
    camera: Optional[Camera]
    turn_deg: float
    get_episodes: str
    get_scenes: str
    forward_m: float = 0.25
    agent_radius_m: float = 0.1
    agent_height_m: float = 1.5
    allow_sliding: bool = True
    max_steps: int = 500
    success_distance_m: float = 3.0
    roles: Tuple[str, ...] = ()
    languages: Tuple[str, ...] = ()
    follow_reference: bool = False


APARTMENTS = Preset(
    name='apartments', dataset='apartments/v1', camera=None, turn_deg=30.0,
    get_episodes='generate worlds with: vlnr1 worlds --out data',
    get_scenes='generate worlds with: vlnr1 worlds --out data')

R2R = Preset(
    name='r2r', dataset='R2R_VLNCE_v1-3_preprocessed', camera=Camera(224, 224, 90.0, 1.25),
    turn_deg=15.0,
    get_episodes='download R2R_VLNCE_v1-3_preprocessed.zip (linked from '
                 'github.com/jacobkrantz/VLN-CE) and unpack it into data/datasets',
    get_scenes=_MP3D)

RXR = Preset(
    name='rxr', dataset='RxR_VLNCE_v0', camera=Camera(640, 480, 79.0, 0.88), turn_deg=30.0,
    agent_radius_m=0.18, agent_height_m=0.88, allow_sliding=False,
    roles=('guide',), languages=('en-US', 'en-IN'), follow_reference=True,
    get_episodes='download RxR_VLNCE_v0.zip (linked from github.com/jacobkrantz/VLN-CE) and '
                 'unpack it into data/datasets',
    get_scenes=_MP3D)

PRESETS = {preset.name: preset for preset in (APARTMENTS, R2R, RXR)}


def preset(name: str) -> Preset:
    """The preset of a name. Raises UserError naming the known ones."""
    if name not in PRESETS:
        raise UserError(f'preset {name!r} is unknown; choose one of {", ".join(PRESETS)}')
    return PRESETS[name]


def some_of(what: str, given, known: Tuple[str, ...], default: Tuple[str, ...]) -> Tuple[str, ...]:
    """Roles or languages as the user gave them, the preset's where none were given.

    Raises UserError on unknown ones, and on any where the benchmark's files are not divided.
    """
    if not given:
        return default
    for one in given:
        if not default or one not in known:
            raise UserError(f'{what} {one!r}: ' + (f'choose from {", ".join(known)}' if default
                                                   else 'only RxR has several (preset rxr)'))
    return tuple(one for one in known if one in given)
