"""What `vlnr1 demo` shows: the floor plan, the videos, the table, and the whole of it once."""

import json
import math
import re
import subprocess
from dataclasses import replace

import cv2
import imageio_ffmpeg
import numpy as np
import pytest

from sim_bridge import demo, video
from sim_bridge.config import EnvironmentConfig
from sim_bridge.environment import Environment
from sim_bridge.floor_plan import GOAL, PATH, ROBOT, FloorPlan, font
from sim_bridge.ros.record import Recorder
from vlnr1_ros.navigation.card import NavigationCard
from vlnr1_ros.navigation.errors import UserError

LAYOUT = {
    'rooms': [{'name': 'kitchen', 'box': [0.0, 0.0, 4.0, 4.0]},
              {'name': 'study', 'box': [4.0, 0.0, 10.0, 4.0]}],
    'doors': [{'rooms': ['kitchen', 'study'], 'axis': 'x', 'at': 4.0, 'centre': 2.0,
               'width': 1.0}],
    'objects': [{'id': 'a', 'name': 'red chair', 'colour': 'red', 'noun': 'chair',
                 'room': 'study', 'box': [9.0, 0.2, 9.6, 0.8]},
                {'id': 'b', 'name': 'blue bed', 'colour': 'blue', 'noun': 'bed',
                 'room': 'study', 'box': [8.0, 2.6, 9.6, 3.8]}],
}
INFO = {'room_box': [4.0, 0.0, 10.0, 4.0], 'goal_object': 'a',
        'candidates': [{'id': o['id'], 'box': o['box']} for o in LAYOUT['objects']]}
GOALS = [[8.5, 0.0, 0.5], [9.3, 0.0, 1.3]]
REFERENCE = [[1.0, 0.0, 2.0], [4.0, 0.0, 2.0], [8.5, 0.0, 0.6]]


def floor_plan(layout=LAYOUT, width=700, height=500):
    return FloorPlan(layout, INFO, GOALS, REFERENCE, width, height)


def colour_at(picture, place):
    column, row = (round(v) for v in place)
    return picture[row, column].astype(int)


def like(colour, other, within=30):
    return np.abs(np.array(colour, int) - np.array(other, int)).max() <= within


def transposed(layout):
    """The same rooms with x and z changed: a plan that is higher than wide."""
    turned = json.loads(json.dumps(layout))
    for thing in (*turned['rooms'], *turned['objects']):
        x0, z0, x1, z1 = thing['box']
        thing['box'] = [z0, x0, z1, x1]
    turned['doors'][0]['axis'] = 'z'
    return turned


@pytest.mark.parametrize('layout', [LAYOUT, transposed(LAYOUT)])
def test_a_plan_is_never_mirrored(layout):
    """Forward, then left of it: counter-clockwise on the page, as seen from above."""
    plan = floor_plan(layout)
    x, z, yaw = 2.0, 2.0, 0.3
    here = np.array(plan.pixel(x, z))
    ahead = np.array(plan.pixel(x - math.sin(yaw), z - math.cos(yaw))) - here
    left = np.array(plan.pixel(x - math.sin(yaw + math.pi / 2),
                               z - math.cos(yaw + math.pi / 2))) - here
    # rows grow downwards, so counter-clockwise is a negative cross product
    assert ahead[0] * left[1] - ahead[1] * left[0] < 0
    assert np.hypot(*ahead) == pytest.approx(np.hypot(*left))


@pytest.mark.parametrize('layout', [LAYOUT, transposed(LAYOUT)])
def test_the_whole_apartment_is_on_the_plan(layout):
    plan = floor_plan(layout)
    for room in layout['rooms']:
        x0, z0, x1, z1 = room['box']
        for corner in ((x0, z0), (x1, z1)):
            column, row = plan.pixel(*corner)
            assert 0 < column < 700 and 0 < row < 500


def test_colours_of_a_plan():
    plan = floor_plan()
    picture = plan.draw([(1.0, 2.0), (3.0, 2.0)], math.pi / 2, decided=[])
    assert picture.shape == (500, 700, 3)
    assert like(colour_at(picture, plan.pixel(8.3, 3.6)), (30, 65, 210)), 'the blue bed'
    assert like(colour_at(picture, plan.pixel(4.0, 1.0)), (70, 68, 74)), 'a wall'
    assert colour_at(picture, plan.pixel(4.0, 2.3)).min() > 200, 'the door'
    assert like(colour_at(picture, plan.pixel(2.0, 2.0)), PATH)


