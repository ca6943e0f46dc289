"""What `vlnr1 evaluate` is told, and what follows from it."""
from __future__ import annotations

import hashlib
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Optional

from sim_bridge.benchmarks import APARTMENTS, LANGUAGES, PRESETS, ROLES, preset, some_of
from sim_bridge.config import EnvironmentConfig
from vlnr1_ros.navigation.actions import ActionSet
from vlnr1_ros.navigation.camera import Camera, parse_size
from vlnr1_ros.navigation.card import NavigationCard
from vlnr1_ros.navigation.errors import UserError
from vlnr1_ros.policy.load import BASELINES, is_url
from vlnr1_ros.policy.remote import Server
from vlnr1_ros.resources import given_or_shipped

EXPERT = 'expert'
HASHED_BYTES = 1 << 20
VELOCITY = 'velocity'
AFTER, DURING = 'after', 'during'   # when the navigator decides
DTYPES = ('float32', 'bfloat16', 'float16', 'auto')
MODES = ('discrete', VELOCITY)   # of the ROS graph
FROM_PRESET = ('dataset', 'turn_deg', 'forward_m', 'agent_radius_m', 'agent_height_m',
               'allow_sliding', 'max_steps', 'success_distance_m')


@dataclass
class EvaluateConfig:
    """What `vlnr1 evaluate` runs."""

    policy: str = field(metadata={'help':
        "checkpoint folder, a server's URL, or random, forward, stop, expert"})
    split: str = field(default='val_unseen', metadata={'help': 'which episodes'})
    episodes: int = field(default=200, metadata={'help':
        'this many a tier, drawn by the seed (0: all). A larger number holds the smaller one'})
    tier: Optional[list[str]] = field(default=None, metadata={'help':
        'only these tiers: room, door, apartment'})
    swap: bool = field(default=False, metadata={'help':
        "name another object of the goal's room, while the goal stays what it was: whoever "
        'follows the words must fail'})
    preset: str = field(default=APARTMENTS.name, metadata={'help':
        f'benchmark whose protocol is used: {", ".join(PRESETS)}. Sets everything below that says '
        '"the preset\'s"; what is given beside it wins'})
    data: str = field(default='data', metadata={'help':
        'folder with datasets/ and scene_datasets/'})
    dataset: Optional[str] = field(default=None, metadata={'help':
        "folder of the splits under DATA/datasets. Default: the preset's"})
    roles: Optional[list[str]] = field(default=None, metadata={'help':
        "of RxR: guide, follower. Default: the preset's (guide)"})
    languages: Optional[list[str]] = field(default=None, metadata={'help':
        "of RxR: en-US, en-IN, hi-IN, te-IN. Default: the preset's (en-US en-IN)"})
    workers: int = field(default=0, metadata={'help': 'processes (0: one a core)'})
    ray: Optional[str] = field(default=None, metadata={'help':
        'run the episodes on the Ray cluster at this address: auto, HOST:PORT or '
        'ray://HOST:PORT, or local to start one here. Every machine needs the same code, and '
        'DATA and the checkpoint at the same absolute paths; results are written here'})
    out: Optional[str] = field(default=None, metadata={'help':
        'result file. Default: results/POLICY_SPLIT[_swap][_ros_MODE].jsonl, with the preset '
        "before the split's name"})
    through_ros: bool = field(default=False, metadata={'help':
        'through the ROS 2 graph, navigator and simulated robot as processes of their own; as '
        'many graphs side by side as --workers'})
    mode: Optional[str] = field(default=None, metadata={'help':
        "of --through-ros. discrete: habitat's actions, and the numbers of a run in process; "
        'velocity: a driver drives, as on a robot. Default: discrete'})
    imperfections: float = field(default=0.0, metadata={'help':
        'of --mode velocity: what a real base does wrong, in times of the errors of a small robot '
        '(docs/simulation.md)'})
    replan: str = field(default=AFTER, metadata={'help':
        'of --mode velocity. after: decide when the base stands; during: while it drives the last '
        'action of its plan'})
    decision_time: float = field(default=0.0, metadata={'help':
        'of --mode velocity: simulated seconds that a decision takes, during which the base '
        'stands or, with --replan during, drives'})
    execute: Optional[int] = field(default=None, metadata={'help':
        "of --through-ros: actions executed per decision. Default: as the policy's card says"})
    turn_deg: Optional[float] = field(default=None, metadata={'help':
        "the simulator's degrees per turn. Default: the preset's (30; R2R 15)"})
    forward_m: Optional[float] = field(default=None, metadata={'help':
        "the simulator's forward step. Default: the preset's (0.25)"})
    camera: Optional[str] = field(default=None, metadata={'help':
        "WIDTHxHEIGHT. Default: the preset's, for apartments the policy's camera"})
    hfov_deg: Optional[float] = field(default=None, metadata={'help':
        "horizontal field of view. Default: the preset's, for apartments the policy's camera"})
    camera_height_m: Optional[float] = field(default=None, metadata={'help':
        "above the floor. Default: the preset's, for apartments the policy's camera"})
    agent_radius_m: Optional[float] = field(default=None, metadata={'help':
        "what must fit through a gap. Default: the preset's (0.1; RxR 0.18)"})
    agent_height_m: Optional[float] = field(default=None, metadata={'help':
        "what must fit below a table. Default: the preset's (1.5; RxR 0.88)"})
    allow_sliding: Optional[bool] = field(default=None, metadata={'help':
        "slide along obstacles: true or false. Default: the preset's (true; RxR false)"})
    max_steps: Optional[int] = field(default=None, metadata={'help':
        "actions after which an episode ends. Default: the preset's (500)"})
    success_distance_m: Optional[float] = field(default=None, metadata={'help':
        "plain radius of success; at the named object it is 1 m in any case. Default: the "
        "preset's (3)"})
    simulator: str = field(default='auto', metadata={'help': 'auto, habitat-sim or embedded'})
    habitat_python: Optional[str] = field(default=None, metadata={'help':
        'Python interpreter that has habitat-lab, e.g. of a conda environment. Default: this one'})
    device: Optional[str] = field(default=None, metadata={'help':
        "the checkpoint's device, e.g. cuda:0. Default: a GPU if there is one"})
    dtype: Optional[str] = field(default=None, metadata={'help':
        f"of the checkpoint's weights: {', '.join(DTYPES)} (as stored). Default: float32 on a "
        'CPU, otherwise as stored'})
    batch: int = field(default=1, metadata={'help':
        'episodes that a process decides at once, each with an environment of its own; pays on a '
        'GPU'})
    plain: bool = field(default=False, metadata={'help':
        'decide with the checkpoint in the plain and slow way, the reference of the usual one'})
    seed: int = field(default=0, metadata={'help': 'draws episodes and random actions'})

    def __post_init__(self):
        chosen = preset(self.preset)
        for name in FROM_PRESET:
            if getattr(self, name) is None:
                setattr(self, name, getattr(chosen, name))
        self.roles = list(some_of('role', self.roles, ROLES, chosen.roles))
        self.languages = list(some_of('language', self.languages, LANGUAGES, chosen.languages))
        if self.episodes < 0 or self.workers < 0 or self.max_steps < 1:
            raise UserError(f'episodes {self.episodes} and workers {self.workers} must not be '
                            f'negative, max_steps {self.max_steps} at least 1')
        if self.dtype not in (None, *DTYPES):
            raise UserError(f'dtype {self.dtype!r} is unknown; give one of {", ".join(DTYPES)}')
        if self.batch < 1 or self.batch > 1 and (self.plain or self.through_ros):
            raise UserError(f'batch is {self.batch}; give 1 or more, and 1 with --plain and '
                            '--through-ros')
        if self.plain and self.through_ros:
            raise UserError('--plain is for runs in process: leave --through-ros out')
        ros_mode(self)


