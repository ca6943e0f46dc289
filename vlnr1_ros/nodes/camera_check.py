"""The live camera held against that of the model's card, and its images cut to that one's view."""
from __future__ import annotations

import numpy as np
from sensor_msgs.msg import CameraInfo

from ..navigation.camera import Camera, centre
from ..navigation.errors import UserError

UNKNOWN = 'no camera_info came: the field of view is unknown, and nothing is cropped'


class CameraCheck:
    """Feed it every camera_info and every image; `trouble` says what the model would notice.

    expected: the camera of the card. height_m: of the live one above the floor, 0: not compared.
    crop: whether images that are wider are cut to the view the model expects.
    """

    def __init__(self, expected: Camera, height_m: float, crop: bool):
        self._expected, self._height_m, self._crop = expected, height_m, crop
        self._live: Camera | None = None
        self._info_frame = self._image_frame = ''
        self._shape: tuple[int, int] | None = None   # of the last image
        self._unusable = ''

    def hear(self, info: CameraInfo) -> None:
        """Take the calibration, of whatever image size; the newest counts."""
        self._info_frame = info.header.frame_id
        try:
            self._live = Camera.from_intrinsics(
                int(info.width), int(info.height), float(info.k[0]),
                self._height_m or self._expected.height_m)
            self._unusable = ''
        except UserError as error:
            self._live, self._unusable = None, str(error)

    def fit(self, frame: np.ndarray, frame_id: str) -> np.ndarray:
        """What the model is to see of a (H, W, 3) frame: all of it, or its centre (a view)."""
        self._image_frame, self._shape = frame_id, frame.shape[:2]
        camera = self._camera()
        if camera is None or not self._crop:
            return frame
        return centre(frame, *self._expected.window(camera))

    @property
    def text(self) -> str:
        """What is done with the images, for people."""
        camera = self._camera()
        if camera is None:
            return 'unknown'
        shown = self._shown(camera)
        cut = '' if (shown.width, shown.height) == (camera.width, camera.height) else \
            f', of which the model sees {shown.width}x{shown.height} and {shown.hfov_deg:.1f} deg'
        return f'{camera.width}x{camera.height}, hfov {camera.hfov_deg:.1f} deg{cut}'

    @property
    def trouble(self) -> str:
        """What the model would notice, both values named; empty for nothing."""
        if self._unusable:
            return self._unusable
        camera = self._camera()
        if camera is None:
            return UNKNOWN if self._shape else ''
        found = self._expected.differences(self._shown(camera))
        if self._image_frame and self._info_frame and self._image_frame != self._info_frame:
            found.append(f'images are in frame {self._image_frame!r}, camera_info in '
                         f'{self._info_frame!r}: of two cameras?')
        return '; '.join(found)

    def _camera(self) -> Camera | None:
        """The live camera at the size of its images, which may be binned or resized."""
        if self._live is None or self._shape is None:
            return self._live
        height, width = self._shape
        return Camera(width, height, self._live.hfov_deg, self._live.height_m)

    def _shown(self, camera: Camera) -> Camera:
        return camera.cropped(*self._expected.window(camera)) if self._crop else camera
