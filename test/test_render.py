"""The renderer and the scene reader against what geometry says must be seen."""
import json
import math
import struct
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import trimesh
from PIL import Image
from small_scenes import BLUE, GREEN, GREY, RED, box, room, write_stage
from trimesh.visual import TextureVisuals
from trimesh.visual.material import PBRMaterial

from sim_bridge.embedded.glb import Mesh, load_glb
from sim_bridge.embedded.render import Scene
from vlnr1_ros.navigation.errors import UserError

EYE = (0.0, 1.25, 0.0)


def camera(position=EYE, yaw_deg=0.0, pitch_deg=0.0):
    yaw, pitch = math.radians(yaw_deg), math.radians(pitch_deg)
    turn = np.array([[math.cos(yaw), 0, math.sin(yaw)], [0, 1, 0],
                     [-math.sin(yaw), 0, math.cos(yaw)]])
    tilt = np.array([[1, 0, 0], [0, math.cos(pitch), -math.sin(pitch)],
                     [0, math.sin(pitch), math.cos(pitch)]])
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = turn @ tilt, position
    return pose


def quad(name, corners, image, uv=((0, 1), (1, 1), (1, 0), (0, 0)), two_sided=False):
    """corners counter-clockwise from the lower left."""
    return Mesh(name, np.array(corners, np.float32), np.array([(0, 1, 2), (0, 2, 3)], np.int32),
                np.array(uv, np.float32), np.asarray(image, np.uint8), two_sided)


def wall_ahead(z, image, half=1.0, **kwargs):
    return quad('wall', [(-half, 1.25 - half, z), (half, 1.25 - half, z), (half, 1.25 + half, z),
                         (-half, 1.25 + half, z)], image, **kwargs)


def centre_of(mask):
    """(column, row) of the middle of a mask, in pixels from the image's edge."""
    rows, columns = np.nonzero(mask)
    return columns.mean() + 0.5, rows.mean() + 0.5


@pytest.fixture(scope='module')
def house():
    rng = np.random.default_rng(0)
    pieces = []
    for number in range(20):
        x, z = rng.uniform(-3.5, 3, 2)
        colour = rng.integers(0, 255, 3)
        pieces.append(box(f'piece_{number}', (x, 0, z), (x + 0.5, rng.uniform(0.3, 2), z + 0.5),
                          colour))
    return Scene([*room(-4, -4, 4, 4), box('ceiling', (-4.1, 2.5, -4.1), (4.1, 2.6, 4.1)),
                  *pieces])


def test_depth_is_the_distance_along_the_axis():
    scene = Scene([box('wall', (-20, -20, -3.5), (20, 20, -3.0))])
    rgb, depth, objects = scene.render(camera(), 64, 48, 90)
    assert rgb.shape == (48, 64, 3) and rgb.dtype == np.uint8
    assert depth.shape == (48, 64) and depth.dtype == np.float32 and objects.dtype == np.int32
    np.testing.assert_allclose(depth, 3.0, rtol=1e-5)
    assert (objects == 0).all() and (rgb == GREY).all()


def test_depth_of_the_floor_follows_the_rows():
    scene = Scene([box('slab', (-50, -1, -50), (50, 0, 50))])
    _, depth, _ = scene.render(camera(), 224, 224, 90)
    rows = np.arange(130, 224)
    expected = 1.25 / ((rows + 0.5 - 112) / 112)
    np.testing.assert_allclose(depth[130:, 100], expected, rtol=1e-4)


def test_nothing_is_black_and_has_no_depth():
    scene = Scene([box('behind', (-1, 0, 2), (1, 2, 3))])
    rgb, depth, objects = scene.render(camera(), 32, 32, 90)
    assert (rgb == 0).all() and (depth == 0).all() and (objects == -1).all()


@pytest.mark.parametrize('centre, side', [((-1, 1.25, -3), 'left'), ((1, 1.25, -3), 'right'),
                                          ((0, 2.25, -3), 'up'), ((0, 0.25, -3), 'down')])
def test_things_appear_on_the_side_where_they_stand(centre, side):
    low, high = np.array(centre) - 0.2, np.array(centre) + 0.2
    rgb, _, _ = Scene([box('thing', low, high, RED)]).render(camera(), 64, 64, 90)
    column, row = centre_of((rgb == RED).all(-1))
    horizontal = 'left' if column < 31 else 'right' if column > 33 else ''
    vertical = 'up' if row < 31 else 'down' if row > 33 else ''
    assert horizontal + vertical == side


