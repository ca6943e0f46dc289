"""The navigator node: a sentence, images and odometry in, plans for the driver out.

    ros2 run vlnr1_ros navigator --ros-args --params-file config/navigator.yaml

A lifecycle node: configure loads and warms the model, activate lets the robot move, deactivate
stops it, cleanup frees the model, shutdown ends the process.

What it decides is in ``pilot`` and ``policy``; this file connects them to topics and services.
With `lockstep`, every image is answered on `lockstep_ack` once all that follows from it was sent
and the driver has answered, so that a simulator can wait.
"""
from __future__ import annotations

import json
import sys
import threading
import time
import traceback
from collections import deque

from diagnostic_msgs.msg import DiagnosticArray
from nav_msgs.msg import Odometry, Path
from rclpy.clock import Clock, ClockType
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header, String
from std_srvs.srv import SetBool, Trigger

from ..motion.stuck import StuckRule
from ..navigation.errors import UserError
from ..navigation.run_state import DECIDING, EXECUTING, UNCONFIGURED, WAITING
from ..policy.base import Policy
from ..policy.load import free_memory
from . import messages, runtime
from .annotated import annotated
from .base_pose import BasePose
from .camera_check import CameraCheck
from .decision import Answer, Decider
from .health import Health, at_rest
from .managed import ACTIVE, ManagedNode
from .named_policy import named_policy
from .navigator_config import IMAGES, READ_BY_CONFIGURE, RELIABILITY, NavigatorConfig
from .pilot import Pilot
from .polled import PolledSubscription

HEARTBEAT_S = 0.05
WATCH_S = 0.02       # a period of the driver
DIAGNOSTICS_S = 1.0
RELIABLE = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)


