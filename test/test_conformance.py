"""The embedded simulator against habitat-sim, on the same files.

Runs wherever habitat-sim can be imported; without a GPU it renders by software (Mesa). The limits
are what was measured (habitat-sim 0.3.4 from source, Mesa), with some room: images equal but for
rounding, nine of ten lengths within 0.97 and 1.01, places after random walks within centimetres.
"""
import importlib.util
import math

import numpy as np
import pytest
import trimesh
from small_scenes import GREEN, RED, box, episode, room, write_split, write_stage
from test_other_scenes import edited, two_floors, z_up
from trimesh.visual import ColorVisuals

from sim_bridge import frames
from sim_bridge.config import EnvironmentConfig
from sim_bridge.environment import Environment
from vlnr1_ros.navigation.camera import Camera
from vlnr1_ros.navigation.errors import UserError

pytestmark = pytest.mark.skipif(importlib.util.find_spec('habitat_sim') is None,
                                reason='needs habitat-sim')

BOTH = ('embedded', 'habitat-sim')
PSNR_DB = 40.0
GEODESIC_RATIO = (0.97, 1.01)
FARTHEST_OFF = (0.85, 1.06)    # Detour cuts rounded corners and does not always find the best way
FORWARD, LEFT, RIGHT = 1, 2, 3


def opened(config):
    """The two environments over the same files, embedded first."""
    return [Environment(EnvironmentConfig(**{**vars(config), 'simulator': name}))
            for name in BOTH]


@pytest.fixture(scope='module')
def pair(apartments):
    """Both simulators over two generated apartments."""
    environments = opened(apartments.config(depth=True, camera=Camera(320, 240, 90.0, 1.25)))
    yield environments
    for environment in environments:
        environment.close()


def per_scene(environments):
    """Resets both to the first episode of every scene; yields its id."""
    seen = set()
    for one in environments[0].episodes:
        if one.scene_id not in seen:
            seen.add(one.scene_id)
            for environment in environments:
                environment.reset(one.episode_id)
            yield one.episode_id


def look(environment, position, yaw_rad):
    """Observations of habitat-lab from a pose."""
    return environment._env.sim.get_observations_at(
        [float(v) for v in position], list(frames.yaw_to_xyzw(yaw_rad)))


def psnr_db(one, other):
    error = ((one.astype(float) - other.astype(float)) ** 2).mean()
    return 10 * math.log10(255 ** 2 / max(error, 1e-9))


def lengths(environment, pairs):
    return np.array([environment._env.sim.geodesic_distance(a, b) for a, b in pairs])


def assert_same_lengths(environments, pairs):
    embedded, real = (lengths(environment, pairs) for environment in environments)
    np.testing.assert_array_equal(np.isfinite(embedded), np.isfinite(real))
    far = np.isfinite(real) & (real > 0.5)
    assert far.any()
    ratio = embedded[far] / real[far]
    assert FARTHEST_OFF[0] < ratio.min() and ratio.max() < FARTHEST_OFF[1], ratio
    return ratio


def random_pairs(environment, count):
    point = environment.pathfinder.get_random_navigable_point
    return [(point(island_index=0), point(island_index=0)) for _ in range(count)]


# generated apartments

def test_images_and_depth_from_equal_poses(pair):
    rng = np.random.default_rng(5)
    equal = []
    for _ in per_scene(pair):
        for position, _ in random_pairs(pair[0], 6):
            yaw = rng.uniform(-math.pi, math.pi)
            embedded, real = (look(environment, position, yaw) for environment in pair)
            assert real['rgb'].shape[:2] == real['depth'].shape[:2] == (240, 320)
            equal.append(psnr_db(embedded['rgb'], real['rgb'][..., :3]))
            # where two surfaces coincide each simulator may show the other one: strips of a wall
            changed = np.abs(embedded['rgb'].astype(int) - real['rgb'][..., :3]).max(2)
            assert (changed > 40).mean() < 0.08
            gap = np.abs(embedded['depth'] - real['depth'])
            assert np.median(gap) < 1e-4 and np.percentile(gap, 95) < 0.01
    assert np.median(equal) > PSNR_DB, equal


def test_observations_have_one_format(pair):
    first = pair[0].episodes[0].episode_id
    for action in (None, FORWARD, LEFT):
        embedded, real = (environment.reset(first) if action is None else environment.step(action)
                          for environment in pair)
        for name in ('rgb', 'depth'):
            one, other = getattr(embedded, name), getattr(real, name)
            assert one.shape == other.shape and one.dtype == other.dtype
            assert other.flags['C_CONTIGUOUS']
        assert embedded.yaw_rad == pytest.approx(real.yaw_rad, abs=1e-5)
        assert embedded.step == real.step