def test_yaw_turns_left():
    scene = Scene([box('left', (-4, 0, -0.5), (-3, 2, 0.5), RED),
                   box('back', (-0.5, 0, 3), (0.5, 2, 4), BLUE)])
    left = scene.render(camera(yaw_deg=90), 33, 33, 90)[0]
    back = scene.render(camera(yaw_deg=180), 33, 33, 90)[0]
    assert tuple(left[16, 16]) == RED and tuple(back[16, 16]) == BLUE


@pytest.mark.parametrize('width, height, hfov_deg', [(224, 224, 90), (320, 240, 60),
                                                     (160, 224, 120)])
@pytest.mark.parametrize('bearing_deg', [-25, -10, 0, 18, 28])
def test_a_pole_lands_on_its_column_and_row(width, height, hfov_deg, bearing_deg):
    """Pinhole camera: column = W/2 (1 + tan(bearing) / tan(hfov/2)), square pixels."""
    x, y = 5 * math.tan(math.radians(bearing_deg)), 1.8
    pole = box('pole', (x - 0.1, y - 0.1, -5.001), (x + 0.1, y + 0.1, -5), RED)
    objects = Scene([pole]).render(camera(), width, height, hfov_deg)[2]
    column, row = centre_of(objects == 0)
    focal = width / 2 / math.tan(math.radians(hfov_deg) / 2)
    assert column == pytest.approx(width / 2 + focal * x / 5, abs=0.6)
    assert row == pytest.approx(height / 2 - focal * (y - 1.25) / 5, abs=0.6)


def test_objects_carry_their_names(house):
    scene = Scene([box('red_sofa', (-2, 0, -4), (-1, 2, -3), RED),
                   box('green_lamp', (1, 0, -4), (2, 2, -3), GREEN)])
    rgb, _, objects = scene.render(camera(), 96, 96, 90)
    for name, colour in (('red_sofa', RED), ('green_lamp', GREEN)):
        index = scene.names.index(name)
        assert (objects == index).sum() > 50
        assert (rgb[objects == index] == colour).all()
    assert len(house.names) == 26


@pytest.mark.parametrize('near, far', [('a', 'b'), ('b', 'a')])    # objects are drawn by name
def test_nearer_things_hide_farther_ones(near, far):
    scene = Scene([box(near, (-1, 0, -3), (1, 2, -2), RED),
                   box(far, (-1, 0, -6), (1, 2, -5), BLUE)])
    rgb, depth, objects = scene.render(camera(), 33, 33, 60)
    assert tuple(rgb[16, 16]) == RED and depth[16, 16] == pytest.approx(2.0, abs=1e-5)
    assert scene.names[objects[16, 16]] == near


def test_the_same_pose_gives_the_same_bytes(house):
    poses = [camera((x, 1.25, 0.1), yaw) for x, yaw in ((0, 0), (1, 77), (-2, 200))]
    first = [house.render(pose, 128, 96, 90) for pose in poses]
    with ThreadPoolExecutor(2) as pool:
        again = list(pool.map(lambda pose: house.render(pose, 128, 96, 90), poses))
    for one, other in zip(first, again):
        for a, b in zip(one, other):
            np.testing.assert_array_equal(a, b)


def test_only_what_is_asked_for_is_made(house):
    whole = house.render(camera(), 64, 64, 90)
    for index, name in enumerate(('rgb', 'depth', 'objects')):
        asked = {'rgb': False, 'depth': False, 'objects': False, name: True}
        part = house.render(camera(), 64, 64, 90, **asked)
        np.testing.assert_array_equal(part[index], whole[index])
        assert [image is None for image in part].count(True) == 2


def test_a_closed_room_has_no_holes(house):
    rng = np.random.default_rng(3)
    for _ in range(40):
        x, z = rng.uniform(-3.9, 3.9, 2)
        _, depth, objects = house.render(camera((x, 1.25, z), rng.uniform(0, 360)), 160, 120, 90)
        assert (objects >= 0).all() and (depth > 0).all()


