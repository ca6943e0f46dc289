"""Small data folders in VLN-CE's formats, over generated apartments."""
import gzip
import json
import shutil
from pathlib import Path

import numpy as np

SCENE = 'Apt0000Demo'
R2R, RXR = 'R2R_VLNCE_v1-3_preprocessed', 'RxR_VLNCE_v0'


def mp3d_scene(apartments, data):
    """Put the first apartment where a Matterport3D scene is expected; returns its episodes.

    Episodes are as the generator wrote them, (episode, ground truth), but for the scene id.
    """
    folder = apartments.data / 'datasets/apartments/v1' / apartments.split
    episodes = read(folder / f'{apartments.split}.json.gz')['episodes']
    truths = read(folder / f'{apartments.split}_gt.json.gz')
    first = episodes[0]['scene_id']
    stage = apartments.data / 'scene_datasets' / first
    target = data / 'scene_datasets/mp3d' / SCENE
    target.mkdir(parents=True, exist_ok=True)
    shutil.copy(str(stage).replace('.stage_config.json', '.glb'), target / f'{SCENE}.glb')
    # a Matterport3D mesh has Z up and no such file; ours has Y up and must say so
    (target / f'{SCENE}.stage_config.json').write_text(json.dumps(
        {**json.loads(Path(stage).read_text()), 'render_asset': f'{SCENE}.glb'}))
    return [({**e, 'scene_id': f'mp3d/{SCENE}/{SCENE}.glb'}, truths[e['episode_id']])
            for e in episodes if e['scene_id'] == first]


def r2r_episode(number, base):
    """As in R2R_VLNCE_v1-3: whole numbers as ids, a goal of 3 m, nothing of our own in info."""
    return {'episode_id': number, 'trajectory_id': 1000 + number, 'scene_id': base['scene_id'],
            'start_position': base['start_position'], 'start_rotation': base['start_rotation'],
            'info': {'geodesic_distance': base['info']['geodesic_distance']},
            'goals': [{'position': base['goals'][0]['position'], 'radius': 3.0}],
            'instruction': {'instruction_text': base['instruction']['instruction_text'],
                            'instruction_tokens': [5, 3, 0]},
            'reference_path': base['reference_path']}


def r2r_test_episode(number, base):
    """As in R2R's test split: neither goal nor path nor distance."""
    whole = r2r_episode(number, base)
    return {key: value for key, value in whole.items()
            if key not in ('goals', 'reference_path', 'info')}


def rxr_episode(number, base, language='en-US'):
    """As in RxR_VLNCE_v0: ids are strings, the instruction says who spoke which language."""
    return {**r2r_episode(number, base), 'episode_id': str(number), 'trajectory_id': str(number),
            'instruction': {'instruction_id': str(7000 - number), 'language': language,
                            'instruction_text': f'Go there ({language}).', 'annotator_id': '42',
                            'edit_distance': 0.1, 'timed_instruction': [
                                {'word': 'Go', 'start_time': 0.0, 'end_time': 0.4}]}}


def write_r2r(data, split, episodes, truths=None):
    """R2R's files of a split; ground truth only where there is one."""
    folder = data / 'datasets' / R2R / split
    write(folder / f'{split}.json.gz',
          {'episodes': episodes, 'instruction_vocab': {'word_list': ['go']}})
    if truths is not None:
        write(folder / f'{split}_gt.json.gz', truths)


def write_rxr(data, split, role, episodes, truths=None):
    """RxR's files of a split and role: no vocabulary."""
    folder = data / 'datasets' / RXR / split
    write(folder / f'{split}_{role}.json.gz', {'episodes': episodes})
    if truths is not None:
        write(folder / f'{split}_{role}_gt.json.gz', truths)


def read(path):
    with gzip.open(path, 'rt') as file:
        return json.load(file)


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, 'wt') as file:
        json.dump(value, file)


def dense(corners, step_m=0.25):
    """(N, 3) positions every `step_m` along (K, 3) corners: what a ground truth file holds."""
    corners = np.asarray(corners, float)
    parts = [corners[:1]]
    for a, b in zip(corners, corners[1:]):
        count = max(1, round(np.linalg.norm(b - a) / step_m))
        parts.append(a + (b - a) * np.arange(1, count + 1)[:, None] / count)
    return np.concatenate(parts)
