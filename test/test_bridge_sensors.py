"""The bridge's sensors over topics: depth and scan, free run, a base that is not perfect."""
import json
import math
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import rclpy
from nav_msgs.msg import Odometry
from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.msg import ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, LaserScan
from spun_node import Spun, fresh_domain, wait_until
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger
from test_bridge_by_hand import Visitor, bridge

from sim_bridge.config import MAX_DEPTH_M
from sim_bridge.environment import Environment
from sim_bridge.ros.bridge import BridgeNode, OwnLoop
from sim_bridge.ros.graph import Graph, isolated_environment
from sim_bridge.ros.scan import DepthScan, with_infinities
from sim_bridge.ros.transforms import Transforms
from vlnr1_ros.navigation.camera import Camera
from vlnr1_ros.navigation.errors import UserError
from vlnr1_ros.nodes import messages
from vlnr1_ros.nodes.lean_executor import LeanExecutor

CAMERA = Camera(96, 64, 80.0, 0.9)
BEST_EFFORT = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)


def stamp_ns(message):
    return messages.time_ns(message.header.stamp)


@pytest.fixture
def domain_id():
    return fresh_domain()


@pytest.fixture
def visitor(domain_id):
    visitor = Visitor(domain_id)
    yield visitor
    visitor.close()


def test_depth_and_scan_come_with_the_image_and_fit_it(apartments, domain_id, visitor):
    heard = {kind: {} for kind in ('image', 'depth', 'info', 'scan')}

    def hears(kind):
        return lambda message: heard[kind].setdefault(stamp_ns(message), message)

    for kind, cls, topic in (('image', Image, 'image_raw'), ('depth', Image, 'depth/image_raw'),
                             ('info', CameraInfo, 'depth/camera_info'),
                             ('scan', LaserScan, 'scan')):
        visitor.node.create_subscription(cls, topic, hears(kind), BEST_EFFORT)
    running = bridge(apartments, domain_id, [], lockstep=False, depth=True, scan=True,
                     image_reliability='best_effort', width=CAMERA.width, height=CAMERA.height,
                     hfov_deg=CAMERA.hfov_deg, camera_height_m=CAMERA.height_m)
    wait_until(lambda: set.intersection(*map(set, heard.values())))
    running.close()
    together = min(set.intersection(*map(set, heard.values())))
    image, depth, info, scan = (heard[kind][together] for kind in heard)
    assert image.header.frame_id == depth.header.frame_id == 'camera_optical_frame'
    assert depth.encoding == '32FC1' and info.k[0] == pytest.approx(CAMERA.fx)
    assert scan.header.frame_id == 'base_link'

    environment = Environment(apartments.config(camera=CAMERA, depth=True))
    start = environment.reset('1')
    environment.close()
    depth_m = with_infinities(start.depth, MAX_DEPTH_M)
    np.testing.assert_array_equal(messages.image_depth_m(depth), depth_m)
    np.testing.assert_array_equal(messages.image_rgb(image), start.rgb)
    expected = DepthScan(CAMERA, 0.1, 1.3, MAX_DEPTH_M).ranges(depth_m)
    np.testing.assert_allclose(scan.ranges, expected, rtol=1e-6)
    angles = scan.angle_min + scan.angle_increment * np.arange(len(scan.ranges))
    assert angles[-1] == pytest.approx(scan.angle_max, abs=1e-5)
    assert angles[-1] == pytest.approx(math.radians(40), abs=scan.angle_increment)
    assert scan.range_max == MAX_DEPTH_M and scan.range_min == 0.0


class StandIn:
    """Of tf2_msgs/TFMessage, which is not on the package index."""

    def __init__(self, transforms):
        self.transforms = transforms


class Publications:
    """Of a node: {topic: what was published}."""

    def __init__(self):
        self.sent = {}

    def create_publisher(self, kind, topic, qos):
        assert kind is StandIn
        self.sent[topic] = []
        publisher = type('Publisher', (), {})()
        publisher.publish = self.sent[topic].append
        return publisher