def test_a_wall_close_to_the_camera_fills_the_view():
    scene = Scene([box('wall', (-9, -9, -1), (9, 9, -0.11), BLUE)])
    for yaw_deg in (0, 40, -40):
        rgb, depth, _ = scene.render(camera(yaw_deg=yaw_deg), 64, 64, 90)
        assert (rgb == BLUE).all() and 0.05 < depth.min() < 0.2


def test_back_faces_are_not_drawn_unless_two_sided():
    red = np.full((1, 1, 3), RED)
    for two_sided, seen in ((False, (0, 0, 0)), (True, RED)):
        away = wall_ahead(-2, red, two_sided=two_sided)
        away.faces = away.faces[:, ::-1]
        assert tuple(Scene([away]).render(camera(), 9, 9, 40)[0][4, 4]) == seen


def test_a_texture_is_upright_and_not_mirrored():
    image = np.zeros((2, 2, 3), np.uint8)
    image[0, 0], image[0, 1], image[1, 0], image[1, 1] = RED, GREEN, BLUE, (255, 255, 255)
    image = image.repeat(32, 0).repeat(32, 1)
    rgb = Scene([wall_ahead(-1, image)]).render(camera(), 64, 64, 90)[0]
    assert [tuple(rgb[16, 16]), tuple(rgb[16, 48])] == [RED, GREEN]
    assert [tuple(rgb[48, 16]), tuple(rgb[48, 48])] == [BLUE, (255, 255, 255)]


def test_textures_are_perspective_correct():
    """Stripes of one metre on the floor begin at the rows the pinhole camera gives."""
    stripes = np.zeros((2, 2, 3), np.uint8)
    stripes[0] = 255
    stripes = stripes.repeat(64, 0).repeat(64, 1)
    floor = quad('floor', [(-4, 0, 0), (4, 0, 0), (4, 0, -8), (-4, 0, -8)], stripes,
                 uv=[(0, 0), (4, 0), (4, -4), (0, -4)])
    rgb = Scene([floor]).render(camera(), 224, 224, 90)[0]
    column = rgb[:, 112, 0] > 127
    changes = np.nonzero(column[1:] != column[:-1])[0] + 1
    for distance_m in (2, 3, 4):
        assert np.abs(changes - (112 + 112 * 1.25 / distance_m)).min() <= 1


def test_fine_patterns_fade_with_distance_instead_of_flickering():
    checks = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)[..., None].repeat(3, 2)
    wall = wall_ahead(-8, checks, uv=((0, 4), (4, 4), (4, 0), (0, 0)))
    rgb, _, objects = Scene([wall]).render(camera(), 128, 128, 60)
    seen = rgb[objects == 0]
    assert seen.std() < 5 and abs(seen.mean() - 127.5) < 5


def test_textures_of_any_size_keep_their_colours():
    image = np.full((37, 100, 3), GREEN, np.uint8)
    rgb, _, objects = Scene([wall_ahead(-1, image)]).render(camera(), 32, 32, 60)
    assert (rgb[objects == 0] == GREEN).all()


# reading .glb files

def test_glb_keeps_names_places_and_textures(tmp_path):
    image = np.zeros((2, 2, 3), np.uint8)
    image[0, 0], image[0, 1], image[1, 0], image[1, 1] = RED, GREEN, BLUE, (255, 255, 255)
    picture = Image.fromarray(image.repeat(32, 0).repeat(32, 1))
    wall = trimesh.Trimesh([(-1, -1, 0), (1, -1, 0), (1, 1, 0), (-1, 1, 0)],
                           [(0, 1, 2), (0, 2, 3)], process=False)
    wall.visual = TextureVisuals(uv=[(0, 0), (1, 0), (1, 1), (0, 1)],
                                 material=PBRMaterial(baseColorTexture=picture))
    parent = trimesh.transformations.rotation_matrix(math.pi / 2, (0, 1, 0))
    child = np.diag([2.0, 1.0, 1.0, 1.0])
    child[:3, 3] = (0, 1.25, -3)
    scene = trimesh.Scene()
    scene.graph.update('parent', matrix=parent)
    scene.add_geometry(wall, node_name='poster', geom_name='shape', parent_node_name='parent',
                       transform=child)
    path = tmp_path / 'poster.glb'
    path.write_bytes(scene.export(file_type='glb'))
    (mesh,) = load_glb(path)
    assert mesh.name == 'poster'
    np.testing.assert_allclose(mesh.vertices[0], (-3, 0.25, 2), atol=1e-6)
    rgb, depth, _ = Scene([mesh]).render(camera(yaw_deg=90), 64, 64, 60)
    assert depth[32, 32] == pytest.approx(3.0, abs=1e-5)
    assert [tuple(rgb[24, 16]), tuple(rgb[24, 48])] == [RED, GREEN]
    assert [tuple(rgb[40, 16]), tuple(rgb[40, 48])] == [BLUE, (255, 255, 255)]


