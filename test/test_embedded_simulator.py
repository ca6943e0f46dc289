"""The embedded simulator under habitat-lab's own Env, VLN task and measures."""
import importlib.util
import json
import math
import os

import numpy as np
import pytest
from small_scenes import BLUE, RED, box, episode, room, write_split, write_stage

from sim_bridge.config import EnvironmentConfig, habitat_config
from sim_bridge.embedded import scenes
from sim_bridge.embedded.render import Scene
from vlnr1_ros.navigation.camera import Camera
from vlnr1_ros.navigation.errors import UserError

STOP, FORWARD, LEFT, RIGHT = range(4)
START, GOALS = (3.0, 0.0, 5.0), [(3.0, 0.0, 1.0), (3.5, 0.0, 1.0)]
SENSORS = 'habitat.simulator.agents.main_agent.sim_sensors.'


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    """Two rooms of 6 x 6 m and a split whose first two episodes are in the first of them."""
    folder = tmp_path_factory.mktemp('world')
    stages = folder / 'scenes' / 'toy'
    write_stage(stages, 'room_01', [*room(0, 0, 6, 6), box('red_box', (2.5, 0, 0), (3.5, 1, .4),
                                                           RED)])
    write_stage(stages, 'room_02', [*room(0, 0, 6, 6), box('divider', (0, 0, 2.9), (3, 2.5, 3.1),
                                                           BLUE)])
    first, second = (f'toy/room_0{k}.stage_config.json' for k in (1, 2))
    write_split(folder / 'episodes', 'val', [
        episode(1, first, START, 0.0, GOALS),
        episode(2, first, START, math.pi / 2, GOALS),
        episode(3, second, (1.0, 0.0, 1.5), math.pi, [(0.5, 0.0, 4.5)])])
    return folder


def settings(world, **changes):
    return EnvironmentConfig(**{'dataset': str(world / 'episodes'), 'split': 'val',
                                'scenes_dir': str(world / 'scenes'), 'simulator': 'embedded',
                                **changes})


def open_env(world, edit=None, **changes):
    config = habitat_config(settings(world, **changes))
    import habitat
    from omegaconf import OmegaConf

    if edit is not None:
        OmegaConf.set_readonly(config, False)
        for key, value in edit.items():
            OmegaConf.update(config, key, value)
    return habitat.Env(config)


@pytest.fixture(scope='module')
def env(world):
    env = open_env(world, depth=True, semantic=True)
    yield env
    env.close()


def reset(env, number):
    env.current_episode = next(e for e in env.episodes if e.episode_id == str(number))
    return env.reset()


def yaw_deg(env):
    rotation = env.sim.get_agent_state().rotation
    return math.degrees(2 * math.atan2(rotation.y, rotation.w)) % 360


def test_a_straight_walk_succeeds_with_full_spl(env):
    seen = reset(env, 1)
    assert env.get_metrics()['distance_to_goal'] == pytest.approx(4.0, abs=1e-5)
    for number in range(1, 17):
        seen = env.step(FORWARD)
        assert env.get_metrics()['distance_to_goal'] == pytest.approx(4.0 - number * 0.25,
                                                                      abs=1e-4)
    env.step(STOP)
    assert env.episode_over
    metrics = env.get_metrics()
    assert metrics['success'] == 1.0 and metrics['spl'] == pytest.approx(1.0, abs=1e-4)
    assert metrics['collisions']['count'] == 0
    assert {key: (seen[key].shape, seen[key].dtype) for key in ('rgb', 'depth', 'semantic')} == {
        'rgb': ((224, 224, 3), np.uint8), 'depth': ((224, 224, 1), np.float32),
        'semantic': ((224, 224, 1), np.int32)}
    for key in ('rgb', 'depth', 'semantic'):
        assert env.observation_space[key].contains(seen[key])
    np.testing.assert_allclose(env.sim.get_agent_state().position, GOALS[0], atol=1e-4)


def test_stopping_at_once_fails(env):
    reset(env, 1)
    env.step(STOP)
    assert env.get_metrics()['success'] == 0.0


def test_turns_are_exact_and_to_the_named_side(env):
    reset(env, 1)
    env.step(LEFT)
    assert yaw_deg(env) == pytest.approx(30, abs=1e-4)
    for _ in range(2):
        env.step(RIGHT)
    assert yaw_deg(env) == pytest.approx(330, abs=1e-4)
    before = env.sim.get_agent_state().position
    env.step(FORWARD)
    moved = env.sim.get_agent_state().position - before
    np.testing.assert_allclose(moved, [0.125, 0, -0.25 * math.cos(math.radians(30))], atol=1e-5)