def test_frames_are_published_where_tf2_is_installed():
    node = Publications()
    transforms = Transforms(node, 0.9, StandIn)
    mount, = node.sent['/tf_static']
    assert [t.child_frame_id for t in mount.transforms] == ['camera_link', 'camera_optical_frame']
    odometry = Odometry(child_frame_id='base_link')
    odometry.header.frame_id = 'odom'
    transforms.publish(odometry)
    moved, = node.sent['/tf'][0].transforms
    assert (moved.header.frame_id, moved.child_frame_id) == ('odom', 'base_link')


def test_free_run_does_not_wait_for_rendering(apartments, domain_id, visitor):
    """An image is asked for in every tick and takes much longer to render."""
    running = bridge(apartments, domain_id, [], lockstep=False, width=2560, height=1440,
                     camera_hz=50.0)
    wait_until(lambda: len(visitor.images) >= 1)
    ticks, images = len(visitor.odometry), len(visitor.images)
    first_s, begun_s = visitor.simulated_s(), time.monotonic()
    wait_until(lambda: len(visitor.images) >= images + 3)
    passed_s, wall_s = visitor.simulated_s() - first_s, time.monotonic() - begun_s
    assert passed_s > 0.5 * wall_s
    assert len(visitor.odometry) - ticks > 2 * 3
    running.close()


def test_free_run_does_not_wait_for_one_who_hangs(apartments, domain_id, visitor, tmp_path):
    listener = subprocess.Popen(
        [sys.executable, '-m', 'sim_bridge.ros.bench_nodes', 'listen', tmp_path / 'heard'],
        env=isolated_environment(tmp_path, domain_id), start_new_session=True)
    try:
        running = bridge(apartments, domain_id, [], lockstep=False, width=640, height=480,
                         camera_hz=25.0)
        wait_until(lambda: 'image' in (tmp_path / 'heard').read_text()
                   if (tmp_path / 'heard').exists() else False)
        os.kill(listener.pid, signal.SIGSTOP)
        begun_s, first_s = time.monotonic(), visitor.simulated_s()
        visitor.wait_simulated(3.0)
        assert visitor.simulated_s() - first_s > 0.5 * (time.monotonic() - begun_s)
        running.close()
    finally:
        listener.kill()
        listener.wait()


def test_the_simulator_may_live_in_another_interpreter_and_die(apartments, domain_id, visitor):
    results = []
    visitor.node.create_subscription(String, 'sim_bridge/result', lambda m: results.append(
        json.loads(m.data)), QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL))
    running = bridge(apartments, domain_id, [], habitat_python=sys.executable,
                     episode_timeout_s=1e6)
    wait_until(lambda: visitor.images)
    environment = Environment(apartments.config())
    np.testing.assert_array_equal(messages.image_rgb(visitor.images[0]),
                                  environment.reset('1').rgb)
    environment.close()
    os.kill(running.node._environment.pid, signal.SIGKILL)
    wait_until(lambda: results)
    assert results[0]['ended_by'] == 'error' and 'environment server' in results[0]['error']
    count = len(visitor.images)
    assert visitor.call(Trigger, 'sim_bridge/reset', Trigger.Request()).success
    wait_until(lambda: len(visitor.images) > count + 1)
    running.close()


def test_other_episodes_are_run_after_a_reset(apartments, domain_id, visitor):
    running = bridge(apartments, domain_id, [], lockstep=False)
    wait_until(lambda: visitor.images)
    starts = {e.episode_id: e for e in Environment(apartments.config()).episodes}
    request = SetParameters.Request(parameters=[ParameterMessage(
        name='episodes', value=ParameterValue(type=4, string_value='3 4'))])
    assert visitor.call(SetParameters, 'sim_bridge/set_parameters', request).results[0].successful
    answer = visitor.call(Trigger, 'sim_bridge/reset', Trigger.Request())
    assert answer.success and answer.message == 'episodes: 3 4'
    x, _, z = starts['3'].start_position
    wait_until(lambda: math.hypot(visitor.pose().x_m + z, visitor.pose().y_m + x) < 1e-3)
    running.close()


