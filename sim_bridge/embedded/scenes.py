"""From a scene's path to its picture and its floor, loaded once.

Which mesh, and which way up, is decided as habitat-sim decides it
(esp/metadata/managers/StageAttributesManager.cpp, ManagedFileBasedContainer.h): a stage config is
taken as it is, a .glb looks for a stage config beside it, and without one the mesh is Z-up as
Matterport3D's are, unless the scene dataset config has default attributes for its stages.
"""
from __future__ import annotations

import json
import logging
from functools import lru_cache
from pathlib import Path

import numpy as np

from sim_bridge.embedded.glb import load_glb
from sim_bridge.embedded.height_mesh import navmesh_of
from sim_bridge.embedded.render import Scene
from vlnr1_ros.navigation.errors import UserError

CACHED_SCENES = 16
STAGE_CONFIG = '.stage_config.json'
Y_UP = {'up': [0, 1, 0], 'front': [0, 0, -1]}
BARE_GLB = {'up': [0, 0, 1], 'front': [0, 1, 0]}
REQUIRED = {'units_to_meters': 1, 'scale': [1, 1, 1]}


def resolve_stage(path, dataset='default'):
    """(.glb, up, front) of a scene given as a .glb or a stage config.

    dataset: the scene dataset config the episode names, or 'default'. up and front are axes of
    the mesh. Raises UserError for scaled scenes (habitat-sim itself leaves their navigation mesh
    unscaled), for other kinds of files, and for missing ones.
    """
    path = Path(path)
    defaults = _stage_defaults(dataset)
    if path.name.endswith(STAGE_CONFIG):
        config_path = path
    elif path.suffix == '.glb':
        # habitat-sim takes two endings off: room.basis.glb belongs to room.stage_config.json
        stem = Path(path.stem).stem
        config_path = path.with_name(stem + STAGE_CONFIG)
        if path.is_file() and not config_path.is_file():
            return (path, *_axes(path, BARE_GLB if defaults is None else defaults))
    else:
        raise UserError(f'scene {path} is neither a .glb nor a *{STAGE_CONFIG} file')
    config = {**(defaults or {}), **_read(config_path, 'a stage config', 'the stage config')}
    if 'render_asset' not in config:
        raise UserError(f'{config_path} is not a stage config: JSON with "render_asset" and "up" '
                        'is expected')
    asset = config_path.parent / config['render_asset']
    if not asset.is_file():
        raise UserError(f'{config_path} names the mesh {asset}, which does not exist')
    if asset.suffix != '.glb':
        raise UserError(f'{config_path} names the mesh {asset}: the embedded simulator reads .glb '
                        'only; convert it, or install habitat-sim')
    return (asset, *_axes(config_path, config))


def _read(path, kind, name):
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except OSError as error:
        raise UserError(f'cannot read {name} {path}: {error.strerror}') from None
    except ValueError as error:
        raise UserError(f'{path} is not {kind}: JSON is expected ({error})') from None
    if not isinstance(content, dict):
        raise UserError(f'{path} is not {kind}: a JSON object is expected')
    return content


def _stage_defaults(dataset):
    """The default attributes a scene dataset config has for its stages, None without any."""
    if not str(dataset).endswith('.json'):
        return None
    stages = _read(Path(dataset), 'a scene dataset config', 'the scene dataset config')
    return stages.get('stages', {}).get('default_attributes')


def _axes(path, config):
    for key, wanted in REQUIRED.items():
        if config.get(key, wanted) != wanted:
            raise UserError(f'{path} has "{key}": {config[key]}, but the embedded simulator only '
                            f'shows scenes with {wanted}: convert the mesh to that')
    up, front = (np.array(config.get(key, axis), float) for key, axis in Y_UP.items())
    if up.shape != (3,) or front.shape != (3,) or not up.any() or not front.any():
        raise UserError(f'{path} has "up": {config.get("up")}, "front": {config.get("front")}: '
                        'two vectors of three numbers are expected')
    up, front = up / np.linalg.norm(up), front / np.linalg.norm(front)
    if abs(up @ front) > 1e-5:
        raise UserError(f'{path} has "up" and "front" that are not at right angles: '
                        f'{up.tolist()} and {front.tolist()}')
    return tuple(up), tuple(front)


def _to_world(meshes, up, front):
    """Turns meshes so that `up` becomes +y and `front` -z."""
    rotation = np.array([np.cross(front, up), up, -np.array(front)])
    if not np.array_equal(rotation, np.eye(3)):
        for mesh in meshes:
            mesh.vertices = (mesh.vertices @ rotation.T).astype(np.float32)
    return meshes


def _warn_when_on_its_side(asset, up, triangles):
    """habitat-sim says nothing when it lays a Y-up mesh on its side; the shape gives it away."""
    size = np.ptp(triangles, axis=(0, 1))
    if up == tuple(BARE_GLB['up']) and size[1] > 1.5 * min(size[0], size[2]):
        logging.getLogger(__name__).warning(
            '%s is taken for Z-up and then %.1f m high on a floor of %.1f x %.1f m: if it is '
            'Y-up, write %s beside it with {"render_asset": "%s", "up": [0, 1, 0], '
            '"front": [0, 0, -1]}', asset, size[1], size[0], size[2],
            Path(asset.stem).stem + STAGE_CONFIG, asset.name)


@lru_cache(maxsize=CACHED_SCENES)
def _load(asset, stamp, up, front, radius_m, height_m):
    meshes = _to_world(load_glb(asset), up, front)
    try:
        scene = Scene(meshes)
        _warn_when_on_its_side(asset, up, scene.triangles)
        return scene, navmesh_of(scene.triangles, radius_m, height_m)
    except UserError as error:
        turned = '' if up == tuple(Y_UP['up']) else f' (taken with up = {list(up)})'
        raise UserError(f'{asset}{turned}: {error}') from None


def load_scene(path, radius_m, height_m, dataset='default'):
    """(Scene, navigation mesh) of a .glb or stage config for an agent of this size.

    The last few scenes are kept; a file that changed is read again. Both are shared between
    callers. Raises UserError naming the file when it cannot be used.
    """
    asset, up, front = resolve_stage(path, dataset)
    asset = asset.resolve()
    status = asset.stat()
    return _load(asset, (status.st_mtime_ns, status.st_size), up, front, float(radius_m),
                 float(height_m))