class NavigatorNode(ManagedNode):
    """ROS side of :class:`vlnr1_ros.nodes.pilot.Pilot`, which lives from configure to cleanup."""

    def __init__(self, **kwargs):
        super().__init__('navigator', **kwargs)
        self._parameters_now = runtime.Live(self, NavigatorConfig, self._forbids_change)
        self._policy: Policy | None = None
        self._pilot: Pilot | None = None
        self._decider: Decider | None = None
        self._camera: CameraCheck | None = None
        self._ears: list = []          # subscriptions, while active
        self._handling = threading.RLock()   # held by every callback
        self._closing = False
        self._base = BasePose()
        self._answers: deque[Answer] = deque()
        self._answered = self.create_guard_condition(self._guarded(self._on_answer))
        self._unacknowledged: Header | None = None
        self._said = ''
        self._trouble = ''             # of camera and frames
        self._health = Health()
        self._asked = 0                # token of the last question
        self._policy_trouble = ''      # why the policy is not available
        self._ask_again_ns: int | None = None
        self._status_at_ns = self._steady_ns()
        self._shown_ns = 0             # when the newest image was taken, by its stamp
        self._read_ns = 0              # when one was read
        self._connect()
        self.changed()
        if self._config.start_active:
            self.start()

    @property
    def _config(self) -> NavigatorConfig:
        return self._parameters_now.config

    def _forbids_change(self, names: list[str]) -> str:
        late = sorted(set(names) & READ_BY_CONFIGURE)
        if late and (self.phase != UNCONFIGURED or self.configuring):
            return f'{late[0]} is read by configure; deactivate and clean up first'
        return ''

    # Transitions

    def configure(self) -> None:
        """Load and warm the model."""
        self._parameters_now.take()
        config = self._config
        self._policy = named_policy(self, config)
        card = self._policy.card
        self._camera = CameraCheck(card.camera, config.camera_height_m, config.crop)
        self._health, self._policy_trouble = Health(), ''
        # An answer to a pilot of before must not reach this one.
        self._answers = answers = deque()
        self._decider = Decider(self._policy, lambda answer: self._hand_over(answers, answer))
        self._pilot = Pilot(card, config.execute or card.execute, config.retry_s, self._rgb,
                            self._pose_at, StuckRule(card.action_set, config.when_stuck,
                                                     config.stuck_turn_deg, config.stuck_plans),
                            config.during)

    def activate(self) -> None:
        """Listen; what was said before is not heard."""
        self._base = BasePose()
        self._status_at_ns = self._steady_ns()
        self._listen()

    def hold(self) -> None:
        """Stop the robot, forget the instruction and listen no more."""
        self._unacknowledged = self._ask_again_ns = None
        if self._pilot is not None:
            self._decider.give_up()
            if self._pilot.active:
                self._pilot.cancel('deactivated')
            self._publish_all()
        ears, self._ears = self._ears, []
        for ear in ears:
            self.destroy_subscription(ear)

    def release(self) -> None:
        """Free the model."""
        if self._decider is not None:
            self._decider.close()
        self._policy = self._pilot = self._decider = self._camera = None
        free_memory()

    def changed(self) -> None:
        """Say in which state the node is now, and why."""
        self._publish_state()

    def close(self):
        """Hold, and say nothing after it: nobody is left to see where the robot goes."""
        self._closing = True
        # a callback that hangs is not waited for
        waited = self._handling.acquire(timeout=runtime.CLOSE_S)
        try:
            if self.phase == ACTIVE:
                self._pilot.cancel()
                self._advance()
        finally:
            if waited:
                self._handling.release()
        if self._decider is not None:
            self._decider.close()

    # Topics

    def _connect(self):
        """What there is in every state."""
        self._plan = self.create_publisher(Path, 'plan', RELIABLE)
        self._heartbeat = self.create_publisher(Header, 'navigator/heartbeat', RELIABLE)
        self._state = self.create_publisher(String, '~/state', QoSProfile(
            depth=1, reliability=ReliabilityPolicy.RELIABLE,
            durability=DurabilityPolicy.TRANSIENT_LOCAL))
        self._annotated = self.create_publisher(Image, '~/annotated_image', RELIABLE)
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', RELIABLE)
        self._acknowledge = self.create_publisher(Header, 'lockstep_ack', RELIABLE) \
            if self._config.lockstep else None
        self.create_service(Trigger, '~/cancel', self._guarded(self._on_cancel))
        self.create_service(SetBool, '~/pause', self._guarded(self._on_pause))
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(HEARTBEAT_S, self._guarded(self._on_heartbeat), clock=steady)
        self.create_timer(DIAGNOSTICS_S, self._guarded(self._on_diagnostics), clock=steady)
        if not self._config.lockstep:
            self.create_timer(WATCH_S, self._guarded(self._watch), clock=steady)

    def _listen(self):
        """What there is while the robot may move."""
        sensor = QoSProfile(depth=5, reliability=RELIABILITY[
            'reliable' if self._config.lockstep else self._config.image_reliability])
        many = QoSProfile(depth=200, reliability=sensor.reliability)
        self._odometry = PolledSubscription(self, Odometry, 'odom', many)
        self._camera_info = PolledSubscription(self, CameraInfo, 'camera_info', sensor)
        self._ears = [self._odometry.subscription, self._camera_info.subscription]
        image_topic, image_kind, _ = IMAGES[self._config.image_transport]
        for kind, topic, handler, qos in (
                # In this order: the end of an action is heard before the image of that end.
                (DiagnosticArray, 'plan_status', self._on_plan_status, RELIABLE),
                (String, 'instruction', self._on_instruction, RELIABLE),
                (image_kind, image_topic, self._on_image, sensor)):
            self._ears.append(self.create_subscription(kind, topic, self._guarded(handler), qos))

    # What is heard

    def _on_image(self, message):
        self._health.image()
        stamp_ns = messages.time_ns(message.header.stamp)
        if stamp_ns != self._pilot.newest_image_ns:   # a repeated image is no news
            self._shown_ns = stamp_ns
        if not self._config.lockstep:
            if self._image_age_s() > self._config.image_timeout_s:
                return   # nothing is decided from it; `_watch` says so
            now_ns = runtime.now_ns(self)
            if (self._pilot.state == EXECUTING
                    and now_ns - self._read_ns > 0.5e9 * self._config.image_timeout_s):
                self._read_ns = now_ns
                self._rgb(message)   # UserError: who can not see does not drive on
        self._pilot.image(stamp_ns, message)
        self._on_answer()   # one that was held back
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
        if self.phase != ACTIVE:
            self._answers.clear()
        while self._answers and not self._held_back(self._answers[0]):
            answer = self._answers.popleft()
            self._status_at_ns = self._steady_ns()
            if answer.unavailable and answer.token == self._asked and self._pilot.deciding:
                self._wait_for_policy(answer.error)
            else:
                if not answer.error:
                    self._policy_trouble = ''
                    self._health.decision(answer.took_s)
                interfered, decisions = self._pilot.stuck.count, self._pilot.decisions
                self._pilot.answer(answer)
                if self._pilot.stuck.count != interfered:
                    self.get_logger().warning(
                        f'stuck: {self._pilot.stuck.trouble}; now {self._pilot.reason}')
                if self._pilot.decisions != decisions:
                    self._publish_annotated()

    def _held_back(self, answer) -> bool:
        """Whether it came before `decision_time_s` was over."""
        pilot = self._pilot
        return (answer.token == self._asked and pilot.deciding and pilot.newest_image_ns
                < pilot.asked_ns + int(self._config.decision_time_s * 1e9))

    def _wait_for_policy(self, trouble):
        """Hold, and ask again from a fresh image after `retry_s`: servers come back.

        A base that drives finishes its plan first; then it is asked for the first time.
        """
        if self._pilot.state != DECIDING:
            self._pilot.give_up_ahead()
            return
        if not self._policy_trouble:
            self.get_logger().warning(f'{trouble}; asks again every {self._config.retry_s:g} s')
        self._policy_trouble = trouble
        self._pilot.pause(True)
        self._pilot.reason = trouble
        self._ask_again_ns = self._steady_ns() + int(self._config.retry_s * 1e9)

    def _on_cancel(self, _request, response):
        if self.phase != ACTIVE:
            return self._not_active(response)
        self._pilot.cancel()
        response.success, response.message = True, 'cancelled; send an instruction to go on'
        return response

    def _on_pause(self, request, response):
        if self.phase != ACTIVE:
            return self._not_active(response)
        self._ask_again_ns = None
        self._pilot.pause(bool(request.data))
        response.success, response.message = True, self._pilot.state
        return response

    def _not_active(self, response):
        response.success, response.message = False, f'the navigator is {self.phase}'
        return response

    def _on_heartbeat(self):
        if self.phase != ACTIVE:
            return
        if self._parameters_now.take():
            self._pilot.retry_s = self._config.retry_s
        self._publish_heartbeat()
        if self._ask_again_ns is not None and self._steady_ns() >= self._ask_again_ns:
            self._ask_again_ns = None
            self._pilot.pause(False)

    def _watch(self):
        """Hold when the camera is silent, frozen or late, or the driver is silent.

        While an image is waited for, say what is too old to decide from.
        """
        pilot, config = self._pilot, self._config
        if self.phase != ACTIVE:
            return
        age_s, limit = self._image_age_s(), f'image_timeout_s ({config.image_timeout_s:g} s)'
        if pilot.state == WAITING:
            if age_s > config.image_timeout_s:
                pilot.reason = f'waits for an image younger than {limit}'
            elif self._odometry_age_s() > config.image_timeout_s:
                pilot.reason = f'waits for odometry younger than {limit}'
        elif pilot.state != EXECUTING:
            return
        elif age_s > config.image_timeout_s:
            pilot.fail(f'the newest image is {age_s:.2f} s old, more than {limit}: the camera is '
                       'silent, frozen or late')
        elif self._steady_ns() - self._status_at_ns > config.driver_timeout_s * 1e9:
            pilot.fail(f'no plan_status for {config.driver_timeout_s:g} s (driver_timeout_s): is '
                       'the driver running?')

    def _image_age_s(self) -> float:
        """Age of the newest image; a clock that went back leaves nothing in the future."""
        now_ns = runtime.now_ns(self)
        self._shown_ns, self._read_ns = min(self._shown_ns, now_ns), min(self._read_ns, now_ns)
        return (now_ns - self._shown_ns) * 1e-9

    def _odometry_age_s(self) -> float:
        self._hear_odometry()
        return (runtime.now_ns(self) - (self._base.newest_ns or 0)) * 1e-9

    # What is done

    def _guarded(self, handler):
        """`handler` and what follows from it; an exception holds and never ends the node."""
        def call(*args):
            result = None
            with self._handling:
                if self._closing:
                    return args[-1] if args else None
                try:
                    result = handler(*args)
                    self._advance()
                except UserError as error:
                    self._fail(str(error))
                except Exception as error:
                    self.get_logger().error(traceback.format_exc())
                    self._fail(f'exception: {error!r}')
            return result if result is not None or not args else args[-1]
        return call

    def _fail(self, reason):
        if self.phase == ACTIVE:
            self._pilot.fail(reason)
            self._publish_all()

    def _advance(self):
        if self.phase != ACTIVE:
            return
        question = self._pilot.question()
        if question is not None:
            self._asked = question.token
            self._decider.ask(question, self.get_parameter('seed').value)
        elif not self._pilot.deciding:
            self._decider.give_up()
        self._publish_all()
        held_back = self._answers and self._held_back(self._answers[0])
        if self._unacknowledged is not None and (held_back or not self._pilot.busy):
            header, self._unacknowledged = self._unacknowledged, None
            header.frame_id = self.get_name()
            self._acknowledge.publish(header)

    def _hand_over(self, answers: deque, answer: Answer):
        """Called by the decider's thread: the answer is taken by the executor's."""
        answers.append(answer)
        self._answered.trigger()

    def _pose_at(self, stamp_ns: int):
        self._hear_odometry()
        return self._base.at(stamp_ns)

    def _hear_odometry(self):
        taken = self._odometry.take()
        self._health.odometry(len(taken))
        for message in taken:
            self._base.add(messages.odometry(message))

    def _rgb(self, message):
        """What the model is to see of an image."""
        self._hear_camera_info()
        _, _, to_rgb = IMAGES[self._config.image_transport]
        return self._camera.fit(to_rgb(message), message.header.frame_id)

    def _hear_camera_info(self):
        for info in self._camera_info.take()[-1:]:
            self._camera.hear(info)

    # What is said

    def _publish_all(self):
        plans, self._pilot.plans = self._pilot.plans, []
        frame = self._config.odom_frame or self._base.frame_id or 'odom'
        for plan in plans:
            self._plan.publish(messages.path(plan.poses, plan.stamp_ns, frame))
        self._publish_state()

    def _publish_state(self):
        pilot = self._pilot
        state, reason = (pilot.state, pilot.reason) if self.phase == ACTIVE \
            else (self.phase, self.trouble)
        text = json.dumps({
            'state': state, 'reason': reason, 'instruction': pilot.instruction if pilot else '',
            'policy': self._config.policy, 'decisions': pilot.decisions if pilot else 0,
            'frames': pilot.frames if pilot else 0,
            'deciding_s': pilot.deciding_ns * 1e-9 if pilot else 0.0,
            'hidden_s': pilot.hidden_ns * 1e-9 if pilot else 0.0,
            'actions': [int(action) for action in pilot.actions] if pilot else [],
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
        if self.phase == ACTIVE:
            self._hear_camera_info()
            self._hear_odometry()
            self._look_for_trouble()
            report = self._health.report(self._pilot, self._camera, self._config.policy,
                                         self._policy_trouble, self._trouble)
        else:
            report = at_rest(self.phase, self.trouble, self._config.policy)
        self._diagnostics.publish(messages.diagnostics(
            self.get_fully_qualified_name(), *report, runtime.now_ns(self)))

    def _look_for_trouble(self):
        """Compare camera and frames with what is expected; news is a warning in the log."""
        trouble, odom_frame = self._camera.trouble, self._config.odom_frame
        if odom_frame and self._base.frame_id not in ('', odom_frame):
            trouble = '; '.join(filter(None, (
                trouble, f'odometry is in frame {self._base.frame_id!r}, plans in '
                f'{odom_frame!r} (odom_frame): the driver will refuse them')))
        if trouble and trouble != self._trouble:
            self.get_logger().warning(trouble)
        self._trouble = trouble

    @staticmethod
    def _steady_ns() -> int:
        return time.monotonic_ns()


def main(args=None) -> int:
    """Entry point of ``ros2 run vlnr1_ros navigator``."""
    return runtime.run(NavigatorNode, args)


if __name__ == '__main__':
    sys.exit(main())
