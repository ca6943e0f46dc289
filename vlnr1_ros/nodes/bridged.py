"""Colour images of any encoding: by numpy where it is simple, by cv_bridge otherwise."""
from __future__ import annotations

import numpy as np
from sensor_msgs.msg import Image

from ..bags.values import COLOUR, LAYOUT
from ..navigation.errors import UserError
from . import messages


def colour(message: Image) -> np.ndarray:
    """Contiguous uint8 (H, W, 3) RGB; UserError when the image cannot be read or has no colour."""
    if message.encoding in LAYOUT:
        return messages.image_rgb(message)
    try:
        # From apt only, and it may be built for another numpy: not asked before it is needed.
        from cv_bridge import CvBridge

        return np.ascontiguousarray(CvBridge().imgmsg_to_cv2(message, 'rgb8'))
    except ModuleNotFoundError:
        raise UserError(f'image encoding {message.encoding!r} is read by cv_bridge only, which is '
                        f'not installed; publish one of {", ".join(COLOUR)}') from None
    except Exception as error:   # cv_bridge, cv2 and numpy have one of their own each
        raise UserError(f'cv_bridge can not read an image of encoding {message.encoding!r} '
                        f'({error}); publish one of {", ".join(COLOUR)}') from None
