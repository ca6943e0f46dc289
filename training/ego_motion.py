"""What VLN-Ego frames themselves tell about the motion between them.

A turn on the spot moves every pixel by a homography of the turn angle alone: frame i, warped by
the right angle, looks like frame i + 1. So the turn angle and the action between two frames can
be measured, whatever the labels say.
"""
from __future__ import annotations

import math
from functools import lru_cache

import cv2
import numpy as np

from vlnr1_ros.navigation.actions import Action
from vlnr1_ros.navigation.camera import Camera, resize

SMALLEST_DEG, LARGEST_DEG = 5, 60
COARSE_DEG = 3
"""Angles are first tried at this distance, then every degree around the best."""
WIDEST = 160
"""Pixels to which wider frames are reduced: a degree is one or two of them, which is enough."""
WARP = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
FLAT = 4.0
"""Standard deviation of grey levels below which a view has nothing to compare."""
ALIKE = 0.9
"""A turn explains a frame at least this well (0.97 and more, as a rule), driving hardly ever."""


def warped(frame: np.ndarray, turn_deg: float, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """What a grey frame (H, W) becomes when the camera turns, positive to the left (REP 103).

    Returns (image, valid): float32 (H, W), and bool (H, W) where the old frame could see.
    """
    from_new, seen = _turned(frame.shape, turn_deg, camera.hfov_deg)
    image = cv2.warpPerspective(frame.astype(np.float32), from_new, frame.shape[::-1], flags=WARP)
    return image, seen


@lru_cache(maxsize=256)
def _turned(shape, turn_deg, hfov_deg):
    """(3, 3) from pixels after a turn to those before, and where the old frame could see."""
    height, width = shape
    focal = width / 2 / math.tan(math.radians(hfov_deg) / 2)
    inner = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])
    angle = math.radians(turn_deg)
    # a ray of the new camera, seen by the old one: camera axes are right, down, forward
    turn = np.array([[math.cos(angle), 0, -math.sin(angle)], [0, 1, 0],
                     [math.sin(angle), 0, math.cos(angle)]])
    from_new = inner @ turn @ np.linalg.inv(inner)
    seen = cv2.warpPerspective(np.ones(shape, np.float32), from_new, (width, height), flags=WARP)
    return from_new, seen > 0.999


def likeness(before: np.ndarray, after: np.ndarray, turn_deg: float, camera: Camera) -> float:
    """Normalised cross-correlation of `after` with `before` turned, where both see; -1 to 1."""
    image, valid = warped(before, turn_deg, camera)
    if valid.sum() < 0.1 * valid.size:
        return -1.0
    a, b = image[valid], after[valid].astype(np.float32)
    a, b = a - a.mean(), b - b.mean()
    scale = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / scale if scale > 0.0 else -1.0


def turn_between(before: np.ndarray, after: np.ndarray, camera: Camera) -> float | None:
    """Degrees to the left (5 to 60, right is negative) between two RGB frames (H, W, 3).

    0 where no turn explains them, None where there is too little to see.
    """
    grey = _grey(before, after)
    if grey is None:
        return None
    sizes = range(SMALLEST_DEG, LARGEST_DEG + 1, COARSE_DEG)
    found = {angle: likeness(*grey, angle, camera) for size in sizes for angle in (size, -size)}
    best = max(found, key=found.get)
    near = (best + d for d in range(1 - COARSE_DEG, COARSE_DEG))
    found |= {angle: likeness(*grey, angle, camera) for angle in near
              if SMALLEST_DEG <= abs(angle) <= LARGEST_DEG}
    found[0] = likeness(*grey, 0, camera)
    best = max(found, key=found.get)
    return float(best) if found[best] >= ALIKE else 0.0


def motion_between(before: np.ndarray, after: np.ndarray, turn_deg: float,
                   camera: Camera) -> Action | None:
    """The action between two RGB frames where turns have a known angle.

    What no turn explains is a step forward; None where there is too little to see.
    """
    grey = _grey(before, after)
    if grey is None:
        return None
    found = {Action.TURN_LEFT: likeness(*grey, turn_deg, camera),
             Action.TURN_RIGHT: likeness(*grey, -turn_deg, camera)}
    best = max(found, key=found.get)
    turned = found[best] >= max(ALIKE, likeness(*grey, 0.0, camera))
    return best if turned else Action.MOVE_FORWARD


def _grey(*frames):
    grey = [cv2.cvtColor(_small(frame), cv2.COLOR_RGB2GRAY) for frame in frames]
    return None if min(image.std() for image in grey) < FLAT else grey


def _small(frame):
    height, width = frame.shape[:2]
    return frame if width <= WIDEST else resize(frame, WIDEST, max(1, WIDEST * height // width))
