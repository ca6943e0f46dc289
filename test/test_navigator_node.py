"""The navigator node over real topics."""
import json
import time

import cv2
import numpy as np
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from nav_msgs.msg import Odometry, Path
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage
from spun_node import Spun, fresh_domain, wait_until
from std_msgs.msg import Header, String
from std_srvs.srv import SetBool, Trigger

from vlnr1_ros.motion.plan import PlanStatus, Pose, decode
from vlnr1_ros.navigation.actions import ActionSet
from vlnr1_ros.navigation.errors import UserError
from vlnr1_ros.nodes import messages
from vlnr1_ros.nodes.lean_executor import LeanExecutor
from vlnr1_ros.nodes.navigator import NavigatorNode

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def spun_by(executor_class):
    return lambda node: executor_class(context=node.context)


class Robot(Spun):
    """Camera, base and driver of a robot, by hand."""

    def __init__(self, domain_id):
        super().__init__(domain_id, lambda context: rclpy.create_node('robot', context=context),
                         spun_by(SingleThreadedExecutor))
        node = self.node
        self.plans, self.states, self.heartbeats, self.acknowledged = [], [], [], []
        self.diagnostics = []
        self.image = node.create_publisher(messages.Image, 'image_raw', 10)
        self.compressed = node.create_publisher(CompressedImage, 'image_raw/compressed', 10)
        self.info = node.create_publisher(CameraInfo, 'camera_info', 10)
        self.odom = node.create_publisher(Odometry, 'odom', 10)
        self.instruction = node.create_publisher(String, 'instruction', 10)
        self.status = node.create_publisher(DiagnosticArray, 'plan_status', 10)
        node.create_subscription(Path, 'plan', self.plans.append, 10)
        node.create_subscription(Header, 'navigator/heartbeat', self.heartbeats.append, 10)
        node.create_subscription(Header, 'lockstep_ack', self.acknowledged.append, 10)
        node.create_subscription(DiagnosticArray, '/diagnostics', self.diagnostics.append, 10)
        node.create_subscription(String, 'navigator/state',
                                 lambda message: self.states.append(json.loads(message.data)),
                                 LATCHED)

    def wait_for_navigator(self):
        wait_until(lambda: self.states and self.image.get_subscription_count()
                   + self.compressed.get_subscription_count()
                   and self.odom.get_subscription_count() and self.heartbeats
                   and self.instruction.get_subscription_count()
                   and self.status.get_subscription_count())

    @property
    def state(self):
        return self.states[-1]['state']

    def see(self, frame=None, encoding='rgb8', pose=(0.0, 0.0), stamp_ns=None):
        """Odometry and an image of the same stamp, which is returned."""
        stamp_ns = stamp_ns or time.time_ns()
        odometry = Odometry()
        odometry.header.stamp, odometry.header.frame_id = messages.time_message(stamp_ns), 'odom'
        odometry.pose.pose.position.x, odometry.pose.pose.position.y = pose
        odometry.pose.pose.orientation.w = 1.0
        self.odom.publish(odometry)
        frame = np.zeros((8, 8, 3), np.uint8) if frame is None else frame
        message = messages.image(frame, 'rgb8', stamp_ns, 'camera')
        message.encoding = encoding
        self.image.publish(message)
        return stamp_ns

    def say(self, text):
        self.instruction.publish(String(data=text))

    def report(self, plan, state, executed, of, reason=''):
        stamp_ns = messages.time_ns(plan.header.stamp)
        self.status.publish(messages.plan_status(
            PlanStatus(stamp_ns, state, executed, of, reason), time.time_ns()))


def navigator(domain_id, executor_class=SingleThreadedExecutor, **parameters):
    overrides = [Parameter(name, value=value)
                 for name, value in {'policy': 'forward', 'start_active': True,
                                     'image_timeout_s': 60.0, **parameters}.items()]
    return Spun(domain_id, lambda context: NavigatorNode(
        context=context, parameter_overrides=overrides), spun_by(executor_class))


@pytest.fixture
def domain_id():
    return fresh_domain()


@pytest.fixture
def robot(domain_id):
    robot = Robot(domain_id)
    yield robot
    robot.close()


@pytest.fixture
def following(robot, domain_id):
    """The robot; a navigator with the policy `forward` has sent its first plan."""
    node = navigator(domain_id)
    robot.wait_for_navigator()
    robot.say('go on')
    wait_until(lambda: robot.state == 'waiting')
    robot.see(pose=(1.0, 2.0))
    wait_until(lambda: robot.plans)
    yield robot
    node.close()


