"""The bridge alone, with the other nodes played by hand: free run, hand-over, end."""
import json
import signal
import subprocess
import sys
import time

import pytest
import rclpy
from geometry_msgs.msg import Twist
from nav_msgs.msg import Odometry, Path
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import Image
from spun_node import WAIT_S, Spun, fresh_domain, wait_until
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger

from sim_bridge.ros.bridge import BridgeNode, OwnLoop
from sim_bridge.ros.graph import isolated_environment
from vlnr1_ros.motion.plan import encode
from vlnr1_ros.navigation.actions import Action, ActionSet
from vlnr1_ros.nodes import messages
from vlnr1_ros.nodes.lean_executor import LeanExecutor

TICK_S, TIMEOUT_S = 0.02, 0.5
LINEAR_M_S, ANGULAR_RAD_S = 0.2, 0.6
END_S = 2.0


def bridge(apartments, domain_id, participants, **parameters):
    config = apartments.config()
    given = {'dataset': config.dataset, 'split': config.split, 'scenes_dir': config.scenes_dir,
             'episodes': '1', **parameters}
    overrides = [Parameter(name, value=value) for name, value in given.items()]
    # No value at all is what an empty list in a parameter file arrives as.
    overrides.append(Parameter('participants', value=participants or None))
    return Spun(domain_id, lambda context: BridgeNode(
        context=context, parameter_overrides=overrides), OwnLoop)


class Visitor(Spun):
    """Whoever is on the other side of the bridge's topics."""

    def __init__(self, domain_id):
        super().__init__(domain_id, lambda context: rclpy.create_node('visitor', context=context),
                         lambda node: LeanExecutor(context=node.context))
        self.odometry, self.images, self.events = [], [], []
        self.cmd_vel = self.node.create_publisher(Twist, 'cmd_vel', 10)
        self.state = self.node.create_publisher(String, 'navigator/state', QoSProfile(
            depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL))
        self.node.create_subscription(Odometry, 'odom', self.odometry.append, 200)
        self.node.create_subscription(Image, 'image_raw', self.images.append, 10)
        self.node.create_subscription(String, 'instruction', self._on_instruction, 10)

    def _on_instruction(self, message):
        self.events.append(message.data)

    def pose(self):
        """x, y, yaw (ROS) of the newest odometry."""
        return pose(self.odometry[-1])

    def simulated_s(self):
        return messages.time_ns(self.odometry[-1].header.stamp) * 1e-9

    def wait_simulated(self, seconds):
        until_s = self.simulated_s() + seconds
        wait_until(lambda: self.simulated_s() >= until_s)


def pose(message):
    return messages.odometry(message).pose


@pytest.fixture(scope='module')
def domain_id():
    return fresh_domain()


@pytest.fixture(scope='module')
def free(apartments, domain_id):
    """The visitor of an episode in wall time, in which nobody takes part."""
    running = bridge(apartments, domain_id, [], lockstep=False, cmd_vel_timeout_s=TIMEOUT_S)
    visitor = Visitor(domain_id)
    wait_until(lambda: visitor.odometry and visitor.images
               and visitor.cmd_vel.get_subscription_count())
    yield visitor
    running.close()
    visitor.close()


def test_a_velocity_moves_the_robot_until_it_is_too_old(free):
    before, images = free.pose(), len(free.images)
    first_s = free.simulated_s()
    message = messages.twist(LINEAR_M_S, ANGULAR_RAD_S)
    free.cmd_vel.publish(message)
    wait_until(lambda: free.pose() != before)
    free.wait_simulated(TIMEOUT_S + 0.5)
    after = free.pose()
    free.wait_simulated(0.2)
    assert free.pose() == after, 'it stands'
    lasted_s = after.turn_rad(before) / ANGULAR_RAD_S
    assert TIMEOUT_S - TICK_S <= lasted_s <= TIMEOUT_S + 3 * TICK_S
    assert 0.02 < after.distance_m(before) <= LINEAR_M_S * lasted_s
    assert len(free.images) - images >= 0.7 * 10 * (free.simulated_s() - first_s), '10 a second'


def test_free_run_is_no_faster_than_wall_time_also_after_a_pause(free):
    answer = free.call(SetBool, 'sim_bridge/pause', SetBool.Request(data=True))
    assert answer.success and answer.message == 'time stands still'
    time.sleep(0.3)
    stood_s = free.simulated_s()
    time.sleep(0.7)
    assert free.simulated_s() == stood_s
    assert free.call(SetBool, 'sim_bridge/pause', SetBool.Request(data=False)).success
    begun_s = time.monotonic()
    free.wait_simulated(0.5)
    assert free.simulated_s() - stood_s <= time.monotonic() - begun_s + 0.3


