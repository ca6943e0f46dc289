"""Vertex colours as a texture, so that the renderer has one way to colour a surface.

Every triangle gets a block of 2 x 2 texels. With its corners on three texel centres and the fourth
texel at B + C - A, bilinear filtering mixes the three colours as a graphics card does. A is the
corner for which B + C - A is a colour (the middle one of a grey triangle; nearly so of others).
"""
from __future__ import annotations

from dataclasses import replace

import numpy as np

BLOCKS_A_SIDE = 1024    # of the largest atlas: 2048 x 2048 texels
LEVELS = 2              # beyond, mip levels would mix triangles that are not neighbours


def painted(mesh, colours):
    """Yields parts of a glb.Mesh with colours (V, 3), 0..1, as their texture."""
    colours = np.clip(np.asarray(colours, np.float32), 0, 1) * 255
    step = BLOCKS_A_SIDE ** 2
    for first in range(0, len(mesh.faces), step):
        faces = _turned(mesh.faces[first:first + step], colours)
        image, uv = _atlas(colours[faces])
        yield replace(mesh, vertices=mesh.vertices[faces].reshape(-1, 3), image=image, uv=uv,
                      faces=np.arange(3 * len(faces), dtype=np.int32).reshape(-1, 3),
                      levels=LEVELS)


def _turned(faces, colours):
    """The same faces, beginning with the corner A."""
    turns = np.stack([faces, faces[:, [1, 2, 0]], faces[:, [2, 0, 1]]])    # (3, F, 3)
    fourth = colours[turns[..., 1]] + colours[turns[..., 2]] - colours[turns[..., 0]]
    beyond = np.abs(fourth - np.clip(fourth, 0, 255)).sum(-1)
    return turns[beyond.argmin(0), np.arange(len(faces))]


def _atlas(corners):
    """(image (S, S, 3) uint8, uv (3 F, 2)) for the colours (F, 3 corners, 3) of triangles."""
    count = len(corners)
    blocks = 1
    while blocks * blocks < count:
        blocks *= 2
    a, b, c = corners.transpose(1, 0, 2)
    texels = np.zeros((blocks * blocks, 2, 2, 3), np.float32)    # row, column within the block
    texels[:count] = np.stack([np.stack([a, b], 1), np.stack([c, b + c - a], 1)], 1)
    image = texels.reshape(blocks, blocks, 2, 2, 3).transpose(0, 2, 1, 3, 4).reshape(
        2 * blocks, 2 * blocks, 3)
    row, column = np.divmod(np.arange(count), blocks)
    first = np.stack([column, row], 1) * 2 + 0.5
    uv = first[:, None] + np.array([(0, 0), (1, 0), (0, 1)])
    return (np.round(np.clip(image, 0, 255)).astype(np.uint8),
            (uv.reshape(-1, 2) / (2 * blocks)).astype(np.float32))