def test_lengths_and_reachability(pair):
    for _ in per_scene(pair):
        ratio = assert_same_lengths(pair, random_pairs(pair[0], 60))
        assert GEODESIC_RATIO[0] < np.percentile(ratio, 5)
        assert np.percentile(ratio, 95) < GEODESIC_RATIO[1]


def test_free_places_agree(pair):
    rng = np.random.default_rng(1)
    for _ in per_scene(pair):
        low, high = (np.array(v) for v in pair[0].pathfinder.get_bounds())
        points = [np.array([x, 0.0, z], np.float32)
                  for x, z in rng.uniform(low[[0, 2]], high[[0, 2]], (1000, 2))]
        embedded, real = (np.array([environment.pathfinder.is_navigable(p) for p in points])
                          for environment in pair)
        assert (embedded == real).mean() > 0.95
        assert pair[0].pathfinder.navigable_area == pytest.approx(
            pair[1].pathfinder.navigable_area, rel=0.05)


def test_random_walks_end_near_each_other(pair):
    apart, collisions = [], []
    for number, one in enumerate(pair[0].episodes[::4]):
        actions = np.random.default_rng(number).choice([1, 1, 1, 2, 3], 40)
        walks = []
        for environment in pair:
            environment.reset(one.episode_id)
            seen = [environment.step(int(action)) for action in actions]
            walks.append(np.array([(s.x, s.z) for s in seen]))
            collisions.append(environment.metrics()['collisions'])
            assert collisions[-1] == sum(s.collided for s in seen)
        apart += list(np.linalg.norm(walks[0] - walks[1], axis=1))
    assert np.median(apart) < 0.05 and np.percentile(apart, 90) < 0.2
    counts = np.array(collisions).reshape(-1, 2)
    assert counts.sum() > 0 and np.abs(counts[:, 0] - counts[:, 1]).max() <= 4


@pytest.mark.parametrize('sliding', [True, False])
def test_velocities_drive_both_alike(apartments, sliding):
    config = apartments.config(allow_sliding=sliding)
    ends, bumps = [], []
    for environment in opened(config):
        environment.reset(environment.episodes[0].episode_id)
        environment.set_render(False)
        seen = [environment.move(0.4, 0.6 * math.sin(k / 5), 0.1) for k in range(120)]
        ends.append(np.array([(s.x, s.z) for s in seen]))
        bumps.append(environment.metrics()['collisions'])
        assert environment.metrics()['path_length'] > 0.5
        environment.close()
    apart = np.linalg.norm(ends[0] - ends[1], axis=1)
    assert np.median(apart) < 0.1 and apart.max() < 0.4
    assert abs(bumps[0] - bumps[1]) <= 3 and max(bumps) > 0


def test_the_expert_succeeds_in_both(pair):
    for one in pair[0].episodes[::7]:
        found = []
        for environment in pair:
            environment.reset(one.episode_id)
            while not environment.episode_over:
                for action in environment.expert_plan(6):
                    environment.step(action)
                    if environment.episode_over:
                        break
            found.append(environment.metrics())
        assert found[0]['grounded_success'] == found[1]['grounded_success'] == 1.0
        for name in ('spl', 'path_length', 'distance_to_goal'):
            assert found[0][name] == pytest.approx(found[1][name], abs=0.3)


def test_the_map_is_the_same(pair, apartments):
    maps = []
    for environment in opened(apartments.config(top_down_map=True)):
        environment.reset(environment.episodes[0].episode_id)
        environment.step(LEFT)
        maps.append(environment.top_down_map(200))
        environment.close()
    width = min(m.shape[1] for m in maps)
    assert abs(maps[0].shape[1] - maps[1].shape[1]) <= 3
    same = (np.abs(maps[0][:, :width].astype(int) - maps[1][:, :width]).max(2) < 40).mean()
    assert same > 0.9


def test_steps_without_images_go_the_same_way(apartments):
    environment = Environment(apartments.config(simulator='habitat-sim'))
    actions = [int(a) for a in np.random.default_rng(3).choice([1, 1, 2, 3], 30)]
    walks = []
    for on in (True, False):
        environment.set_render(True)
        environment.reset(environment.episodes[0].episode_id)
        environment.set_render(on)
        seen = [environment.step(action) for action in [*actions, 0]]
        assert all((s.rgb is not None) == on for s in seen)
        walks.append([(s.x, s.y, s.z, s.yaw_rad, s.collided) for s in seen])
        walks[-1].append(environment.metrics())
    assert walks[0] == walks[1]
    environment.close()


