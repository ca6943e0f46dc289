"""sensor_msgs/CompressedImage to pixels."""
from __future__ import annotations

import cv2
import numpy as np
from sensor_msgs.msg import CompressedImage

from ..navigation.errors import UserError


def compressed_rgb(message: CompressedImage) -> np.ndarray:
    """A JPEG or PNG colour image as contiguous uint8 (H, W, 3) RGB; UserError when broken."""
    data = np.frombuffer(message.data, np.uint8)
    pixels = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    if pixels is None:
        raise UserError(f'compressed image of format {message.format!r} with {data.size} bytes '
                        'cannot be read; publish jpeg or png')
    return np.ascontiguousarray(pixels[:, :, ::-1])
