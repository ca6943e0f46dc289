"""Parameters: files and documents say what the nodes declare, and changes at run time are safe."""
import ast
import math
import random
import re
import runpy
import time
from dataclasses import fields, replace
from pathlib import Path

import pytest
import yaml
from driver_process import DriverProcess, Robot, wait_until
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from motion_loop import Base, Loop
from rcl_interfaces.srv import DescribeParameters, ListParameters, SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from spun_node import Spun, fresh_domain

from vlnr1_ros.motion.config import DriverConfig
from vlnr1_ros.navigation.actions import Action
from vlnr1_ros.navigation.errors import UserError
from vlnr1_ros.nodes.driver_config import DriverNodeConfig
from vlnr1_ros.nodes.navigator import NavigatorNode

pytestmark = pytest.mark.smoke
ROOT = Path(__file__).resolve().parents[1]
WRITER = runpy.run_path(str(ROOT / 'docs/write_parameters.py'))
NODES = WRITER['declarations']()
ROS_OWN = ('use_sim_time', 'start_type_description_service', 'qos_overrides')
"""How the names of those parameters begin that every node has from ROS."""
F, L = Action.MOVE_FORWARD, Action.TURN_LEFT


# What is written of them

@pytest.mark.parametrize('path', WRITER['DOCUMENTS'])
def test_tables_in_documents_are_those_of_the_declarations(path):
    text = (ROOT / path).read_text('utf-8')
    assert WRITER['written'](text, NODES) == text, 'make parameters writes them again'


def test_every_parameter_has_a_row_in_the_document():
    text = (ROOT / 'docs/parameters.md').read_text('utf-8')
    assert text.count('\n| `') == sum(len(rows) for rows in NODES.values())


def test_every_file_in_config_is_of_a_node():
    assert {path.stem for path in (ROOT / 'config').glob('*.yaml')} == set(NODES)


@pytest.mark.parametrize('node', NODES)
def test_the_file_names_every_parameter_with_its_default_and_a_comment(node):
    text = (ROOT / f'config/{node}.yaml').read_text('utf-8')
    given = yaml.safe_load(text)[f'/**/{node}']['ros__parameters']
    assert given == {row.name: row.default for row in NODES[node]}
    assert all(type(given[row.name]) is type(row.default) for row in NODES[node])
    commented = False
    for line in text.splitlines():
        # one comment may stand above several parameters, up to an empty line
        commented = '#' in line or commented and bool(line.strip())
        assert commented or not line.startswith('    '), f'{line} is not commented'


@pytest.mark.parametrize('node', NODES)
def test_every_parameter_is_described_and_every_number_has_a_range(node):
    for row in NODES[node]:
        assert len(row.descriptor.description) > 5, row.name
        if type(row.default) in (int, float):
            assert row.descriptor.floating_point_range or row.descriptor.integer_range, row.name


def test_files_in_the_documents_name_parameters_that_nodes_declare():
    text = (ROOT / 'docs/robot.md').read_text('utf-8')
    files = [yaml.safe_load(block) for block in re.findall(r'```yaml\n(.*?)```', text, re.DOTALL)]
    drivers = [file['/**/driver']['ros__parameters'] for file in files if '/**/driver' in file]
    assert len(drivers) == 3 and len(files) == 4
    for given in drivers:
        own = {item.name for item in fields(DriverNodeConfig)}
        DriverConfig(**{name: value for name, value in given.items() if name not in own})
        for name, value in given.items():
            default, = (row.default for row in NODES['driver'] if row.name == name)
            assert type(value) is type(default), name


def test_no_node_declares_any_other_way():
    declaring = {str(path.relative_to(ROOT)) for folder in ('vlnr1_ros/nodes', 'sim_bridge/ros')
                 for path in (ROOT / folder).glob('*.py')
                 for call in ast.walk(ast.parse(path.read_text('utf-8')))
                 if isinstance(call, ast.Attribute) and call.attr in (
                     'declare', 'declare_parameter', 'declare_parameters')}
    # the last starts in the benchmark of the bridge only
    assert declaring == {'vlnr1_ros/nodes/runtime.py', 'sim_bridge/ros/parameters.py',
                         'sim_bridge/ros/bridge.py', 'sim_bridge/ros/bench_nodes.py'}


# Changes while it drives

