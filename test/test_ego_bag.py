"""Recordings of a robot into VLN-Ego samples."""
import json
import math
import re

import numpy as np
import pytest
from recorder_process import RecorderProcess
from rosbags.rosbag2 import StoragePlugin
from teleop_bag import driven, picture, raw_image, teleoperated, write

from sim_bridge.ros.graph import Graph
from training import ego_bag, ego_check
from training.ego_dataset import EgoDataset
from training.ego_files import shifted_labels
from vlnr1_ros.navigation.actions import Action, ActionSet
from vlnr1_ros.navigation.camera import Camera
from vlnr1_ros.navigation.errors import UserError

F, L, R, S = Action.MOVE_FORWARD, Action.TURN_LEFT, Action.TURN_RIGHT, Action.STOP
DRIVEN = [F, F, L, F, R, R, F, F, F, L, F, F]
CARD = ('--card', 'models/nano', '--camera-height-m', '1.25')


def differences(first, second):
    """Least number of actions to put in, take out or change (Levenshtein)."""
    row = list(range(len(second) + 1))
    for k, a in enumerate(first, 1):
        last, row[0] = row[0], k
        for j, b in enumerate(second, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (a != b))
    return row[-1]


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize('imperfections', [0.0, 1.0])
def test_recorded_expert_runs_come_back_as_the_experts_actions(apartments, tmp_path,
                                                               imperfections):
    """28 episodes through driver and bridge in velocity mode; see docs/results.md."""
    folder, out = tmp_path / 'recordings', tmp_path / 'own'
    ids = [str(k) for k in range(1, 29)]
    expert = []
    with Graph('expert', apartments.data, apartments.split, [], parameters={
            'sim_bridge': {'imperfections.strength': imperfections}}) as graph:
        recorder = RecorderProcess(graph, folder)
        for k, episode in enumerate(ids):
            expert.append(graph.run(episode)['actions'])
            recorder.finished(k + 1)
        assert recorder.end() == 0
    bags = [str(path) for path in sorted(folder.glob('run_*'))]
    assert ego_bag.main([*bags, '--out', str(out), *CARD]) == 0
    driven = {record.meta['scene_id']: [int(action) for action in record.actions]
              for record in EgoDataset(out).episodes}
    steps = sum(len(actions) for actions in expert)
    wrong = sum(differences(actions, driven[bag.rpartition('/')[2]])
                for actions, bag in zip(expert, bags))
    equal = sum(actions == driven[bag.rpartition('/')[2]] for actions, bag in zip(expert, bags))
    print(json.dumps({'imperfections': imperfections, 'episodes': len(ids), 'equal': equal,
                      'steps': steps, 'wrong': wrong, 'same': round(1 - wrong / steps, 4)}))
    assert wrong <= 0.02 * steps
    assert ego_check.main([str(out), '--card', 'models/nano', '--episodes', '28']) == 0


def convert(tmp_path, said, *more, bag='run', **storage):
    """(exit code, episodes) of a bag of these messages."""
    path = write(tmp_path / bag, said, **storage)
    code = ego_bag.main([str(path), '--out', str(tmp_path / 'own'), *CARD, *more])
    return code, EgoDataset(tmp_path / 'own').episodes if code == 0 else []


@pytest.mark.parametrize('compressed, storage', [
    (False, StoragePlugin.SQLITE3), (True, StoragePlugin.MCAP)])
def test_a_run_by_hand_is_its_actions_and_the_frames_between_them(tmp_path, compressed, storage):
    said = teleoperated(DRIVEN, 'go to the  lamp', compressed)
    code, (episode,) = convert(tmp_path, said, '--frame-size', '40x40', storage=storage)
    assert code == 0
    assert list(episode.actions) == [*DRIVEN, S] and episode.instruction == 'go to the lamp'
    assert episode.meta['stopped'] and episode.labels.tolist() == shifted_labels([*DRIVEN, S], 6)
    # the first image stamped at or after the end of a primitive, which takes a second
    for k, frame in enumerate(episode.frames(range(len(episode)))):
        near = range(max(0, 10 * k - 2), 10 * k + 4)
        distance = {j: np.abs(frame.astype(int) - picture(j)[4:44, 12:52]).mean() for j in near}
        assert min(distance, key=distance.get) in (10 * k, 10 * k + 1)
    # of a camera that is wider than the model's it gets the middle, as on the robot
    assert EgoDataset(tmp_path / 'own').settings.camera == Camera(40, 40, 90.0, 1.25)


def drop(said, topic, from_s, to_s):
    return [s for s in said if not (topic in s.topic and from_s < s.at_s < to_s)]


def shifted(said, from_s, x_m):
    """The same, but odometry jumps at a time."""
    for at_s, topic, _, message in said:
        if topic == '/odom' and at_s >= from_s:
            message.pose.pose.position.x += x_m
    return said


def backwards(said, from_s):
    """The same, but the base drives backwards for a second, as fast as it would forwards."""
    at = driven(DRIVEN)
    for at_s, topic, _, message in said:
        if topic == '/odom' and at_s >= from_s:
            pose, place = at(from_s), message.pose.pose
            back_m = min(at_s - from_s, 1.0) * 0.5
            place.position.x = pose.x_m - back_m * math.cos(pose.yaw_rad)
            place.position.y = pose.y_m - back_m * math.sin(pose.yaw_rad)
            place.orientation.z = math.sin(pose.yaw_rad / 2)
            place.orientation.w = math.cos(pose.yaw_rad / 2)
    return said


def nan(said, from_s, to_s):
    for at_s, topic, _, message in said:
        if topic == '/odom' and from_s < at_s < to_s:
            message.pose.pose.position.x = math.nan
    return said