def test_two_bridges_live_side_by_side_in_two_namespaces(apartments, domain_id):
    config = apartments.config()
    given = {'dataset': config.dataset, 'split': config.split, 'scenes_dir': config.scenes_dir,
             'lockstep': False}

    def start(namespace, episode):
        overrides = [Parameter(name, value=value)
                     for name, value in {**given, 'episodes': episode}.items()]
        overrides.append(Parameter('participants', value=None))
        return Spun(domain_id, lambda context: BridgeNode(
            context=context, namespace=namespace, parameter_overrides=overrides,
            cli_args=['--ros-args', '-r', '/clock:=clock']), OwnLoop)

    running = [start('/a', '1'), start('/b', '2')]
    watcher = Spun(domain_id, lambda context: rclpy.create_node('watcher', context=context),
                   lambda node: LeanExecutor(context=node.context))
    clocks = {'/a': [], '/b': []}
    for namespace, heard in clocks.items():
        watcher.node.create_subscription(Clock, f'{namespace}/clock', heard.append, BEST_EFFORT)
    wait_until(lambda: all(clocks.values()))
    assert watcher.call(SetBool, '/a/sim_bridge/pause', SetBool.Request(data=True)).success
    time.sleep(0.3)
    stood, went = len(clocks['/a']), len(clocks['/b'])
    wait_until(lambda: len(clocks['/b']) > went + 10)
    assert len(clocks['/a']) == stood
    assert watcher.node.count_publishers('/clock') == 0
    watcher.close()
    for one in running:
        one.close()


@pytest.mark.parametrize('wrong, text', [
    ({'image_reliability': 'best_effort'}, 'lockstep waits for every image'),
    ({'image_reliability': 'sometimes'}, "image_reliability is 'sometimes'"),
    ({'scan_min_height_m': 1.5}, 'scan_min_height_m is 1.5'),
    ({'imperfections.camera_height_m': -0.5, 'camera_height_m': 0.3}, 'below the floor')])
def test_parameters_that_make_no_sense_are_named(apartments, domain_id, wrong, text):
    with pytest.raises(UserError, match=text):
        bridge(apartments, domain_id, [], **wrong)


def test_late_and_lost_images_and_all_else_that_is_wrong_repeat_themselves(apartments, tmp_path):
    """Lockstep through the whole graph: the same episode twice."""
    settings = {'sim_bridge': {
        'startup_timeout_s': 240.0, 'imperfections.strength': 2.0, 'imperfections.seed': 5,
        'imperfections.image_latency_s': 0.13, 'imperfections.image_drop': 0.2}}
    with Graph('expert', apartments.data, apartments.split, ['1', '1'], tmp_path,
               parameters=settings) as graph:
        results, frames = [], []
        for result in graph.results():
            results.append(result)
            with open(f'{result["record"]}/record.json', encoding='utf-8') as file:
                frames.append(json.load(file)['frame_s'])
    first, second = results
    assert first['ended_by'] == 'stop' and first['metrics']['success'] == 1.0
    assert first['actions'] == second['actions'] and first['metrics'] == second['metrics']
    begins_s = [result['trajectory'][0][0] for result in results]
    for one, other in zip(first['trajectory'], second['trajectory']):
        assert one[1:] == other[1:]
        assert one[0] - begins_s[0] == pytest.approx(other[0] - begins_s[1], abs=1e-6)
    relative = [np.round(np.array(f) - begin, 6) for f, begin in zip(frames, begins_s)]
    # The second record took the place of the first one; both were read before.
    np.testing.assert_array_equal(*relative)
    steps = np.diff(relative[0])
    assert set(np.round(steps, 6)) >= {0.1, 0.2}, 'some images are lost'
    assert relative[0][-1] <= first['sim_s'] - 0.24, 'the last ones are still on their way'
