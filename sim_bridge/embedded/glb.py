"""Reads the part of binary glTF 2.0 that a textured, static scene needs.

Specification: https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html (3.5 to 3.9 and 4.4).
"""
from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import cv2
import numpy as np

from vlnr1_ros.navigation.errors import UserError

_COMPONENTS = {5120: np.int8, 5121: np.uint8, 5122: np.int16, 5123: np.uint16, 5125: np.uint32,
               5126: np.float32}
_WIDTHS = {'SCALAR': 1, 'VEC2': 2, 'VEC3': 3, 'VEC4': 4, 'MAT4': 16}
_TRIANGLES = 4
_JSON_CHUNK, _BINARY_CHUNK = 0x4E4F534A, 0x004E4942


@dataclass
class Mesh:
    """One surface of a scene in its frame: metres, Y up, counter-clockwise from outside."""

    name: str                        # of the glTF node; meshes of one name are one object
    vertices: np.ndarray             # (V, 3) float32
    faces: np.ndarray                # (F, 3) int32
    uv: Optional[np.ndarray] = None  # (V, 2) float32, (0, 0) = top left of the image
    image: Optional[np.ndarray] = None  # (H, W, 3) uint8 RGB; None = light grey
    two_sided: bool = False


class _Glb:
    def __init__(self, data):
        if len(data) < 20:
            raise ValueError(f'only {len(data)} bytes long')
        magic, version, total = struct.unpack_from('<4sII', data)
        if magic != b'glTF' or version != 2:
            raise ValueError('not a binary glTF 2.0 file')
        if total > len(data):
            raise ValueError(f'cut short: {len(data)} of {total} bytes')
        chunks, at = {}, 12
        while at + 8 <= total:
            length, kind = struct.unpack_from('<II', data, at)
            if at + 8 + length > total:
                raise ValueError('a chunk runs past the end of the file')
            chunks.setdefault(kind, data[at + 8:at + 8 + length])
            at += 8 + length
        if _JSON_CHUNK not in chunks:
            raise ValueError('no JSON chunk')
        self.doc = json.loads(bytes(chunks[_JSON_CHUNK]))
        self.binary = chunks.get(_BINARY_CHUNK, b'')
        if self.doc.get('extensionsRequired'):
            raise ValueError(f'requires {", ".join(self.doc["extensionsRequired"])}, which is not '
                             'supported: export without compression')
        self._materials = {}

    def bytes_of(self, view_index):
        view = self.doc['bufferViews'][view_index]
        if view['buffer'] != 0 or 'uri' in self.doc['buffers'][0]:
            raise ValueError('refers to external buffers: pack everything into the .glb')
        start = view.get('byteOffset', 0)
        return self.binary[start:start + view['byteLength']], view.get('byteStride')

    def accessor(self, index):
        """(count, width) array; normalised integers become floats."""
        spec = self.doc['accessors'][index]
        if 'sparse' in spec or 'bufferView' not in spec:
            raise ValueError('sparse accessors are not supported')
        kind, width = np.dtype(_COMPONENTS[spec['componentType']]), _WIDTHS[spec['type']]
        raw, stride = self.bytes_of(spec['bufferView'])
        stride = stride or kind.itemsize * width
        count, start = spec['count'], spec.get('byteOffset', 0)
        if start + (count - 1) * stride + kind.itemsize * width > len(raw):
            raise ValueError(f'accessor {index} reads past the end of its data')
        values = np.ndarray((count, width), kind, raw, start, (stride, kind.itemsize))
        if spec.get('normalized'):
            return values.astype(np.float32) / np.iinfo(kind).max
        return values

    def image_of(self, texture_index):
        source = self.doc['textures'][texture_index].get('source')
        if source is None or 'bufferView' not in self.doc['images'][source]:
            raise ValueError(f'texture {texture_index} is not a PNG or JPEG packed into the .glb')
        raw, _ = self.bytes_of(self.doc['images'][source]['bufferView'])
        image = cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_COLOR)
        if image is None:
            raise ValueError(f'image {source} cannot be decoded: only PNG and JPEG are supported')
        return np.ascontiguousarray(image[:, :, ::-1])

    def material(self, index):
        """(image, texture coordinate set, two_sided)"""
        if index not in self._materials:
            material = self.doc['materials'][index]
            surface = material.get('pbrMetallicRoughness', {})
            factor = np.array(surface.get('baseColorFactor', (1, 1, 1, 1))[:3], np.float32)
            texture = surface.get('baseColorTexture')
            image = (np.full((1, 1, 3), 255, np.uint8) if texture is None
                     else self.image_of(texture['index']))
            if (factor != 1).any():
                image = np.round(image * factor).astype(np.uint8)
            self._materials[index] = (image, (texture or {}).get('texCoord', 0),
                                      material.get('doubleSided', False))
        return self._materials[index]

    def placed_nodes(self):
        """Yields (name, mesh index, node-to-scene (4, 4)) of every node that has a mesh."""
        nodes = self.doc.get('nodes', [])
        scenes = self.doc.get('scenes')
        roots = scenes[self.doc.get('scene', 0)].get('nodes', []) if scenes else range(len(nodes))
        stack = [(index, np.eye(4)) for index in reversed(roots)]
        visited = 0
        while stack:
            index, parent = stack.pop()
            visited += 1
            if visited > len(nodes):
                raise ValueError('a node is its own ancestor')
            node = nodes[index]
            matrix = parent @ _local_matrix(node)
            if 'mesh' in node:
                yield node.get('name') or f'node_{index}', node['mesh'], matrix
            stack += [(child, matrix) for child in reversed(node.get('children', []))]

    def meshes(self):
        for name, mesh_index, matrix in self.placed_nodes():
            for primitive in self.doc['meshes'][mesh_index]['primitives']:
                if primitive.get('mode', _TRIANGLES) != _TRIANGLES:
                    raise ValueError(f'node {name} holds something else than triangles')
                attributes = primitive['attributes']
                vertices = self.accessor(attributes['POSITION']) @ matrix[:3, :3].T + matrix[:3, 3]
                faces = (self.accessor(primitive['indices']) if 'indices' in primitive
                         else np.arange(len(vertices))).reshape(-1, 3).astype(np.int32)
                if faces.size and not 0 <= faces.min() <= faces.max() < len(vertices):
                    raise ValueError(f'node {name} has a face that refers to a missing vertex')
                if not np.isfinite(vertices).all():
                    raise ValueError(f'node {name} has a vertex that is not a finite number')
                if np.linalg.det(matrix[:3, :3]) < 0:
                    faces = faces[:, ::-1]
                image, uv_set, two_sided = (self.material(primitive['material'])
                                            if 'material' in primitive else (None, 0, False))
                uv = attributes.get(f'TEXCOORD_{uv_set}')
                yield Mesh(name, vertices.astype(np.float32), faces,
                           None if uv is None else self.accessor(uv).astype(np.float32), image,
                           two_sided)


def _local_matrix(node):
    if 'matrix' in node:
        return np.array(node['matrix'], float).reshape(4, 4).T
    x, y, z, w = node.get('rotation', (0, 0, 0, 1))
    rotation = np.array([
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)]])
    matrix = np.eye(4)
    matrix[:3, :3] = rotation * np.array(node.get('scale', (1, 1, 1)), float)
    matrix[:3, 3] = node.get('translation', (0, 0, 0))
    return matrix


def load_glb(path):
    """The list of Mesh of a .glb file. Raises UserError naming the file it cannot read."""
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f'cannot read the scene {path}: {error.strerror}') from None
    try:
        meshes = list(_Glb(data).meshes())
        if not meshes:
            raise ValueError('no node with a mesh')
        return meshes
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, struct.error) as error:
        detail = f'missing {error}' if isinstance(error, KeyError) else error
        raise UserError(f'{path} is not a scene this program can show: {detail}') from None
