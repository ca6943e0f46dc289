"""VLN-Ego samples of other programs, mended and written as our own.

    vlnr1 ego import r2r.json --images rgb_images_r2r_train --preset r2r --out ego_r2r
    vlnr1 ego import rgb_images_rxr_train --preset rxr --out ego_rxr --frame-size 512x384
    vlnr1 ego check ego_r2r

SOURCE is a conversation JSON, or a folder of raw episode folders (training/ego_released.py says
what they look like). Prompt, actions, horizon and history rule are read from the JSON into
OUT/navigation.json. Where an episode has its action_list.json, the labels are made anew from it,
so that the first one is the action due; the turn angle is measured from the images. What was
dropped or mended is counted. A file larger than memory is fine; the same command goes on where it
was cut.
"""
from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from sim_bridge.benchmarks import APARTMENTS, PRESETS, preset
from training.ego_files import EgoSettings, episode_folder, remove_partials, write_files
from training.ego_mend import Dropped, Importer, image_size, measured_turn
from training.ego_released import ConversationEpisodes, EpisodeFolders
from training.progress import progress_bar
from training.prompt_of_data import with_turn
from vlnr1_ros.navigation.actions import ActionSet
from vlnr1_ros.navigation.camera import Camera, parse_size
from vlnr1_ros.navigation.card import FILE_NAME, NavigationCard
from vlnr1_ros.navigation.errors import UserError
from vlnr1_ros.navigation.memory import Average
from vlnr1_ros.navigation.prompt import Template

TURN_SLACK_DEG = 2.0
SAMPLER_SHARE = 0.99
"""A history rule that explains fewer records than this is reported."""


def import_ego(source: Path, out: Path, split: str, preset_name: str, images: Path | None = None,
               base: str | None = None, frame_size: tuple[int, int] | None = None,
               horizon: int = 6) -> str:
    """Import everything; returns the report. horizon: for labels of raw episode folders.

    Raises UserError on input nothing can be made of, a full disk, and other samples in `out`.
    """
    if source.is_dir():
        episodes = EpisodeFolders(source)
    elif source.is_file():
        episodes = ConversationEpisodes(source, images, base)
    else:
        raise UserError(f'{source} does not exist; give a conversation JSON or a folder of ep_* '
                        'folders')
    chosen = preset(preset_name)
    width, height = image_size(episodes.episodes())
    camera = Camera(width, height, chosen.camera.hfov_deg, chosen.camera.height_m)
    said = episodes.action_set or ActionSet(chosen.forward_m, chosen.turn_deg)
    seen_deg = measured_turn(episodes.episodes(), camera)
    actions = replace(said, turn_deg=_settled(said.turn_deg, chosen.turn_deg, seen_deg))
    frame_width, frame_height = frame_size or (width, height)
    settings = EgoSettings(
        action_set=actions, horizon=episodes.horizon or horizon, camera=camera,
        frame_width=frame_width, frame_height=frame_height, source='import', preset=chosen.name,
        dataset=source.name, max_steps=chosen.max_steps)
    card = NavigationCard(
        action_set=actions, horizon=settings.horizon,
        execute=min(NavigationCard.execute, settings.horizon),
        sampler=episodes.sampler or Average(), template=with_turn(
            episodes.template or Template(), said.turn_deg, actions.turn_deg),
        camera=camera, frame_width=frame_width, frame_height=frame_height,
        training_data=source.name)
    if (out / FILE_NAME).exists() and NavigationCard.load(out) != card:
        raise UserError(f'{out} holds another card ({FILE_NAME}); choose another --out')
    settings.bind(out)
    remove_partials(out, split)
    importer = Importer(settings, episodes.repaired)
    made, kept, frames = _write(episodes, importer, out, split)
    if not made + kept:
        raise UserError(f'nothing of {source} can be imported: '
                        + '; '.join(' '.join(line.split()) for line in episodes.dropped.lines()))
    card.save(out)
    return report(episodes, importer, card, seen_deg, said, (made, kept, frames))


