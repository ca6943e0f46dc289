"""Closed loop over a split: a policy follows the instructions of many episodes.

    vlnr1 evaluate --policy models/nano --split val_unseen --episodes 200
    vlnr1 evaluate --policy models/nano --tier room --swap --out results/nano_swapped.jsonl
    vlnr1 evaluate --policy checkpoints/mine --preset r2r --split val_unseen --episodes 0
    vlnr1 evaluate --policy models/nano --through-ros --mode velocity
    vlnr1 evaluate --config evaluate.yaml --policy expert

Policies: a checkpoint folder, the URL of a server (http://HOST:8000/v1?card=FOLDER), or random,
forward (as far as the tier's goals are on average), stop, expert. A run that was cut short
continues where it stopped; its result file is the same as if it had not been.
`vlnr1 report FILE...` makes the tables again.
"""
from __future__ import annotations

import hashlib
import os
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Optional

import numpy as np

from sim_bridge.benchmarks import APARTMENTS, LANGUAGES, PRESETS, ROLES, preset, some_of
from sim_bridge.client import load_split, open_environment
from sim_bridge.config import EnvironmentConfig
from sim_bridge.environment import Episode
from training import ray_workers, results
from training.episode import ExpertPolicy, check_actions, run_episode
from training.workers import run_tasks
from vlnr1_ros.navigation.actions import Action, ActionSet
from vlnr1_ros.navigation.camera import Camera
from vlnr1_ros.navigation.card import NavigationCard
from vlnr1_ros.navigation.errors import UserError
from vlnr1_ros.policy.load import BASELINES, is_url, load_policy
from vlnr1_ros.policy.remote import Server
from vlnr1_ros.resources import given_or_shipped

EXPERT = 'expert'
EPISODES_PER_TASK = 16
HASHED_BYTES = 1 << 20
WITHOUT_TIER = 'episodes'
MODES = ('discrete', 'velocity')   # of the ROS graph
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
    seed: int = field(default=0, metadata={'help': 'draws episodes and random actions'})

    def __post_init__(self):
        chosen = preset(self.preset)
        for name in FROM_PRESET:
            if getattr(self, name) is None:
                setattr(self, name, getattr(chosen, name))
        self.roles = list(some_of('role', self.roles, ROLES, chosen.roles))
        self.languages = list(some_of('language', self.languages, LANGUAGES, chosen.languages))


@dataclass(frozen=True)
class _Job:
    """What a worker process needs.

    forward_m_of_tier: how far the forward policy goes. mode: of the ROS graph, None in process.
    """

    policy: str
    card: NavigationCard
    environment: EnvironmentConfig
    swap: bool
    seed: int
    device: str | None
    forward_m_of_tier: dict
    habitat_python: str | None = None
    mode: str | None = None


