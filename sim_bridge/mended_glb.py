"""Meshes that habitat-sim cannot draw, mended in a copy of which only the JSON differs.

habitat-sim (0.3.4) skips a texture that it cannot load and then draws its material with a pointer
to nothing: the process ends without a Python error. In the copy no material names such a texture,
so that its plain colour shows. And surfaces without any material are drawn with reflections alone,
black where those are left out; in the copy they have a plain material. Nothing but the standard
library is needed.
"""
from __future__ import annotations

import json
import os
import struct
import urllib.parse
from pathlib import Path

STAGE_CONFIG = '.stage_config.json'
ASSETS = ('collision_asset', 'semantic_asset', 'nav_asset', 'semantic_descriptor_filename')
_HEADER = struct.Struct('<4sIIII')    # magic, version, length, length of the JSON, 'JSON'
_ENDS = {b'\x89PNG': b'IEND', b'\xff\xd8\xff': b'\xff\xd9'}    # how whole pictures begin and end


def mended(scene, folder, without_reflections=False):
    """(path to open instead of `scene`, names of the pictures that are missing).

    scene: a .glb or a stage config, anything else comes back as it is. The path is `scene` itself
    where nothing is amiss, else that of a copy written to `folder`. The copy of a mesh without
    stage config leaves the files beside it behind: semantics and .navmesh.
    """
    config_path, asset = _stage(Path(scene))
    if asset is None or asset.suffix != '.glb' or not asset.is_file():
        return scene, []
    with open(asset, 'rb') as file:
        document = _document(file)
        lost = _lost_textures(document, file, asset.parent) if document else {}
        bare = _without_material(document) if document and without_reflections else []
        if not lost and not bare:
            return scene, []
        os.makedirs(folder, exist_ok=True)
        copy = os.path.join(folder, asset.name)
        _forget(document, lost)
        _give_material(document, bare)
        _point_to_pictures(document, asset.parent)
        _write(copy, document, file)
    if config_path is None:
        return copy, sorted(lost.values())
    config = json.loads(config_path.read_text(encoding='utf-8'))
    for key in ASSETS:
        if config.get(key):
            config[key] = str(config_path.parent.resolve() / config[key])
    config['render_asset'] = asset.name
    config_copy = os.path.join(folder, config_path.name)
    with open(config_copy, 'w', encoding='utf-8') as file:
        json.dump(config, file)
    return config_copy, sorted(lost.values())


def _stage(scene):
    """(stage config or None, mesh or None) as habitat-sim finds them."""
    if scene.suffix == '.glb':
        beside = scene.with_name(Path(scene.stem).stem + STAGE_CONFIG)
        return (beside if beside.is_file() else None), scene
    if scene.name.endswith(STAGE_CONFIG) and scene.is_file():
        try:
            return scene, scene.parent / json.loads(scene.read_text('utf-8'))['render_asset']
        except (ValueError, KeyError, TypeError):
            pass    # habitat-sim says what is wrong with it
    return None, None


def _document(file):
    """The JSON of a .glb, None when it is not one; leaves the file behind it."""
    header = file.read(_HEADER.size)
    if len(header) < _HEADER.size:
        return None
    magic, version, _, length, _ = _HEADER.unpack(header)
    if magic != b'glTF' or version != 2:
        return None
    try:
        return json.loads(file.read(length))
    except ValueError:
        return None


def _lost_textures(document, file, folder):
    """{number of a texture: its picture's name} of those that cannot be loaded."""
    data_at = _HEADER.size + _json_bytes(file) + 8
    images = document.get('images', [])
    lost = {}
    for number, texture in enumerate(document.get('textures', [])):
        basis = texture.get('extensions', {}).get('KHR_texture_basisu', {})
        source = texture.get('source', basis.get('source'))
        if source is None or source >= len(images):
            lost[number] = f'texture {number}'
        elif not _is_whole(images[source], document, file, data_at, folder):
            lost[number] = images[source].get('uri') or f'image {source}'
    return lost


def _json_bytes(file):
    """Length of the JSON of an open .glb."""
    file.seek(0)
    return _HEADER.unpack(file.read(_HEADER.size))[3]


def _is_whole(image, document, file, data_at, folder):
    """Whether a picture is there from its first bytes to its last."""
    if 'bufferView' not in image:
        uri = image.get('uri', '')
        return uri.startswith('data:') or (uri != '' and _picture(uri, folder).is_file())
    view = document['bufferViews'][image['bufferView']]
    file.seek(data_at + view.get('byteOffset', 0))
    raw = file.read(view['byteLength'])
    for begin, end in _ENDS.items():
        if raw.startswith(begin):
            return end in raw[-64:]
    return len(raw) == view['byteLength']


def _picture(uri, folder):
    return folder / urllib.parse.unquote(uri)


def _forget(document, lost):
    """Takes references to lost textures out of every material."""
    for material in document.get('materials', []):
        for holder in (material, material.get('pbrMetallicRoughness', {}),
                       *material.get('extensions', {}).values()):
            for key in [k for k, v in holder.items()
                        if k.endswith('Texture') and v.get('index') in lost]:
                del holder[key]


def _without_material(document):
    return [primitive for mesh in document.get('meshes', [])
            for primitive in mesh.get('primitives', []) if 'material' not in primitive]


def _give_material(document, primitives):
    if primitives:
        materials = document.setdefault('materials', [])
        materials.append({'name': 'plain', 'pbrMetallicRoughness': {'metallicFactor': 0.0}})
        for primitive in primitives:
            primitive['material'] = len(materials) - 1


def _point_to_pictures(document, folder):
    """The copy lies elsewhere than the pictures beside the mesh."""
    for image in document.get('images', []):
        uri = image.get('uri', '')
        if uri and not uri.startswith('data:'):
            image['uri'] = urllib.parse.quote(str(_picture(uri, folder).resolve()))


def _write(path, document, source):
    """The .glb with another JSON; the rest is copied."""
    source.seek(_HEADER.size + _json_bytes(source))
    rest = source.read()
    text = json.dumps(document).encode()
    text += b' ' * (-len(text) % 4)
    with open(path, 'wb') as file:
        file.write(_HEADER.pack(b'glTF', 2, _HEADER.size + len(text) + len(rest), len(text),
                                0x4E4F534A))
        file.write(text)
        file.write(rest)