def frozen(said, from_s, to_s):
    """The same, but the camera repeats a picture with new stamps."""
    kept = picture(int(from_s * 10))
    return [s._replace(message=raw_image(s.at_s, kept))
            if 'image_raw' in s.topic and from_s < s.at_s < to_s else s for s in said]


def broken(said, from_s, to_s):
    for at_s, topic, _, message in said:
        if 'image_raw' in topic and from_s < at_s < to_s:
            message.step = 1
    return said


@pytest.mark.parametrize('spoil, reason', [
    (lambda said: drop(said, 'odom', 6.2, 8.3), r'no odometry for 2\.\d s'),
    (lambda said: nan(nan(said, 6.2, 8.3), -1.0, 0.07), r'no odometry for 2\.\d s'),
    (lambda said: shifted(said, 7.0, 0.6), 'odometry jumped 0.6. m and . degrees'),
    (lambda said: drop(said, 'image_raw', 6.2, 8.3), r'no image for 1\.\d s after a step'),
    (lambda said: frozen(said, 5.9, 8.2), 'the camera was stuck'),
    (lambda said: broken(said, 6.9, 7.3), 'does not add up'),
])
def test_a_bad_stretch_is_told_and_left_out(tmp_path, capsys, spoil, reason):
    code, episodes = convert(tmp_path, spoil(teleoperated(DRIVEN)))
    told = capsys.readouterr().out
    times = [tuple(map(float, found)) for found in re.findall(
        r'(\d+\.\d) s to (\d+\.\d) s left out: .*' + reason, told)]
    assert times and 5.5 <= min(times)[0] and max(times)[1] <= 9.0, told
    first, last = episodes
    # six labels are needed: what was driven after them is told by the run alone
    assert [list(row) for row in first.labels] == [DRIVEN[k:k + 6] for k in range(len(first))]
    assert not first.meta['stopped'] and first.meta['to_s'] < 7.5
    assert last.meta['stopped'] and last.meta['from_s'] >= 6.0
    rest = [int(action) for action in last.actions]
    assert rest == [*DRIVEN, S][-len(rest):] and len(rest) >= 3


def test_a_camera_that_dies_is_no_arrival(tmp_path, capsys):
    code, (episode,) = convert(tmp_path, drop(teleoperated(DRIVEN), 'image_raw', 9.05, 99.0))
    assert 'no image any more' in capsys.readouterr().out
    assert [list(row) for row in episode.labels] == [DRIVEN[k:k + 6] for k in range(4)]
    assert not episode.meta['stopped']


def test_what_was_driven_backwards_is_no_action(tmp_path, capsys):
    code, (episode,) = convert(tmp_path, backwards(teleoperated(DRIVEN), 9.0))
    assert 'driven backwards or sideways' in capsys.readouterr().out
    assert [list(row) for row in episode.labels] == [DRIVEN[k:k + 6] for k in range(len(episode))]
    assert not episode.meta['stopped']


def test_sentences_part_a_recording_and_what_is_there_is_kept(tmp_path, capsys):
    one, two = teleoperated(DRIVEN[:8], 'first'), teleoperated(DRIVEN[:8], 'second')
    # the second run goes on where the first one stood, later
    for said in two:
        if said.topic == '/instruction':
            one.append(said._replace(at_s=4.02))
    code, episodes = convert(tmp_path, one)
    assert {e.instruction: len(e) for e in episodes} == {'first': 5, 'second': 5}
    before = sorted((tmp_path / 'own').rglob('*'))
    assert ego_bag.main([str(tmp_path / 'run'), '--out', str(tmp_path / 'own'), *CARD]) == 1
    assert capsys.readouterr().out.count('was there') == 2
    assert sorted((tmp_path / 'own').rglob('*')) == before


@pytest.mark.parametrize('said, more, told', [
    ([], (), 'which of its topics is the camera'),
    (teleoperated([F] * 3, ''), (), 'instruction'),
    (drop(teleoperated([F] * 3), 'odom', -1, 99), (), 'which of its topics is odometry'),
    (teleoperated([F] * 3), ('--image-topic', '/other'), 'has no topic /other.*/camera/image_raw'),
    (drop(teleoperated([F] * 3), 'camera_info', -1, 99), (), 'give --hfov-deg'),
])
def test_what_is_missing_is_one_line(tmp_path, said, more, told):
    with pytest.raises(UserError, match=told):
        convert(tmp_path, said, *more)


@pytest.mark.parametrize('name, content', [
    ('notes.txt', b'not a bag'), ('empty', None), ('cut.mcap', b'\x89MCAP0\r\n\x01'),
    ('cut.db3', b'')])
def test_what_is_no_recording_is_one_line(tmp_path, name, content):
    path = tmp_path / name
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(UserError, match=f'{name} cannot be read'):
        ego_bag.main([str(path), '--out', str(tmp_path / 'own'), *CARD])


def test_a_sentence_can_be_given_and_other_turns(tmp_path):
    actions = [F, L, L, R, F, F, R]
    said = teleoperated(actions, '', action_set=ActionSet(0.25, 15.0))
    path = write(tmp_path / 'run', said)
    assert ego_bag.main([str(path), '--out', str(tmp_path / 'own'), '--turn-deg', '15',
                         '--camera-height-m', '0.6', '--instruction', 'go on']) == 0
    data = EgoDataset(tmp_path / 'own')
    assert list(data.episodes[0].actions) == [*actions, S]
    assert data.settings.camera.height_m == 0.6 and data.settings.frame_width == 64
