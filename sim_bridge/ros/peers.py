"""What the bridge hears: velocities, acknowledgements, plans and states of the other nodes."""
from __future__ import annotations

import json

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import Twist, TwistStamped
from nav_msgs.msg import Path
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import Header, String

from vlnr1_ros.motion.plan import ACCEPTED, DONE, PlanStatus, decode
from vlnr1_ros.navigation.actions import Action, ActionSet
from vlnr1_ros.navigation.errors import UserError
from vlnr1_ros.navigation.run_state import AT_REST, FAILED, FOLLOWING, IDLE, REFUSED
from vlnr1_ros.nodes import messages


class Peers:
    """Remembers the newest of everything, and what became of the plans of an episode.

    driver: whether one is listened to; without, plans and what became of them are told by
    `hear_plan` and `hear_status`. velocity_ns: stamp of the newest velocity. decisions: [seconds,
    [action, ...]] for every plan; executed: [seconds, action] for every action driven.
    """

    def __init__(self, node: Node, action_set: ActionSet, stamped: bool, driver: bool):
        self._node = node
        self._action_set = action_set
        self.velocity_ns = -1
        self.acknowledged_ns = -1
        self.navigator: dict = {}
        self._plan_ns, self._unanswered = -1, False
        self.begin()
        reliable = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
        latched = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE,
                             durability=DurabilityPolicy.TRANSIENT_LOCAL)
        if driver:
            # In this order: a status that came with a velocity is heard before it.
            node.create_subscription(Path, 'plan', self.hear_plan, reliable)
            node.create_subscription(DiagnosticArray, 'plan_status', self._on_status, reliable)
            node.create_subscription(
                TwistStamped if stamped else Twist, 'cmd_vel',
                self._on_stamped if stamped else self._on_velocity, reliable)
        node.create_subscription(Header, 'lockstep_ack', self._on_acknowledgement, reliable)
        node.create_subscription(String, 'navigator/state', self._on_state, latched)

    def begin(self) -> None:
        """Forget the last episode's plans and velocity."""
        self._velocity, self._velocity_is_new, self._since_ns = (0.0, 0.0), False, 0
        self._actions: dict[int, list[Action]] = {}
        self._driven: dict[int, int] = {}
        self.decisions: list = []
        self.executed: list = []
        self.stopped = False
        self.misfit = ''

    def velocity(self, now_ns: int, timeout_s: float) -> tuple[float, float]:
        """(linear m/s, angular rad/s) to integrate now: the newest, zero when it is too old.

        Its age counts from the first call after it came: simulated time may stand still, and a
        velocity without a stamp has no other.
        """
        if self._velocity_is_new:
            self._velocity_is_new, self._since_ns = False, now_ns
        if now_ns - self._since_ns > timeout_s * 1e9:
            self._velocity = (0.0, 0.0)
        return self._velocity

    def unanswered_plan(self) -> bool:
        """Whether the driver owes an answer to a plan."""
        return self._unanswered

    def follows(self, instruction: str) -> bool:
        """Whether the navigator has accepted this (tidied) instruction."""
        return (self.navigator.get('state') in FOLLOWING
                and self.navigator.get('instruction') == instruction)

    def navigator_trouble(self) -> str:
        """Why the navigator follows nothing any more, or ''."""
        if self.navigator.get('state') in (FAILED, REFUSED, IDLE, *AT_REST):
            return f'navigator {self.navigator["state"]}: {self.navigator["reason"]}'
        return ''

    def _on_stamped(self, message: TwistStamped):
        self._on_velocity(message.twist)
        self.velocity_ns = messages.time_ns(message.header.stamp)

    def _on_velocity(self, message: Twist):
        self._velocity = (message.linear.x, message.angular.z)
        self._velocity_is_new = True

    def _on_acknowledgement(self, message: Header):
        if message.frame_id == 'navigator':
            self.acknowledged_ns = messages.time_ns(message.stamp)

    def _on_state(self, message: String):
        self.navigator = json.loads(message.data)

    def hear_plan(self, message: Path) -> None:
        """Note a plan; one that cannot be driven is a `misfit`."""
        self._plan_ns, self._unanswered = messages.time_ns(message.header.stamp), True
        try:
            actions = decode(messages.path_poses(message), self._action_set)
        except UserError as error:
            self.misfit = (f'the navigator sent a plan that cannot be driven: {error}; give the '
                           "bridge and the driver the checkpoint's turn_deg and forward_m")
            return
        if actions:
            self._actions[self._plan_ns] = actions
            self.decisions.append([self._plan_ns * 1e-9, [int(action) for action in actions]])

    def _on_status(self, message: DiagnosticArray):
        self.hear_status(messages.parse_plan_status(message),
                         messages.time_ns(message.header.stamp))

    def hear_status(self, status: PlanStatus, now_ns: int) -> None:
        """Note what became of a plan at that time."""
        self._unanswered &= status.stamp_ns != self._plan_ns
        seconds = now_ns * 1e-9
        actions = self._actions.get(status.stamp_ns, [])
        if status.state == ACCEPTED:   # with what the plan before it was told to have driven
            self._driven[status.stamp_ns] = status.executed
        driven = self._driven.get(status.stamp_ns, 0)
        self.executed += [[seconds, int(action)] for action in actions[driven:status.executed]]
        self._driven[status.stamp_ns] = max(driven, status.executed)
        self.stopped |= status.state == DONE and status.reason == 'stop'
