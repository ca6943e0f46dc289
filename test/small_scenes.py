"""Hand-made scenes for the tests: boxes with known places, and the files that hold them."""
import gzip
import json

import numpy as np
import trimesh
from PIL import Image
from trimesh.visual import TextureVisuals
from trimesh.visual.material import PBRMaterial

from sim_bridge.embedded.glb import Mesh

RED, GREEN, BLUE, GREY = (200, 30, 20), (20, 180, 40), (30, 40, 210), (120, 120, 120)
_FACES = [(0, 3, 2, 1), (4, 5, 6, 7), (0, 1, 5, 4), (3, 7, 6, 2), (0, 4, 7, 3), (1, 2, 6, 5)]


def box(name, low, high, colour=GREY):
    """A closed box, counter-clockwise from outside, of one colour."""
    x0, y0, z0, x1, y1, z1 = *low, *high
    corners = np.array([(x0, y0, z0), (x1, y0, z0), (x1, y1, z0), (x0, y1, z0),
                        (x0, y0, z1), (x1, y0, z1), (x1, y1, z1), (x0, y1, z1)], np.float32)
    vertices = np.concatenate([corners[list(face)] for face in _FACES])
    faces = np.concatenate([[(4 * k, 4 * k + 1, 4 * k + 2), (4 * k, 4 * k + 2, 4 * k + 3)]
                            for k in range(6)]).astype(np.int32)
    return Mesh(name, vertices, faces, None, np.full((1, 1, 3), colour, np.uint8))


def room(x0, z0, x1, z1, height=2.5):
    """A floor slab with its top at y = 0 and four walls that stand around the rectangle."""
    t = 0.1
    return [box('slab', (x0 - t, -0.1999, z0 - t), (x1 + t, 0.0, z1 + t)),
            box('wall_west', (x0 - t, 0, z0 - t), (x0, height, z1 + t), GREY),
            box('wall_east', (x1, 0, z0 - t), (x1 + t, height, z1 + t), GREY),
            box('wall_north', (x0, 0, z0 - t), (x1, height, z0), GREY),
            box('wall_south', (x0, 0, z1), (x1, height, z1 + t), GREY)]


def triangles(meshes):
    """(T, 3, 3) of all meshes."""
    return np.concatenate([mesh.vertices[mesh.faces] for mesh in meshes])


def write_stage(folder, name, meshes, **stage):
    """Writes name.glb (through trimesh) and its stage config; returns the config's path."""
    scene = trimesh.Scene()
    for mesh in meshes:
        image = Image.fromarray(np.repeat(np.repeat(mesh.image, 4, 0), 4, 1))
        visual = TextureVisuals(uv=np.zeros((len(mesh.vertices), 2)),
                                material=PBRMaterial(baseColorTexture=image))
        geometry = trimesh.Trimesh(mesh.vertices, mesh.faces, visual=visual, process=False)
        scene.add_geometry(geometry, node_name=mesh.name, geom_name=mesh.name)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f'{name}.glb').write_bytes(scene.export(file_type='glb'))
    config = {'render_asset': f'{name}.glb', 'up': [0, 1, 0], 'front': [0, 0, -1],
              'units_to_meters': 1.0, **stage}
    path = folder / f'{name}.stage_config.json'
    path.write_text(json.dumps(config))
    return path


def episode(number, scene_id, start, yaw_rad, goals):
    """One VLN-CE episode as habitat-lab reads it."""
    goals = [[float(v) for v in goal] for goal in goals]
    return {'episode_id': str(number), 'trajectory_id': str(number), 'scene_id': scene_id,
            'start_position': [float(v) for v in start],
            'start_rotation': [0.0, float(np.sin(yaw_rad / 2)), 0.0, float(np.cos(yaw_rad / 2))],
            'info': {}, 'goals': [{'position': goal, 'radius': 1.0} for goal in goals],
            'instruction': {'instruction_text': 'Walk to the red box.',
                            'instruction_tokens': [0] * 4},
            'reference_path': [[float(v) for v in start], goals[0]]}


def write_split(dataset, split, episodes):
    """Writes {split}/{split}.json.gz below a dataset folder."""
    folder = dataset / split
    folder.mkdir(parents=True, exist_ok=True)
    with gzip.open(folder / f'{split}.json.gz', 'wt') as file:
        json.dump({'episodes': episodes, 'instruction_vocab': {'word_list': ['walk']}}, file)