def ros_mode(config: EvaluateConfig) -> str | None:
    """The mode of the ROS graph, None in process; UserError for what cannot be."""
    if not config.through_ros:
        if config.mode is not None:
            raise UserError(f'--mode {config.mode} says how to run through ROS: give '
                            '--through-ros as well')
        if config.imperfections:
            raise UserError(f'--imperfections {config.imperfections:g} are those of a driven '
                            'base: give --through-ros --mode velocity')
        if config.execute is not None:
            raise UserError(f'--execute {config.execute} is told to the navigator: give '
                            '--through-ros')
        _check_time(config, None)
        return None
    mode = config.mode or MODES[0]
    if mode not in MODES:
        raise UserError(f'mode {mode!r} is unknown; give one of {", ".join(MODES)}')
    if config.imperfections and mode != VELOCITY:
        raise UserError(f'--imperfections {config.imperfections:g} are those of a driven base: '
                        'give --mode velocity')
    _check_time(config, mode)
    if config.execute is not None and not 1 <= config.execute <= 64:
        raise UserError(f'execute is {config.execute}; give 1 to 64 actions')
    if config.ray:
        raise UserError('--through-ros runs on this machine only: leave --ray out')
    if config.policy == 'forward':
        raise UserError("policy forward goes as far as its tier's goals are on average, which "
                        'the navigator is not told; evaluate it without --through-ros')
    if config.seed < 0:
        raise UserError(f'seed is {config.seed}; through ROS give one from 0')
    return mode


def _check_time(config, mode):
    """Time passes in mode velocity only."""
    if config.replan not in (AFTER, DURING):
        raise UserError(f'replan {config.replan!r} is unknown; give {AFTER} or {DURING}')
    if not 0.0 <= config.decision_time <= 60.0:
        raise UserError(f'decision_time is {config.decision_time:g}; give seconds from 0 to 60')
    if (config.replan != AFTER or config.decision_time) and mode != VELOCITY:
        raise UserError('--replan during and --decision-time are for a base that drives: give '
                        '--through-ros --mode velocity')