def test_reset_begins_the_episode_anew_while_time_goes_on(free):
    start = free.odometry[0]
    free.cmd_vel.publish(messages.twist(0.0, ANGULAR_RAD_S))
    wait_until(lambda: free.pose().turn_rad(pose(start)) > 0.1)
    reset_s = free.simulated_s()
    answer = free.call(Trigger, 'sim_bridge/reset', Trigger.Request())
    assert answer.success and answer.message == 'episodes: 1'
    wait_until(lambda: free.pose() == pose(start))
    free.wait_simulated(0.3)
    assert free.pose() == pose(start), 'the velocity of before is forgotten'
    stamps = [messages.time_ns(message.header.stamp) for message in free.odometry]
    assert stamps == sorted(stamps) and free.simulated_s() > reset_s


def test_a_plan_of_another_turn_angle_ends_the_episode_as_an_error(free):
    results = []
    free.node.create_subscription(String, 'sim_bridge/result', lambda m: results.append(
        json.loads(m.data)), QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL))
    plans = free.node.create_publisher(Path, 'plan', 1)
    wait_until(plans.get_subscription_count)
    poses = encode(free.pose(), [Action.TURN_LEFT], ActionSet(turn_deg=15.0))
    plans.publish(messages.path(poses, 1, 'odom'))
    wait_until(lambda: results)
    assert 'turn_deg' in results[-1]['error'] and 'cannot be driven' in results[-1]['error']


def test_a_cancel_is_answered_before_the_next_instruction_is_given(apartments, domain_id):
    # In a domain of its own: no two bridges in one namespace.
    domain_id = domain_id % 100 + 1
    visitor = Visitor(domain_id)

    def say_state(state, instruction=''):
        visitor.state.publish(String(data=json.dumps(
            {'state': state, 'instruction': instruction, 'reason': state})))

    def on_cancel(_request, response):
        visitor.events.append('cancel')
        say_state('idle')
        time.sleep(0.5)
        visitor.events.append('answered')
        response.success = True
        return response

    visitor.node.create_service(Trigger, 'navigator/cancel', on_cancel)
    say_state('executing', 'an older sentence')
    running = bridge(apartments, domain_id, ['navigator'])
    wait_until(lambda: len(visitor.events) >= 3)
    assert visitor.events[:2] == ['cancel', 'answered']
    say_state('waiting', visitor.events[2])
    wait_until(lambda: visitor.images)
    running.close()
    visitor.close()


def test_a_second_bridge_in_one_namespace_is_refused(free, apartments, domain_id, tmp_path):
    config = apartments.config()
    done = subprocess.run(
        [sys.executable, '-m', 'sim_bridge.ros.bridge', '--ros-args', '-p',
         f'dataset:={config.dataset}', '-p', f'scenes_dir:={config.scenes_dir}'],
        env=isolated_environment(tmp_path, domain_id), capture_output=True, text=True,
        timeout=WAIT_S)
    assert done.returncode == 2
    assert 'another bridge is running as /sim_bridge' in done.stderr
    assert '__ns:=' in done.stderr and 'Traceback' not in done.stderr
    assert free.call(Trigger, 'sim_bridge/reset', Trigger.Request()).success, 'the first lives'


BUSY = """
import time
from sim_bridge.environment import Environment
from sim_bridge.ros import bridge
def reset(self, episode_id):
    print('busy', flush=True)
    time.sleep(60)
Environment.reset = reset
bridge.main()
"""


@pytest.mark.parametrize('number, busy', [(signal.SIGINT, False), (signal.SIGTERM, True)])
def test_it_ends_in_time_after_a_signal(apartments, tmp_path, number, busy):
    config, log = apartments.config(), tmp_path / 'log.txt'
    records = tmp_path / 'records'
    program = ['-c', BUSY] if busy else ['-m', 'sim_bridge.ros.bridge']
    with open(log, 'w') as file:
        process = subprocess.Popen(
            [sys.executable, *program, '--ros-args', '-p', f'dataset:={config.dataset}', '-p',
             f'scenes_dir:={config.scenes_dir}', '-p', 'episodes:="1"', '-p',
             f'record_dir:={records}'],
            env=isolated_environment(tmp_path), stdout=file, stderr=subprocess.STDOUT)
    wait_until(lambda: 'busy' in log.read_text() if busy else list(records.glob('*.tmp')))
    process.send_signal(number)
    begun_s = time.monotonic()
    assert process.wait(WAIT_S) == 0, log.read_text()
    assert time.monotonic() - begun_s < END_S
    assert 'Traceback' not in log.read_text()
    assert not list(records.glob('*'))
