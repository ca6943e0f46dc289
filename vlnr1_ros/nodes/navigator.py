"""The navigator node: a sentence, images and odometry in, plans for the driver out.

    ros2 run vlnr1_ros navigator --ros-args --params-file config/navigator.yaml

What it decides is in ``pilot`` and ``policy``; this file connects them to topics and services.
With `lockstep`, every image is answered on `lockstep_ack` once all that follows from it was sent
and the driver has answered, so that a simulator can wait.
"""
from __future__ import annotations

import json
import sys
import traceback
from collections import deque

from diagnostic_msgs.msg import DiagnosticArray
from nav_msgs.msg import Odometry, Path
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header, String
from std_srvs.srv import SetBool, Trigger

from ..navigation.actions import ActionSet
from ..navigation.camera import Camera
from ..navigation.card import NavigationCard
from ..navigation.errors import UserError
from ..policy.load import BASELINES, is_url, load_policy
from ..resources import given_or_shipped
from . import messages, runtime
from .annotated import annotated
from .base_pose import BasePose
from .decision import Answer, Decider
from .expert_policy import ExpertPolicy
from .navigator_config import IMAGES, RELIABILITY, NavigatorConfig
from .pilot import DECIDING, EXECUTING, FAILED, REFUSED, Pilot
from .polled import PolledSubscription

HEARTBEAT_S = 0.05
DIAGNOSTICS_S = 1.0
OK, WARN, ERROR = 0, 1, 2