def test_walking_into_a_wall_is_a_collision_each_time(env):
    reset(env, 2)                       # looks along -x, 3 m from the wall
    for _ in range(11):
        env.step(FORWARD)
        assert not env.sim.previous_step_collided
    for number in (1, 2, 3):
        env.step(FORWARD)
        assert env.sim.previous_step_collided
        assert env.get_metrics()['collisions']['count'] == number
    assert env.sim.get_agent_state().position[0] == pytest.approx(0.1, abs=1e-3)
    env.step(LEFT)
    assert not env.sim.previous_step_collided


@pytest.mark.parametrize('allow_sliding', [True, False])
def test_sliding_forward_and_turn_settings_are_honoured(world, allow_sliding):
    env = open_env(world, forward_m=0.5, turn_deg=15.0, allow_sliding=allow_sliding)
    reset(env, 2)
    env.step(LEFT)
    assert yaw_deg(env) == pytest.approx(105, abs=1e-4)
    for _ in range(7):
        env.step(FORWARD)
    x, _, z = env.sim.get_agent_state().position
    assert x == pytest.approx(0.1, abs=1e-3)
    travelled_m = 3.5 if allow_sliding else 2.9 / math.cos(math.radians(15))
    assert z == pytest.approx(min(5.9, 5 + travelled_m * math.sin(math.radians(15))), abs=2e-3)
    env.close()


def test_observations_show_the_scene(env):
    seen = reset(env, 1)
    names = env.sim.object_names
    box_pixels = seen['semantic'][..., 0] == names.index('red_box')
    assert box_pixels.sum() > 100
    assert (seen['rgb'][box_pixels] == RED).all()
    # the box's face is 4.6 m ahead: 5.0 - 0.4
    assert np.median(seen['depth'][..., 0][box_pixels]) == pytest.approx(4.6, abs=0.1)
    columns = np.nonzero(box_pixels.any(0))[0]
    assert columns.min() + columns.max() == 223        # in the middle


def test_depth_range_and_normalised_depth(world):
    edit = {SENSORS + 'depth_sensor.max_depth': 3.0,
            SENSORS + 'depth_sensor.normalize_depth': True}
    env = open_env(world, edit, depth=True)
    depth = reset(env, 1)['depth'][..., 0]
    assert depth.max() == 1.0
    # the floor 2.5 m ahead
    row = int(112 + 112 * 1.25 / 2.5)
    assert depth[row, 112] * 3.0 == pytest.approx(1.25 * 112 / (row + 0.5 - 112), rel=1e-3)
    env.close()


def test_camera_height_hfov_and_tilt_are_honoured(world):
    down = math.radians(-30)
    edit = {SENSORS + 'depth_sensor.orientation': [down, 0.0, 0.0]}
    env = open_env(world, edit, depth=True, camera=Camera(65, 65, 60, 0.8))
    seen = reset(env, 1)
    assert seen['depth'][32, 32, 0] == pytest.approx(0.8 / math.sin(-down), rel=1e-3)
    red = (seen['rgb'] == RED).all(-1)
    focal = 32.5 / math.tan(math.radians(30))
    assert np.ptp(np.nonzero(red.any(0))[0]) + 1 == pytest.approx(focal / 4.6, abs=1.01)
    env.close()


def test_sensors_of_one_camera_share_one_drawing(env, monkeypatch):
    drawn = []
    real = Scene.render

    def counted(self, *args, **kwargs):
        drawn.append(kwargs)
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Scene, 'render', counted)
    reset(env, 1)
    assert drawn == [{'rgb': True, 'depth': True, 'objects': True}]


def test_steps_without_pictures_keep_the_measures(env):
    actions = [FORWARD, LEFT, FORWARD, FORWARD, RIGHT, FORWARD]
    reset(env, 1)
    for action in actions:
        env.step(action)
    with_pictures = env.get_metrics()['distance_to_goal']
    env.sim.set_render(False)
    reset(env, 1)
    for action in actions:
        seen = env.step(action)
    env.sim.set_render(True)
    assert 'rgb' not in seen and env.get_metrics()['distance_to_goal'] == with_pictures
    assert env.step(LEFT)['rgb'].any()