def test_a_sentence_and_an_image_give_a_plan_from_the_pose_of_the_image(following):
    plan = following.plans[0]
    poses = messages.path_poses(plan)
    assert plan.header.frame_id == 'odom'
    assert poses[0] == Pose(1.0, 2.0, 0.0)
    assert [int(action) for action in decode(poses, ActionSet())] == [1, 1, 1]
    wait_until(lambda: following.state == 'executing')
    assert following.states[-1]['instruction'] == 'go on'


def test_a_finished_plan_is_followed_by_another_and_stop_ends_the_run(following):
    for number in range(8):
        plan = following.plans[-1]
        count = len(plan.poses) - 1
        last = decode(messages.path_poses(plan), ActionSet())[-1] == 0
        following.report(plan, 'accepted', 0, count)
        following.report(plan, 'done', count, count, 'stop' if last else '')
        if last:
            break
        following.see(pose=(1.75 + 0.75 * number, 2.0), stamp_ns=time.time_ns())
        wait_until(lambda: following.plans[-1] is not plan)  # noqa: B023
    wait_until(lambda: following.state == 'finished')
    assert following.states[-1]['reason'] == 'stop'
    # the first one, and one for each of the 18 steps that a decision followed
    assert following.states[-1]['frames'] == 1 + 18


def test_who_looks_sees_what_was_decided(robot, domain_id):
    seen = []
    robot.node.create_subscription(messages.Image, 'navigator/annotated_image', seen.append, 10)
    node = navigator(domain_id)
    robot.wait_for_navigator()
    wait_until(lambda: node.node._annotated.get_subscription_count())
    robot.say('go on')
    wait_until(lambda: robot.state == 'waiting')
    stamp_ns = robot.see(np.full((8, 8, 3), (200, 30, 40), np.uint8))
    wait_until(lambda: seen)
    picture = messages.image_rgb(seen[0])
    assert messages.time_ns(seen[0].header.stamp) == stamp_ns
    assert (picture[:420] == (200, 30, 40)).all(), 'the frame, enlarged'
    caption = picture[420:]
    assert caption.shape[0] >= 4 * 18 and (caption > 200).any(), 'the sentence and three actions'
    node.close()


def test_cancel_sends_an_empty_plan(following):
    answer = following.call(Trigger, 'navigator/cancel', Trigger.Request())
    assert answer.success
    wait_until(lambda: len(following.plans) == 2)
    assert not following.plans[1].poses
    wait_until(lambda: following.state == 'idle')


def test_pause_holds_until_it_is_released(following):
    following.report(following.plans[0], 'accepted', 0, 3)
    following.call(SetBool, 'navigator/pause', SetBool.Request(data=True))
    wait_until(lambda: len(following.plans) == 2 and following.state == 'paused')
    assert not following.plans[1].poses
    following.see()
    time.sleep(0.3)
    assert len(following.plans) == 2
    following.call(SetBool, 'navigator/pause', SetBool.Request(data=False))
    following.see()
    wait_until(lambda: len(following.plans) == 3 and following.plans[2].poses)


def test_bad_sentences_and_images_are_refused_and_the_node_lives(following):
    following.say('   ')
    wait_until(lambda: following.state == 'refused')
    assert 'empty' in following.states[-1]['reason']
    wait_until(lambda: len(following.plans) == 2 and not following.plans[1].poses)
    following.say('x' * 3000)
    wait_until(lambda: '3000' in following.states[-1]['reason'])
    following.say('look')
    wait_until(lambda: following.state == 'waiting')
    following.see(encoding='yuv422')
    wait_until(lambda: following.state == 'refused' and 'yuv422' in following.states[-1]['reason'])
    following.say('look again')
    wait_until(lambda: following.state == 'waiting')
    following.see()
    wait_until(lambda: following.plans[-1].poses)


@pytest.mark.parametrize('silent, accepted', [('image', True), ('driver', False)])
def test_who_goes_silent_while_the_robot_drives_is_named_and_it_holds(
        robot, domain_id, silent, accepted):
    node = navigator(domain_id, image_timeout_s=1.0 if silent == 'image' else 60.0,
                     driver_timeout_s=0.5 if silent == 'driver' else 600.0)
    robot.wait_for_navigator()
    robot.say('go on')
    wait_until(lambda: robot.state == 'waiting')
    robot.see()
    wait_until(lambda: robot.plans)
    if accepted:
        robot.report(robot.plans[0], 'accepted', 0, 3)
    wait_until(lambda: robot.state == 'failed')
    assert f'{silent}_timeout_s' in robot.states[-1]['reason']
    wait_until(lambda: len(robot.plans) == 2)
    assert not robot.plans[1].poses
    node.close()


