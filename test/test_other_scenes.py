"""Scenes that are not ours: which way up, several floors, many meshes, damaged textures."""
import base64
import json
import math
import struct

import numpy as np
import pytest
import trimesh
from PIL import Image
from small_scenes import (
    BLUE,
    GREEN,
    RED,
    box,
    episode,
    room,
    triangles,
    write_split,
    write_stage,
)
from trimesh.visual import ColorVisuals, TextureVisuals
from trimesh.visual.material import PBRMaterial

from sim_bridge import frames
from sim_bridge.config import EnvironmentConfig
from sim_bridge.embedded import scenes
from sim_bridge.embedded.glb import load_glb
from sim_bridge.embedded.height_mesh import HeightMesh, has_several_levels
from sim_bridge.embedded.navmesh import NavMesh
from sim_bridge.embedded.render import Scene
from sim_bridge.environment import Environment
from vlnr1_ros.navigation.errors import UserError

RADIUS, HEIGHT = 0.1, 1.5
UPSTAIRS_Y = 2.7
STAIRS_X, STAIRS_Z, STEP_RISE, STEP_RUN = 5.0, 1.0, 0.18, 0.28


def load(path, dataset='default'):
    return scenes.load_scene(path, RADIUS, HEIGHT, dataset)


def looking(x, y, z, yaw_rad=0.0):
    """Camera to world of a level camera."""
    pose = np.eye(4)
    pose[:3, 3] = x, y, z
    c, s = math.cos(yaw_rad), math.sin(yaw_rad)
    pose[:3, :3] = (c, 0, s), (0, 1, 0), (-s, 0, c)
    return pose


def two_floors(stairs=True):
    """A room of 6 x 8 m, a second floor over its west half, stairs of 15 steps along +z."""
    meshes = [*room(0, 0, 6, 8, height=5.4),
              box('upper', (0, UPSTAIRS_Y - 0.2, 0), (4.4, UPSTAIRS_Y, 8)),
              box('landing', (4.4, UPSTAIRS_Y - 0.2, 5.2), (6, UPSTAIRS_Y, 8))]
    if stairs:
        for k in range(15):
            z = STAIRS_Z + k * STEP_RUN
            meshes.append(box(f'step_{k:02}', (STAIRS_X - 0.5, 0, z),
                              (STAIRS_X + 0.5, (k + 1) * STEP_RISE, STAIRS_Z + 15 * STEP_RUN)))
    return meshes


@pytest.fixture(scope='module')
def house():
    return HeightMesh(triangles(two_floors()), RADIUS, HEIGHT)


# which way up

def z_up(meshes):
    """The same meshes in Matterport3D's axes: z up, y ahead."""
    for mesh in meshes:
        x, y, z = mesh.vertices.T
        mesh.vertices = np.stack([x, -z, y], 1)
    return meshes


def test_a_bare_glb_is_z_up_as_in_habitat_sim(tmp_path):
    upright = load(write_stage(tmp_path, 'upright', room(0, 0, 3, 5)))
    write_stage(tmp_path, 'bare', z_up(room(0, 0, 3, 5))).unlink()
    scene, navmesh = load(tmp_path / 'bare.glb')
    np.testing.assert_allclose(scene.triangles, upright[0].triangles, atol=1e-6)
    assert navmesh.navigable_area == pytest.approx(upright[1].navigable_area, rel=1e-5)


def test_a_bare_glb_that_seems_to_be_y_up_is_reported(tmp_path, caplog):
    write_stage(tmp_path, 'right', z_up(room(0, 0, 4, 9))).unlink()
    load(tmp_path / 'right.glb')
    assert not caplog.text
    write_stage(tmp_path, 'bare', room(0, 0, 4, 9)).unlink()
    load(tmp_path / 'bare.glb')
    assert '9.2 m high' in caplog.text and 'write bare.stage_config.json beside it' in caplog.text


def test_the_dataset_decides_over_a_bare_glb(tmp_path):
    write_stage(tmp_path, 'bare', room(0, 0, 3, 5)).unlink()
    dataset = tmp_path / 'some.scene_dataset_config.json'
    for defaults, up in (({'up': [0, 1, 0], 'front': [0, 0, -1]}, (0, 1, 0)),
                         ({'shader_type': 'flat'}, (0, 1, 0)),
                         ({'up': [0, 0, 1], 'front': [0, 1, 0]}, (0, 0, 1))):
        dataset.write_text(json.dumps({'stages': {'default_attributes': defaults}}))
        assert scenes.resolve_stage(tmp_path / 'bare.glb', str(dataset))[1] == up
    dataset.write_text(json.dumps({'stages': {'paths': {'.glb': ['*']}}}))
    assert scenes.resolve_stage(tmp_path / 'bare.glb', str(dataset))[1] == (0, 0, 1)