def test_glb_of_boxes_equals_the_boxes(tmp_path):
    meshes = [box('slab', (-3, -0.2, -5), (3, 0, 1)), box('cube', (-1, 0, -4), (0, 1, -3), RED)]
    write_stage(tmp_path, 'boxes', meshes)
    loaded = load_glb(tmp_path / 'boxes.glb')
    assert sorted(mesh.name for mesh in loaded) == ['cube', 'slab']
    for a, b in zip(Scene(meshes).render(camera(), 96, 96, 90),
                    Scene(loaded).render(camera(), 96, 96, 90)):
        np.testing.assert_array_equal(a, b)


def glb_bytes(document, binary=b''):
    text = json.dumps(document).encode()
    text += b' ' * (-len(text) % 4)
    chunks = struct.pack('<II', len(text), 0x4E4F534A) + text
    if binary:
        chunks += struct.pack('<II', len(binary), 0x004E4942) + binary
    return struct.pack('<4sII', b'glTF', 2, 12 + len(chunks)) + chunks


def one_triangle(**changes):
    binary = np.array([(0, 0, 0), (1, 0, 0), (0, 1, 0)], np.float32).tobytes()
    document = {
        'asset': {'version': '2.0'}, 'scene': 0, 'scenes': [{'nodes': [0]}],
        'nodes': [{'mesh': 0, 'name': 'triangle'}],
        'meshes': [{'primitives': [{'attributes': {'POSITION': 0}, 'material': 0}]}],
        'materials': [{'pbrMetallicRoughness': {'baseColorFactor': [1, 0.5, 0, 1]}}],
        'accessors': [{'bufferView': 0, 'componentType': 5126, 'count': 3, 'type': 'VEC3'}],
        'bufferViews': [{'buffer': 0, 'byteLength': 36}], 'buffers': [{'byteLength': 36}]}
    document.update(changes)
    return glb_bytes(document, binary)


def test_glb_without_texture_or_indices_takes_the_material_colour(tmp_path):
    path = tmp_path / 'triangle.glb'
    path.write_bytes(one_triangle())
    (mesh,) = load_glb(path)
    assert mesh.faces.tolist() == [[0, 1, 2]]
    np.testing.assert_array_equal(mesh.image, [[(255, 128, 0)]])


@pytest.mark.parametrize('content, reason', [
    (b'', 'only 0 bytes'),
    (b'x' * 64, 'not a binary glTF'),
    (one_triangle()[:-20], 'cut short'),
    (glb_bytes({'asset': {}}), 'no node with a mesh'),
    (one_triangle(extensionsRequired=['KHR_draco_mesh_compression']), 'KHR_draco'),
    (one_triangle(buffers=[{'uri': 'away.bin', 'byteLength': 36}]), 'external'),
    (one_triangle(accessors=[]), 'index out of range'),
    (one_triangle(bufferViews=[{'buffer': 0}]), "missing 'byteLength'"),
    (one_triangle(accessors=[{'bufferView': 0, 'componentType': 5126, 'count': 300,
                              'type': 'VEC3'}]), 'past the end'),
    (one_triangle(nodes=[{'mesh': 0, 'children': [0]}]), 'ancestor')])
def test_broken_glb_files_are_named(tmp_path, content, reason):
    path = tmp_path / 'broken.glb'
    path.write_bytes(content)
    with pytest.raises(UserError, match='broken.glb') as error:
        load_glb(path)
    assert reason in str(error.value)


def test_a_missing_glb_is_named(tmp_path):
    with pytest.raises(UserError, match='gone.glb: No such file'):
        load_glb(tmp_path / 'gone.glb')