def _write(episodes, importer, out, split):
    """(episodes made, episodes that were there, frames made)."""
    made = kept = frames = 0
    with progress_bar(f'{split} -> {out}', None, 0) as bar:
        for found in episodes.episodes():
            try:
                if episode_folder(out, split, found.episode_id, found.trajectory_id).is_dir():
                    kept += 1
                    continue
                files = importer.files(found)
            except Dropped as reason:
                episodes.dropped.add(str(reason), found.name)
                continue
            write_files(out, split, found.episode_id, found.trajectory_id, files)
            made += 1
            frames += len(files) - 4
            bar.update()
    return made, kept, frames


def _settled(said_deg, preset_deg, seen_deg):
    """The turn angle to go by: what the images show, as a number somebody names if one is near."""
    if seen_deg is None:
        return said_deg
    return next((named for named in (said_deg, preset_deg)
                 if abs(named - seen_deg) <= TURN_SLACK_DEG), float(round(seen_deg)))


def report(episodes, importer: Importer, card: NavigationCard, seen_deg: float | None,
           said: ActionSet, counts: tuple[int, int, int]) -> str:
    """What was read, mended and dropped, as text."""
    made, kept, frames = counts
    lines = [f'{made} episodes with {frames} frames imported, {kept} were there']
    if episodes.template:
        lines.append(f'{episodes.records} records of {card.horizon} actions; history '
                     f'{card.sampler} explains {episodes.sampler_share:.1%} of them')
        if episodes.sampler_share < SAMPLER_SHARE:
            lines.append('NOTE: the history was sampled by another rule than any known; samples '
                         f'will use {card.sampler}')
    if importer.labelled:
        due, late = (importer.offsets[k] / importer.labelled for k in (0, 1))
        lines.append(f'labels begin with the action due in {due:.0%} of the records, with the one '
                     f'after it in {late:.0%}: made anew from action_list.json')
    seen = 'too few turns to measure' if seen_deg is None else f'{seen_deg:g} in the images'
    lines.append(f'turn angle (degrees): {said.turn_deg:g} '
                 + ('in the texts' if episodes.template else 'by the preset') + f', {seen}'
                 + ('' if card.action_set == said
                    else f'; texts and card now say {card.action_set.turn_deg:g}'))
    for title, tally in (('mended', episodes.repaired), ('dropped', episodes.dropped)):
        lines += [f'{title}:', *tally.lines()] if tally.counts else [f'{title}: nothing']
    return '\n'.join(lines)


def main(argv: list[str] | None = None) -> int:
    """The command line of this module."""
    parser = argparse.ArgumentParser(prog='vlnr1 ego import', description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('source', type=Path, metavar='SOURCE', help='conversation JSON, or folder of ep_* folders')
    add('--out', required=True, type=Path, help='folder of the samples')
    add('--preset', required=True, choices=sorted(set(PRESETS) - {APARTMENTS.name}),
        help='benchmark they were made of: its field of view and camera height')
    add('--images', type=Path, help='folder of the ep_* folders with the images of the JSON\n'
        '(default: its image paths are followed from the folder of the JSON)')
    add('--base', help='take only records whose image paths begin with this')
    add('--split', default='train', help='split of the samples (default: train)')
    add('--frame-size', help='store frames at this WIDTHxHEIGHT (default: as they are)')
    add('--horizon', type=int, default=6,
        help='n, actions per label of raw episode folders (default: 6); a JSON says it itself')
    args = parser.parse_args(argv)
    size = parse_size(args.frame_size) if args.frame_size else None
    print(import_ego(args.source, args.out, args.split, args.preset, args.images, args.base, size,
                     args.horizon))
    return 0


if __name__ == '__main__':
    from vlnr1_ros.command import run

    sys.exit(run('ego import', main, sys.argv[1:]))