def test_goal_region_ends_at_the_nearer_object():
    plan = floor_plan()
    picture = plan.draw([(1.0, 2.0)], 0.0)

    def green(x, z):
        red, strong, _ = colour_at(picture, plan.pixel(x, z))
        return strong - red > 20

    assert green(8.2, 1.0), 'beside the chair'
    assert not green(7.0, 1.0), 'too far'
    assert not green(8.9, 2.3), 'within 1 m of a goal position, but nearer to the bed'
    assert not green(3.5, 1.0), 'another room'


def test_the_arrow_points_where_the_robot_looks():
    plan = floor_plan()
    picture = plan.draw([(2.0, 2.0)], math.pi / 2)          # towards -x: to the left
    centre = np.array(plan.pixel(2.0, 2.0))
    view = 0.6 * plan._scale
    ahead, behind = (colour_at(picture, centre + [d, 0]) for d in (-view, view))
    assert behind.min() > 240 and ahead[2] - ahead[0] > 30, 'the field of view is tinted blue'
    assert like(colour_at(picture, centre + [0, 0.14 * plan._scale]), ROBOT, 60)


def test_long_sentences_are_wrapped_and_none_overflows():
    typeface = font(21)
    text = 'go to the ' + 'very ' * 80 + 'far chair'
    lines = video.wrapped(text, typeface, 600, 99)
    assert ' '.join(lines) == text
    assert max(map(typeface.getlength, lines)) <= 600
    short = video.wrapped(text, typeface, 600, 3)
    assert len(short) == 3 and short[-1].endswith(' ...')
    assert typeface.getlength(short[-1]) <= 600


@pytest.fixture(scope='module')
def worlds(tmp_path_factory):
    folder = tmp_path_factory.mktemp('worlds')
    demo.make_worlds(folder, 3, 1)
    return folder


@pytest.fixture(scope='module')
def take(worlds):
    """An expert's episode, recorded as the bridge records it, and its floor plan's maker."""
    episode = demo.choose_episodes(worlds, ['room'])[0]
    environment = Environment(EnvironmentConfig(
        dataset=str(worlds / 'datasets/apartments/v1'), split='val_unseen',
        scenes_dir=str(worlds / 'scene_datasets')))
    seen = environment.reset(episode['episode_id'])
    recorder, poses, decisions, executed = Recorder(worlds, 'x'), [], [], []
    seconds = 1.0
    while True:
        recorder.frame(seconds, seen.rgb)
        poses.append([seconds, seen.x, seen.y, seen.z, seen.yaw_rad])
        action = environment.expert_plan(1)[0]
        decisions.append([seconds, [action]])
        executed.append([seconds, action])
        seen = environment.step(action)
        if action == 0:
            break
        seconds += 0.5
    result = {'episode_id': 'x', 'error': '', 'ended_by': 'stop',
              'metrics': environment.metrics()}
    folder = recorder.finish(result, poses, decisions, executed)
    environment.close()
    return (demo.read_take(folder, 'expert', episode, result),
            demo.plan_maker(worlds, episode), seen)


def test_a_take_is_what_was_recorded(take):
    seen_take, _, last = take
    assert seen_take.reached
    assert seen_take.line.startswith('reached in ')
    assert seen_take.decisions[-1].actions == [0]
    assert (seen_take.moments[-1].x, seen_take.moments[-1].z) == (last.x, last.z)
    # recorded as JPEG: alike, not equal
    difference = seen_take.moments[-1].rgb.astype(int) - last.rgb.astype(int)
    assert np.abs(difference).mean() < 6


def test_a_video_plays_in_a_browser(take, tmp_path):
    seen_take, plan_of, _ = take
    path = tmp_path / 'a.mp4'
    video.write_video(path, seen_take, plan_of, fps=4, speed=2.0)
    text = subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), '-i', str(path)],
                          capture_output=True, text=True).stderr
    assert re.search(r'Video: h264.*yuv420p.*1280x720', text)
    frames, seconds = imageio_ffmpeg.count_frames_and_secs(str(path))
    driven_s = seen_take.moments[-1].time_s - seen_take.moments[0].time_s
    assert seconds == pytest.approx(driven_s / 2.0 + video.HOLD_S, abs=0.6)
    assert list(tmp_path.iterdir()) == [path]
    # an index at the front lets a browser start before the file is whole
    head = path.read_bytes()
    assert head.index(b'moov') < head.index(b'mdat')