class Runner:
    """One process's environment and policy; call it with an episode's id."""

    def __init__(self, job: _Job):
        self._job = job
        self._environment = open_environment(job.environment, job.habitat_python)
        # images are nine tenths of a step, and these policies look at none
        self._environment.set_render(_folder(job.policy) is not None and not job.card.blind)
        self._policies: dict = {}

    def __call__(self, episode_id: str) -> dict:
        """Run one episode; returns its line of the result file."""
        episode = self._episode(episode_id)
        swap = episode.info.get('swap') if self._job.swap else None
        run = self._run(episode, swap and swap['instruction_text'])
        return {
            'episode_id': episode_id, 'scene_id': os.path.relpath(
                episode.scene_id, os.path.abspath(self._job.environment.scenes_dir)),
            'tier': episode.info.get('tier'),
            'held_out_wording': bool(episode.info.get('held_out_wording')),
            'instruction': swap['instruction_text'] if swap else episode.instruction,
            **run.metrics, 'at_told_object': self._at_told_object(run, swap),
            'decisions': run.decisions, 'actions': ''.join(map(str, run.actions)),
            **self._for_leaderboard(run),
        }

    def _episode(self, episode_id):
        return self._environment.episode_by_id(episode_id)

    def _run(self, episode, instruction):
        return run_episode(self._environment, episode.episode_id, self._policy(tier_of(episode)),
                           self._job.seed, instruction)

    def _nearest_candidate(self):
        return self._environment.nearest_candidate()

    def _for_leaderboard(self, run):
        """What `vlnr1 report --leaderboard` needs; generated apartments have none."""
        if self._job.environment.benchmark == APARTMENTS.name:
            return {}
        about = {key: run.episode.info[key] for key in ('instruction_id', 'language', 'role')
                 if key in run.episode.info}
        return {**about, 'path': [[round(value, 6) for value in pose] for pose in run.poses]}

    def _policy(self, tier):
        job = self._job
        # only the forward policy differs by tier
        key = tier if job.policy == 'forward' else None
        if key not in self._policies:
            self._policies[key] = _policy(job, self._environment, tier)
        return self._policies[key]

    def _at_told_object(self, run, swap):
        if not run.episode.info.get('candidates'):
            return None
        told = swap['object'] if swap else run.episode.info['goal_object']
        stopped = run.actions[-1:] == [Action.STOP]
        return float(stopped and self._nearest_candidate() == told)


def _policy(job, environment, tier):
    if job.policy == EXPERT:
        return ExpertPolicy(environment, job.card)
    if job.policy == 'forward':
        return load_policy('forward', card=job.card, distance_m=job.forward_m_of_tier[tier])
    if job.policy in BASELINES:
        return load_policy(job.policy, card=job.card)
    if is_url(job.policy):
        return load_policy(job.policy)
    return load_policy(job.policy, device=job.device)


def tier_of(episode: Episode) -> str:
    """The tier of a generated episode; R2R and RxR have none."""
    return episode.info.get('tier', WITHOUT_TIER)


def choose(episodes: list[Episode], tiers: list[str] | None, count: int,
           seed: int) -> list[Episode]:
    """`count` episodes a tier (0: all), drawn by the seed, sorted by scene and id."""
    there = sorted({tier_of(e) for e in episodes})
    for tier in tiers or []:
        if tier not in there:
            raise UserError(f'tier {tier!r} is not in this split; it has {", ".join(there)}')
    chosen = []
    for tier in tiers or there:
        group = sorted((e for e in episodes if tier_of(e) == tier), key=lambda e: e.episode_id)
        order = np.random.default_rng(seed).permutation(len(group))
        chosen += [group[i] for i in order[:count or None]]
    return sorted(chosen, key=lambda e: (e.scene_id, e.episode_id))


def evaluate(config: EvaluateConfig) -> tuple[dict, list[dict]]:
    """Run what is missing of an evaluation; returns (settings, lines of the chosen episodes).

    Raises UserError on bad settings, missing files and a result file of other settings.
    """
    _check(config)
    card, policy = _card_and_policy(config)
    environment = _environment_config(config, card)
    check_actions(card, environment)
    # baselines have a card for form's sake and look at nothing
    for difference in card.camera.differences(environment.camera) if _folder(policy) else ():
        print(f'warning: {difference}', file=sys.stderr)
    environment, everything = load_split(environment, config.habitat_python)
    chosen = choose(everything, config.tier, config.episodes, config.seed)
    if policy == EXPERT and not all(len(e.goals) for e in chosen):
        raise UserError(f'policy expert: split {config.split} does not tell its goals')
    if config.swap and not all('swap' in e.info for e in chosen):
        raise UserError(f'--swap: the episodes of {config.dataset} name no other object; it needs '
                        'generated apartments')
    distances = _mean_distances(everything)
    if policy == 'forward' and not distances:
        raise UserError('policy forward goes as far as the goals are on average, and the episodes '
                        f'of split {config.split} do not tell how far they are')
    job = _Job(policy, card, environment, config.swap, config.seed, config.device,
               distances, config.habitat_python, _mode(config))
    settings = _settings(config, job)
    lines = _run(job, chosen, results.ResultFile(_out(config), settings), config)
    return settings, lines


