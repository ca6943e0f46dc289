"""Expert replay to VLN-Ego samples, resumable, several processes.

    vlnr1 ego --data data --split train --out ego
    vlnr1 ego --data data --split train --out ego84 --frame-size 84x84 --noise 0.08 --workers 2
    vlnr1 ego --data data --split train --out dagger1 --policy models/nano --episodes 1000
    vlnr1 ego --data data --split train --out ego_rxr --preset rxr --frame-size 224x168
    vlnr1 ego --out ego --split train --export ego/conversations.json --card models/nano
"""
from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

from sim_bridge.benchmarks import APARTMENTS, LANGUAGES, PRESETS, ROLES, preset, some_of
from sim_bridge.client import load_split, open_environment
from sim_bridge.config import EnvironmentConfig
from training import ray_workers
from training.ego_collect import Expert, Learner, Noisy, collect
from training.ego_files import (
    IMAGE_FORMATS,
    EgoEpisode,
    EgoSettings,
    episode_files,
    episode_folder,
    remove_partials,
    write_episode,
    write_files,
)
from training.episode import check_actions
from training.workers import run_tasks
from vlnr1_ros.navigation.actions import ActionSet
from vlnr1_ros.navigation.camera import Camera
from vlnr1_ros.navigation.card import NavigationCard
from vlnr1_ros.navigation.errors import UserError
from vlnr1_ros.resources import given_or_shipped

EPISODES_PER_TASK = 16
APARTMENT_STEPS = 250
TIERS = ('room', 'door', 'apartment')


class Collector:
    """One process's environment and actor; call it with an episode's id."""

    def __init__(self, settings: EgoSettings, data: str, split: str, root: Path,
                 habitat_python: str | None = None):
        self._settings, self._split, self._root = settings, split, root
        self._environment = open_environment(environment_config(settings, data, split),
                                             habitat_python)
        self._behaviour = _behaviour(settings)

    def __call__(self, episode_id: str) -> int:
        """Write one episode; returns its number of frames, 0 when it was dropped."""
        episode = self.collect(episode_id)
        if episode is None:
            return 0
        write_episode(self._root, self._split, episode, self._settings.image_format)
        return len(episode.frames)

    def collect(self, episode_id: str) -> EgoEpisode | None:
        """Make one episode."""
        return collect(self._environment, episode_id, self._behaviour, self._settings)

    def close(self) -> None:
        """Free the simulator."""
        self._environment.close()


class Sender(Collector):
    """A Collector on another machine, whose episodes travel to the one that writes them."""

    def __call__(self, episode_id: str) -> tuple | None:
        """(episode id, trajectory id, files, number of frames), None when it was dropped."""
        episode = self.collect(episode_id)
        return episode and (episode.episode_id, episode.trajectory_id, list(
            episode_files(episode, self._settings.image_format)), len(episode.frames))


def environment_config(settings: EgoSettings, data: str, split: str) -> EnvironmentConfig:
    """The environment of a data folder, without measures: nobody is judged here."""
    chosen = preset(settings.preset)
    return EnvironmentConfig(
        dataset=str(Path(data) / 'datasets' / settings.dataset), split=split,
        scenes_dir=str(Path(data) / 'scene_datasets'), camera=settings.camera,
        forward_m=settings.action_set.forward_m, turn_deg=settings.action_set.turn_deg,
        max_steps=settings.max_steps + 1, measures=False, benchmark=chosen.name,
        roles=tuple(settings.roles), languages=tuple(settings.languages),
        agent_radius_m=chosen.agent_radius_m, agent_height_m=chosen.agent_height_m,
        allow_sliding=chosen.allow_sliding, follow_reference=chosen.follow_reference)


def _behaviour(settings: EgoSettings):
    if settings.source == 'replay':
        return Expert()
    if settings.source == 'noise':
        return Noisy(settings.noise)
    from vlnr1_ros.policy.load import load_policy

    return Learner(load_policy(settings.policy), settings.beta)


def choose(episodes: list, tiers: list[str] | None, count: int | None, seed: int) -> list:
    """Episodes of the wanted tiers, ``count`` of them drawn by ``seed``, sorted by scene.

    A larger count with the same seed holds the smaller one, so that a folder can be extended.
    """
    found = [e for e in episodes if not tiers or e.info.get('tier') in tiers]
    if not found:
        raise UserError(f'no episode of tier {" or ".join(tiers or [])} among '
                        f'{len(episodes)}; tiers are {", ".join(TIERS)}')
    if count is not None:
        order = np.random.default_rng(seed).permutation(len(found))[:count]
        found = [found[i] for i in order]
    return sorted(found, key=lambda e: (e.scene_id, str(e.episode_id)))


