"""Samples inspected by what their images show."""
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from training import ego_check
from training.ego_dataset import EgoDataset
from training.ego_motion import motion_between, turn_between
from vlnr1_ros.__main__ import call
from vlnr1_ros.navigation.actions import ActionSet
from vlnr1_ros.navigation.card import NavigationCard
from vlnr1_ros.navigation.memory import Average
from vlnr1_ros.navigation.prompt import Template


@pytest.fixture(scope='module', params=[15, 30])
def samples(request, apartments, tmp_path_factory):
    """(folder, turn angle) of expert runs, frames at a model's size."""
    folder = tmp_path_factory.mktemp('ego')
    assert call('ego', ['--data', str(apartments.data), '--split', apartments.split, '--out',
                        str(folder), '--turn-deg', str(request.param), '--episodes', '8',
                        '--frame-size', '84x84']) == 0
    return folder, request.param


def check(folder, *more):
    return call('ego check', [str(folder), '--split', 'val_unseen', '--episodes', '6', *more])


def changed(folder, tmp_path, change):
    """A copy whose label rows went through `change`."""
    copy = shutil.copytree(folder, tmp_path / 'changed')
    for path in copy.glob('*/ep_*/traj_*/labels.json'):
        path.write_text(json.dumps(change(json.loads(path.read_text()))))
    return copy


def test_motion_and_turn_angle_are_seen_in_the_images(samples):
    folder, turn_deg = samples
    data = EgoDataset(folder, 'val_unseen')
    camera, right, angles = data.settings.camera, [], []
    for record in data.episodes:
        frames = record.frames(range(len(record)))
        for before, after, action in zip(frames, frames[1:], record.actions):
            right.append(motion_between(before, after, turn_deg, camera) == action)
            if action != 1:
                angle = turn_between(before, after, camera)
                angles.append(angle if action == 2 else -angle)
    assert len(right) > 50 and np.mean(right) > 0.95
    assert np.median(angles) == turn_deg and np.mean(np.abs(np.array(angles) - turn_deg) < 2) > 0.9


def test_sound_samples_have_no_fault(samples, tmp_path, capsys):
    folder, turn_deg = samples
    NavigationCard(action_set=ActionSet(turn_deg=turn_deg), frame_width=84,
                   frame_height=84).save(tmp_path)
    assert check(folder, '--card', str(tmp_path)) == 0
    assert 'no fault found' in capsys.readouterr().out


def test_labels_that_skip_the_action_due_are_found(samples, tmp_path, capsys):
    folder, _ = samples
    late = changed(folder, tmp_path, lambda rows: rows[1:] + rows[-1:])
    assert check(late) == 1
    assert 'the action 1 frames later' in capsys.readouterr().out


def test_another_turn_angle_than_the_texts_is_found(samples, tmp_path, capsys):
    folder, turn_deg = samples
    copy = shutil.copytree(folder, tmp_path / 'said')
    settings = json.loads((copy / 'ego.json').read_text())
    said = settings['action_set']['turn_deg'] = 45 - turn_deg
    (copy / 'ego.json').write_text(json.dumps(settings))
    assert check(copy) == 1
    text = capsys.readouterr().out
    assert f'turns are {turn_deg} degrees in the images, {said} in the files' in text


def test_padding_that_is_not_stop_is_found(samples, tmp_path, capsys):
    folder, _ = samples
    bad = changed(folder, tmp_path, lambda rows: [*rows[:-1], [rows[-1][0]] + [1] * 5])
    assert check(bad) == 1
    assert 'past the end are not stop' in capsys.readouterr().out


def test_a_card_that_does_not_fit_is_a_fault(samples, tmp_path, capsys):
    folder, turn_deg = samples
    NavigationCard(action_set=ActionSet(turn_deg=45 - turn_deg), frame_width=84,
                   frame_height=84).save(tmp_path)
    assert check(folder, '--card', str(tmp_path)) == 1
    assert '--turn-deg' in capsys.readouterr().out


def test_a_prompt_that_names_another_angle_is_a_fault(samples, tmp_path, capsys):
    folder, turn_deg = samples
    said = f'{{instruction}}{{history}}{{current}} Turn left {45 - turn_deg} degrees.'
    NavigationCard(action_set=ActionSet(turn_deg=turn_deg), frame_width=84, frame_height=84,
                   template=Template(said)).save(tmp_path)
    assert check(folder, '--card', str(tmp_path)) == 1
    text = capsys.readouterr().out
    assert f'the prompt says turn_deg {45 - turn_deg}, the actions have {turn_deg}' in text
    assert text.count('FAULT') == 1


def test_a_card_that_asks_or_remembers_otherwise_than_the_samples_own_is_a_fault(
        samples, tmp_path, capsys):
    folder, turn_deg = samples
    copy = shutil.copytree(folder, tmp_path / 'imported')
    ours = NavigationCard(action_set=ActionSet(turn_deg=turn_deg), frame_width=84, frame_height=84)
    asked = Template('Go: {instruction} {history}{current}', ', ')
    replace(ours, sampler=Average(16), template=asked).save(copy)
    assert check(copy) == 0
    assert 'history rule of the card            Average(count=16)' in capsys.readouterr().out
    ours.save(tmp_path)
    assert check(copy, '--card', str(tmp_path)) == 1
    text = capsys.readouterr().out
    assert text.count('FAULT') == 3
    assert "after 0 characters it has 'You steer" in text and "theirs 'Go: {inst" in text
    assert "history_separator is '', that of the samples ', '" in text
    assert 'history rule is LongShort' in text and 'of the samples Average(count=16)' in text


def test_too_little_to_see_claims_nothing():
    dark = np.zeros((84, 84, 3), np.uint8)
    assert turn_between(dark, dark, ego_check.Camera()) is None
    assert motion_between(dark, dark, 30.0, ego_check.Camera()) is None