def fastest(commands):
    return max(linear for linear, _ in commands), max(abs(angular) for _, angular in commands)


@pytest.mark.parametrize('seed', range(20))
def test_a_changed_limit_holds_from_the_next_step(seed):
    rng = random.Random(seed)
    config = DriverConfig(max_linear_m_s=1.0, max_angular_rad_s=2.0)
    loop = Loop(config, Base(delay_s=0.02, lag_s=0.03))
    loop.plan([F, L] * 8)
    for _ in range(30):
        loop.tick(rng.randrange(1, 25))
        config = replace(config, max_linear_m_s=rng.uniform(0.01, 1.0),
                                max_angular_rad_s=rng.uniform(0.01, 2.0),
                                max_linear_m_s2=rng.uniform(0.1, 5.0))
        loop.driver.configure(config)
        before = len(loop.commands)
        loop.tick(rng.randrange(1, 4))
        commands = [command for command in loop.commands[before:] if command]
        if commands:
            linear, angular = fastest(commands)
            assert linear <= config.max_linear_m_s + 1e-9
            assert angular <= config.max_angular_rad_s + 1e-9
    assert loop.driver.moving and loop.driver.last_stop == ''


def test_a_tall_base_brakes_to_a_lowered_limit():
    config = DriverConfig(forward_m=2.0, max_linear_m_s=1.0, stop_decel_m_s2=1.0)
    loop = Loop(config)
    loop.plan([F])
    loop.tick(100)
    assert loop.commands[-1].linear_m_s > 0.5
    loop.driver.configure(replace(config, max_linear_m_s=0.1))
    while loop.commands[-1].linear_m_s > 0.1:
        loop.tick()
        lost = loop.commands[-2].linear_m_s - loop.commands[-1].linear_m_s
        assert 0.0 < lost <= 0.02 + 1e-9
    loop.run()
    assert loop.states()[-1].state == 'done'


def test_limits_stay_below_the_hard_ones():
    assert DriverConfig(max_linear_m_s=0.3).hard_linear_m_s == 0.3
    config = DriverConfig(max_linear_m_s=0.1, hard_linear_m_s=0.4, max_angular_rad_s=1.5)
    assert replace(config, max_linear_m_s=0.4).max_linear_m_s == 0.4
    with pytest.raises(UserError, match='max_linear_m_s is 0.41; give at most hard_linear_m_s, 0'):
        replace(config, max_linear_m_s=0.41)
    slower = replace(config, max_angular_rad_s=0.5)
    assert replace(slower, max_angular_rad_s=1.5) == config
    with pytest.raises(UserError, match='hard_angular_rad_s, 1.5'):
        replace(slower, max_angular_rad_s=1.6)


class Remote:
    """The parameter services of a node, as `ros2 param` calls them."""

    def __init__(self, robot, node='driver'):
        self._robot, self._node = robot, node

    def _call(self, kind, name, request):
        client = self._robot.node.create_client(kind, f'{self._node}/{name}')
        assert client.wait_for_service(20)
        return self._robot.call(client, request)

    def set(self, **values):
        """Why each was refused, '' for one that was taken."""
        request = SetParameters.Request(parameters=[
            Parameter(name, value=value).to_parameter_msg() for name, value in values.items()])
        results = self._call(SetParameters, 'set_parameters', request).results
        return [result.reason if not result.successful else '' for result in results]

    def names(self):
        found = self._call(ListParameters, 'list_parameters', ListParameters.Request())
        return [name for name in found.result.names if not name.startswith(ROS_OWN)]

    def describe(self, names):
        return self._call(DescribeParameters, 'describe_parameters',
                          DescribeParameters.Request(names=names)).descriptors


@pytest.fixture(scope='module')
def robot(tmp_path_factory):
    domain_id = fresh_domain()
    process = DriverProcess(domain_id, {
        'max_linear_m_s': 0.4, 'forward_m': 2.0, 'odom_timeout_s': 2.0, 'heartbeat_timeout_s': 2.0,
        'clock_jump_s': 3.0, 'wall_timeout_s': 3.0}, tmp_path_factory.mktemp('log'), True)
    robot = Robot(domain_id)
    robot.wait_for_driver()
    robot.wait_until_driver_is_content()
    yield robot
    robot.close()
    code, output = process.end()
    assert code == 0 and 'Traceback' not in output, output


