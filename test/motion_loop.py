"""A simulated differential drive, and the driver in a closed loop with it; no ROS."""
import math
from collections import deque

from vlnr1_ros.motion.config import DriverConfig
from vlnr1_ros.motion.driver import Driver
from vlnr1_ros.motion.plan import Pose, encode, wrap
from vlnr1_ros.motion.safety import Odometry

PERIOD_NS = 20_000_000
START_NS = 10_000_000_000


class Base:
    """Differential drive whose wheels follow a command after `delay_s` with a lag of `lag_s`."""

    def __init__(self, delay_s=0.04, lag_s=0.05, period_ns=PERIOD_NS):
        self.dt_s = period_ns * 1e-9
        self.pose = Pose(3.0, -2.0, 1.0)
        self.linear = self.angular = 0.0
        self.lag_s = lag_s
        self.pending = deque([(0.0, 0.0)] * round(delay_s / self.dt_s))

    def drive(self, linear, angular):
        self.pending.append((linear, angular))
        linear, angular = self.pending.popleft()
        gain = 1.0 - math.exp(-self.dt_s / self.lag_s) if self.lag_s else 1.0
        self.linear += gain * (linear - self.linear)
        self.angular += gain * (angular - self.angular)
        yaw = self.pose.yaw_rad + 0.5 * self.angular * self.dt_s
        self.pose = Pose(self.pose.x_m + self.linear * self.dt_s * math.cos(yaw),
                         self.pose.y_m + self.linear * self.dt_s * math.sin(yaw),
                         wrap(self.pose.yaw_rad + self.angular * self.dt_s))


class Loop:
    """Driver and base on a clock of our own; everything commanded is recorded."""

    def __init__(self, config=None, base=None):
        self.config = config or DriverConfig()
        self.driver = Driver(self.config)
        self.base = base or Base()
        self.now_ns = START_NS
        self.commands = []
        self.odometry_every = 1
        self.hears_odometry = self.hears_heartbeat = True
        self.tick()

    def tick(self, count=1):
        for _ in range(count):
            self.now_ns += PERIOD_NS
            if self.hears_heartbeat:
                self.driver.hear_heartbeat(self.now_ns)
            due = self.now_ns // PERIOD_NS % self.odometry_every == 0
            if self.hears_odometry and due:
                self.driver.hear_odometry(self.now_ns, self.odometry())
            command = self.driver.step(self.now_ns)
            self.commands.append(command)
            self.base.drive(*(command or (0.0, 0.0)))

    def odometry(self):
        return Odometry(self.now_ns, 'odom', self.base.pose, self.base.linear, self.base.angular)

    def plan(self, actions, stamp_ns=None, start=None, frame='odom'):
        poses = encode(start or self.base.pose, actions, self.config.action_set)
        self.driver.hear_plan(self.now_ns, frame, stamp_ns or self.now_ns, poses)

    def states(self):
        statuses, self.driver.statuses = self.driver.statuses, []
        return statuses

    def run(self, limit_s=60.0):
        """Tick until the plan ends; poses of the base at every status."""
        poses = []
        for _ in range(round(limit_s / (PERIOD_NS * 1e-9))):
            before = len(self.driver.statuses)
            self.tick()
            if len(self.driver.statuses) > before:
                poses.append(self.base.pose)
            if not self.driver.moving:
                return poses
        raise AssertionError('the plan did not end')