def test_opening_leaves_no_file_behind(apartments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    environment = Environment(apartments.config(simulator='habitat-sim'))
    environment.reset(environment.episodes[0].episode_id)
    environment.close()
    assert not list(tmp_path.iterdir())


# other scenes

def scene_pair(folder, scene, start, goal):
    """Both simulators over one scene file and one episode."""
    write_split(folder / 'dataset', 'some', [episode(1, scene.name, start, 0.0, [goal])])
    environments = opened(EnvironmentConfig(
        dataset=str(folder / 'dataset'), split='some', scenes_dir=str(scene.parent), depth=True,
        camera=Camera(160, 120, 90.0, 1.25)))
    for environment in environments:
        environment.reset('1')
    return environments


def assert_same_images(environments, poses, least_db=35):
    for position, yaw in poses:
        embedded, real = (look(environment, position, yaw) for environment in environments)
        assert psnr_db(embedded['rgb'], real['rgb'][..., :3]) > least_db
        assert np.median(np.abs(embedded['depth'] - real['depth'])) < 1e-4


def coloured_room():
    return [*room(0, 0, 5, 4), box('red', (0, 0, 0), (1, 1, 1), RED),
            box('green', (4, 0, 3), (5, 2, 4), GREEN)]


POSES = [((2.5, 0, 2), yaw) for yaw in (0.0, 1.0, 2.5, -1.5)]


def test_a_bare_glb_is_turned_the_same_way(tmp_path):
    path = write_stage(tmp_path / 'scenes', 'bare', z_up(coloured_room()))
    path.unlink()
    environments = scene_pair(tmp_path, path.with_name('bare.glb'), (2.5, 0, 2), (4, 0, 1))
    assert_same_images(environments, POSES)
    assert_same_lengths(environments, [((2.5, 0, 2), (4, 0, 1))])


def test_a_missing_texture_looks_the_same(tmp_path):
    path = write_stage(tmp_path / 'scenes', 'lost', coloured_room())

    def lose(doc):
        for image in doc['images']:
            image.clear()
            image['uri'] = 'gone.png'

    edited(path.with_name('lost.glb'), lose)
    assert_same_images(scene_pair(tmp_path, path, (2.5, 0, 2), (4, 0, 1)), POSES)


def test_vertex_colours_look_the_same(tmp_path):
    rng = np.random.default_rng(0)
    scene = trimesh.Scene()
    for mesh in coloured_room():
        colours = rng.integers(0, 255, (len(mesh.vertices), 4)).astype(np.uint8)
        colours[:, 3] = 255
        scene.add_geometry(trimesh.Trimesh(mesh.vertices, mesh.faces, process=False,
                                           visual=ColorVisuals(vertex_colors=colours)),
                           node_name=mesh.name)
    path = write_stage(tmp_path / 'scenes', 'painted', coloured_room())
    path.with_name('painted.glb').write_bytes(scene.export(file_type='glb'))
    assert_same_images(scene_pair(tmp_path, path, (2.5, 0, 2), (4, 0, 1)), POSES, 25)


def test_floors_and_stairs_are_connected_alike(tmp_path):
    path = write_stage(tmp_path / 'scenes', 'house', two_floors())
    environments = scene_pair(tmp_path, path, (2, 0, 7), (2, 2.7, 7))
    assert_same_lengths(environments, [((2, 0, 7), (2, 2.7, 7)), ((1, 0, 1), (3, 0, 7)),
                                       ((1, 2.7, 1), (3, 2.7, 7))])
    heights = []
    for environment in environments:
        environment._env.sim.set_agent_state([5.0, 0.0, 0.4], list(frames.yaw_to_xyzw(math.pi)))
        seen = [environment.step(FORWARD) for _ in range(24)]
        heights.append(np.array([s.y for s in seen]))
    assert heights[0][-1] == pytest.approx(2.7, abs=0.01)
    assert np.abs(heights[0] - heights[1]).max() < 0.35    # habitat-sim rounds to 0.2 m


def test_a_scene_without_floor_is_refused_by_both(tmp_path):
    path = write_stage(tmp_path / 'scenes', 'closet', room(0, 0, 0.4, 0.4))
    write_split(tmp_path / 'dataset', 'some', [episode(1, path.name, (0, 0, 0), 0, [(0, 0, 0)])])
    for name in BOTH:
        with pytest.raises(UserError, match='closet'):
            Environment(EnvironmentConfig(dataset=str(tmp_path / 'dataset'), split='some',
                                          scenes_dir=str(path.parent), simulator=name)).reset('1')