def groups(episodes: list) -> list[list[str]]:
    """Episode ids in portions that never mix scenes: opening a scene costs more than a run."""
    scenes: dict = {}
    for episode in episodes:
        scenes.setdefault(episode.scene_id, []).append(episode.episode_id)
    return [ids[i:i + EPISODES_PER_TASK] for ids in scenes.values()
            for i in range(0, len(ids), EPISODES_PER_TASK)]


def generate(settings: EgoSettings, data: str, split: str, root: Path, workers: int,
             tiers: list[str] | None = None, count: int | None = None,
             habitat_python: str | None = None, ray: str | None = None) -> dict[str, int]:
    """Make the samples that are still missing; returns numbers of episodes and frames.

    ray: address of a Ray cluster whose machines make them (0 workers: one a CPU).
    Raises UserError on missing data, on other settings than the folder's, and on a full disk.
    """
    settings.check(root)
    config = environment_config(settings, data, split)
    if settings.policy:
        check_actions(NavigationCard.load(settings.policy), config)
    wanted = choose(load_split(config, habitat_python)[1], tiers, count, settings.seed)
    settings.bind(root)
    remove_partials(root, split)
    missing = [e for e in wanted if not episode_folder(
        root, split, e.episode_id, e.trajectory_id).is_dir()]
    frames = []
    with tqdm(total=len(wanted), initial=len(wanted) - len(missing), unit='episode',
              desc=f'{split} -> {root}') as bar:
        arguments = (settings, os.path.abspath(data), split, root, habitat_python)
        for made in _run(groups(missing), arguments, workers, ray):
            frames.append(made)
            bar.set_postfix(frames=sum(frames), refresh=False)
            bar.update()
    return {'episodes': sum(n > 0 for n in frames), 'frames': sum(frames),
            'dropped': sum(n == 0 for n in frames), 'kept': len(wanted) - len(missing)}


def _run(portions, arguments, workers, ray):
    """Frames of each episode as it ends. One worker without Ray is this very process, unless its
    simulator is in yet another one, which may die and have its episode run again."""
    _, _, split, root, habitat_python = arguments
    if workers == 1 and not ray and not habitat_python:
        if portions:
            collector = Collector(*arguments)
            yield from (collector(episode_id) for ids in portions for episode_id in ids)
            collector.close()
        return
    outcomes = (ray_workers.run_tasks(portions, Sender, arguments, workers, ray) if ray
                else run_tasks(portions, Collector, arguments, workers))
    try:
        for outcome in outcomes:
            if outcome.error:
                raise UserError(outcome.error.removeprefix('UserError: '))
            yield _write(root, split, outcome.result) if ray else outcome.result
    finally:
        outcomes.close()


def _write(root, split, sent):
    """Write what a Sender sent; returns its number of frames."""
    if sent is None:
        return 0
    episode_id, trajectory_id, files, frames = sent
    write_files(root, split, episode_id, trajectory_id, files)
    return frames


