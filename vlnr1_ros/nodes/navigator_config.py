"""Parameters of the navigator, read once at start, with their units and ranges."""
from __future__ import annotations

from dataclasses import dataclass

from rclpy.qos import ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from ..motion.config import number
from ..navigation.errors import UserError
from . import messages
from .compressed import compressed_rgb

RELIABILITY = {'best_effort': ReliabilityPolicy.BEST_EFFORT,
               'reliable': ReliabilityPolicy.RELIABLE}
IMAGES = {'raw': ('image_raw', Image, messages.image_rgb),
          'compressed': ('image_raw/compressed', CompressedImage, compressed_rgb)}
"""Topic, message and its conversion to RGB, by transport."""
DTYPES = ('', 'float32', 'bfloat16', 'float16', 'auto')
KNOWN = {'image_transport': IMAGES, 'image_reliability': RELIABILITY, 'dtype': DTYPES}


@dataclass(frozen=True)
class NavigatorConfig:
    """UserError names a value that is none of those known."""

    policy: str = number(
        'models/nano', "expert, random, forward, stop, a checkpoint folder, or a server's URL: "
        'http://HOST:PORT/v1?card=FOLDER')
    device: str = number('', 'torch device of a checkpoint; empty: a GPU if there is one')
    dtype: str = number(
        '', "type of a checkpoint's weights: float32, bfloat16, float16 or auto (as stored); "
        'empty: float32 on a CPU, otherwise as stored')
    compiled: bool = number(False, 'torch.compile a checkpoint, which takes minutes at start')
    execute: int = number(0, 'actions executed per decision; 0: as the card says', '', 0, 64)
    forward_m: float = number(0.25, 'forward step of a policy without a card', 'm', 0.01, 2.0)
    turn_deg: float = number(30.0, 'turn of a policy without a card', 'deg', 1.0, 90.0)
    image_transport: str = number('raw', 'raw or compressed')
    image_reliability: str = number('best_effort', 'QoS of images: best_effort or reliable')
    camera_height_m: float = number(
        0.0, 'of the camera above the floor, compared with the card; 0: not compared', 'm', 0.0,
        10.0)
    odom_frame: str = number('', 'frame of the plans; empty: that of odometry')
    retry_s: float = number(
        0.5, 'after a refused plan, or when the policy is not available, ask again from an image '
        'this much later', 's', 0.0, 60.0)
    image_timeout_s: float = number(
        1.0, 'hold when no image came for this long (not in lockstep)', 's', 0.05, 60.0)
    driver_timeout_s: float = number(
        15.0, 'give up when the driver is silent about a plan for this long (not in lockstep)',
        's', 0.5, 600.0)
    lockstep: bool = number(False, 'acknowledge every image, for a simulator that waits')

    def __post_init__(self):
        for name, known in KNOWN.items():
            if getattr(self, name) not in known:
                raise UserError(f'parameter {name} is {getattr(self, name)!r}; give one of '
                                f'{", ".join(known)}')
