"""Reads the part of binary glTF 2.0 that a textured, static scene needs.

Specification: https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html (3.5 to 3.9 and 4.4).
A texture that is missing or cannot be decoded leaves the colour of its material, as in
habitat-sim. Vertex colours show where there is no texture. Lines and points are passed over;
compressed geometry and textures are refused with the remedy.
"""
from __future__ import annotations

import base64
import json
import logging
import struct
import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import cv2
import numpy as np

from sim_bridge.embedded import vertex_colours
from vlnr1_ros.navigation.errors import UserError

_COMPONENTS = {5120: np.int8, 5121: np.uint8, 5122: np.int16, 5123: np.uint16, 5125: np.uint32,
               5126: np.float32}
_WIDTHS = {'SCALAR': 1, 'VEC2': 2, 'VEC3': 3, 'VEC4': 4, 'MAT4': 16}
_TRIANGLES, _SURFACES = 4, (4, 5, 6)
_MANY_LEVELS = 32
_FROM_BLENDER = 'open it in Blender and export it as .glb without compression'
_REMEDIES = {
    'KHR_draco_mesh_compression': _FROM_BLENDER,
    'EXT_meshopt_compression': 'export it again without compression (gltfpack without -c)',
    'KHR_texture_basisu': 'take the variant with PNG or JPEG textures (HM3D has one: its glb '
                          'archives), convert with "gltf-transform ktxdecompress", or use '
                          'habitat-sim, which reads it',
    'EXT_texture_webp': 'export it again with PNG or JPEG textures',
}
_HARMLESS = ('KHR_materials_', 'KHR_lights_', 'KHR_mesh_quantization', 'KHR_texture_transform')
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
    levels: int = _MANY_LEVELS       # how many mip levels of the image mean something


@dataclass
class _Material:
    colour: np.ndarray               # (3,) float32 factor of the base colour
    image: Optional[np.ndarray] = None  # (H, W, 3) uint8 with the factor applied
    uv_set: int = 0
    uv_scale: tuple = (1.0, 1.0)
    uv_offset: tuple = (0.0, 0.0)
    two_sided: bool = False

    def plain(self):
        """An image of the colour alone."""
        return np.round(np.full((1, 1, 3), 255, np.uint8) * self.colour).astype(np.uint8)

    def uv(self, values):
        """Texture coordinates (V, 2) float32 with KHR_texture_transform applied."""
        return (values.astype(np.float32) * np.float32(self.uv_scale)
                + np.float32(self.uv_offset))


