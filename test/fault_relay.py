"""A node between publishers and the node under test, which spoils what passes through it.

    relay = FaultRelay(context, {'odom': Odometry, 'scan': LaserScan})
    relay.fault['odom'] = silent()

Every topic is passed on as ``relayed/<topic>``; the node under test is started with that remapping
(:func:`remappings`). A fault is a function of a message that returns the messages to pass on; a
fault keeps what it needs to remember.
"""
import random
import threading
from copy import deepcopy

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.qos import QoSProfile

from vlnr1_ros.nodes import messages


class FaultRelay:
    """Passes on `topics`, a dictionary from names to message types; spun by a thread of its own.

    qos: of both sides, by topic; reliable with a queue of 10 for those not named. ros_arguments:
    such as a namespace.
    """

    def __init__(self, context, topics, qos=None, ros_arguments=()):
        self.node = rclpy.create_node('fault_relay', context=context,
                                      cli_args=['--ros-args', *ros_arguments])
        self.fault = {}
        self.heard = dict.fromkeys(topics, 0)
        self.publishers = {}
        for topic, kind in topics.items():
            profile = (qos or {}).get(topic, QoSProfile(depth=10))
            self.publishers[topic] = self.node.create_publisher(kind, f'relayed/{topic}', profile)
            self.node.create_subscription(kind, topic, self._passer(topic), profile)
        self._executor = SingleThreadedExecutor(context=context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def close(self):
        """End the thread and the node."""
        self._executor.shutdown()
        self._thread.join()
        self.node.destroy_node()

    def _spin(self):
        try:
            self._executor.spin()
        except ExternalShutdownException:
            pass

    def _passer(self, topic):
        def pass_on(message):
            for passed in self.fault.get(topic, lambda good: [good])(message):
                self.publishers[topic].publish(passed)
            self.heard[topic] += 1
        return pass_on


def remappings(topics):
    """ROS arguments for the node under test."""
    return [item for topic in topics for item in ('-r', f'{topic}:=relayed/{topic}')]


def silent():
    """Nothing comes through."""
    return lambda message: []


def frozen():
    """The first message again and again, with its old stamp."""
    held = []

    def fault(message):
        held.append(message)
        return [held[0]]
    return fault


def late(count):
    """Every message comes when `count` newer ones have been sent."""
    held = []

    def fault(message):
        held.append(message)
        return [held.pop(0)] if len(held) > count else []
    return fault


def lossy(share, seed=0):
    """A share of the messages is lost."""
    rng = random.Random(seed)
    return lambda message: [] if rng.random() < share else [message]


def backwards(seconds):
    """Stamps are earlier than they were."""
    def change(message):
        message.header.stamp = messages.time_message(
            messages.time_ns(message.header.stamp) - int(seconds * 1e9))
    return changed(change)


def changed(change):
    """`change` is applied to a copy of every message."""
    def fault(message):
        message = deepcopy(message)
        change(message)
        return [message]
    return fault