def test_axes_of_a_stage_config_are_followed(tmp_path):
    path = write_stage(tmp_path, 'turned', z_up(room(0, 0, 3, 5)), up=[0, 0, 1], front=[0, 1, 0])
    assert load(path)[1].navigable_area == pytest.approx(2.8 * 4.8, rel=1e-3)
    path = write_stage(tmp_path, 'skew', room(0, 0, 3, 3), up=[0, 1, 1])
    with pytest.raises(UserError, match='skew.stage_config.json .* not at right angles'):
        load(path)


def test_a_glb_with_two_endings_has_the_stage_config_of_the_first(tmp_path):
    path = write_stage(tmp_path, 'room', room(0, 0, 3, 3))
    (tmp_path / 'room.glb').rename(tmp_path / 'room.basis.glb')
    path.write_text(path.read_text().replace('room.glb', 'room.basis.glb'))
    assert scenes.resolve_stage(tmp_path / 'room.basis.glb')[1] == (0, 1, 0)


# several floors

def test_generated_and_furnished_rooms_keep_the_exact_mesh():
    furnished = triangles([*room(0, 0, 5, 4), box('bed', (0, 0, 0), (1.6, 0.5, 2)),
                           box('wardrobe', (3, 0, 0), (4.5, 2.0, 0.6))])
    assert not has_several_levels(furnished, RADIUS, HEIGHT)
    assert has_several_levels(triangles(two_floors()), RADIUS, HEIGHT)


def test_height_decides_the_floor(house):
    below, above = house.snap_point((2, 0.3, 3)), house.snap_point((2, 2.5, 3))
    np.testing.assert_allclose(below, [2, 0, 3], atol=1e-4)
    np.testing.assert_allclose(above, [2, UPSTAIRS_Y, 3], atol=1e-4)
    assert house.is_navigable(above) and not house.is_navigable((2, 1.3, 3))
    assert house.get_topdown_view(0.1, UPSTAIRS_Y).sum() < house.get_topdown_view(0.1, 0.0).sum()


def test_stairs_connect_the_floors(house):
    length, points = house.shortest_path((2, 0, 7), (2, UPSTAIRS_Y, 7))
    # around: to the foot of the stairs, up, and back over the landing
    foot, top = (STAIRS_X, 0, STAIRS_Z), (STAIRS_X, UPSTAIRS_Y, STAIRS_Z + 15 * STEP_RUN)
    through = (math.dist((2, 0, 7), foot) + math.dist(foot, top)
               + math.dist(top, (2, UPSTAIRS_Y, 7)))
    assert 0.85 * through < length < 1.1 * through
    assert points[0][1] == 0 and points[-1][1] == np.float32(UPSTAIRS_Y)
    assert house.geodesic((2, UPSTAIRS_Y, 7), (2, 0, 7)) == pytest.approx(length, rel=0.02)
    assert house.island((2, 0, 7)) == house.island((2, UPSTAIRS_Y, 7)) == 0


def test_without_stairs_the_floors_are_islands():
    mesh = HeightMesh(triangles(two_floors(stairs=False)), RADIUS, HEIGHT)
    assert mesh.geodesic((2, 0, 3), (2, UPSTAIRS_Y, 3)) == math.inf
    assert len(mesh.island_areas) == 2


def test_walking_up_the_stairs_step_by_step(house):
    at = np.array([STAIRS_X, 0, STAIRS_Z - 0.6], np.float32)
    heights = []
    for _ in range(24):
        at = house.try_step(at, at + np.array([0, 0, 0.25], np.float32))
        heights.append(at[1])
    assert heights[-1] == np.float32(UPSTAIRS_Y) and (np.diff(heights) >= -1e-6).all()
    under = house.try_step((2, 0, 3), (2.25, 0, 3))
    np.testing.assert_allclose(under, [2.25, 0, 3], atol=1e-4)


