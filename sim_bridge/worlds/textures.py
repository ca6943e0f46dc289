"""Procedural textures with baked light.

Stages are rendered unlit, so the shade of a face is part of its texture: every solid texture is a
stack of horizontal bands, one a face direction. Bands repeat along u and never along v.
All arrays are uint8 (height, width, 3) and depend on nothing but their arguments.
"""
from __future__ import annotations

import numpy as np

DIRECTIONS = ('+x', '-x', '+y', '-y', '+z', '-z')
SHADE = {'+x': 0.90, '-x': 0.82, '+y': 1.0, '-y': 0.62, '+z': 0.96, '-z': 0.76}
BAND_PX = 8
WALL_BAND_PX = 32
WALL_DIRECTIONS = ('+x', '-x', '+z', '-z')
TONES = {'dark': (52, 50, 50), 'light': (240, 238, 232)}
OBJECT_BANDS = tuple((tone, d) for tone in ('main', 'dark', 'light') for d in DIRECTIONS)

# name: (floor kind, floor colour, wall kind, upper wall colour, lower wall colour)
STYLES = {
    'kitchen': ('checker', (205, 203, 196), 'dado', (226, 219, 190), (188, 196, 190)),
    'bathroom': ('tile', (172, 200, 208), 'dado', (214, 224, 228), (140, 180, 190)),
    'bedroom': ('carpet', (158, 142, 156), 'plain', (214, 196, 204), (214, 196, 204)),
    'living room': ('wood', (160, 128, 98), 'plain', (216, 206, 176), (216, 206, 176)),
    'study': ('wood', (112, 88, 72), 'dado', (176, 186, 166), (116, 98, 84)),
    'hallway': ('tile', (138, 132, 126), 'plain', (196, 196, 194), (196, 196, 194)),
    'dining room': ('wood', (196, 172, 136), 'stripes', (202, 176, 164), (184, 156, 146)),
    'nursery': ('carpet', (172, 192, 176), 'stripes', (222, 220, 196), (194, 212, 214)),
    'laundry room': ('tile', (190, 190, 196), 'dado', (196, 208, 200), (232, 232, 232)),
    'playroom': ('patch', (160, 164, 182), 'plain', (222, 210, 186), (222, 210, 186))}


def _finish(image):
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def jitter(rng, colour, sigma):
    """The colour (3,) moved a little, alike in every apartment of the same generator state."""
    return np.clip(np.array(colour, float) + rng.normal(0, sigma, 3), 0, 255)


def floor(rng, kind, colour, size=64):
    """A floor tile that repeats every metre."""
    base = np.broadcast_to(np.array(colour, float), (size, size, 3)).copy()
    row, column = np.mgrid[0:size, 0:size]
    if kind == 'wood':
        plank = column // (size // 8)
        tone = rng.normal(0, 9, 8)[plank]
        grain = 4 * np.sin(row * 2 * np.pi * 3 / size + plank * 2.4)
        base += (tone + grain + rng.normal(0, 3, (size, size)))[..., None]
        base[column % (size // 8) == 0] *= 0.78
    elif kind in ('tile', 'checker'):
        step = size // 3 if kind == 'tile' else size // 2
        base += rng.normal(0, 3, (size, size, 1))
        if kind == 'checker':
            base[((row // step + column // step) % 2) == 1] *= 0.66
        else:
            base[(column % step == 0) | (row % step == 0)] *= 0.72
    elif kind == 'patch':
        base += rng.normal(0, 5, (size, size, 1))
        odd = ((row // (size // 2) + column // (size // 2)) % 2) == 1
        base[odd] *= np.array([1.12, 1.02, 0.80])
    else:
        base += rng.normal(0, 11, (size, size, 1))
    return _finish(base)


def wall(rng, kind, upper, lower, width=32):
    """Four bands (WALL_DIRECTIONS), each from ceiling (top) to floor; u repeats every metre."""
    height = WALL_BAND_PX
    image = np.broadcast_to(np.array(upper, float), (height, width, 3)).copy()
    if kind == 'dado':
        image[int(height * 0.62):] = lower
        image[int(height * 0.62)] *= 0.8
    elif kind == 'stripes':
        image[:, (np.arange(width) // (width // 4)) % 2 == 1] = lower
    image += rng.normal(0, 2.5, (height, width, 1))
    image[-2:] *= 0.72
    fall = np.interp(np.arange(height), [0, 5, height - 9, height - 1], [0.94, 1, 1, 0.88])
    image *= fall[:, None, None]
    return _finish(np.concatenate([image * SHADE[d] for d in WALL_DIRECTIONS]))


def solid(rng, colour, noise=3.0, width=8):
    """Six bands (DIRECTIONS) of one colour."""
    image = np.array(colour, float) + rng.normal(0, noise, (BAND_PX, width, 1))
    return _finish(np.concatenate([image * SHADE[d] for d in DIRECTIONS]))


def piece(rng, colour):
    """Eighteen bands (OBJECT_BANDS): the piece's own colour, a dark and a light detail tone."""
    return np.concatenate([solid(rng, c) for c in (colour, TONES['dark'], TONES['light'])])