def _size(text: str) -> tuple[int, int]:
    try:
        width, height = (int(part) for part in text.split('x'))
    except ValueError:
        raise argparse.ArgumentTypeError(f'{text!r} is no WIDTHxHEIGHT such as 84x84') from None
    return width, height


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='vlnr1 ego', description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add = parser.add_argument
    add('--data', help='folder with datasets/ and scene_datasets/; needed to make samples')
    add('--preset', default=APARTMENTS.name, choices=PRESETS,
        help='benchmark whose protocol is used; what is given beside it wins')
    add('--dataset', help="folder of the splits under DATA/datasets (default: the preset's)")
    add('--role', action='append', help="of RxR: guide, follower; may be repeated (default: the\n"
        "preset's, guide)")
    add('--language', action='append', help='of RxR: en-US, en-IN, hi-IN, te-IN; may be repeated\n'
        "(default: the preset's, en-US and en-IN)")
    add('--split', default='train', help='which episodes (default: train)')
    add('--out', required=True, type=Path, help='folder of the samples')
    add('--episodes', type=int, help='this many, drawn by the seed (default: all)')
    add('--tier', action='append', choices=TIERS, help='only these tiers; may be repeated')
    add('--horizon', type=int, default=6, help='n, actions per label (default: 6)')
    add('--turn-deg', type=float, help="degrees per turn (default: the preset's: 30, R2R 15)")
    add('--forward-m', type=float, help="metres per step forward (default: the preset's, 0.25)")
    add('--camera', type=_size,
        help="WIDTHxHEIGHT (default: the preset's; for apartments the policy's, else 224x224)")
    add('--hfov-deg', type=float, help='field of view (default: as for --camera, else 90)')
    add('--camera-height-m', type=float,
        help='above the floor (default: as for --camera, else 1.25)')
    add('--frame-size', type=_size, help="store frames at this size (default: the camera's)")
    add('--image-format', choices=IMAGE_FORMATS,
        help='jpg: one file a frame, 4:4:4, quality 95; npy: one exact array an episode\n'
             '(default: npy with --frame-size, since the model trains on those very pixels)')
    actor = parser.add_mutually_exclusive_group()
    actor.add_argument('--noise', type=float, default=0.0,
                       help='chance per step of a burst of 1 to 4 random motions')
    actor.add_argument('--policy', default='', help='checkpoint that acts instead (DAgger)')
    add('--beta', type=float, default=0.0, help='chance that the expert takes a decision over')
    add('--max-steps', type=int, help='frames per episode at most (default: 250, R2R and RxR 500)')
    add('--seed', type=int, default=0, help='of noise, policy and drawn episodes')
    add('--workers', type=int, help='processes (default: 1; with --ray one a CPU)')
    add('--ray', metavar='ADDRESS', help='make them on the Ray cluster at this address: auto,\n'
        'HOST:PORT or ray://HOST:PORT, or local to start one here. Every machine needs the\n'
        'same code, and DATA and the checkpoint at the same absolute paths; samples are\n'
        'written here')
    add('--habitat-python', help='Python interpreter that has habitat-lab (default: this one)')
    add('--export', type=Path, help='then write the samples as conversation JSON to this file')
    add('--card', help='checkpoint whose prompt and history sampler the export takes')
    return parser


def _settings(args) -> EgoSettings:
    policy = str(given_or_shipped(args.policy)) if args.policy else ''
    chosen = preset(args.preset)
    default = chosen.camera or (NavigationCard.load(policy).camera if policy else Camera())
    width, height = args.camera or (default.width, default.height)
    camera = Camera(width, height,
                    _given(args.hfov_deg, default.hfov_deg),
                    _given(args.camera_height_m, default.height_m))
    frame_width, frame_height = args.frame_size or (width, height)
    actions = ActionSet(_given(args.forward_m, chosen.forward_m),
                        _given(args.turn_deg, chosen.turn_deg))
    max_steps = APARTMENT_STEPS if chosen is APARTMENTS else chosen.max_steps
    return EgoSettings(
        action_set=actions, horizon=args.horizon, camera=camera, frame_width=frame_width,
        frame_height=frame_height,
        image_format=args.image_format or ('npy' if args.frame_size else 'jpg'),
        source='policy' if policy else 'noise' if args.noise else 'replay',
        preset=chosen.name, dataset=args.dataset or chosen.dataset,
        roles=list(some_of('role', args.role, ROLES, chosen.roles)),
        languages=list(some_of('language', args.language, LANGUAGES, chosen.languages)),
        noise=args.noise, policy=policy, beta=args.beta,
        max_steps=_given(args.max_steps, max_steps), seed=args.seed)


def _given(value, default):
    return default if value is None else value


def main(argv: list[str] | None = None) -> int:
    """The command line of this module."""
    args = _parser().parse_args(argv)
    if not args.data and not args.export:
        raise UserError('nothing to do; give --data to make samples or --export to write the '
                        'conversation JSON')
    if any(number is not None and number < 1 for number in (args.workers, args.episodes)):
        raise UserError('--workers and --episodes are whole numbers from 1')
    if args.beta and not args.policy:
        raise UserError('--beta shares decisions between expert and policy; give --policy too')
    # Two busy threads fighting over a core are slower than one.
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    if args.data:
        workers = args.workers or (0 if args.ray else 1)
        done = generate(_settings(args), args.data, args.split, args.out, workers,
                        args.tier, args.episodes, args.habitat_python, args.ray)
        print(f'{done["episodes"]} episodes with {done["frames"]} frames made, '
              f'{done["kept"]} were there, {done["dropped"]} dropped: {args.out}')
    if args.export:
        from training.export import export

        card = given_or_shipped(args.card) if args.card else None
        print(f'{export(args.out, args.split, args.export, card, args.tier)} samples: '
              f'{args.export}')
    return 0


if __name__ == '__main__':
    from vlnr1_ros.command import run

    sys.exit(run('ego', main, sys.argv[1:]))