def test_the_expert_climbs_to_a_goal_upstairs(tmp_path):
    path = write_stage(tmp_path / 'scenes', 'house', two_floors())
    goal = (2, UPSTAIRS_Y, 3)
    write_split(tmp_path / 'dataset', 'some', [episode(1, path.name, (2, 0, 4), 0.0, [goal])])
    environment = Environment(EnvironmentConfig(
        dataset=str(tmp_path / 'dataset'), split='some', scenes_dir=str(path.parent),
        simulator='embedded', success_distance_m=0.5))
    environment.reset('1')
    environment.set_render(False)
    assert environment.metrics()['distance_to_goal'] > 10    # not the 3 m of the straight line
    while not environment.episode_over:
        for action in environment.expert_plan(12):
            seen = environment.step(action)
            if environment.episode_over:
                break
    found = environment.metrics()
    assert found['success'] == 1.0 and seen.y == pytest.approx(UPSTAIRS_Y)
    assert found['spl'] > 0.85
    environment.reset('1')    # the same stairs with velocities, slower than a cell a piece
    environment._env.sim.set_agent_state([STAIRS_X, 0, 0.4], list(frames.yaw_to_xyzw(math.pi)))
    environment._read_pose()
    heights = [environment.move(0.4, 0.0, 0.1).y for _ in range(140)]
    assert heights[-1] == pytest.approx(UPSTAIRS_Y) and (np.diff(heights) > -1e-6).all()
    environment.close()


def test_a_ledge_is_not_walked_over(house):
    at = np.array([4.0, UPSTAIRS_Y, 3], np.float32)
    for _ in range(4):
        at = house.try_step(at, at + np.array([0.25, 0, 0], np.float32))
    assert 4.2 < at[0] < 4.4 and at[1] == np.float32(UPSTAIRS_Y)


def test_a_ramp_within_45_degrees_is_walked_and_a_steeper_one_not():
    for rise, reaches in ((1.0, True), (2.6, False)):
        ramp = box('ramp', (1, 0, 2), (3, rise, 4))
        ramp.vertices[:, 1] *= (ramp.vertices[:, 2] - 2) / 2    # from nothing at z = 2
        deck = box('deck', (1, 0, 4), (3, rise, 6))
        mesh = HeightMesh(triangles([*room(0, 0, 4, 8, height=6), ramp, deck]), RADIUS, HEIGHT)
        assert math.isfinite(mesh.geodesic((2, 0, 1), (2, rise, 5))) == reaches


def test_lengths_are_near_the_exact_ones():
    rng = np.random.default_rng(2)
    pieces = []
    for k in range(9):    # apart, so that no passage is as narrow as the grid is coarse
        x, z = np.divmod(k, 3) * np.array(2.6) + rng.uniform(0.5, 0.9, 2)
        w, d = rng.uniform(0.4, 1.4, 2)
        pieces.append(box(f'piece_{k}', (x, 0, z), (x + w, 1, z + d)))
    scene = triangles([*room(0, 0, 8.5, 8.5), *pieces])
    exact, grid = NavMesh(scene, RADIUS, HEIGHT), HeightMesh(scene, RADIUS, HEIGHT)
    ratios = []
    for _ in range(20):
        a, b = exact.get_random_navigable_point(), exact.get_random_navigable_point()
        length, points = grid.shortest_path(a, b)
        assert length == pytest.approx(np.linalg.norm(np.diff(points, axis=0), axis=1).sum(),
                                       rel=1e-3)
        ratios.append((length + 0.2) / (exact.geodesic(a, b) + 0.2))
    assert 0.97 < min(ratios) and max(ratios) < 1.05 and 0.99 < np.mean(ratios) < 1.02
    assert grid.navigable_area == pytest.approx(exact.navigable_area, rel=0.05)


@pytest.mark.parametrize('step_m', [0.25, 0.05])
def test_a_slanting_wall_lets_the_agent_slide(step_m):
    wall = box('wall', (-6, 0, -0.1), (6, 2.5, 0.1))
    c, s = math.cos(0.5), math.sin(0.5)
    wall.vertices = (wall.vertices @ np.array([(c, 0, s), (0, 1, 0), (-s, 0, c)]).T
                     + (4, 0, 4)).astype(np.float32)
    mesh = HeightMesh(triangles([*room(0, 0, 8, 8), wall]), RADIUS, HEIGHT)
    at = start = mesh.snap_point((2, 0, 6.5))
    for _ in range(int(4 / step_m)):
        at = mesh.try_step(at, at + np.array([0.8 * step_m, 0, -0.6 * step_m], np.float32))
    assert at[0] - start[0] > 1.5 and mesh.is_navigable(at)
    stopped = mesh.try_step_no_sliding(start, start + np.array([0, 0, -4], np.float32))
    assert stopped[0] == pytest.approx(start[0], abs=1e-3) and mesh.is_navigable(stopped)


