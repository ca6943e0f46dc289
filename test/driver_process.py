"""The driver node as a process of its own, and a base of ours that talks to it over loopback."""
import math
import os
import signal
import subprocess
import sys
import threading
import time

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import Twist, TwistStamped
from motion_loop import Base
from nav_msgs.msg import Odometry, Path
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from spun_node import on_this_machine
from std_msgs.msg import Bool, Header
from std_srvs.srv import SetBool, Trigger

from sim_bridge.ros.graph import end_with_parent
from vlnr1_ros.motion.plan import STARTED, encode
from vlnr1_ros.navigation.actions import ActionSet
from vlnr1_ros.nodes import messages

PERIOD_S = 0.02
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def odometry_message(base, stamp_ns, frame_id='odom'):
    message = Odometry()
    message.header.stamp = messages.time_message(stamp_ns)
    message.header.frame_id = frame_id
    message.pose.pose.position.x = base.pose.x_m
    message.pose.pose.position.y = base.pose.y_m
    message.pose.pose.orientation.z = math.sin(0.5 * base.pose.yaw_rad)
    message.pose.pose.orientation.w = math.cos(0.5 * base.pose.yaw_rad)
    message.twist.twist.linear.x = base.linear
    message.twist.twist.angular.z = base.angular
    return message


class DriverProcess:
    """Starts the node, ends it with a signal, and returns its exit code."""

    def __init__(self, domain_id, parameters, log_dir, check_fields, ros_arguments=()):
        arguments = [*ros_arguments, *(item for name, value in parameters.items()
                     for item in ('-p', f'{name}:={value}'))]
        environment = {
            **os.environ, 'ROS_DOMAIN_ID': str(domain_id), 'ROS_LOG_DIR': str(log_dir),
            'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST',
            'ROS_PYTHON_CHECK_FIELDS': str(int(check_fields))}
        self.process = subprocess.Popen(
            [sys.executable, '-m', 'vlnr1_ros.nodes.driver', '--ros-args', *arguments],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            preexec_fn=end_with_parent)

    def end(self, signal_number=signal.SIGTERM):
        """(exit code, output) after a signal."""
        if self.process.poll() is None:
            self.process.send_signal(signal_number)
        try:
            output, _ = self.process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            output, _ = self.process.communicate()
        return self.process.returncode, output


class Robot:
    """A base that integrates what it is told, with topics and services of its own context.

    Free running it publishes odometry, heartbeat and, with `simulated_time`, the clock every
    PERIOD_S from a thread; in lockstep :meth:`tick` is called instead.
    """

    def __init__(self, domain_id, lockstep=False, simulated_time=False, stamped=False,
                 ros_arguments=()):
        on_this_machine()
        self.context = Context()
        self.context.init(domain_id=domain_id)
        self.node = rclpy.create_node('base', context=self.context,
                                      cli_args=['--ros-args', *ros_arguments])
        self.base = Base(period_ns=int(PERIOD_S * 1e9))
        self.commands, self.statuses, self.diagnostics = [], [], []
        self.starts = []   # what a driver says of its own start, apart from what it says of plans
        self.odometry_on = self.heartbeat_on = self.clock_on = True
        self.spoil = None
        self.simulated_time = simulated_time
        self.time_ns = 100 * 10**9
        node = self.node
        self.odometry = node.create_publisher(Odometry, 'odom', 10)
        self.heartbeat = node.create_publisher(Header, 'navigator/heartbeat', 10)
        self.plan_topic = node.create_publisher(Path, 'plan', 10)
        self.emergency = node.create_publisher(Bool, 'emergency_stop', 10)
        self.emergency_latched = node.create_publisher(Bool, 'emergency_stop', LATCHED)
        self.emergency_best_effort = node.create_publisher(Bool, 'emergency_stop', QoSProfile(
            depth=1, reliability=ReliabilityPolicy.BEST_EFFORT))
        self.clock = node.create_publisher(Clock, '/clock', 10)
        node.create_subscription(TwistStamped if lockstep or stamped else Twist, 'cmd_vel',
                                 self._on_command, 100)
        node.create_subscription(DiagnosticArray, 'plan_status', self._on_status, 100)
        node.create_subscription(DiagnosticArray, '/diagnostics', self.diagnostics.append, 100)
        self.stop_service = node.create_client(Trigger, 'driver/stop')
        self.pause_service = node.create_client(SetBool, 'driver/pause')
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(node)
        if not lockstep:
            node.create_timer(PERIOD_S, self._on_timer)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def close(self):
        self.executor.shutdown()
        self._thread.join()
        self.node.destroy_node()
        self.context.try_shutdown()

    def now_ns(self):
        return self.time_ns if self.simulated_time else time.time_ns()

    def wait_for_driver(self):
        wait_until(lambda: self.odometry.get_subscription_count()
                   and self.heartbeat.get_subscription_count()
                   and self.node.count_publishers('cmd_vel')
                   and self.node.count_publishers('plan_status')
                   and self.plan_topic.get_subscription_count()
                   and self.stop_service.service_is_ready(), 30)

    def wait_until_driver_is_content(self):
        """Until its diagnostics say that nothing forbids motion."""
        wait_until(lambda: any(item.key == 'trouble' and not item.value
                               for message in self.diagnostics[-1:]
                               for item in message.status[0].values), 10)

    def send_plan(self, actions, frame_id='odom', action_set=None, start=None, stamp_ns=None):
        """Send a plan from where the base is; returns its stamp."""
        stamp_ns = stamp_ns or self.now_ns()
        poses = encode(start or self.base.pose, actions, action_set or ActionSet())
        self.plan_topic.publish(messages.path(poses, stamp_ns, frame_id))
        return stamp_ns

    def call(self, client, request):
        future = client.call_async(request)
        wait_until(future.done, 10)
        return future.result()

    def zero_after(self, timeout_s):
        """Wait until the newest commands are zero; seconds it took (AssertionError if longer)."""
        began_s = time.monotonic()
        wait_until(lambda: self.commands and self.commands[-1][:2] == (0.0, 0.0), timeout_s)
        return time.monotonic() - began_s

    def _spin(self):
        try:
            self.executor.spin()
        except ExternalShutdownException:
            pass

    def _on_timer(self):
        if self.simulated_time and self.clock_on:
            self.time_ns += int(PERIOD_S * 1e9)
            self.clock.publish(Clock(clock=messages.time_message(self.time_ns)))
        if self.heartbeat_on:
            self.heartbeat.publish(Header())
        if self.odometry_on:
            message = odometry_message(self.base, self.now_ns())
            if self.spoil is not None:
                self.spoil(message)
            self.odometry.publish(message)
        newest = self.commands[-1][:2] if self.commands else (0.0, 0.0)
        self.base.drive(*newest)

    def _on_status(self, message):
        status = messages.parse_plan_status(message)
        (self.starts if status.reason == STARTED else self.statuses).append(status)

    def _on_command(self, message):
        stamp_ns = None
        if isinstance(message, TwistStamped):
            stamp_ns, message = messages.time_ns(message.header.stamp), message.twist
        self.commands.append((message.linear.x, message.angular.z, stamp_ns))


def wait_until(condition, timeout_s):
    """Poll until `condition()` is true."""
    until_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until_s, f'not within {timeout_s:.2f} s'
        time.sleep(0.005)