def test_nothing_is_decided_from_an_old_image_or_without_odometry_and_what_lacks_is_named(
        robot, domain_id):
    node = navigator(domain_id, image_timeout_s=1.0)
    robot.wait_for_navigator()
    robot.say('go on')
    wait_until(lambda: robot.state == 'waiting')
    said_ns = time.time_ns()
    time.sleep(1.2)
    robot.see(stamp_ns=said_ns)   # after the sentence, but late
    time.sleep(0.3)
    assert not robot.plans and 'an image younger than' in robot.states[-1]['reason']

    def seen_without_odometry():
        robot.image.publish(
            messages.image(np.zeros((8, 8, 3), np.uint8), 'rgb8', time.time_ns(), 'camera'))
        return 'odometry younger than' in robot.states[-1]['reason']

    wait_until(seen_without_odometry)
    assert robot.state == 'waiting' and not robot.plans
    wait_until(lambda: robot.see() and robot.plans)
    node.close()


def test_after_a_clock_that_went_back_images_are_still_looked_at(robot, domain_id):
    node = navigator(domain_id, use_sim_time=True, image_timeout_s=10.0)
    clock = robot.node.create_publisher(Clock, '/clock', 10)

    def it_is(time_s):
        def told():
            clock.publish(Clock(clock=messages.time_message(int(time_s * 1e9))))
            return messages.time_ns(robot.heartbeats[-1].stamp) == int(time_s * 1e9)
        wait_until(told)

    robot.wait_for_navigator()
    wait_until(clock.get_subscription_count)
    it_is(100.0)
    robot.say('go on')
    wait_until(lambda: robot.state == 'waiting')
    robot.see(stamp_ns=100_000_000_001)
    wait_until(lambda: robot.state == 'executing')
    robot.report(robot.plans[0], 'accepted', 0, 3)
    robot.see(stamp_ns=100_100_000_000)   # it is looked at
    time.sleep(0.3)
    it_is(50.0)
    it_is(58.0)
    robot.see(encoding='yuv422', stamp_ns=58_000_000_000)
    wait_until(lambda: robot.state == 'failed')
    assert 'yuv422' in robot.states[-1]['reason']
    node.close()


def test_another_camera_is_a_warning_with_both_values(following):
    info = CameraInfo(width=640, height=480)
    info.k[0] = 500.0
    following.info.publish(info)
    wait_until(lambda: any('hfov is 65.2 deg' in value.value and '90.0' in value.value
                           for message in following.diagnostics
                           for value in message.status[0].values))


def said(robot, key):
    """Values of a key of the diagnostics so far, oldest first."""
    return [value.value for message in robot.diagnostics for value in message.status[0].values
            if value.key == key]


def test_diagnostics_tell_rates_ages_and_times(following):
    for _ in range(20):
        following.see(pose=(1.0, 2.0))
        time.sleep(0.02)
    wait_until(lambda: (said(following, 'image_hz') or ['0.0'])[-1] != '0.0')
    last = {key: said(following, key)[-1] for key in (
        'image_hz', 'odometry_hz', 'decisions_hz', 'image_age_s', 'odometry_age_s',
        'decision_p50_s', 'decision_p95_s')}
    assert all(0.0 <= float(value) < 60.0 for value in last.values()), last
    assert float(last['decisions_hz']) == 0.1, 'one decision within 10 s'
    assert said(following, 'model')[-1] == 'none' and said(following, 'policy')[-1] == 'forward'
    following.report(following.plans[0], 'dropped', 0, 3, 'paused')
    wait_until(lambda: said(following, 'last_stop')[-1] == 'paused')


def test_who_does_not_speak_while_there_is_a_sentence_is_a_warning(robot, domain_id):
    node = navigator(domain_id)
    robot.wait_for_navigator()
    wait_until(lambda: said(robot, 'silent')[-1:] == ['none'])
    robot.say('go on')
    wait_until(lambda: said(robot, 'silent')[-1] == 'no image, no odometry')
    status = robot.diagnostics[-1].status[0]
    assert status.level == b'\x01' and status.message.endswith('; no image, no odometry')
    node.close()


def test_a_base_that_does_not_move_is_turned_logged_and_counted(robot, domain_id, capfd):
    node = navigator(domain_id, retry_s=0.0, stuck_plans=2)
    robot.wait_for_navigator()
    robot.say('go on')
    wait_until(lambda: robot.state == 'waiting')
    robot.see()
    for number in (1, 2):
        wait_until(lambda: len(robot.plans) == number)  # noqa: B023
        robot.report(robot.plans[-1], 'accepted', 0, 3)
        robot.report(robot.plans[-1], 'dropped', 0, 3, 'blocked: no progress')
        wait_until(lambda: 'blocked' in robot.states[-1]['reason'])
        robot.see()
    wait_until(lambda: len(robot.plans) == 3)
    poses = messages.path_poses(robot.plans[-1])
    assert [int(action) for action in decode(poses, ActionSet())] == [2]
    trouble = '2 plans in a row did not move the base'
    wait_until(lambda: said(robot, 'stuck_reason')[-1:] == [trouble])
    assert said(robot, 'stuck')[-1] == '1'
    assert f'stuck: {trouble}' in capfd.readouterr().err
    node.close()


