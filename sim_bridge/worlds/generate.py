"""Generate apartments and VLN-CE episodes.

    vlnr1 worlds --out data --seed 0 --split train=200 --split val_seen=20 --split val_unseen=20

writes, below --out,

    scene_datasets/apartments/stages/apt_000001.glb, .stage_config.json
    scene_datasets/apartments/apt_000001.layout.json
    scene_datasets/apartments/apartments.scene_dataset_config.json
    datasets/apartments/v1/{split}/{split}.json.gz, {split}_gt.json.gz

val_seen asks for new episodes in the first apartments of train. val_unseen and calibration (for
choosing a stop bias and a checkpoint) have apartments of their own; every second episode of
val_unseen uses wordings that no other split has. The same arguments give the same bytes. A run
that was cut short continues where it stopped.
"""
from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import sys

import numpy as np

from sim_bridge.worlds import files, instructions
from sim_bridge.worlds.apartment import stage_config
from sim_bridge.worlds.episodes import TIERS, EpisodeMaker
from sim_bridge.worlds.world import draw_world
from vlnr1_ros.navigation.errors import UserError

DATASET = 'apartments'
FIRST_APARTMENT = {'train': 1, 'val_seen': 1, 'calibration': 700001, 'val_unseen': 800001}
MAX_APARTMENTS, MAX_SEED, MAX_PROCESSES = 99999, 2**32 - 1, 256
DEFAULT_TIERS = 'room=20,door=10,apartment=10'


def apartment_name(number):
    """Padded to one length: habitat-sim finds scenes by substring."""
    return f'apt_{number:06d}'


def make_apartment(task):
    """Write one apartment and its episodes' part file; returns the number of episodes.

    task: (out, seed, split, number of the apartment, {tier: episodes}).
    """
    out, seed, split, number, tiers = task
    name = apartment_name(number)
    world = draw_world(np.random.default_rng([seed, number]))
    scenes = os.path.join(out, 'scene_datasets', DATASET)
    files.write_bytes(os.path.join(scenes, 'stages', f'{name}.glb'), world.apartment.glb)
    files.write_bytes(os.path.join(scenes, 'stages', f'{name}.stage_config.json'),
                      stage_config(name).encode())
    files.write_bytes(os.path.join(scenes, f'{name}.layout.json'),
                      json.dumps({'name': name, **world.apartment.layout()}, indent=1).encode())
    rng = np.random.default_rng([seed, number, list(FIRST_APARTMENT).index(split)])
    maker = EpisodeMaker(world, rng)
    made = []
    for tier in TIERS:
        for episode, truth in maker.make(tier, tiers[tier], held_out_half=split == 'val_unseen'):
            scene_id = f'{DATASET}/stages/{name}.stage_config.json'
            made.append(({'scene_id': scene_id, **episode}, truth))
    files.write_json_gz(part_path(out, split, number), made)
    return len(made)


def split_folder(out, split):
    return os.path.join(out, 'datasets', DATASET, 'v1', split)


def part_path(out, split, number):
    return os.path.join(split_folder(out, split), 'parts', f'{apartment_name(number)}.json.gz')


