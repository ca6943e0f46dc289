"""What the model expects of its camera, and the fitting of frames to it."""
from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from .errors import UserError


@dataclass(frozen=True)
class Camera:
    """A pinhole camera with square pixels, level, looking forward."""

    width: int = 224
    height: int = 224
    hfov_deg: float = 90.0
    height_m: float = 1.25

    def __post_init__(self):
        if not (1 <= self.width <= 8192 and 1 <= self.height <= 8192):
            raise UserError(f'camera size is {self.width}x{self.height}; give 1 to 8192 pixels')
        if not 1.0 <= self.hfov_deg < 180.0:
            raise UserError(f'hfov_deg is {self.hfov_deg}; give degrees from 1 to below 180')
        if not (math.isfinite(self.height_m) and 0.0 <= self.height_m <= 10.0):
            raise UserError(f'camera height_m is {self.height_m}; give metres from 0 to 10')

    @property
    def fx(self) -> float:
        """Focal length in pixels."""
        return self.width / 2 / math.tan(math.radians(self.hfov_deg) / 2)

    @property
    def vfov_deg(self) -> float:
        """Vertical field of view in degrees."""
        return 2 * math.degrees(math.atan(self.height / 2 / self.fx))

    @classmethod
    def from_intrinsics(cls, width: int, height: int, fx: float, height_m: float) -> Camera:
        """Camera of a ``sensor_msgs/CameraInfo``; ``fx`` in pixels is ``k[0]``."""
        if not (math.isfinite(fx) and fx > 0):
            raise UserError(f'camera_info has focal length {fx}; calibrate the camera')
        return cls(width, height, 2 * math.degrees(math.atan(width / 2 / fx)), height_m)

    def window(self, live: Camera) -> tuple[int, int]:
        """(width, height) in pixels of the centre of a live image that ``self`` would have seen.

        No wider than hfov_deg (pinhole: width = 2 fx tan(hfov / 2)), and of the shape of ``self``
        as far as the image is high enough. Nothing is cut off a view that is narrower.
        """
        seen_px = 2 * live.fx * math.tan(math.radians(self.hfov_deg) / 2)
        width = max(1, min(live.width, round(seen_px)))
        height = max(1, min(live.height, round(width * self.height / self.width)))
        return width, height

    def cropped(self, width: int, height: int) -> Camera:
        """The camera that the centre of this one's image is, ``width`` x ``height`` pixels."""
        return Camera.from_intrinsics(width, height, self.fx, self.height_m)

    def differences(self, other: Camera, hfov_tolerance_deg: float = 2.0,
                    height_tolerance_m: float = 0.1) -> list[str]:
        """What a model trained on ``self`` would notice of ``other``, both values named.

        The number of pixels alone does not count (frames are resized to the model's size); their
        aspect ratio does.
        """
        found = []
        if abs(self.width / self.height - other.width / other.height) > 0.02:
            found.append(f'image is {other.width}x{other.height}, the model expects '
                         f'the shape of {self.width}x{self.height}')
        if abs(self.hfov_deg - other.hfov_deg) > hfov_tolerance_deg:
            found.append(f'hfov is {other.hfov_deg:.1f} deg, the model expects '
                         f'{self.hfov_deg:.1f} deg')
        if abs(self.height_m - other.height_m) > height_tolerance_m:
            found.append(f'camera height is {other.height_m:.2f} m, the model expects '
                         f'{self.height_m:.2f} m')
        return found


def parse_size(text: str) -> tuple[int, int]:
    """(width, height) in pixels of a text such as 224x224; UserError for any other."""
    try:
        width, height = (int(part) for part in text.split('x'))
    except ValueError:
        raise UserError(f'size {text!r} is no WIDTHxHEIGHT such as 224x224') from None
    return width, height


def centre(frame: np.ndarray, width: int, height: int) -> np.ndarray:
    """View of the middle ``width`` x ``height`` pixels of a (H, W, 3) frame."""
    top, left = (frame.shape[0] - height) // 2, (frame.shape[1] - width) // 2
    return frame[top:top + height, left:left + width]


def resize(frame: np.ndarray, width: int, height: int) -> np.ndarray:
    """Area-average a uint8 (H, W, 3) frame to (height, width, 3)."""
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8 or frame.size == 0:
        raise UserError(f'a frame must be uint8 of shape (H, W, 3), not {frame.dtype} '
                        f'of shape {frame.shape}')
    if frame.shape[:2] == (height, width):
        return frame
    return cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)
