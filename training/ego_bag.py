"""Teleoperated runs as VLN-Ego samples, to fine-tune a model on the own building.

    vlnr1 ego from-bag recordings/run_* --out own --card models/my_checkpoint --camera-height-m 0.9
    vlnr1 ego from-bag kitchen.mcap --out own --turn-deg 30 --instruction 'stop by the fridge'

A recording (`ros2 bag record` or the recorder node) has a camera, odometry and, unless it is given
here, a sentence on `instruction`; a new sentence begins a new run, and a run ends where its last
motion ended: that is where the person meant to arrive. The motion is cut into the actions of the
card; stretches that cannot be used are told with their time and reason, and left out.
"""
from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from training.ego_files import (
    EgoEpisode,
    EgoSettings,
    episode_folder,
    shifted_labels,
    write_episode,
)
from vlnr1_ros.bags.cut import Bad, Piece, cut_run, split
from vlnr1_ros.bags.read import Bag, Run, Topics
from vlnr1_ros.navigation.actions import Action, ActionSet
from vlnr1_ros.navigation.camera import Camera, centre, parse_size, resize
from vlnr1_ros.navigation.card import NavigationCard
from vlnr1_ros.navigation.errors import UserError
from vlnr1_ros.navigation.prompt import check_instruction
from vlnr1_ros.resources import given_or_shipped


@dataclass
class Made:
    """What became of a run: its episodes, and in words what was left out."""

    episodes: list[EgoEpisode]
    notes: list[str]


def settings_of(bag: Bag, args: argparse.Namespace) -> EgoSettings:
    """How the samples of a bag are made: actions, horizon and frames by the card or the flags.

    Its camera is the part of the robot's that the card's model gets to see on the robot.
    """
    card = NavigationCard.load(given_or_shipped(args.card)) if args.card else None
    turn_deg = args.turn_deg or (card and card.action_set.turn_deg)
    hfov_deg = args.hfov_deg or bag.hfov_deg()
    height_m = args.camera_height_m
    for value, flag in ((turn_deg, '--turn-deg or --card'), (hfov_deg, '--hfov-deg (there is no '
                        'camera_info with a focal length)'), (height_m, '--camera-height-m')):
        if value is None:
            raise UserError(f'{bag.path}: give {flag}')
    forward_m = args.forward_m or (card.action_set.forward_m if card else 0.25)
    width, height = bag.image_size()
    camera = Camera(width, height, round(hfov_deg, 2), height_m)
    if card:
        width, height = card.camera.window(camera)
        camera = replace(camera.cropped(width, height),
                         hfov_deg=round(camera.cropped(width, height).hfov_deg, 2))
    if args.frame_size:
        frame = parse_size(args.frame_size)
    else:
        frame = (card.frame_width, card.frame_height) if card else (width, height)
    return EgoSettings(
        action_set=ActionSet(forward_m, turn_deg), source='bag', preset='',
        horizon=args.horizon or (card.horizon if card else 6),
        camera=camera, frame_width=frame[0], frame_height=frame[1],
        image_format='jpg' if frame == (width, height) else 'npy')


def episodes_of(bag: Bag, run: Run, episode_id: str, settings: EgoSettings) -> Made:
    """Cut a run, read its frames, and make an episode of every usable piece."""
    odometry = bag.odometry(run.images_ns[0], run.end_ns)
    pieces, bad = cut_run(odometry, run.images_ns, settings.action_set)
    seen = {ns: _frame(bag, ns, settings) for piece in pieces for ns in piece.frames_ns}
    whole, episodes, notes = run.arrived, [], []
    usable: list[Piece] = []
    for piece in pieces:
        parts, trouble = split(piece, _unusable([seen[ns] for ns in piece.frames_ns]))
        usable += parts
        bad += trouble
    for piece in usable:
        actions, labels = labelled(piece, settings.horizon, whole)
        if not labels:
            bad.append(Bad(piece.frames_ns[0], piece.frames_ns[-1],
                           f'only {len(piece.actions)} steps in one piece, {settings.horizon} '
                           'are needed for a label'))
            continue
        stopped = actions[-1] == Action.STOP
        trajectory = str(len(episodes))
        episodes.append(EgoEpisode(
            episode_id, trajectory, run.instruction, [seen[ns] for ns in piece.frames_ns][
                :len(labels)], [int(action) for action in actions], labels,
            {'episode_id': episode_id, 'trajectory_id': trajectory, 'scene_id': bag.path.stem,
             'instruction': run.instruction, 'stopped': stopped,
             'from_s': round(run.seconds(piece.frames_ns[0]), 2),
             'to_s': round(run.seconds(piece.frames_ns[-1]), 2)}))
    if not pieces and not bad:
        notes.append('nothing was driven')
    elif not whole:
        notes.append('the run did not arrive: no stop is learnt from it')
    notes += [f'{run.between(b.from_ns, b.to_ns)} left out: {b.reason}'
              for b in sorted(bad, key=lambda b: b.from_ns)]
    return Made(episodes, notes)