def _run(job, chosen, file, config):
    from tqdm import tqdm

    ids = [e.episode_id for e in chosen]
    missing = [e for e in chosen if e.episode_id not in file]
    outcomes = _outcomes(_groups(missing), job, config)
    try:
        with tqdm(total=len(ids), initial=len(ids) - len(missing), unit='episode',
                  desc=_name(job.policy), mininterval=0.2 if sys.stderr.isatty() else 30,
                  miniters=1) as bar:
            for outcome in outcomes:
                file.add(outcome.result or {'episode_id': outcome.task, 'error': outcome.error})
                bar.set_postfix_str(_so_far(file.lines(ids)), refresh=False)
                bar.update()
        file.finish(ids)
    finally:
        outcomes.close()
        file.close()
    return file.lines(ids)


def _outcomes(groups, job, config):
    if config.ray:
        gpu = (config.device or '').startswith('cuda')
        return ray_workers.run_tasks(groups, _start, (job,), config.workers, config.ray, gpu)
    return run_tasks(groups, _start, (job,), config.workers or os.cpu_count() or 1)


def _start(job):
    """What a worker process runs episodes with."""
    if job.mode is None:
        return Runner(job)
    from training.through_ros import GraphRunner

    return GraphRunner(job)


def _mode(config):
    """The mode of the ROS graph, None in process; UserError for what cannot be."""
    if not config.through_ros:
        if config.mode is not None:
            raise UserError(f'--mode {config.mode} says how to run through ROS: give '
                            '--through-ros as well')
        return None
    mode = config.mode or MODES[0]
    if mode not in MODES:
        raise UserError(f'mode {mode!r} is unknown; give one of {", ".join(MODES)}')
    if config.policy == 'forward':
        raise UserError("policy forward goes as far as its tier's goals are on average, which "
                        'the navigator is not told; evaluate it without --through-ros')
    if config.seed < 0:
        raise UserError(f'seed is {config.seed}; through ROS give one from 0')
    return mode


def _so_far(lines):
    key = 'grounded_success' if any('grounded_success' in line for line in lines) else 'success'
    values = [line[key] for line in lines if key in line]
    return f'SR {100 * np.mean(values):.0f} %' if values else ''


def _groups(episodes):
    """Ids in portions of one scene each: opening a scene costs more than an episode."""
    scenes: dict = {}
    for episode in episodes:
        scenes.setdefault(episode.scene_id, []).append(episode.episode_id)
    return [ids[i:i + EPISODES_PER_TASK] for ids in scenes.values()
            for i in range(0, len(ids), EPISODES_PER_TASK)]


def _check(config):
    if config.episodes < 0 or config.workers < 0 or config.max_steps < 1:
        raise UserError(f'episodes {config.episodes} and workers {config.workers} must not be '
                        f'negative, max_steps {config.max_steps} at least 1')
    _mode(config)


def _card_and_policy(config):
    """(card, policy name, server's URL or absolute checkpoint folder)."""
    if config.policy == EXPERT or config.policy in BASELINES:
        actions = ActionSet(config.forward_m, config.turn_deg)
        # nobody looks at these frames: they are kept small
        card = NavigationCard(action_set=actions, frame_width=8, frame_height=8)
        return card, config.policy
    if is_url(config.policy):
        return NavigationCard.load(_folder(config.policy)), config.policy
    try:
        folder = given_or_shipped(config.policy)
    except UserError as error:
        raise UserError(f'policy {config.policy!r} is none of {EXPERT}, {", ".join(BASELINES)}, '
                        f'nor a checkpoint: {error}') from None
    return NavigationCard.load(folder), str(folder)


