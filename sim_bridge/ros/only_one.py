"""Two bridges in one namespace would move one robot by two rules: the younger one does not start.

Every bridge latches when it was born; the middleware hands that to whoever comes later, also while
the bridge is busy. A bridge that has died is not met by one that starts after it.
"""
from __future__ import annotations

import os
import time
from typing import Callable

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import String

from vlnr1_ros.navigation.errors import UserError

TOPIC = '~/born'
DISCOVERY_S = 1.5  # an older bridge is found within this
HEARING_S = 0.2    # what others said when nobody listened yet
LEAVING_S = 3.0    # and may take so long to end, if it is about to


class OnlyOne:
    """To be made as early as the node, so that others are found while it gets ready."""

    def __init__(self, node: Node):
        self._node = node
        self._made_s = time.monotonic()
        self._born = f'{time.time_ns():020d} {os.getpid()}'
        self._older = False
        latched = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE,
                             durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._publisher = node.create_publisher(String, TOPIC, latched)
        node.create_subscription(String, TOPIC, self._on_born, latched)
        self._publisher.publish(String(data=self._born))

    def check(self, spin_once: Callable[..., None]) -> None:
        """Raise UserError when an older bridge is there, and stays."""
        until_s = max(self._made_s + DISCOVERY_S, time.monotonic() + HEARING_S)
        while not self._older and time.monotonic() < until_s:
            spin_once(timeout_sec=0.1)
        until_s = time.monotonic() + LEAVING_S
        while self._older and self._node.count_publishers(self._publisher.topic_name) > 1:
            if time.monotonic() > until_s:
                raise UserError(
                    f'another bridge is running as {self._node.get_fully_qualified_name()}; end '
                    'it, or give this one a namespace of its own (--ros-args -r __ns:=/NAME)')
            spin_once(timeout_sec=0.1)

    def _on_born(self, message: String):
        self._older |= message.data < self._born