def labelled(piece: Piece, horizon: int, arrived: bool) -> tuple[list[Action], list[list[int]]]:
    """(actions, labels), one of each a frame, of the frames whose labels are all known.

    At the end of a run that arrived what follows is stop. Elsewhere nobody knows what would have
    followed, so the last `horizon - 1` actions are labels only.
    """
    if piece.to_the_end and arrived:
        actions = [*piece.actions, Action.STOP]
        return actions, shifted_labels(actions, horizon)
    known = max(0, len(piece.actions) - horizon + 1)
    return piece.actions[:known], shifted_labels(piece.actions, horizon)[:known]


def _frame(bag: Bag, stamp_ns: int, settings: EgoSettings) -> np.ndarray | UserError:
    try:
        seen = centre(bag.rgb(stamp_ns), settings.camera.width, settings.camera.height)
        return np.array(resize(seen, settings.frame_width, settings.frame_height))
    except UserError as error:
        return error


def _unusable(frames) -> dict[int, str]:
    """{index: reason} of frames that cannot be read or show what the last one showed."""
    found = {}
    for k, frame in enumerate(frames):
        if isinstance(frame, UserError):
            found[k] = str(frame)
        elif k and not isinstance(frames[k - 1], UserError) and np.array_equal(
                frame, frames[k - 1]):
            found[k] = 'the image is the same as a step before: the camera was stuck'
    return found


def convert(path: Path, args: argparse.Namespace) -> tuple[int, int]:
    """Samples of one recording; prints what was left out. Returns (episodes, frames) made."""
    topics = Topics(args.image_topic, args.odom_topic, args.instruction_topic)
    made = frames = 0
    with Bag(path, topics) as bag:
        settings = settings_of(bag, args)
        settings.bind(args.out)
        runs = bag.runs(args.instruction)
        for k, run in enumerate(runs):
            episode_id = f'{path.stem}_{k}' if len(runs) > 1 else path.stem
            print(f'{episode_id}: {run.instruction}')
            check_instruction(run.instruction)
            if episode_folder(args.out, args.split, episode_id, '0').exists():
                print('  was there')
                continue
            done = episodes_of(bag, run, episode_id, settings)
            for episode in done.episodes:
                write_episode(args.out, args.split, episode, settings.image_format)
                frames += len(episode.labels)
                print(f'  {len(episode.labels)} frames, '
                      f'{"ends with stop" if episode.meta["stopped"] else "a part"}')
            made += len(done.episodes)
            print(''.join(f'  {note}\n' for note in done.notes), end='', flush=True)
    return made, frames


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog='vlnr1 ego from-bag', description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('bags', nargs='+', type=Path, metavar='BAG', help='folder of a recording, .mcap or .db3')
    add('--out', required=True, type=Path, help='folder of the samples; it may hold some already')
    add('--split', default='train', help='which split they become (default: train)')
    add('--instruction', default='', help='the sentence, where the recording has none')
    add('--card', help='checkpoint to be trained: its actions, horizon and frame size')
    add('--turn-deg', type=float, help="degrees per turn (default: the card's)")
    add('--forward-m', type=float, help="metres per step forward (default: the card's, or 0.25)")
    add('--horizon', type=int, help="n, actions per label (default: the card's, or 6)")
    add('--frame-size', help="store frames at WIDTHxHEIGHT (default: the card's, or the camera's)")
    add('--camera-height-m', type=float, help='of the camera above the floor; needed')
    add('--hfov-deg', type=float, help='of the camera (default: by its camera_info)')
    add('--image-topic', default='', help='of the camera (default: image_raw, or the only one)')
    add('--odom-topic', default='', help='of odometry (default: odom, or the only one)')
    add('--instruction-topic', default='', help='of the sentence (default: instruction)')
    return parser


def main(argv: list[str] | None = None) -> int:
    """The command line of this module; 1 when no sample could be made."""
    args = _parser().parse_args(argv)
    done = [convert(Path(path), args) for path in args.bags]
    episodes, frames = (sum(numbers) for numbers in zip(*done))
    print(f'{episodes} episodes with {frames} frames: {args.out}')
    return 0 if episodes else 1


if __name__ == '__main__':
    from vlnr1_ros.command import run

    sys.exit(run('ego from-bag', main, sys.argv[1:]))
