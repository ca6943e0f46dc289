"""Discrete mode: no driver takes part, the bridge executes plans itself, as habitat actions.

Plans are taken, refused and answered as the driver does it (`vlnr1_ros/motion/driver.py`), so that
the navigator cannot tell the two apart.
"""
from __future__ import annotations

from typing import Callable

from diagnostic_msgs.msg import DiagnosticArray
from nav_msgs.msg import Path
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy

from sim_bridge import frames
from sim_bridge.environment import Environment, Observation
from sim_bridge.ros.peers import Peers
from sim_bridge.ros.topics import ODOM_FRAME
from vlnr1_ros.motion.plan import (
    ACCEPTED,
    DONE,
    DROPPED,
    HOLD,
    REPLACED,
    RUNNING,
    PlanStatus,
    Pose,
    check_frame,
    check_shift,
    check_stamp,
    decode,
)
from vlnr1_ros.navigation.actions import Action, ActionSet
from vlnr1_ros.navigation.errors import UserError
from vlnr1_ros.nodes import messages


class DiscreteMode:
    """Answers `plan` on `plan_status`; :meth:`act` executes one action of the plan taken last.

    now_ns: the simulated time. `peers` is told of everything, as if a driver had said it. path:
    [x, y, z, yaw] at an episode's start and after each of its actions, in habitat's frame.
    """

    def __init__(self, node: Node, environment: Environment, action_set: ActionSet, peers: Peers,
                 now_ns: Callable[[], int]):
        self._environment = environment
        self._action_set = action_set
        self._peers = peers
        self._now_ns = now_ns
        self._last_stamp_ns = 0   # of the last plan taken
        self._last_stop_ns = 0    # plans from images before this are answers to an old question
        self._here: Pose | None = None
        self.path: list[list[float]] = []
        self._stamp_ns, self._actions, self._executed = 0, [], 0   # no actions: no plan
        reliable = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
        self._status = node.create_publisher(DiagnosticArray, 'plan_status', reliable)
        node.create_subscription(Path, 'plan', self._on_plan, reliable)

    def begin(self, seen: Observation) -> None:
        """Stand where an episode starts; the plan of the last one is forgotten."""
        self._actions = []
        self.path = []
        self._stand(seen)

    def act(self, seen: Observation, end_ns: int) -> Observation:
        """Execute the action that is due, or none without a plan.

        Returns what is seen after it, which is `seen` if there was none. `end_ns`: when it ends.
        """
        if not self._actions:
            return seen
        action = self._actions[self._executed]
        seen = self._environment.step(int(action))
        self._stand(seen)
        self._executed += 1
        if action == Action.STOP:
            self._finish(DONE, 'stop', end_ns)
        elif self._executed == len(self._actions):
            self._finish(DONE, '', end_ns)
        else:
            self._report(RUNNING, '', end_ns)
        return seen

    def _stand(self, seen):
        self._here = Pose(*frames.to_ros(seen.x, seen.z, seen.yaw_rad))
        self.path.append([seen.x, seen.y, seen.z, seen.yaw_rad])

    def _on_plan(self, message: Path):
        self._peers.hear_plan(message)
        now_ns = self._now_ns()
        stamp_ns = messages.time_ns(message.header.stamp)
        poses = messages.path_poses(message)
        if not poses:
            self._last_stop_ns = max(self._last_stop_ns, min(stamp_ns, now_ns) or now_ns)
            self._drop(HOLD, now_ns)
            self._say(PlanStatus(stamp_ns, ACCEPTED, 0, 0, HOLD), now_ns)
            return
        try:
            actions = self._fitting(message.header.frame_id, stamp_ns, poses)
        except UserError as error:
            self._drop(f'the next plan was refused: {error}', now_ns)
            self._say(PlanStatus(stamp_ns, DROPPED, 0, len(poses) - 1, str(error)), now_ns)
            return
        self._drop(REPLACED, now_ns)
        self._last_stamp_ns = stamp_ns
        self._stamp_ns, self._actions, self._executed = stamp_ns, actions, 0
        self._report(ACCEPTED, '', now_ns)

    def _fitting(self, frame_id, stamp_ns, poses):
        """The actions of a plan; UserError when it does not fit what the base does now."""
        actions = decode(poses, self._action_set)
        if self._here is None:
            raise UserError('no episode is running')
        check_frame(frame_id, ODOM_FRAME)
        check_stamp(stamp_ns, self._now_ns(), self._last_stamp_ns, self._last_stop_ns)
        check_shift(Pose(*poses[0]), self._here)
        return actions

    def _drop(self, reason, now_ns):
        if self._actions:
            self._finish(DROPPED, reason, now_ns)

    def _finish(self, state, reason, now_ns):
        self._report(state, reason, now_ns)
        self._actions = []

    def _report(self, state, reason, now_ns):
        self._say(PlanStatus(self._stamp_ns, state, self._executed, len(self._actions), reason),
                  now_ns)

    def _say(self, status, now_ns):
        self._peers.hear_status(status, now_ns)
        self._status.publish(messages.plan_status(status, now_ns))