def _folder(policy):
    """Absolute folder of a policy's card, None for policies without one."""
    if is_url(policy):
        return str(given_or_shipped(Server.parse(policy).card))
    return policy if os.path.isdir(policy) else None


def _name(policy):
    """What a policy is called in file names."""
    return f'{Path(_folder(policy)).name}_remote' if is_url(policy) else Path(policy).name


def _environment_config(config, card):
    chosen = preset(config.preset)
    camera = chosen.camera or card.camera
    try:
        width, height = (map(int, config.camera.split('x')) if config.camera
                         else (camera.width, camera.height))
    except ValueError:
        raise UserError(f'camera {config.camera!r} is no WIDTHxHEIGHT such as 224x224') from None
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


def _mean_distances(episodes):
    """How far the goals of each tier are on average, in metres."""
    distances: dict = {}
    for episode in episodes:
        if 'geodesic_distance' in episode.info:
            distances.setdefault(tier_of(episode), []).append(
                float(episode.info['geodesic_distance']))
    return {tier: float(np.mean(values)) for tier, values in distances.items()}


def _out(config):
    benchmark = '' if config.preset == APARTMENTS.name else f'_{config.preset}'
    name = (_name(config.policy) + f'{benchmark}_{config.split}'
            + ('_swap' if config.swap else '')
            + (f'_ros_{_mode(config)}' if config.through_ros else ''))
    return config.out or str(Path('results') / f'{name}.jsonl')


def _settings(config, job):
    """All that decides an episode's result, hence not which episodes, nor how many processes."""
    environment = job.environment
    return {
        'policy': config.policy, 'checkpoint': _fingerprint(job.policy), 'preset': config.preset,
        'split': config.split, 'dataset': config.dataset, 'roles': config.roles,
        'languages': config.languages, 'episodes_sha256': _sha256(environment.episodes_files),
        'swap': config.swap, 'seed': config.seed, 'turn_deg': config.turn_deg,
        'forward_m': config.forward_m, 'camera': asdict(environment.camera),
        'agent_radius_m': config.agent_radius_m, 'agent_height_m': config.agent_height_m,
        'allow_sliding': config.allow_sliding, 'max_steps': config.max_steps,
        'success_distance_m': config.success_distance_m, 'simulator': environment.simulator,
        **({'through_ros': True, 'mode': job.mode} if job.mode else {}),
    }


def _sha256(paths):
    return hashlib.sha256(b''.join(path.read_bytes() for path in paths)).hexdigest()[:16]


def _fingerprint(policy):
    """Changes when a checkpoint is trained further; None for policies without one.

    Size and first bytes of every file: reading 15 GB for each run would take longer than the run.
    """
    folder = _folder(policy)
    if folder is None:
        return None
    digest = hashlib.sha256()
    for path in sorted(Path(folder).glob('*')):
        if path.suffix in ('.json', '.safetensors'):
            with open(path, 'rb') as file:
                digest.update(f'{path.name} {path.stat().st_size}'.encode())
                digest.update(file.read(HASHED_BYTES))
    return digest.hexdigest()[:16]


def parse(argv: list[str] | None = None) -> EvaluateConfig:
    """Settings from ``--config FILE.yaml`` with flags on top."""
    from trl import TrlParser

    parser = TrlParser((EvaluateConfig,), prog='vlnr1 evaluate', description=__doc__)
    try:
        return parser.parse_args_and_config(argv)[0]
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from None


def main(argv: list[str] | None = None) -> int:
    """The command line of this module; 1 when episodes ended in an error."""
    config = parse(argv)
    settings, lines = evaluate(config)
    failed = results.errors(lines)
    print(results.describe(settings), '', results.tables(lines, config.success_distance_m),
          f'in {_out(config)}', sep='\n')
    if failed:
        print(failed, file=sys.stderr)
    return 1 if failed else 0


if __name__ == '__main__':
    from vlnr1_ros.command import run

    sys.exit(run('evaluate', main, sys.argv[1:]))