def test_random_points_of_an_island_lie_on_it():
    mesh = HeightMesh(triangles(two_floors(stairs=False)), RADIUS, HEIGHT)
    for island in (0, 1):
        points = [mesh.get_random_navigable_point(island_index=island) for _ in range(20)]
        assert {mesh.island(point) for point in points} == {island}
        assert all(mesh.distance_to_closest_obstacle(point) < 2.1 for point in points)
    mesh.seed(4)
    first = mesh.get_random_navigable_point()
    mesh.seed(4)
    np.testing.assert_array_equal(mesh.get_random_navigable_point(), first)


# meshes of every kind

def test_three_thousand_meshes(tmp_path):
    path = write_stage(tmp_path, 'bricks', [*room(0, 0, 20, 20),
                                            box('brick', (0, 0, 0), (0.1, 0.1, 0.1), RED)])
    places = np.random.default_rng(0).uniform(0.5, 19, (3000, 2))

    def multiply(doc):
        (brick,) = (k for k, node in enumerate(doc['nodes']) if node.get('name') == 'brick')
        mesh = doc['meshes'][doc['nodes'][brick]['mesh']]
        for k, (x, z) in enumerate(places):
            doc['nodes'].append({'name': f'brick_{k}', 'mesh': len(doc['meshes']),
                                 'translation': [x, 0, z]})
            doc['meshes'].append(mesh)
        doc['scenes'][0]['nodes'] = list(range(len(doc['nodes'])))
        doc['nodes'] = [{k: v for k, v in node.items() if k != 'children'}
                        for node in doc['nodes']]

    edited(tmp_path / 'bricks.glb', multiply)
    drawn, navmesh = load(path)
    assert len(drawn.names) == 3006 and isinstance(navmesh, HeightMesh)
    # bricks of 10 cm are stepped over
    assert navmesh.geodesic((1, 0, 1), (19, 0, 19)) == pytest.approx(18 * math.sqrt(2), rel=0.02)
    rgb, _, objects = drawn.render(looking(10, 0.8, 19.5), 64, 64, 90)
    seen = np.unique(objects[(rgb == RED).all(2)])
    assert len(seen) > 20 and all(drawn.names[k].startswith('brick') for k in seen)


def glb_of(tmp_path, mesh, visual):
    scene = trimesh.Scene(trimesh.Trimesh(mesh.vertices, mesh.faces, visual=visual,
                                          process=False))
    path = tmp_path / 'one.glb'
    path.write_bytes(scene.export(file_type='glb'))
    return path


def edited(path, change):
    """Rewrites the JSON of a .glb."""
    data = path.read_bytes()
    length = struct.unpack_from('<I', data, 12)[0]
    doc = json.loads(data[20:20 + length])
    change(doc)
    text = json.dumps(doc).encode()
    text += b' ' * (-len(text) % 4)
    rest = data[20 + length:]
    path.write_bytes(struct.pack('<4sIIII', b'glTF', 2, 20 + len(text) + len(rest), len(text),
                                 0x4E4F534A) + text + rest)
    return path


def textured_box(tmp_path, colour=GREEN, factor=None):
    mesh = box('one', (-1, -1, -1), (1, 1, 1))
    image = Image.fromarray(np.full((4, 4, 3), colour, np.uint8))
    material = PBRMaterial(baseColorTexture=image, baseColorFactor=factor)
    return glb_of(tmp_path, mesh, TextureVisuals(uv=np.zeros((len(mesh.vertices), 2)),
                                                 material=material))


def front_colour(path):
    rgb, _, _ = Scene(load_glb(path)).render(looking(0, 0, 3), 8, 8, 20)
    return tuple(int(v) for v in rgb[4, 4])