def test_the_node_declares_what_the_tables_say(robot):
    remote = Remote(robot)
    declared = {row.name: row.descriptor for row in NODES['driver']}
    assert set(remote.names()) == set(declared)
    for descriptor in remote.describe(list(declared)):
        expected = declared[descriptor.name]
        for part in ('description', 'read_only', 'floating_point_range', 'integer_range'):
            assert getattr(descriptor, part) == getattr(expected, part), descriptor.name


@pytest.mark.parametrize('name, value, told', [
    ('max_linear_m_s', 0.5, ['0.5', 'hard_linear_m_s, 0.4']),   # what it was at start
    ('max_linear_m_s', 5.0, ['5.0', '0.01', '3.0']),
    ('max_linear_m_s', math.nan, ['nan', '0.01', '3.0']),
    ('max_linear_m_s', -0.1, ['-0.1', '0.01', '3.0']),
    ('max_linear_m_s', 1, []), ('max_linear_m_s', 'fast', []), ('max_linear_m_s', None, []),
    ('odom_timeout_s', 5.0, ['odom_timeout_s']), ('obstacle_source', 'none', ['obstacle_source']),
    ('hard_linear_m_s', 3.0, ['hard_linear_m_s'])])
def test_a_change_that_is_refused_says_why_and_changes_nothing(robot, name, value, told):
    reason, = Remote(robot).set(**{name: value})
    assert reason and all(word in reason for word in told), reason
    assert Remote(robot).set(max_linear_m_s=0.4) == ['']


def test_a_limit_lowered_while_it_drives(robot):
    robot.send_plan([F], action_set=DriverConfig(forward_m=2.0).action_set)
    wait_until(lambda: robot.commands and robot.commands[-1][0] > 0.3, 10)
    assert Remote(robot).set(max_linear_m_s=0.1) == ['']
    time.sleep(0.2)   # what was under way when the answer came
    slow_from = len(robot.commands)
    time.sleep(0.5)
    assert fastest([command[:2] for command in robot.commands[slow_from:]])[0] <= 0.1 + 1e-9
    assert Remote(robot).set(max_linear_m_s=0.4) == ['']
    wait_until(lambda: robot.commands[-1][0] > 0.3, 10)
    wait_until(lambda: robot.statuses[-1].state == 'done', 20)


@pytest.fixture
def navigator(robot):
    spun = Spun(robot.context.get_domain_id(),
                lambda context: NavigatorNode(context=context, parameter_overrides=[
                    Parameter('policy', value='stop')]),
                lambda node: SingleThreadedExecutor(context=node.context))
    yield spun
    spun.close()


def test_the_navigator_takes_changes_where_its_state_allows_them(robot, navigator):
    remote = Remote(robot, 'navigator')

    def change(transition):
        request = ChangeState.Request(transition=Transition(id=transition))
        return remote._call(ChangeState, 'change_state', request).success

    declared = {row.name: row.descriptor for row in NODES['navigator']}
    assert set(remote.names()) == set(declared)
    assert all(descriptor.additional_constraints
               == declared[descriptor.name].additional_constraints
               for descriptor in remote.describe(list(declared)))
    assert remote.set(policy='forward', execute=2, retry_s=0.25) == ['', '', '']
    refused = remote.set(image_transport='smoke', execute=65, lockstep=True)
    assert all(refused) and "'smoke'; give one of raw, compressed" in refused[0]
    assert change(Transition.TRANSITION_CONFIGURE)
    node = navigator.node
    assert type(node._policy).__name__ == 'ForwardPolicy' and node._pilot._execute == 2
    assert node._pilot.retry_s == 0.25
    assert change(Transition.TRANSITION_ACTIVATE)
    refused = remote.set(policy='random', execute=3)
    assert all('is read by configure; deactivate and clean up first' in why for why in refused)
    assert remote.set(retry_s=0.75, image_timeout_s=2.0, seed=4) == ['', '', '']
    wait_until(lambda: node._pilot.retry_s == 0.75 and node._config.image_timeout_s == 2.0, 10)
    assert change(Transition.TRANSITION_DEACTIVATE) and change(Transition.TRANSITION_CLEANUP)
    assert remote.set(policy='random') == ['']
    assert node.get_parameter('policy').value == 'random'
