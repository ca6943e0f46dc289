"""Pictures of a scene: unlit, textured, as habitat-sim shows a flat-shaded stage."""
from __future__ import annotations

import math

import cv2
import numpy as np

from sim_bridge.embedded import raster
from vlnr1_ros.navigation.errors import UserError

PLAIN_GREY = 200
MAX_TEXTURE_SIDE = 2048


def _power_of_two(image):
    """The image with sides that are powers of two, so that a texture repeats by masking bits."""
    height, width = image.shape[:2]
    sides = [min(MAX_TEXTURE_SIDE, 1 << round(math.log2(side))) for side in (width, height)]
    if sides == [width, height]:
        return image
    return cv2.resize(image, tuple(sides), interpolation=cv2.INTER_AREA)


def _mip_levels(image):
    """The image, then halved copies down to a single texel in one direction."""
    level = image.astype(np.float32)
    yield image
    while min(level.shape[:2]) > 1:
        level = (level[0::2, 0::2] + level[1::2, 0::2] + level[0::2, 1::2] + level[1::2, 1::2]) / 4
        yield np.round(level).astype(np.uint8)


class _Textures:
    def __init__(self):
        self._numbers, self._by_object, self._texels, self._size = {}, {}, [], 0
        self._offsets, self._log_sides, self._levels = [], [], []

    def add(self, image, levels):
        """Number of the texture, equal images are stored once; images must outlive the calls."""
        if id(image) not in self._by_object:    # thousands of meshes may share a large one
            self._by_object[id(image)] = self._number(image, levels)
        return self._by_object[id(image)]

    def _number(self, image, levels):
        key = (image.shape, levels, image.tobytes())
        if key not in self._numbers:
            self._numbers[key] = len(self._offsets)
            image = _power_of_two(image)
            offsets = np.zeros(raster.MAX_LEVELS, np.int64)
            for level, picture in enumerate(_mip_levels(image)):
                offsets[level] = self._size
                wide = picture.reshape(-1, 3).astype(np.uint32)
                self._texels.append(wide[:, 0] | wide[:, 1] << 8 | wide[:, 2] << 16)
                self._size += len(wide)
            self._offsets.append(offsets)
            self._levels.append(min(level + 1, levels))
            self._log_sides.append([side.bit_length() - 1 for side in image.shape[1::-1]])
        return self._numbers[key]

    def arrays(self):
        """What raster.shade takes: texels, offsets, log_sides, levels."""
        return (np.concatenate(self._texels), np.array(self._offsets), np.array(self._log_sides),
                np.array(self._levels))


class Scene:
    """A scene ready to be drawn.

    meshes: list of glb.Mesh. `names[i]` is the name of object i, `triangles` (T, 3, 3) float32 all
    surfaces in metres. Drawing is safe from several threads.
    """

    def __init__(self, meshes):
        meshes = sorted((mesh for mesh in meshes if len(mesh.faces)), key=lambda mesh: mesh.name)
        if not meshes:
            raise UserError('a scene needs at least one triangle')
        self.names = sorted({mesh.name for mesh in meshes})
        number = {name: k for k, name in enumerate(self.names)}
        textures = _Textures()
        grey = np.full((1, 1, 3), PLAIN_GREY, np.uint8)
        corners, uv, texture, objects, two_sided = [], [], [], [], []
        for mesh in meshes:
            count = len(mesh.faces)
            corners.append(mesh.vertices[mesh.faces])
            uv.append(np.zeros((count, 3, 2)) if mesh.uv is None else mesh.uv[mesh.faces])
            number_of = textures.add(grey if mesh.image is None else mesh.image, mesh.levels)
            texture.append(np.full(count, number_of))
            objects.append(np.full(count, number[mesh.name]))
            two_sided.append(np.full(count, mesh.two_sided))
        self.triangles = np.ascontiguousarray(np.concatenate(corners), np.float32)
        # whole repeats do not change the picture; small coordinates keep float32 precise
        uv = np.concatenate(uv).astype(np.float32)
        self._uv = np.ascontiguousarray(uv - np.floor(uv.min(1, keepdims=True)))
        self._texture_of = np.concatenate(texture)
        self._object_of = np.concatenate(objects).astype(np.int32)
        self._two_sided = np.concatenate(two_sided)
        self._textures = textures.arrays()
        self._normals = np.cross(self.triangles[:, 1] - self.triangles[:, 0],
                                 self.triangles[:, 2] - self.triangles[:, 0]).astype(np.float32)
        self._first = np.searchsorted(self._object_of, np.arange(len(self.names) + 1))
        low = np.minimum.reduceat(self.triangles.min(1), self._first[:-1])
        high = np.maximum.reduceat(self.triangles.max(1), self._first[:-1])
        self._centres = (low + high) / 2
        self._radii = np.linalg.norm(high - low, axis=1) / 2 + 1e-4

    def render(self, camera_to_world, width, height, hfov_deg, rgb=True, depth=True, objects=True):
        """Draws the scene from a camera that looks along its own -z, y up.

        camera_to_world: (4, 4). Returns (rgb (H, W, 3) uint8, depth (H, W) float32: z in metres,
        0 = nothing, object index (H, W) int32: -1 = nothing); what was not asked for is None.
        """
        rotation = np.ascontiguousarray(camera_to_world[:3, :3], np.float32)
        position = np.ascontiguousarray(camera_to_world[:3, 3], np.float32)
        tan_x = np.float32(math.tan(math.radians(hfov_deg) / 2))
        tan_y = np.float32(tan_x * height / width)
        keep = raster.visible_objects(self._centres, self._radii, position, rotation, tan_x, tan_y)
        inverse_z = np.zeros((height, width), np.float32)
        visible = np.full((height, width), -1, np.int32)
        planes = np.empty((len(self.triangles), 9), np.float32)
        source = np.empty(len(self.triangles), np.int32)
        raster.rasterise(self.triangles, self._uv, self._normals, self._two_sided, self._first,
                         keep, position, rotation, tan_x, tan_y, inverse_z, visible, planes,
                         source)
        picture = None
        if rgb:
            picture = np.zeros((height, width, 3), np.uint8)
            raster.shade(visible, planes, source, self._texture_of, *self._textures,
                         picture.reshape(-1))
        return (picture, raster.depth_of(inverse_z) if depth else None,
                raster.object_indices(visible, source, self._object_of) if objects else None)