def test_a_missing_texture_leaves_the_colour_of_the_material(tmp_path, caplog):
    assert front_colour(textured_box(tmp_path)) == GREEN

    def lose(doc):
        doc['images'][0] = {'uri': 'gone.png'}

    path = edited(textured_box(tmp_path, factor=[51, 102, 204, 255]), lose)
    assert front_colour(path) == (51, 102, 204)
    assert 'no texture that can be read' in caplog.text
    Image.fromarray(np.full((4, 4, 3), BLUE, np.uint8)).save(tmp_path / 'gone.png')
    assert front_colour(edited(textured_box(tmp_path), lose)) == BLUE

    def embed(doc):
        text = base64.b64encode((tmp_path / 'gone.png').read_bytes()).decode()
        doc['images'][0] = {'uri': 'data:image/png;base64,' + text}

    assert front_colour(edited(textured_box(tmp_path), embed)) == BLUE

    def damage(doc):
        doc['bufferViews'][doc['images'][0]['bufferView']]['byteLength'] = 20

    assert front_colour(edited(textured_box(tmp_path), damage)) == (255, 255, 255)


def test_vertex_colours_are_mixed_over_the_triangle(tmp_path):
    mesh = box('one', (-1, -1, -1), (1, 1, 1))
    colours = np.zeros((len(mesh.vertices), 4), np.uint8)
    colours[:, 0] = np.where(mesh.vertices[:, 0] > 0, 200, 0)    # red grows with x
    colours[:, 3] = 255
    path = glb_of(tmp_path, mesh, ColorVisuals(vertex_colors=colours))
    rgb, _, _ = Scene(load_glb(path)).render(looking(0, 0, 2), 64, 64, 90)
    row = rgb[32].astype(int)
    wanted = (np.arange(64) + 0.5) / 64 * 200
    assert np.abs(row[:, 0] - wanted).max() <= 3 and (row[:, 1:] == 0).all()


def test_nested_nodes_move_their_meshes(tmp_path):
    def nest(doc):
        (at,) = (k for k, node in enumerate(doc['nodes']) if 'mesh' in node)
        doc['nodes'].append({'children': [at], 'scale': [2, 1, 1]})
        doc['nodes'].append({'children': [len(doc['nodes']) - 1],
                             'rotation': [0, math.sqrt(0.5), 0, math.sqrt(0.5)],
                             'translation': [5, 0, 0]})
        doc['scenes'][0]['nodes'] = [len(doc['nodes']) - 1]

    (mesh,) = load_glb(edited(textured_box(tmp_path), nest))
    np.testing.assert_allclose(mesh.vertices.min(0), [4, -1, -2], atol=1e-6)
    np.testing.assert_allclose(mesh.vertices.max(0), [6, 1, 2], atol=1e-6)


def test_strips_fans_and_lines(tmp_path):
    def mode(number):
        def change(doc):
            doc['meshes'][0]['primitives'][0]['mode'] = number
        return change

    (strip,) = load_glb(edited(textured_box(tmp_path), mode(5)))
    (fan,) = load_glb(edited(textured_box(tmp_path), mode(6)))
    (plain,) = load_glb(textured_box(tmp_path))
    order = plain.faces.ravel()
    assert len(strip.faces) == len(fan.faces) == len(order) - 2
    np.testing.assert_array_equal(strip.faces[1], order[[1, 3, 2]])
    np.testing.assert_array_equal(fan.faces[1], [order[2], order[3], order[0]])
    with pytest.raises(UserError, match='no node with a mesh'):
        load_glb(edited(textured_box(tmp_path), mode(1)))


@pytest.mark.parametrize('extension, remedy', [
    ('KHR_draco_mesh_compression', 'Blender'), ('EXT_meshopt_compression', 'gltfpack'),
    ('KHR_texture_basisu', 'PNG or JPEG'), ('VENDOR_something', 'export it without')])
def test_compression_is_refused_with_the_remedy(tmp_path, extension, remedy):
    path = edited(textured_box(tmp_path),
                  lambda doc: doc.update(extensionsRequired=['KHR_materials_unlit', extension]))
    with pytest.raises(UserError, match=f'one.glb .* requires {extension}, .*{remedy}'):
        load_glb(path)


def test_a_texture_that_is_only_there_compressed_is_refused(tmp_path):
    def compress(doc):
        doc['textures'][0] = {'extensions': {'KHR_texture_basisu': {'source': 0}}}

    with pytest.raises(UserError, match='only there as KHR_texture_basisu: take the variant'):
        load_glb(edited(textured_box(tmp_path), compress))

