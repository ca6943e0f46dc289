"""Subscriptions that are read when needed instead of waking the node for every message."""
from __future__ import annotations

from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node
from rclpy.qos import QoSProfile


class _NeverExecuted(CallbackGroup):
    """Keeps its subscriptions out of the executor's wait set."""

    def can_execute(self, entity) -> bool:
        return False

    def beginning_execution(self, entity) -> bool:
        return False

    def ending_execution(self, entity) -> None:
        pass


class PolledSubscription:
    """The middleware queues up to `qos.depth` messages; `take` empties the queue.

    Odometry at 50 Hz and more would otherwise cost a node that looks at it only when an image
    comes most of its time.
    """

    def __init__(self, node: Node, kind: type, topic: str, qos: QoSProfile):
        self.subscription = node.create_subscription(
            kind, topic, lambda message: None, qos, callback_group=_NeverExecuted())

    def take(self) -> list:
        """Messages that came since the last call, oldest first."""
        messages = []
        handle = self.subscription.handle
        with handle:
            while True:
                taken = handle.take_message(self.subscription.msg_type, False)
                if taken is None:
                    return messages
                messages.append(taken[0])
