"""The driver node: executes plans as velocities and stops whenever something is wrong.

    ros2 run vlnr1_ros driver --ros-args --params-file config/driver.yaml

The rules are in ``motion``; this file connects them to topics, services and clocks. With
`lockstep`, the control law steps once for every odometry message and answers each with exactly one
TwistStamped of the same stamp; otherwise it steps on a timer of the node's clock.
"""
from __future__ import annotations

import sys
import threading
import time
import traceback

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import Twist, TwistStamped
from nav_msgs.msg import Odometry, Path
from rclpy.node import Node
from rclpy.qos import (
    DurabilityPolicy,
    QoSCompatibility,
    QoSProfile,
    ReliabilityPolicy,
    qos_check_compatible,
)
from std_msgs.msg import Bool, Header
from std_srvs.srv import SetBool, Trigger

from ..motion.config import DriverConfig
from ..motion.driver import ZERO, Driver
from ..motion.plan import DROPPED, REPLACED, STARTED
from . import messages, runtime
from .driver_config import DriverNodeConfig
from .polled import PolledSubscription
from .range_sensors import RangeSensors
from .rates import Rate

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:   # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks

DIAGNOSTICS_PERIOD_NS = 1_000_000_000
STAMP_SLACK_NS = 1_000_000  # a plan's stamp may be a few nanoseconds after its image's
OK, WARN = 0, 1


