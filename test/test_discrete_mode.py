"""Discrete mode: the bridge answers plans as the driver does and executes them as actions."""
import json
import math

import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from nav_msgs.msg import Odometry, Path
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image
from spun_node import Spun, fresh_domain, wait_until
from std_msgs.msg import String
from std_srvs.srv import Trigger

from sim_bridge.environment import Environment
from sim_bridge.ros.bridge import BridgeNode, OwnLoop
from vlnr1_ros.motion.plan import Pose, encode
from vlnr1_ros.navigation.actions import Action, ActionSet
from vlnr1_ros.nodes import messages
from vlnr1_ros.nodes.lean_executor import LeanExecutor

PERIOD_NS = 100_000_000   # of images, hence of actions
ACTIONS = ActionSet()
F, L, R, S = Action.MOVE_FORWARD, Action.TURN_LEFT, Action.TURN_RIGHT, Action.STOP


def bridge(apartments, domain_id, **parameters):
    """A bridge in discrete mode that waits for nobody."""
    config = apartments.config()
    given = {'dataset': config.dataset, 'split': config.split, 'scenes_dir': config.scenes_dir,
             'episodes': '1', 'mode': 'discrete', 'lockstep': False, 'camera_hz': 10.0,
             **parameters}
    overrides = [Parameter(name, value=value) for name, value in given.items()]
    overrides.append(Parameter('participants', value=None))
    return Spun(domain_id, lambda context: BridgeNode(
        context=context, parameter_overrides=overrides), OwnLoop)


class Visitor(Spun):
    """A navigator played by hand; remembers what the bridge says, oldest first."""

    def __init__(self, domain_id):
        super().__init__(domain_id, lambda context: rclpy.create_node('visitor', context=context),
                         lambda node: LeanExecutor(context=node.context))
        self.odometry, self.images, self.statuses = {}, [], []
        self.clock_ns, self.results = [], []
        self.plans = self.node.create_publisher(Path, 'plan', 10)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        for kind, topic, handler, qos in (
                (Odometry, 'odom', self._on_odometry, 100),
                (Image, 'image_raw', lambda m: self.images.append(
                    messages.time_ns(m.header.stamp)), 10),
                (DiagnosticArray, 'plan_status', self._on_status, 100),
                (Clock, '/clock', lambda m: self.clock_ns.append(messages.time_ns(m.clock)), 100),
                (String, 'sim_bridge/result', lambda m: self.results.append(
                    json.loads(m.data)), latched)):
            self.node.create_subscription(kind, topic, handler, qos)

    def _on_odometry(self, message):
        self.odometry[messages.time_ns(message.header.stamp)] = messages.odometry(message).pose

    def _on_status(self, message):
        self.statuses.append((messages.parse_plan_status(message),
                              messages.time_ns(message.header.stamp)))

    def newest(self):
        """(stamp, pose) of the newest image."""
        return self.images[-1], self.odometry[self.images[-1]]

    def send(self, *actions, start=None, stamp_ns=None, action_set=ACTIONS, frame='odom'):
        """Send a plan from the newest image; returns its answers when it has ended."""
        newest_ns, pose = self.newest()
        stamp_ns = stamp_ns or newest_ns
        del self.statuses[:]
        poses = encode(start or pose, actions, action_set) if actions else []
        self.plans.publish(messages.path(poses, stamp_ns, frame))
        ends = ('done', 'dropped') if actions else ('accepted',)
        wait_until(lambda: any(s.state in ends and s.stamp_ns == stamp_ns
                               for s, _ in list(self.statuses)))
        return list(self.statuses)

    def restart(self):
        """Begin the episode anew; returns when its first image has come."""
        answer = self.call(Trigger, 'sim_bridge/reset', Trigger.Request())
        assert answer.success
        asked_ns = self.clock_ns[-1]
        wait_until(lambda: self.images[-1] > asked_ns + PERIOD_NS)


@pytest.fixture(scope='module')
def domain_id():
    return fresh_domain()


@pytest.fixture(scope='module')
def running(apartments, domain_id):
    """The visitor of a bridge."""
    bridged = bridge(apartments, domain_id)
    visitor = Visitor(domain_id)
    wait_until(lambda: visitor.images and visitor.odometry
               and visitor.plans.get_subscription_count())
    yield visitor
    bridged.close()
    visitor.close()


@pytest.fixture
def visitor(running):
    running.restart()
    return running


def told(statuses):
    return [(status.state, status.executed, status.of, status.reason) for status, _ in statuses]


def test_a_plan_is_accepted_and_answered_after_every_action(visitor):
    stamp_ns, start = visitor.newest()
    statuses = visitor.send(L, L, R)
    assert told(statuses) == [('accepted', 0, 3, ''), ('running', 1, 3, ''), ('running', 2, 3, ''),
                              ('done', 3, 3, '')]
    assert {status.stamp_ns for status, _ in statuses} == {stamp_ns}
    ends_ns = [when_ns for _, when_ns in statuses[1:]]
    assert [b - a for a, b in zip(ends_ns, ends_ns[1:])] == [PERIOD_NS] * 2
    wait_until(lambda: visitor.images[-1] >= ends_ns[-1])
    assert set(ends_ns) <= set(visitor.images), 'an image is stamped with the end of every action'
    turned_deg = [math.degrees(start.relative(visitor.odometry[ns]).yaw_rad) for ns in ends_ns]
    assert turned_deg == pytest.approx([30.0, 60.0, 30.0], abs=1e-3)