def card_and_policy(config: EvaluateConfig) -> tuple[NavigationCard, str]:
    """(card, policy name, server's URL or absolute checkpoint folder)."""
    if config.policy == EXPERT or config.policy in BASELINES:
        actions = ActionSet(config.forward_m, config.turn_deg)
        # nobody looks at these frames: they are kept small
        card = NavigationCard(action_set=actions, frame_width=8, frame_height=8)
        return card, config.policy
    if is_url(config.policy):
        return NavigationCard.load(folder_of(config.policy)), config.policy
    try:
        folder = given_or_shipped(config.policy)
    except UserError as error:
        raise UserError(f'policy {config.policy!r} is none of {EXPERT}, {", ".join(BASELINES)}, '
                        f'nor a checkpoint: {error}') from None
    return NavigationCard.load(folder), str(folder)


def folder_of(policy: str) -> str | None:
    """Absolute folder of a policy's card, None for policies without one."""
    if is_url(policy):
        return str(given_or_shipped(Server.parse(policy).card))
    return policy if os.path.isdir(policy) else None


def name_of(policy: str) -> str:
    """What a policy is called in file names."""
    return f'{Path(folder_of(policy)).name}_remote' if is_url(policy) else Path(policy).name


def environment_config(config: EvaluateConfig, card: NavigationCard) -> EnvironmentConfig:
    """The simulator's settings; what neither flags nor preset say of the camera is the card's."""
    chosen = preset(config.preset)
    camera = chosen.camera or card.camera
    width, height = (parse_size(config.camera) if config.camera
                     else (camera.width, camera.height))
    data = Path(config.data).absolute()
    return EnvironmentConfig(
        dataset=str(data / 'datasets' / config.dataset), split=config.split,
        scenes_dir=str(data / 'scene_datasets'),
        camera=Camera(width, height,
                      camera.hfov_deg if config.hfov_deg is None else config.hfov_deg,
                      camera.height_m if config.camera_height_m is None
                      else config.camera_height_m),
        forward_m=config.forward_m, turn_deg=config.turn_deg,
        allow_sliding=config.allow_sliding, max_steps=config.max_steps,
        simulator=config.simulator,
        success_distance_m=config.success_distance_m, benchmark=chosen.name,
        roles=tuple(config.roles), languages=tuple(config.languages),
        agent_radius_m=config.agent_radius_m, agent_height_m=config.agent_height_m,
        follow_reference=chosen.follow_reference)


def result_path(config: EvaluateConfig) -> str:
    """Where the result file goes."""
    benchmark = '' if config.preset == APARTMENTS.name else f'_{config.preset}'
    name = (name_of(config.policy) + f'{benchmark}_{config.split}'
            + ('_swap' if config.swap else '')
            + (f'_ros_{ros_mode(config)}' if config.through_ros else '')
            + (f'_imperfect_{config.imperfections:g}' if config.imperfections else '')
            + (f'_{config.replan}' if config.replan != AFTER else '')
            + (f'_{config.decision_time:g}s' if config.decision_time else '')
            + (f'_execute_{config.execute}' if config.execute else ''))
    return config.out or str(Path('results') / f'{name}.jsonl')


def result_settings(config: EvaluateConfig, policy: str, environment: EnvironmentConfig) -> dict:
    """All that decides an episode's result, hence not which episodes, nor how many processes."""
    return {
        'policy': config.policy, 'checkpoint': _fingerprint(policy), 'preset': config.preset,
        'split': config.split, 'dataset': config.dataset, 'roles': config.roles,
        'languages': config.languages, 'episodes_sha256': _sha256(environment.episodes_files),
        'swap': config.swap, 'seed': config.seed, 'turn_deg': config.turn_deg,
        'forward_m': config.forward_m, 'camera': asdict(environment.camera),
        'agent_radius_m': config.agent_radius_m, 'agent_height_m': config.agent_height_m,
        'allow_sliding': config.allow_sliding, 'max_steps': config.max_steps,
        'success_distance_m': config.success_distance_m, 'simulator': environment.simulator,
        **({'through_ros': True, 'mode': ros_mode(config)} if config.through_ros else {}),
        **({'imperfections': config.imperfections} if config.imperfections else {}),
        **({'replan': config.replan} if config.replan != AFTER else {}),
        **({'decision_time': config.decision_time} if config.decision_time else {}),
        **({'execute': config.execute} if config.execute else {}),
        **({'dtype': config.dtype} if config.dtype else {}),
        **({'plain': True} if config.plain else {}),
    }


def _sha256(paths):
    return hashlib.sha256(b''.join(path.read_bytes() for path in paths)).hexdigest()[:16]


def _fingerprint(policy):
    """Changes when a checkpoint is trained further; None for policies without one.

    Size and first bytes of every file: reading 15 GB for each run would take longer than the run.
    """
    folder = folder_of(policy)
    if folder is None:
        return None
    digest = hashlib.sha256()
    for path in sorted(Path(folder).glob('*')):
        if path.suffix in ('.json', '.safetensors'):
            with open(path, 'rb') as file:
                digest.update(f'{path.name} {path.stat().st_size}'.encode())
                digest.update(file.read(HASHED_BYTES))
    return digest.hexdigest()[:16]