@pytest.mark.parametrize('crop', [True, False])
def test_a_wider_camera_is_cut_to_the_view_of_the_card(robot, domain_id, crop):
    seen = []
    robot.node.create_subscription(messages.Image, 'navigator/annotated_image', seen.append, 10)
    node = navigator(domain_id, crop=crop)
    robot.wait_for_navigator()
    wait_until(lambda: node.node._annotated.get_subscription_count()
               and robot.info.get_subscription_count())
    info = CameraInfo(width=60, height=60)
    info.k[0] = 30.0 / np.sqrt(3.0)   # 120 degrees; the card wants 90: the middle 35 pixels of 60
    robot.info.publish(info)
    frame = np.full((60, 60, 3), (200, 30, 40), np.uint8)
    frame[10:50, 10:50] = (40, 200, 30)
    robot.say('go on')
    wait_until(lambda: robot.state == 'waiting')
    time.sleep(0.2)
    robot.see(frame)
    wait_until(lambda: seen)
    corner = messages.image_rgb(seen[0])[12, 12]
    assert (corner[1] > corner[0]) == crop
    wait_until(lambda: said(robot, 'camera_trouble'))
    assert ('hfov is 120.0 deg' in said(robot, 'camera_trouble')[-1]) != crop
    node.close()


def test_odometry_of_another_frame_than_the_plans_is_a_warning(robot, domain_id):
    node = navigator(domain_id, odom_frame='map')
    robot.wait_for_navigator()
    robot.see()
    wait_until(lambda: any("'odom'" in text and "'map'" in text
                           for text in said(robot, 'camera_trouble')))
    node.close()


def test_heartbeats_go_on_while_the_policy_thinks(robot, domain_id):
    node = navigator(domain_id)
    node.node._policy.plan = lambda history: time.sleep(60)  # a model that takes a minute
    robot.wait_for_navigator()
    robot.say('go')
    wait_until(lambda: robot.state == 'waiting')
    robot.see()
    wait_until(lambda: robot.state == 'deciding')
    robot.heartbeats.clear()
    wait_until(lambda: len(robot.heartbeats) >= 10)
    robot.say('wait, come back')
    wait_until(lambda: robot.states[-1]['instruction'] == 'wait, come back')
    assert not robot.plans[0].poses
    node.close()


def test_lockstep_acknowledges_an_image_when_the_driver_has_answered(robot, domain_id):
    node = navigator(domain_id, LeanExecutor, lockstep=True)
    robot.wait_for_navigator()
    first = robot.see(stamp_ns=10**9)
    wait_until(lambda: len(robot.acknowledged) == 1)
    assert messages.time_ns(robot.acknowledged[0].stamp) == first
    assert robot.acknowledged[0].frame_id == 'navigator'
    robot.say('go')
    wait_until(lambda: robot.state == 'waiting')
    robot.see(stamp_ns=2 * 10**9)
    wait_until(lambda: robot.plans)
    time.sleep(0.3)
    assert len(robot.acknowledged) == 1
    robot.report(robot.plans[0], 'accepted', 0, 3)
    wait_until(lambda: len(robot.acknowledged) == 2)
    node.close()


def test_compressed_images(robot, domain_id):
    node = navigator(domain_id, image_transport='compressed')
    robot.wait_for_navigator()
    robot.say('go')
    wait_until(lambda: robot.state == 'waiting')
    stamp_ns = robot.see()
    message = CompressedImage(format='jpeg')
    message.header.stamp = messages.time_message(stamp_ns)
    message.data.frombytes(cv2.imencode('.jpg', np.zeros((8, 8, 3), np.uint8))[1].tobytes())
    robot.compressed.publish(message)
    wait_until(lambda: robot.plans)
    robot.say('go, but without a picture')
    wait_until(lambda: robot.state == 'waiting')
    message.data = message.data[:20]
    message.header.stamp = messages.time_message(robot.see())
    robot.compressed.publish(message)
    wait_until(lambda: robot.state == 'refused' and 'jpeg' in robot.states[-1]['reason'])
    node.close()


@pytest.mark.parametrize('name, value', [
    ('policy', '/nowhere'), ('image_transport', 'smoke'), ('image_reliability', 'often'),
    ('execute', 65)])
def test_a_bad_parameter_is_one_clear_error(domain_id, name, value):
    context = Context()
    context.init(domain_id=domain_id)
    with pytest.raises(UserError, match=name if name != 'policy' else value):
        NavigatorNode(context=context, parameter_overrides=[
            Parameter(name, value=value), Parameter('start_active', value=True)])
    context.try_shutdown()