class _Glb:
    def __init__(self, data, folder):
        data = memoryview(data)    # slices of it are not copies
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
        for extension in self.doc.get('extensionsRequired', ()):
            if not extension.startswith(_HARMLESS):
                remedy = _REMEDIES.get(extension, 'export it without that extension')
                raise ValueError(f'it requires {extension}, which the embedded simulator does not '
                                 f'read: {remedy}')
        self._folder = folder
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
        """(H, W, 3) uint8 RGB, None when the picture is missing or cannot be decoded."""
        texture = self.doc['textures'][texture_index]
        if 'source' not in texture:
            for extension in texture.get('extensions', ()):
                raise ValueError(f'texture {texture_index} is only there as {extension}: '
                                 + _REMEDIES.get(extension, 'export it with PNG or JPEG'))
            return None
        spec = self.doc['images'][texture['source']]
        if 'bufferView' in spec:
            raw = np.frombuffer(self.bytes_of(spec['bufferView'])[0], np.uint8)
        else:
            raw = self._picture_bytes(spec.get('uri', ''))
        image = cv2.imdecode(raw, cv2.IMREAD_COLOR) if raw.size else None
        return None if image is None else np.ascontiguousarray(image[:, :, ::-1])

    def _picture_bytes(self, uri):
        """Bytes (N,) uint8 of a picture in or beside the file, none where it is missing."""
        if uri.startswith('data:'):
            return np.frombuffer(base64.b64decode(uri.partition(',')[2]), np.uint8)
        path = self._folder / urllib.parse.unquote(uri)
        return np.fromfile(path, np.uint8) if path.is_file() else np.zeros(0, np.uint8)

    def material(self, index):
        """The _Material of a number, read once."""
        if index not in self._materials:
            spec = self.doc['materials'][index]
            surface = spec.get('pbrMetallicRoughness', {})
            colour = np.array(surface.get('baseColorFactor', (1, 1, 1, 1))[:3], np.float32)
            material = _Material(colour, two_sided=spec.get('doubleSided', False))
            texture = surface.get('baseColorTexture')
            if texture is not None:
                image = self.image_of(texture['index'])
                if image is None:
                    logging.getLogger(__name__).warning(
                        'material %s has no texture that can be read: its colour is shown',
                        spec.get('name', index))
                elif (colour != 1).any():
                    image = np.round(image * colour).astype(np.uint8)
                moved = texture.get('extensions', {}).get('KHR_texture_transform', {})
                if moved.get('rotation'):
                    raise ValueError(f'material {index} turns its texture (KHR_texture_transform '
                                     'rotation), which is not supported: apply it to the UVs')
                material.image = image
                material.uv_set = moved.get('texCoord', texture.get('texCoord', 0))
                material.uv_scale = tuple(moved.get('scale', (1.0, 1.0)))
                material.uv_offset = tuple(moved.get('offset', (0.0, 0.0)))
            self._materials[index] = material
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
                mode = primitive.get('mode', _TRIANGLES)
                if mode in _SURFACES and 'POSITION' in primitive['attributes']:
                    yield from self._surface(name, primitive, mode, matrix)

    def _surface(self, name, primitive, mode, matrix):
        attributes = primitive['attributes']
        vertices = self.accessor(attributes['POSITION']) @ matrix[:3, :3].T + matrix[:3, 3]
        order = (self.accessor(primitive['indices']).ravel() if 'indices' in primitive
                 else np.arange(len(vertices)))
        faces = _faces(order, mode)
        if faces.size and not 0 <= faces.min() <= faces.max() < len(vertices):
            raise ValueError(f'node {name} has a face that refers to a missing vertex')
        if not np.isfinite(vertices).all():
            raise ValueError(f'node {name} has a vertex that is not a finite number')
        if np.linalg.det(matrix[:3, :3]) < 0:
            faces = faces[:, ::-1]
        vertices = vertices.astype(np.float32)
        material = self.material(primitive['material']) if 'material' in primitive else None
        two_sided = material is not None and material.two_sided
        textured = material is not None and material.image is not None
        if 'COLOR_0' in attributes and not textured:
            colours = self.accessor(attributes['COLOR_0'])[:, :3]
            if material is not None:
                colours = colours * material.colour
            yield from vertex_colours.painted(
                Mesh(name, vertices, faces, two_sided=two_sided), colours)
            return
        uv, image = None, None
        if textured:
            uv = attributes.get(f'TEXCOORD_{material.uv_set}')
            uv = None if uv is None else material.uv(self.accessor(uv))
            image = material.image
        elif material is not None:
            image = material.plain()
        yield Mesh(name, vertices, faces, uv, image, two_sided)


def _faces(order, mode):
    """(F, 3) int32 of a list, a strip or a fan of triangles (glTF 3.7.2.1)."""
    order = order.astype(np.int32)
    if mode == _TRIANGLES:
        return order.reshape(-1, 3)
    if mode == 6:
        return np.stack([order[1:-1], order[2:], np.full(max(0, len(order) - 2), order[0])], 1)
    faces = np.stack([order[:-2], order[1:-1], order[2:]], 1)
    faces[1::2] = faces[1::2][:, [0, 2, 1]]
    return faces


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
        meshes = list(_Glb(data, path.parent).meshes())
        if not meshes:
            raise ValueError('no node with a mesh')
        return meshes
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, struct.error) as error:
        detail = f'missing {error}' if isinstance(error, KeyError) else error
        raise UserError(f'{path} is not a scene this program can show: {detail}') from None