def test_another_scene_is_opened_with_its_episode(env):
    reset(env, 1)
    reset(env, 3)
    corners = math.dist((1, 1.5), (3.1, 2.8)) + 0.4 + math.dist((3.1, 3.2), (0.5, 4.5))
    assert env.get_metrics()['distance_to_goal'] == pytest.approx(corners, abs=1e-3)
    points = env.sim.get_straight_shortest_path_points((1, 0, 1.5), (0.5, 0, 4.5))
    assert len(points) == 4
    assert 'divider' in env.sim.object_names


def test_the_agent_can_be_placed_and_looked_from(env):
    reset(env, 1)
    before = env.sim.get_agent_state()
    elsewhere = env.sim.get_observations_at((1, 0, 1), [0, 1, 0, 0])['rgb']
    here = env.sim.get_observations_at()['rgb']
    assert (elsewhere != here).any()
    np.testing.assert_array_equal(env.sim.get_agent_state().position, before.position)
    env.sim.get_observations_at((1, 0, 1), [0, 1, 0, 0], keep_agent_at_new_pose=True)
    np.testing.assert_array_equal(env.sim.get_observations_at()['rgb'], elsewhere)
    assert yaw_deg(env) == pytest.approx(180)
    with pytest.raises(UserError, match='finite'):
        env.sim.set_agent_state((math.nan, 0, 0), [0, 0, 0, 1])
    assert env.sim.is_navigable(env.sim.sample_navigable_point())


def test_the_map_is_drawn(world):
    env = open_env(world, top_down_map=True)
    reset(env, 1)
    env.step(FORWARD)
    drawn = env.get_metrics()['top_down_map']
    row, column = drawn['agent_map_coord'][0]
    rows, columns = drawn['map'].shape
    assert rows == pytest.approx(columns, rel=0.01)
    assert row / rows == pytest.approx((4.75 + 0.1) / 6.2, abs=0.01)
    assert column / columns == pytest.approx((3.0 + 0.1) / 6.2, abs=0.01)
    assert drawn['map'][row, column] != 0 and drawn['map'][5, 5] == 0
    env.close()


@pytest.mark.skipif(importlib.util.find_spec('habitat_sim') is not None,
                    reason='habitat-sim is installed')
def test_habitat_sim_itself_stays_unavailable(env):
    from habitat.core.registry import registry

    with pytest.raises(ImportError, match='habitat_sim'):
        registry.get_simulator('Sim-v0')(None)


def test_foreign_sensors_are_refused(world):
    with pytest.raises(UserError, match='HabitatSimRGBSensor'):
        open_env(world, {SENSORS + 'rgb_sensor.type': 'HabitatSimRGBSensor'})


# scenes on disk

def load(path):
    return scenes.load_scene(path, 0.1, 1.5)


def test_a_scene_is_loaded_once_until_it_changes(tmp_path):
    path = write_stage(tmp_path, 'room', room(0, 0, 3, 3))
    first = load(path)
    assert load(path)[0] is first[0] and load(tmp_path / 'room.glb')[1] is first[1]
    write_stage(tmp_path, 'room', room(0, 0, 4, 4))
    os.utime(tmp_path / 'room.glb', ns=(1, 1))
    assert load(path)[1].navigable_area == pytest.approx(3.8 ** 2, rel=1e-3)


def test_scenes_that_cannot_be_opened_say_why(tmp_path):
    path = write_stage(tmp_path, 'room', room(0, 0, 3, 3))
    glb = tmp_path / 'room.glb'
    with pytest.raises(UserError, match='gone.stage_config.json: No such file'):
        load(tmp_path / 'gone.stage_config.json')
    with pytest.raises(UserError, match='neither a .glb nor'):
        load(tmp_path / 'room.ply')
    config = json.loads(path.read_text())
    for key, value in (('scale', [2, 2, 2]), ('units_to_meters', 0.01)):
        path.write_text(json.dumps({**config, key: value}))
        with pytest.raises(UserError, match=f'"{key}".*convert the mesh'):
            load(path)
    path.write_text(json.dumps({**config, 'render_asset': 'other.glb'}))
    with pytest.raises(UserError, match='other.glb, which does not exist'):
        load(path)
    path.write_text('{"up": [0, 1, 0]')
    with pytest.raises(UserError, match='is not a stage config'):
        load(path)
    path.write_text(json.dumps(config))
    glb.write_bytes(glb.read_bytes()[:1000])
    with pytest.raises(UserError, match='room.glb is not a scene .* cut short'):
        load(path)


def test_a_scene_without_room_names_its_file(tmp_path):
    path = write_stage(tmp_path, 'closet', room(0, 0, 0.8, 0.8))
    with pytest.raises(UserError, match='closet.glb: the scene leaves no free floor'):
        load(path)
