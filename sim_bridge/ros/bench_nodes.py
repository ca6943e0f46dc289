"""The processes that `bench` starts beside the graph.

    python -m sim_bridge.ros.bench_nodes bridge|bare|listen FILE [--ros-args ...]

Times are of the monotonic clock, which all processes of a machine share. `bridge` is the bridge,
`bare` nothing but a timer and a publisher of images: both write a line "stamp_ns had_ns" when they
hold an image that is to be sent. `listen` writes "image|info stamp_ns heard_ns".
"""
from __future__ import annotations

import sys
import time
from typing import TextIO

import numpy as np
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image

from sim_bridge.ros import bridge, camera
from sim_bridge.ros.parameters import declare_image_reliability
from vlnr1_ros.nodes import messages, runtime


def bridge_that_notes(file: TextIO) -> None:
    """The bridge; the time of an image is when the simulator has handed it over."""
    take = camera.take

    def noting(*args):
        picture = take(*args)
        file.write(f'{picture.stamp_ns} {time.monotonic_ns()}\n')
        return picture

    camera.take = noting
    bridge.main()


class BareCamera(Node):
    """Sends the same image over and over, after its camera_info, as camera drivers do."""

    def __init__(self, file: TextIO):
        super().__init__('bare')
        self._file = file
        reliable = _reliable(self)
        width, height = (runtime.declare(self, name, size, '')
                         for name, size in (('width', 640), ('height', 480)))
        self._frame = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
        self._image = self.create_publisher(Image, 'image_raw', _quality(reliable))
        self._info = self.create_publisher(CameraInfo, 'camera_info', _quality(True))
        self.create_timer(1 / runtime.declare(self, 'camera_hz', 10.0, ''), self._on_timer)

    def _on_timer(self):
        had_ns = time.monotonic_ns()
        self._file.write(f'{had_ns} {had_ns}\n')
        self._info.publish(CameraInfo())
        self._image.publish(messages.image(self._frame, 'rgb8', had_ns, 'camera'))


class Listener(Node):
    """Hears images and, reliably, the camera_info that goes before each."""

    def __init__(self, file: TextIO):
        super().__init__('listener')
        self._file = file
        self.create_subscription(Image, 'image_raw', self._hears('image'),
                                 _quality(_reliable(self)))
        self.create_subscription(CameraInfo, 'camera_info', self._hears('info'), _quality(True))

    def _hears(self, kind):
        def heard(message):
            heard_ns = time.monotonic_ns()
            self._file.write(f'{kind} {messages.time_ns(message.header.stamp)} {heard_ns}\n')
        return heard


def _reliable(node):
    return declare_image_reliability(lambda *args: runtime.declare(node, *args))


def _quality(reliable):
    return QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE if reliable
                      else ReliabilityPolicy.BEST_EFFORT)


def main() -> int:
    """The command line of this module."""
    role, path = sys.argv[1:3]
    with open(path, 'w', buffering=1, encoding='utf-8') as file:
        if role == 'bridge':
            bridge_that_notes(file)
        make = BareCamera if role == 'bare' else Listener
        return runtime.run(lambda: make(file), None, lambda node: SingleThreadedExecutor())


if __name__ == '__main__':
    sys.exit(main())