class DriverNode(Node):
    """ROS side of :class:`vlnr1_ros.motion.driver.Driver`."""

    def __init__(self, **kwargs):
        super().__init__('driver', **kwargs)
        self._motion = runtime.Live(self, DriverConfig)
        given = runtime.declare_dataclass(self, DriverNodeConfig)
        self._period_s = 1.0 / given.control_rate_hz
        self._lockstep = given.lockstep
        self._stamped = given.stamped or given.lockstep
        self._base_frame = given.base_frame
        self._wall_timeout_s = given.wall_timeout_s
        self._no_step = f'no control step for {given.wall_timeout_s:g} s'
        self._driver = Driver(self.config)
        self._waiting_plan: Path | None = None
        self._diagnosed_ns = 0
        self._handling = threading.RLock()   # held by every callback
        self._publishing = threading.Lock()
        self._closing = self._closed = False
        self._frozen = False   # the watchdog spoke; only zero until the next control step
        self._last_command = ZERO
        self._stepped_at_s = time.monotonic()
        self._rates = {name: Rate() for name in ('odometry', 'control', 'cmd_vel')}
        self._warning = ''     # of what does not forbid motion
        self._connect()
        if not self._lockstep:
            self.create_timer(self._period_s, self._guarded(self._on_timer))
            threading.Thread(target=self._watch_steady_clock, daemon=True).start()

    @property
    def config(self) -> DriverConfig:
        """What is in force."""
        return self._motion.config

    def _connect(self):
        reliable = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
        latched = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE,
                             durability=DurabilityPolicy.TRANSIENT_LOCAL)
        best_effort = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
        # Best effort hears both kinds of publishers; lockstep must not lose a message.
        sensor = reliable if self._lockstep else best_effort
        self._velocity = self.create_publisher(TwistStamped if self._stamped else Twist,
                                               'cmd_vel', reliable)
        self._status = self.create_publisher(DiagnosticArray, 'plan_status', reliable)
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', reliable)
        self.create_subscription(Odometry, 'odom', self._guarded(self._on_odometry), sensor)
        self.create_subscription(Path, 'plan', self._guarded(self._on_plan), reliable)
        emergency = self._guarded(self._on_emergency)
        # Whatever QoS the button's publisher has, one of these matches it: reliable loses nothing,
        # latched hears what was said before the driver came, best effort matches everybody. That
        # the others do not match is meant, and no reason for a warning.
        for qos in (reliable, latched, best_effort):
            self.create_subscription(
                Bool, 'emergency_stop', emergency, qos,
                event_callbacks=SubscriptionEventCallbacks(use_default_callbacks=False))
        self._heartbeat = PolledSubscription(self, Header, 'navigator/heartbeat', sensor)
        self._range_sensors = RangeSensors(self, self.config, sensor)
        self._safety_topics = {topic: sensor for topic in (
            'odom', 'navigator/heartbeat', *self._range_sensors.topics)}
        self.create_service(Trigger, '~/stop', self._guarded(self._on_stop))
        self.create_service(SetBool, '~/pause', self._guarded(self._on_pause))

    def close(self):
        """Stop for good: zero velocity, and nothing else is published after it."""
        if self._closing:
            return
        self._closing = True
        self._publish(ZERO)
        # a callback that hangs is not waited for
        if self._handling.acquire(timeout=runtime.CLOSE_S):
            try:
                self._driver.stop(self._now_ns(), 'shutdown')
                self._publish_statuses()
            finally:
                self._handling.release()
        for _ in range(3):
            self._publish(ZERO)
            time.sleep(0.02)
        self._closed = True

    def destroy_node(self):
        """End the watchdog with the node."""
        self._closed = True
        super().destroy_node()

    # What is heard

    def _on_odometry(self, message: Odometry):
        odometry = messages.odometry(message)
        self._rates['odometry'].count(time.monotonic())
        if not self._lockstep:
            self._driver.hear_odometry(self._now_ns(), odometry)
            return
        command = ZERO
        try:
            self._driver.hear_odometry(odometry.stamp_ns, odometry)
            command = self._step(odometry.stamp_ns) or ZERO
        finally:
            self._publish(command, odometry.stamp_ns)
        if self._waiting_plan is not None:
            waiting, self._waiting_plan = self._waiting_plan, None
            self._on_plan(waiting)

    def _on_plan(self, message: Path):
        stamp_ns, now_ns = messages.time_ns(message.header.stamp), self._now_ns()
        if self._lockstep and stamp_ns > now_ns + STAMP_SLACK_NS:
            # The plan for this tick overtook its odometry; taking it now would start it early.
            self._waiting_plan = message
            return
        self._driver.hear_plan(now_ns, message.header.frame_id, stamp_ns,
                               messages.path_poses(message))
        self._publish_statuses()

    def _on_emergency(self, message: Bool):
        self._driver.hear_emergency(self._now_ns(), bool(message.data))
        self._publish_statuses()

    def _on_stop(self, _request, response):
        self._driver.stop_by_hand(self._now_ns())
        self._publish_statuses()
        response.success = True
        response.message = 'stopped; the navigator ends its run, a new plan is needed to move'
        return response

    def _on_pause(self, request, response):
        self._driver.pause(self._now_ns(), bool(request.data))
        self._publish_statuses()
        response.success = True
        response.message = 'paused' if request.data else 'motion allowed; a new plan is needed'
        return response

    # What is done

    def _on_timer(self):
        command = self._step(self._now_ns())
        if command is not None:
            self._publish(command)

    def _step(self, now_ns: int):
        if self._frozen:
            self._frozen = False
            self._driver.stop(now_ns, self._no_step)
            self._driver.halt()   # where the watchdog's zero has brought the base already
        if self._motion.take():
            self._driver.configure(self.config)
        if self._heartbeat.take():
            self._driver.hear_heartbeat(now_ns)
        for source, stamp_ns, readings in self._range_sensors.take():
            self._driver.hear_readings(now_ns, source, stamp_ns, readings)
        command = self._driver.step(now_ns)
        if not self._lockstep:   # there a missing driver ends the episode
            self._driver.tell_start(now_ns)
        self._stepped_at_s = time.monotonic()
        self._rates['control'].count(self._stepped_at_s)
        due = not 0 <= now_ns - self._diagnosed_ns < DIAGNOSTICS_PERIOD_NS
        if due and not self._lockstep:   # where everybody waits as long as it takes
            self._driver.tell_progress()
        self._publish_statuses()
        if due:
            self._diagnosed_ns = now_ns
            self._driver.safety.incompatible = self._incompatible_publisher()
            self._look_for_warnings()
            self._publish_diagnostics(now_ns)
        return command

    def _incompatible_publisher(self) -> str:
        """Which safety topic has a publisher that cannot be heard, and why; empty for none.

        The graph is asked instead of waiting for the middleware's event, because it also tells
        when that publisher is gone.
        """
        for topic, qos in self._safety_topics.items():
            for publisher in self.get_publishers_info_by_topic(self.resolve_topic_name(topic)):
                verdict, why = qos_check_compatible(publisher.qos_profile, qos)
                if verdict == QoSCompatibility.ERROR:
                    return (f'the QoS of {publisher.node_name}, which publishes {topic}, is '
                            f'incompatible: {why.strip(" ;")}')
        return ''

    def _look_for_warnings(self):
        """One emergency stop that says false would release the other one; news is logged."""
        count = self.count_publishers(self.resolve_topic_name('emergency_stop'))
        warning = '' if count <= 1 else (
            f'{count} publishers on emergency_stop, where the last one to speak wins; let one '
            'speak for all')
        if warning and warning != self._warning:
            self.get_logger().warning(warning)
        self._warning = warning

    def _guarded(self, handler):
        """`handler`, whose exceptions stop the base instead of ending the node."""
        def call(*args):
            with self._handling:
                if self._closed:
                    return args[-1] if args else None
                try:
                    return handler(*args)
                except Exception as error:  # whatever it is, the base must stop
                    self._driver.stop(self._now_ns(), f'exception: {error!r}')
                    self._driver.halt()
                    self.get_logger().error(traceback.format_exc())
                    self._publish_statuses()
                    if not self._lockstep:   # where odometry has its one answer already
                        self._publish(ZERO)
                    return args[-1] if args else None  # a service's response: success is false
        return call

    def _watch_steady_clock(self):
        """Send zero when control steps cease, for a stopped clock or a hung callback."""
        repeat_until_s = 0.0
        while not self._closed:
            now_s = time.monotonic()
            left_s = self._stepped_at_s + self._wall_timeout_s - now_s
            if left_s > 0.0:
                time.sleep(left_s)
                continue
            if self._driver.moving or self._last_command != ZERO:
                if not self._frozen:
                    repeat_until_s = now_s + self.config.stop_repeat_s
                self._frozen = True
            if self._frozen and (now_s < repeat_until_s or self._last_command != ZERO):
                self._publish(ZERO)
            # A callback that hangs has the lock: nothing may be changed under it.
            if self._driver.moving and self._handling.acquire(blocking=False):
                try:
                    self._say_frozen()
                finally:
                    self._handling.release()
            time.sleep(self._period_s)

    def _say_frozen(self):
        """Drop the plan, and give the reason while no control step can."""
        if self._frozen and not self._closing:
            now_ns = self._now_ns()
            self._driver.stop(now_ns, self._no_step)
            self._publish_statuses()
            self._publish_diagnostics(now_ns)

    # What is said

    def _now_ns(self) -> int:
        if self._lockstep:
            odometry = self._driver.safety.odometry
            return odometry.stamp_ns if odometry is not None else 0
        return runtime.now_ns(self)

    def _publish(self, command, stamp_ns: int | None = None):
        with self._publishing:
            if self._closed:
                return
            if self._closing or self._frozen:
                command = ZERO
            if self._stamped:
                self._velocity.publish(messages.twist_stamped(
                    *command, self._now_ns() if stamp_ns is None else stamp_ns, self._base_frame))
            else:
                self._velocity.publish(messages.twist(*command))
            self._last_command = command
            self._rates['cmd_vel'].count(time.monotonic())

    def _publish_statuses(self):
        statuses, self._driver.statuses = self._driver.statuses, []
        for status in statuses:
            self._status.publish(messages.plan_status(status, self._now_ns()))
            if status.state == DROPPED and status.reason not in (REPLACED, STARTED):
                self.get_logger().warning(f'plan dropped: {status.reason}')

    def _publish_diagnostics(self, now_ns: int):
        driver = self._driver
        trouble = (self._no_step if self._frozen
                   else driver.safety.obstacle_to_motion(now_ns))
        ages = driver.safety.age_s(now_ns)
        stamp_ns, executed, of = driver.progress()
        now_s = time.monotonic()
        self._diagnostics.publish(messages.diagnostics(
            self.get_fully_qualified_name(), WARN if trouble or self._warning else OK,
            trouble or self._warning or driver.reason or driver.state,
            {'state': driver.state, 'reason': driver.reason, 'trouble': trouble or '',
             'warning': self._warning,
             'plan_stamp': f'{stamp_ns * 1e-9:.3f}', 'executed': executed, 'of': of,
             'last_stop': driver.last_stop, 'obstacle_source': self.config.obstacle_source,
             **{f'{name}_age_s': f'{age_s:.2f}' for name, age_s in ages.items()},
             **{f'{name}_hz': f'{rate.hz(now_s):.1f}' for name, rate in self._rates.items()},
             'linear_m_s': f'{self._last_command[0]:.3f}',
             'angular_rad_s': f'{self._last_command[1]:.3f}'}, now_ns))


def main(args=None) -> int:
    """Entry point of ``ros2 run vlnr1_ros driver``."""
    return runtime.run(DriverNode, args)


if __name__ == '__main__':
    sys.exit(main())
