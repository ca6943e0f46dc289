"""From a scene's path to its picture and its floor, loaded once."""
from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

from sim_bridge.embedded.glb import load_glb
from sim_bridge.embedded.navmesh import NavMesh
from sim_bridge.embedded.render import Scene
from vlnr1_ros.navigation.errors import UserError

CACHED_SCENES = 16
STAGE_CONFIG = '.stage_config.json'
REQUIRED = {'up': [0, 1, 0], 'front': [0, 0, -1], 'units_to_meters': 1, 'scale': [1, 1, 1]}


def resolve_stage(path):
    """(stage config, .glb) of a scene given as either of the two; the config must be there.

    habitat-sim takes a .glb without a stage config for one with Z up, turns it on its side and
    says nothing. Raises UserError for that, for other axes or units, and for missing files.
    """
    path = Path(path)
    if path.name.endswith(STAGE_CONFIG):
        config_path = path
    elif path.suffix == '.glb':
        config_path = path.with_name(path.stem + STAGE_CONFIG)
        if path.is_file() and not config_path.is_file():
            raise UserError(
                f'{path} has no stage config, so habitat-sim would take it for Z-up: write '
                f'{config_path.name} beside it with {{"render_asset": "{path.name}", '
                '"up": [0, 1, 0], "front": [0, 0, -1], "units_to_meters": 1}')
    else:
        raise UserError(f'scene {path} is neither a .glb nor a *{STAGE_CONFIG} file')
    try:
        config = json.loads(config_path.read_text(encoding='utf-8'))
        asset = config_path.parent / config['render_asset']
    except OSError as error:
        raise UserError(f'cannot read the stage config {config_path}: {error.strerror}') from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f'{config_path} is not a stage config: JSON with "render_asset" and "up" '
                        f'is expected ({type(error).__name__}: {error})') from None
    for key, wanted in REQUIRED.items():
        if config.get(key, wanted) != wanted:
            raise UserError(f'{config_path} has "{key}": {config[key]}, but the embedded '
                            f'simulator only shows scenes with {wanted}: convert the mesh to '
                            'that, or install habitat-sim')
    if not asset.is_file():
        raise UserError(f'{config_path} names the mesh {asset}, which does not exist')
    return config_path, asset


@lru_cache(maxsize=CACHED_SCENES)
def _load(asset, stamp, radius_m, height_m):
    meshes = load_glb(asset)
    try:
        scene = Scene(meshes)
        return scene, NavMesh(scene.triangles, radius_m, height_m)
    except UserError as error:
        raise UserError(f'{asset}: {error}') from None


def load_scene(path, radius_m, height_m):
    """(Scene, NavMesh) of a .glb or stage config for an agent of this size.

    The last few scenes are kept; a file that changed is read again. Scene and NavMesh are shared
    between callers. Raises UserError naming the file when it cannot be used.
    """
    _, asset = resolve_stage(path)
    asset = asset.resolve()
    status = asset.stat()
    return _load(asset, (status.st_mtime_ns, status.st_size), float(radius_m), float(height_m))