def test_frames_show_the_view_and_the_result(take):
    seen_take, plan_of, _ = take
    screen = video.Screen(seen_take, plan_of(video.PLAN_WIDTH, video.VIEW))
    first, last = screen.frame(1), screen.frame(len(seen_take.moments), over=True)
    assert first.shape == (video.HEIGHT, video.WIDTH, 3)
    view = cv2.resize(first[video.EDGE + 60:video.EDGE + 512, video.EDGE:video.EDGE + 512],
                      (224, 198), interpolation=cv2.INTER_AREA).astype(int)
    assert np.abs(view - seen_take.moments[0].rgb[26:].astype(int)).mean() < 6

    def label(frame):
        return colour_at(frame, (video.EDGE + 14, video.EDGE + video.VIEW - 30))

    assert like(label(last), video.GREEN, 12) and not like(label(first), video.GREEN, 12)
    missed = video.Screen(replace(seen_take, reached=False, line='missed'), screen._plan)
    assert like(label(missed.frame(2, over=True)), video.RED, 12)


def test_a_full_disk_is_said(take, tmp_path, monkeypatch):
    seen_take, plan_of, _ = take
    with pytest.raises(UserError, match='cannot be written'):
        video.write_video(tmp_path / 'nowhere' / 'a.mp4', seen_take, plan_of, 4, 2.0)


def test_one_sheet_for_all(take):
    seen_take, plan_of, _ = take
    missed = replace(seen_take, reached=False, line='missed: stopped 2.0 m away')
    sheet = video.draw_sheet([seen_take, missed], [plan_of, plan_of])
    assert sheet.shape[1] == video.SHEET_WIDTH
    greens = (np.abs(sheet.astype(int) - GOAL).max(axis=2) < 8).sum(axis=1)
    assert greens[:video.ROW].sum() > greens[video.ROW:].sum() + 1000
    reds = np.abs(sheet.astype(int) - video.RED).max(axis=2) < 8
    assert reds[video.ROW:].sum() > 1000


def test_a_table_shows_misses_as_misses():
    episodes = [{'info': {'tier': tier}} for tier in ('room', 'door', 'apartment')]
    good = {'error': '', 'ended_by': 'stop', 'metrics': {
        'grounded_success': 1.0, 'grounded_spl': 0.8, 'success': 1.0, 'steps_taken': 12,
        'distance_to_goal': 0.3}}
    bad = {'error': '', 'ended_by': 'stop', 'metrics': {
        'grounded_success': 0.0, 'grounded_spl': 0.0, 'success': 1.0, 'steps_taken': 9,
        'distance_to_goal': 2.26}}
    lost = {'error': '', 'ended_by': 'max_steps', 'metrics': {
        'grounded_success': 0.0, 'grounded_spl': 0.0, 'success': 0.0, 'steps_taken': 500,
        'distance_to_goal': 7.91}}
    lines = demo.table('models/nano', episodes, [good, bad, lost])
    assert lines[1].split() == ['models/nano', 'within', 'a', 'room', '1.0', 'm', '12', 'yes',
                                '0.80']
    assert lines[2].split()[-3:] == ['9', 'missed', '0.00']
    assert '1 of 3' in lines[4] and '2 of 3' in lines[5]
    assert demo.outcome(bad) == 'missed: stopped 2.3 m away'
    assert demo.outcome(lost) == 'missed: no stop, 7.9 m away'


def test_the_whole_demo_once(tmp_path, capsys):
    out = tmp_path / 'demo'
    assert demo.show('expert', 3, out, tiers=('room',)) == 0
    said = capsys.readouterr().out
    assert re.search(r'1\. within a room: ".+"\n    reached in \d+ steps', said)
    assert re.search(r'expert +within a room +1\.0 m +\d+ +yes +[01]\.\d\d', said)
    assert sorted(path.name for path in out.iterdir()) == ['1_room.mp4', 'sheet.png', 'worlds']


def test_a_broken_graph_is_an_error(worlds, tmp_path, capsys):
    """The card is there, so the graph starts; the model is not, so the navigator ends."""
    NavigationCard().save(tmp_path)
    (tmp_path / 'worlds').mkdir()
    (tmp_path / 'worlds' / 'seed_3').symlink_to(worlds)
    assert demo.show(str(tmp_path), 3, tmp_path, tiers=('room',)) == 1
    said = capsys.readouterr()
    assert said.err.startswith('vlnr1 demo: the graph broke: navigator ended with code 2')
    assert 'Traceback' not in said.err and said.err.count('\n') == 1


def test_an_unknown_policy_is_refused_before_anything_starts(tmp_path):
    old = tmp_path / 'sheet.png'
    old.write_bytes(b'of the last run')
    with pytest.raises(UserError, match='nowhere'):
        demo.show(str(tmp_path / 'nowhere'), 3, tmp_path, tiers=('room',))
    assert list(tmp_path.iterdir()) == [old]
