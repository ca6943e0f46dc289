"""Parameters of the navigator, read when it is configured, with their units and ranges."""
from __future__ import annotations

from dataclasses import dataclass, fields
from functools import partial

from rclpy.qos import ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from ..bags.values import compressed_rgb
from ..motion.config import CHOICES, DURING, check_choices, check_ranges, live, number
from ..motion.stuck import ESCAPE, IGNORE, STOP
from .bridged import colour

RELIABILITY = {'best_effort': ReliabilityPolicy.BEST_EFFORT,
               'reliable': ReliabilityPolicy.RELIABLE}
IMAGES = {'raw': ('image_raw', Image, colour),
          'compressed': ('image_raw/compressed', CompressedImage, compressed_rgb)}
"""Topic, message and its conversion to RGB, by transport."""
DTYPES = ('', 'float32', 'bfloat16', 'float16', 'auto')
KNOWN = {'image_transport': IMAGES, 'image_reliability': RELIABILITY,
         'when_stuck': (ESCAPE, STOP, IGNORE), 'dtype': DTYPES, 'replan': CHOICES['replan']}

BEFORE_CONFIGURE = 'may be changed while the navigator is unconfigured'
configured = partial(number, read_only=False, constraints=BEFORE_CONFIGURE)


@dataclass(frozen=True)
class NavigatorConfig:
    """UserError names a value that is none of those known."""

    policy: str = configured(
        'models/nano', "expert, random, forward, stop, a checkpoint folder, or a server's URL: "
        'http://HOST:PORT/v1?card=FOLDER')
    device: str = configured('', 'torch device of a checkpoint; empty: a GPU if there is one')
    dtype: str = configured(
        '', "type of a checkpoint's weights: float32, bfloat16, float16 or auto (as stored); "
        'empty: float32 on a CPU, otherwise as stored')
    compiled: bool = configured(
        False, 'torch.compile a checkpoint, which takes minutes at start')
    execute: int = configured(0, 'actions executed per decision; 0: as the card says', '', 0, 64)
    replan: str = configured(
        'after', 'after: decide when the plan is done and the base stands; during: while its last '
        'action is driven, with which the next plan begins (execute of 2 or more; set the '
        "driver's as well)")
    decision_time_s: float = configured(
        0.0, 'let a decision take at least this long by the stamps of the images, as a simulator '
        'in which time stands still meanwhile does not', 's', 0.0, 60.0)
    # asked of the node when a run begins, so that a simulator can give every episode its own
    seed: int = live(0, 'of whatever is random in the policy; a change holds from the next '
                     'instruction on', minimum=0, maximum=2**32 - 1)
    forward_m: float = configured(0.25, 'forward step of a policy without a card', 'm', 0.01, 2.0)
    turn_deg: float = configured(30.0, 'turn of a policy without a card', 'deg', 1.0, 90.0)
    image_transport: str = configured('raw', 'raw or compressed')
    image_reliability: str = configured('best_effort', 'QoS of images: best_effort or reliable')
    camera_height_m: float = configured(
        0.0, 'of the camera above the floor, compared with the card; 0: not compared', 'm', 0.0,
        10.0)
    crop: bool = configured(
        True, "cut the images of a camera that is wider than the card's to its field of view")
    odom_frame: str = configured('', 'frame of the plans; empty: that of odometry')
    retry_s: float = live(
        0.5, 'after a refused plan, or when the policy is not available, ask again from an image '
        'this much later', 's', 0.0, 60.0)
    image_timeout_s: float = live(
        1.0, 'hold when the newest image is older than this, be the camera silent, frozen or '
        'late; no decision is made from one that is (not in lockstep)', 's', 0.05, 60.0)
    driver_timeout_s: float = live(
        15.0, 'give up when the driver is silent about a plan for this long (not in lockstep)',
        's', 0.5, 600.0)
    when_stuck: str = configured(
        ESCAPE, 'when the robot turns and turns, or its plans do not move it: escape (one other '
        'action; after two at one place give up), stop (give up) or ignore')
    stuck_turn_deg: float = configured(
        360.0, 'so much turning at one place, to whichever side, is stuck', 'deg', 90.0, 3600.0)
    stuck_plans: int = configured(
        5, 'so many plans in a row that were driven and did not move the robot are stuck', '', 2,
        100)
    lockstep: bool = number(False, 'acknowledge every image, for a simulator that waits')
    start_active: bool = number(
        False, 'configure and activate at start without being asked, for a simulator; a navigator '
        'that was started again would do so too')

    @property
    def during(self) -> bool:
        """Whether to decide while the base drives."""
        return self.replan == DURING

    def __post_init__(self):
        check_ranges(self)
        check_choices(self, KNOWN)


READ_BY_CONFIGURE = {item.name for item in fields(NavigatorConfig)
                     if item.metadata['constraints'] == BEFORE_CONFIGURE}