def test_actions_are_those_of_habitat_also_where_a_wall_is(visitor, apartments):
    environment = Environment(apartments.config())
    environment.set_render(False)
    environment.reset('1')
    plan = [F, F, R] + [F] * 12 + [S]
    for action in plan:
        environment.step(action)
    visitor.send(*plan)
    wait_until(lambda: visitor.results and visitor.results[-1]['ended_by'] == 'stop')
    result = visitor.results[-1]
    assert result['actions'] == plan and result['metrics'] == environment.metrics()
    assert result['metrics']['collisions'] > 0 and result['metrics']['steps_taken'] == len(plan)
    assert told(visitor.statuses)[-1] == ('done', len(plan), len(plan), 'stop')
    environment.close()


def test_what_the_driver_refuses_is_refused(visitor):
    stamp_ns, here = visitor.newest()
    status, = told(visitor.send(F, start=here.moved(0.06, 0.0)))
    assert status[:3] == ('dropped', 0, 1) and 'the base moved 0.060 m' in status[3]
    status, = told(visitor.send(F, start=here.moved(0.0, math.radians(6.0))))
    assert status[0] == 'dropped' and '6.0 degrees' in status[3]
    status, = told(visitor.send(F, frame='map'))
    assert status[0] == 'dropped' and "in frame 'map', odometry in 'odom'" in status[3]
    first_ns, _ = visitor.newest()
    assert told(visitor.send(L, stamp_ns=first_ns))[-1][0] == 'done'
    status, = told(visitor.send(R, stamp_ns=first_ns))
    assert status[0] == 'dropped' and 'not newer than the last one' in status[3]
    wait_until(lambda: visitor.newest()[0] > visitor.statuses[-1][1])
    assert visitor.newest()[1].turn_rad(here) == pytest.approx(math.radians(30.0), abs=1e-4)


def test_an_empty_plan_holds_and_older_plans_are_answers_to_an_old_question(visitor):
    old_ns, here = visitor.newest()
    visitor.plans.publish(messages.path(encode(here, [L] * 40, ACTIONS), old_ns, 'odom'))
    wait_until(lambda: any(s.state == 'running' for s, _ in list(visitor.statuses)))
    # a hold is stamped with the newest image: this must be one of after the first plan's
    wait_until(lambda: visitor.images[-1] > old_ns + 1)
    statuses = told(visitor.send())
    assert statuses[-2][0] == 'dropped' and statuses[-2][3] == 'an empty plan asks to hold'
    assert 0 < statuses[-2][1] < 40 and statuses[-1][:3] == ('accepted', 0, 0)
    status, = told(visitor.send(L, stamp_ns=old_ns + 1))
    assert status[0] == 'dropped' and 'older than the last stop' in status[3]


def test_a_refused_plan_ends_the_one_before_it(visitor):
    stamp_ns, here = visitor.newest()
    visitor.plans.publish(messages.path(encode(here, [L] * 40, ACTIONS), stamp_ns, 'odom'))
    wait_until(lambda: any(s.state == 'running' for s, _ in list(visitor.statuses)))
    wait_until(lambda: visitor.images[-1] > stamp_ns)
    # The base has turned on since that pose.
    statuses = told(visitor.send(R, start=here))
    assert [status[0] for status in statuses[-2:]] == ['dropped', 'dropped']
    assert statuses[-2][3].startswith('the next plan was refused: the base moved')


def test_a_plan_of_another_turn_angle_ends_the_episode_as_an_error(visitor):
    del visitor.results[:]
    statuses = visitor.send(L, action_set=ActionSet(turn_deg=15.0))
    assert told(statuses)[0][0] == 'dropped'
    wait_until(lambda: visitor.results)
    assert 'turn_deg' in visitor.results[-1]['error']


def test_the_clock_went_on_through_all_of_it(visitor):
    assert all(a <= b for a, b in zip(visitor.clock_ns, visitor.clock_ns[1:]))


def test_an_episode_ends_with_its_last_action(apartments, domain_id):
    other_id = domain_id % 100 + 1
    bridged, visitor = bridge(apartments, other_id, max_steps=3), Visitor(other_id)
    wait_until(lambda: visitor.images and visitor.plans.get_subscription_count())
    stamp_ns, here = visitor.newest()
    visitor.plans.publish(messages.path(encode(here, [L] * 5, ACTIONS), stamp_ns, 'odom'))
    wait_until(lambda: visitor.results)
    assert visitor.results[-1]['ended_by'] == 'max_steps'
    assert visitor.results[-1]['actions'] == [L] * 3
    bridged.close()
    visitor.close()


def test_a_driver_beside_it_is_named(apartments, domain_id):
    from geometry_msgs.msg import Twist

    other_id = (domain_id + 1) % 100 + 1
    visitor = Visitor(other_id)
    visitor.node.create_publisher(Twist, 'cmd_vel', 1)
    bridged = bridge(apartments, other_id)
    wait_until(lambda: visitor.results)
    assert 'somebody publishes cmd_vel' in visitor.results[-1]['error']
    bridged.close()
    visitor.close()


def test_poses_on_the_wire_are_where_habitat_stands(visitor, apartments):
    environment = Environment(apartments.config())
    environment.set_render(False)
    seen = environment.reset('1')
    environment.close()
    _, here = visitor.newest()
    assert here.distance_m(Pose(-seen.z, -seen.x, seen.yaw_rad)) < 1e-5