def make_split(out, seed, split, count, tiers, processes=1, report=print):
    """Generate one split with `count` apartments; returns its number of episodes.

    Raises UserError when the folder holds a split made with other arguments, or cannot be
    written.
    """
    folder = split_folder(out, split)
    check_settings(os.path.join(out, 'scene_datasets', DATASET, 'generated.json'), {'seed': seed})
    check_settings(os.path.join(folder, 'generated.json'),
                   {'seed': seed, 'apartments': count, 'tiers': tiers})
    final = os.path.join(folder, f'{split}.json.gz')
    if os.path.exists(final):
        shutil.rmtree(os.path.join(folder, 'parts'), ignore_errors=True)
        report(f'{split}: already complete')
        return len(files.read_json_gz(final)['episodes'])
    files.write_bytes(os.path.join(out, 'scene_datasets', DATASET,
                                   f'{DATASET}.scene_dataset_config.json'),
                      json.dumps({'stages': {'paths': {'.json': ['stages']}}}).encode())
    first = FIRST_APARTMENT[split]
    numbers = range(first, first + count)
    todo = [(out, seed, split, n, tiers) for n in numbers
            if not os.path.exists(part_path(out, split, n))]
    done, total = count - len(todo), 0
    for made in _run(todo, processes):
        done, total = done + 1, total + made
        if done == count or done % max(1, count // 20) == 0:
            report(f'{split}: {done}/{count} apartments, {total} new episodes')
    return merge(out, split, numbers)


def _run(tasks, processes):
    if processes == 1 or len(tasks) < 2:
        yield from map(make_apartment, tasks)
        return
    with multiprocessing.get_context('spawn').Pool(min(processes, len(tasks))) as pool:
        yield from pool.imap_unordered(make_apartment, tasks)


def merge(out, split, numbers):
    """Join the part files into the split's two files, number the episodes, drop the parts."""
    episodes, truths = [], {}
    words = instructions.vocabulary()
    index = {word: k for k, word in enumerate(words)}
    for number in numbers:
        for episode, truth in files.read_json_gz(part_path(out, split, number)):
            key = str(len(episodes) + 1)
            text = episode['instruction']['instruction_text']
            episode['instruction']['instruction_tokens'] = [
                index[word] for word in instructions.tokenize(text)]
            episodes.append({'episode_id': key, 'trajectory_id': key, **episode})
            truths[key] = truth
    if not episodes:
        raise UserError(f'{split}: no apartment offers an episode of the wanted tiers; '
                        'ask for more apartments')
    folder = split_folder(out, split)
    files.write_json_gz(os.path.join(folder, f'{split}_gt.json.gz'), truths)
    files.write_json_gz(os.path.join(folder, f'{split}.json.gz'),
                        {'episodes': episodes, 'instruction_vocab': {'word_list': words}})
    shutil.rmtree(os.path.join(folder, 'parts'))
    return len(episodes)


def check_settings(path, settings):
    """Note the settings in a new folder; UserError when the folder was made with others."""
    if os.path.exists(path):
        try:
            with open(path) as file:
                found = json.load(file)
        except ValueError:
            found = 'unreadable settings'
        if found != settings:
            raise UserError(f'{os.path.dirname(path)} was made with {found}, not {settings}: '
                            'remove it or choose another --out')
    else:
        files.write_bytes(path, json.dumps(settings).encode())


def parse_split(text):
    """'train=200' -> ('train', 200)."""
    name, _, count = text.partition('=')
    if name not in FIRST_APARTMENT:
        raise UserError(f'split {name!r} does not exist: '
                        f'choose among {", ".join(FIRST_APARTMENT)}')
    return name, _number(count, f'--split {text}', 1)


def parse_tiers(text):
    """'room=20,door=10' -> {'room': 20, 'door': 10, 'apartment': 0}."""
    tiers = dict.fromkeys(TIERS, 0)
    for item in text.split(','):
        name, _, count = item.partition('=')
        if name not in tiers:
            raise UserError(f'tier {name!r} does not exist: choose among {", ".join(TIERS)}')
        tiers[name] = _number(count, f'--tiers {item}', 0)
    if not sum(tiers.values()):
        raise UserError(f'--tiers {text} asks for no episode at all')
    return tiers


def _number(text, where, low, high=MAX_APARTMENTS):
    if not text.isdecimal() or not low <= int(text) <= high:
        raise UserError(f'{where}: {text!r} is not a whole number from {low} to {high}')
    return int(text)


def main(argv=None):
    parser = argparse.ArgumentParser(prog='vlnr1 worlds', description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', default='data', help='folder to write below (default: data)')
    parser.add_argument('--seed', default='0', help='whole number, 0 or more (default: 0)')
    parser.add_argument('--split', action='append', required=True, metavar='NAME=APARTMENTS',
                        help=f'one of {", ".join(FIRST_APARTMENT)}; may be repeated')
    parser.add_argument('--tiers', default=DEFAULT_TIERS,
                        help=f'episodes an apartment in each tier (default: {DEFAULT_TIERS})')
    parser.add_argument('--processes', default='1', help='worker processes (default: 1)')
    args = parser.parse_args(argv)
    try:
        seed = _number(args.seed, '--seed', 0, MAX_SEED)
        processes = _number(args.processes, '--processes', 1, MAX_PROCESSES)
        tiers = parse_tiers(args.tiers)
        splits = [parse_split(text) for text in args.split]
        for split, count in splits:
            total = make_split(args.out, seed, split, count, tiers, processes,
                               lambda line: print(line, flush=True))
            print(f'{split}: {total} episodes in {split_folder(args.out, split)}')
    except UserError as error:
        print(f'vlnr1 worlds: {error}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