class NavigatorNode(Node):
    """ROS side of :class:`vlnr1_ros.nodes.pilot.Pilot`."""

    def __init__(self, **kwargs):
        super().__init__('navigator', **kwargs)
        self._config = runtime.declare_dataclass(self, NavigatorConfig)
        # Read when a run begins, so that a simulator can give every episode its own.
        runtime.declare(self, 'seed', 0, 'of whatever is random in the policy', read_only=False)
        self._policy = self._load_policy()
        card, config = self._policy.card, self._config
        _, _, to_rgb = IMAGES[config.image_transport]
        self._pilot = Pilot(card, config.execute or card.execute, config.retry_s, to_rgb,
                            self._pose_at)
        self._base = BasePose()
        self._answers: deque[Answer] = deque()
        self._answered = self.create_guard_condition(self._guarded(self._on_answer))
        self._decider = Decider(self._policy, self._hand_over)
        self._unacknowledged: Header | None = None
        self._said = ''
        self._camera_trouble = ''
        self._asked = 0                # token of the last question
        self._policy_trouble = ''      # why the policy is not available
        self._ask_again_ns: int | None = None
        self._decision_s = 0.0
        self._image_at_ns = self._status_at_ns = self._steady_ns()
        self._connect()
        self._advance()

    def _load_policy(self):
        if is_url(self._config.policy):
            return load_policy(self._config.policy)
        if self._config.policy != 'expert' and self._config.policy not in BASELINES:
            return load_policy(
                given_or_shipped(self._config.policy), device=self._config.device or None,
                dtype=self._config.dtype or None, compiled=self._config.compiled)
        card = NavigationCard(action_set=ActionSet(self._config.forward_m, self._config.turn_deg))
        if self._config.policy == 'expert':
            return ExpertPolicy(self, card)
        return load_policy(self._config.policy, card=card)

    def _connect(self):
        reliable = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
        latched = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE,
                             durability=DurabilityPolicy.TRANSIENT_LOCAL)
        sensor = QoSProfile(depth=5, reliability=RELIABILITY[
            'reliable' if self._config.lockstep else self._config.image_reliability])
        many = QoSProfile(depth=200, reliability=sensor.reliability)
        self._plan = self.create_publisher(Path, 'plan', reliable)
        self._heartbeat = self.create_publisher(Header, 'navigator/heartbeat', reliable)
        self._state = self.create_publisher(String, '~/state', latched)
        self._annotated = self.create_publisher(Image, '~/annotated_image', reliable)
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', reliable)
        self._acknowledge = self.create_publisher(Header, 'lockstep_ack', reliable) \
            if self._config.lockstep else None
        self._odometry = PolledSubscription(self, Odometry, 'odom', many)
        self._camera_info = PolledSubscription(self, CameraInfo, 'camera_info', sensor)
        image_topic, image_kind, _ = IMAGES[self._config.image_transport]
        for kind, topic, handler, qos in (
                # In this order: the end of an action is heard before the image of that end.
                (DiagnosticArray, 'plan_status', self._on_plan_status, reliable),
                (String, 'instruction', self._on_instruction, reliable),
                (image_kind, image_topic, self._on_image, sensor)):
            self.create_subscription(kind, topic, self._guarded(handler), qos)
        self.create_service(Trigger, '~/cancel', self._guarded(self._on_cancel))
        self.create_service(SetBool, '~/pause', self._guarded(self._on_pause))
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(HEARTBEAT_S, self._guarded(self._on_heartbeat), clock=steady)
        self.create_timer(DIAGNOSTICS_S, self._guarded(self._on_diagnostics), clock=steady)

    def close(self):
        """Hold: nobody is left to see where the robot goes."""
        if self._pilot.active:
            self._pilot.cancel()
            self._advance()
        self._decider.close()

    # What is heard

    def _on_image(self, message):
        self._image_at_ns = self._steady_ns()
        self._pilot.image(messages.time_ns(message.header.stamp), message)
        if self._config.lockstep:
            # Simulated time may run many times faster than the heartbeat's timer.
            self._publish_heartbeat()
            self._unacknowledged = message.header

    def _on_instruction(self, message: String):
        self._pilot.instruct(message.data, 0 if self._config.lockstep else runtime.now_ns(self))

    def _on_plan_status(self, message: DiagnosticArray):
        self._status_at_ns = self._steady_ns()
        self._pilot.status(messages.parse_plan_status(message),
                           messages.time_ns(message.header.stamp))

    def _on_answer(self):
        while self._answers:
            answer = self._answers.popleft()
            self._decision_s = answer.took_s
            self._status_at_ns = self._steady_ns()
            if answer.unavailable and answer.token == self._asked \
                    and self._pilot.state == DECIDING:
                self._wait_for_policy(answer.error)
            else:
                if not answer.error:
                    self._policy_trouble = ''
                self._pilot.answer(answer)
                self._publish_annotated()

    def _wait_for_policy(self, trouble):
        """Hold, and ask again from a fresh image after `retry_s`: servers come back."""
        if not self._policy_trouble:
            self.get_logger().warning(f'{trouble}; asks again every {self._config.retry_s:g} s')
        self._policy_trouble = trouble
        self._pilot.pause(True)
        self._pilot.reason = trouble
        self._ask_again_ns = self._steady_ns() + int(self._config.retry_s * 1e9)

    def _on_cancel(self, _request, response):
        self._pilot.cancel()
        response.success, response.message = True, 'cancelled; send an instruction to go on'
        return response

    def _on_pause(self, request, response):
        self._ask_again_ns = None
        self._pilot.pause(bool(request.data))
        response.success, response.message = True, self._pilot.state
        return response

    def _on_heartbeat(self):
        self._publish_heartbeat()
        if self._ask_again_ns is not None and self._steady_ns() >= self._ask_again_ns:
            self._ask_again_ns = None
            self._pilot.pause(False)
        if not self._config.lockstep:
            self._watch()

    def _watch(self):
        """Hold when the camera or the driver has gone silent."""
        now_ns = self._steady_ns()
        pilot, config = self._pilot, self._config
        if pilot.state != EXECUTING:
            return
        if now_ns - self._image_at_ns > config.image_timeout_s * 1e9:
            pilot.fail(f'no image for {config.image_timeout_s:g} s (image_timeout_s)')
        elif now_ns - self._status_at_ns > config.driver_timeout_s * 1e9:
            pilot.fail(f'no plan_status for {config.driver_timeout_s:g} s (driver_timeout_s): is '
                       'the driver running?')

    # What is done

    def _guarded(self, handler):
        """`handler` and what follows from it; an exception holds and never ends the node."""
        def call(*args):
            result = None
            try:
                result = handler(*args)
                self._advance()
            except UserError as error:
                self._pilot.fail(str(error))
                self._publish_all()
            except Exception as error:
                self.get_logger().error(traceback.format_exc())
                self._pilot.fail(f'exception: {error!r}')
                self._publish_all()
            return result if result is not None or not args else args[-1]
        return call

    def _advance(self):
        question = self._pilot.question()
        if question is not None:
            self._asked = question.token
            self._decider.ask(question, self.get_parameter('seed').value)
        elif self._pilot.state != DECIDING:
            self._decider.give_up()
        self._publish_all()
        if self._unacknowledged is not None and not self._pilot.busy:
            header, self._unacknowledged = self._unacknowledged, None
            header.frame_id = self.get_name()
            self._acknowledge.publish(header)

    def _hand_over(self, answer: Answer):
        """Called by the decider's thread: the answer is taken by the executor's."""
        self._answers.append(answer)
        self._answered.trigger()

    def _pose_at(self, stamp_ns: int):
        for message in self._odometry.take():
            self._base.add(messages.odometry(message))
        return self._base.at(stamp_ns)

    # What is said

    def _publish_all(self):
        plans, self._pilot.plans = self._pilot.plans, []
        frame = self._config.odom_frame or self._base.frame_id or 'odom'
        for plan in plans:
            self._plan.publish(messages.path(plan.poses, plan.stamp_ns, frame))
        pilot = self._pilot
        text = json.dumps({
            'state': pilot.state, 'reason': pilot.reason, 'instruction': pilot.instruction,
            'policy': self._config.policy, 'decisions': pilot.decisions, 'frames': pilot.frames,
            'actions': [int(action) for action in pilot.actions],
            'policy_trouble': self._policy_trouble})
        if text != self._said:
            self._said = text
            self._state.publish(String(data=text))

    def _publish_annotated(self):
        """The frame of the last decision with its actions, where somebody looks."""
        pilot = self._pilot
        if pilot.state == EXECUTING and self._annotated.get_subscription_count():
            texts = [pilot.card.action_set.phrase(action) for action in pilot.actions]
            self._annotated.publish(messages.image(
                annotated(pilot.newest_frame, pilot.instruction, texts), 'rgb8',
                pilot.newest_image_ns, self.get_name()))

    def _publish_heartbeat(self):
        self._heartbeat.publish(Header(stamp=messages.time_message(runtime.now_ns(self)),
                                       frame_id=self.get_name()))

    def _on_diagnostics(self):
        pilot = self._pilot
        self._check_camera()
        level = {FAILED: ERROR, REFUSED: ERROR}.get(
            pilot.state, WARN if self._camera_trouble or self._policy_trouble else OK)
        self._diagnostics.publish(messages.diagnostics(
            self.get_fully_qualified_name(), level, f'{pilot.state}: {pilot.reason}',
            {'state': pilot.state, 'reason': pilot.reason, 'instruction': pilot.instruction,
             'policy': self._config.policy, 'policy_trouble': self._policy_trouble or 'none',
             'camera': self._camera_trouble or 'as the card says',
             'decisions': pilot.decisions, 'frames': pilot.frames,
             'decision_s': f'{self._decision_s:.3f}',
             'image_age_s': f'{(self._steady_ns() - self._image_at_ns) * 1e-9:.2f}'},
            runtime.now_ns(self)))

    def _check_camera(self):
        """Compare the live camera with the card; a difference is a warning with both values."""
        for info in self._camera_info.take()[-1:]:
            expected = self._policy.card.camera
            try:
                live = Camera.from_intrinsics(int(info.width), int(info.height), float(info.k[0]),
                                              self._config.camera_height_m or expected.height_m)
                trouble = '; '.join(expected.differences(live))
            except UserError as error:
                trouble = str(error)
            if trouble and trouble != self._camera_trouble:
                self.get_logger().warning(f'another camera than the model was made for: {trouble}')
            self._camera_trouble = trouble

    @staticmethod
    def _steady_ns() -> int:
        return Clock(clock_type=ClockType.STEADY_TIME).now().nanoseconds


def main(args=None) -> int:
    """Entry point of ``ros2 run vlnr1_ros navigator``."""
    return runtime.run(NavigatorNode, args)


if __name__ == '__main__':
    sys.exit(main())
