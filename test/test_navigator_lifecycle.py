"""The navigator as a lifecycle node: what each transition does, and what it leaves undone."""
import os
import signal
import subprocess
import sys
import threading
import time
import weakref

import numpy as np
import pytest
from driver_process import DriverProcess
from driver_process import Robot as Base
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from spun_node import Spun, fresh_domain, wait_until
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger
from test_driver_node import SLOW
from test_navigator_node import Robot, navigator, spun_by

from sim_bridge.ros.graph import isolated_environment
from vlnr1_ros.nodes import messages
from vlnr1_ros.nodes import navigator as module
from vlnr1_ros.nodes.lean_executor import LeanExecutor
from vlnr1_ros.nodes.navigator import NavigatorNode

CONFIGURE, ACTIVATE = Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE
DEACTIVATE, CLEANUP = Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP


@pytest.fixture
def domain_id():
    return fresh_domain()


@pytest.fixture
def robot(domain_id):
    robot = Robot(domain_id)
    yield robot
    robot.close()


@pytest.fixture
def asleep(domain_id):
    """A navigator that nobody has configured."""
    node = navigator(domain_id, start_active=False)
    yield node
    node.close()


def change(robot, transition):
    request = ChangeState.Request(transition=Transition(id=transition))
    return robot.call(ChangeState, 'navigator/change_state', request).success


def state(robot):
    return robot.call(GetState, 'navigator/get_state', GetState.Request()).current_state.label


def set_policy(robot, policy):
    result, = robot.call(SetParameters, 'navigator/set_parameters', SetParameters.Request(
        parameters=[Parameter('policy', value=policy).to_parameter_msg()])).results
    return result


def told(robot, phase):
    """Wait until `~/state` says so; its reason."""
    wait_until(lambda: robot.states and robot.state == phase)
    return robot.states[-1]['reason']


def ask_to_move(robot):
    """A sentence and an image, as an operator and a camera would send them."""
    robot.say('go on')
    robot.see()


def drive(robot):
    """Until there is a plan."""
    robot.wait_for_navigator()
    robot.say('go on')
    told(robot, 'waiting')
    robot.see()
    wait_until(lambda: robot.plans)


@pytest.mark.smoke
def test_every_transition_and_those_that_are_not_there(robot, asleep):
    assert state(robot) == told(robot, 'unconfigured') + 'unconfigured'
    assert not change(robot, ACTIVATE)
    assert change(robot, CONFIGURE)
    assert state(robot) == told(robot, 'inactive') + 'inactive'
    assert not change(robot, CONFIGURE) and not change(robot, DEACTIVATE)
    assert not robot.heartbeats
    assert change(robot, ACTIVATE)
    assert state(robot) == 'active'
    drive(robot)
    assert change(robot, DEACTIVATE)
    policy = weakref.ref(asleep.node._policy)
    assert change(robot, CLEANUP)
    wait_until(lambda: policy() is None)
    assert state(robot) == told(robot, 'unconfigured') + 'unconfigured'
    assert change(robot, Transition.TRANSITION_UNCONFIGURED_SHUTDOWN)
    told(robot, 'finalized')
    asleep.thread.join(10)
    assert not asleep.thread.is_alive()


def test_shutdown_of_one_that_drives_holds_and_ends(robot, asleep):
    assert change(robot, CONFIGURE) and change(robot, ACTIVATE)
    drive(robot)
    assert change(robot, Transition.TRANSITION_ACTIVE_SHUTDOWN)
    wait_until(lambda: len(robot.plans) == 2 and not robot.plans[1].poses)
    asleep.thread.join(10)
    assert not asleep.thread.is_alive()


@pytest.mark.smoke
def test_a_failed_configure_says_why_and_can_be_tried_again(robot, asleep):
    assert set_policy(robot, '/nowhere').successful
    assert not change(robot, CONFIGURE)
    assert state(robot) == 'unconfigured'
    wait_until(lambda: robot.states and '/nowhere' in robot.states[-1]['reason'])
    robot.diagnostics.clear()
    wait_until(lambda: robot.diagnostics)
    status, = robot.diagnostics[-1].status
    assert status.level == b'\x02' and '/nowhere' in status.message
    assert not change(robot, CONFIGURE), 'nothing has changed'
    assert set_policy(robot, 'forward').successful
    assert change(robot, CONFIGURE)
    assert told(robot, 'inactive') == ''
    assert change(robot, ACTIVATE)
    drive(robot)


def test_a_defect_while_configuring_is_a_failed_transition_too(robot, asleep, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError('in a model')
    with monkeypatch.context() as patch:
        patch.setattr(module, 'named_policy', broken)
        assert not change(robot, CONFIGURE)
    wait_until(lambda: robot.states and 'in a model' in robot.states[-1]['reason'])
    assert change(robot, CONFIGURE) and change(robot, ACTIVATE)


def test_what_configure_has_read_stays(robot, asleep):
    assert change(robot, CONFIGURE)
    refused = set_policy(robot, 'random')
    assert not refused.successful and 'clean up' in refused.reason
    assert change(robot, CLEANUP)
    assert set_policy(robot, 'random').successful


@pytest.mark.smoke
def test_an_inactive_one_neither_moves_nor_remembers_what_it_was_told(robot, asleep):
    assert change(robot, CONFIGURE)
    ask_to_move(robot)
    for kind, name, request in ((Trigger, 'cancel', Trigger.Request()),
                                (SetBool, 'pause', SetBool.Request(data=False))):
        answer = robot.call(kind, f'navigator/{name}', request)
        assert not answer.success and 'inactive' in answer.message
    ask_to_move(robot)
    time.sleep(0.5)
    assert not robot.plans and not robot.heartbeats
    told(robot, 'inactive')
    assert change(robot, ACTIVATE)
    robot.wait_for_navigator()
    robot.see()
    time.sleep(0.5)
    assert not robot.plans
    told(robot, 'idle')
    drive(robot)


def test_an_answer_from_before_is_not_taken_for_one_of_now(robot, asleep):
    assert change(robot, CONFIGURE) and change(robot, ACTIVATE)
    release = threading.Event()

    def slow_turn(_history):
        release.wait(60)
        return [2, 2, 2, 2, 2, 2]
    asleep.node._policy.plan = slow_turn
    robot.wait_for_navigator()
    robot.say('go on')
    told(robot, 'waiting')
    robot.see()
    told(robot, 'deciding')
    assert change(robot, DEACTIVATE) and change(robot, CLEANUP)
    assert change(robot, CONFIGURE) and change(robot, ACTIVATE)
    asleep.node._policy.plan, quick = slow_turn, asleep.node._policy.plan
    robot.plans.clear()
    robot.wait_for_navigator()
    robot.say('go on')
    told(robot, 'waiting')
    robot.see()
    told(robot, 'deciding')
    asleep.node._policy.plan = quick
    release.set()
    wait_until(lambda: robot.plans)
    time.sleep(0.3)
    assert len(robot.plans) == 1


def test_an_error_while_it_is_deactivated_makes_it_unconfigured(robot, asleep, monkeypatch):
    assert change(robot, CONFIGURE) and change(robot, ACTIVATE)
    drive(robot)

    def broken(*_):
        raise RuntimeError('no such subscription')
    with monkeypatch.context() as patch:
        patch.setattr(asleep.node, 'destroy_subscription', broken)
        assert not change(robot, DEACTIVATE)
    assert 'no such subscription' in told(robot, 'unconfigured')
    wait_until(lambda: len(robot.plans) == 2 and not robot.plans[1].poses)
    assert state(robot) == 'unconfigured'
    assert change(robot, CONFIGURE) and change(robot, ACTIVATE)


def test_in_lockstep_only_an_active_one_answers(robot, domain_id):
    node = navigator(domain_id, LeanExecutor, lockstep=True)
    robot.wait_for_navigator()
    robot.see(stamp_ns=10**9)
    wait_until(lambda: len(robot.acknowledged) == 1)
    assert change(robot, DEACTIVATE)
    robot.see(stamp_ns=2 * 10**9)
    time.sleep(0.3)
    assert change(robot, ACTIVATE)
    wait_until(lambda: robot.image.get_subscription_count())
    third = robot.see(stamp_ns=3 * 10**9)
    wait_until(lambda: len(robot.acknowledged) == 2)
    assert messages.time_ns(robot.acknowledged[1].stamp) == third
    node.close()


def test_deactivation_in_the_middle_of_a_plan_stops_the_base(domain_id, tmp_path):
    process = DriverProcess(domain_id, SLOW, tmp_path, check_fields=True)
    base = Base(domain_id)
    base.heartbeat_on = False   # the navigator's own is to be heard
    node = navigator(domain_id, start_active=True)
    image = base.node.create_publisher(messages.Image, 'image_raw', 10)
    sentence = base.node.create_publisher(String, 'instruction', 10)
    client = base.node.create_client(ChangeState, 'navigator/change_state')
    try:
        base.wait_for_driver()
        base.wait_until_driver_is_content()
        until_s = time.monotonic() + 30.0
        while not base.commands or base.commands[-1][0] < 0.05:
            assert time.monotonic() < until_s
            sentence.publish(String(data='go on'))
            image.publish(messages.image(np.zeros((8, 8, 3), np.uint8), 'rgb8', base.now_ns(),
                                         'camera'))
            time.sleep(0.1)
        assert client.wait_for_service(10)
        base.call(client, ChangeState.Request(transition=Transition(id=DEACTIVATE)))
        base.zero_after(3.0)
        wait_until(lambda: 'hold' in base.statuses[-1].reason)
        time.sleep(0.5)
        assert base.commands[-1][:2] == (0.0, 0.0)
        assert abs(base.base.linear) < 0.001
    finally:
        node.close()
        base.close()
        code, output = process.end()
    assert code == 0, output


class Process:
    """The node as `ros2 run` starts it."""

    def __init__(self, domain_id, log_dir, **parameters):
        self.process = subprocess.Popen(
            [sys.executable, '-m', 'vlnr1_ros.nodes.navigator', '--ros-args',
             *(word for name, value in parameters.items() for word in ('-p', f'{name}:={value}'))],
            env=isolated_environment(log_dir, domain_id), stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True)

    def end(self, number):
        """(exit code, output) after a signal."""
        self.process.send_signal(number)
        output, _ = self.process.communicate(timeout=20)
        return self.process.returncode, output


def test_one_that_was_killed_comes_back_and_waits_for_a_person(robot, domain_id, tmp_path):
    process = Process(domain_id, tmp_path, policy='forward')
    assert told(robot, 'unconfigured') == ''
    assert change(robot, CONFIGURE) and change(robot, ACTIVATE)
    drive(robot)
    process.end(signal.SIGKILL)
    robot.states.clear()
    robot.plans.clear()
    process = Process(domain_id, tmp_path, policy='forward')
    told(robot, 'unconfigured')
    ask_to_move(robot)
    time.sleep(0.5)
    assert not robot.plans and robot.state == 'unconfigured'
    assert process.end(signal.SIGINT) == (0, '')


def test_the_process_ends_well_after_shutdown(robot, domain_id, tmp_path):
    process = Process(domain_id, tmp_path, policy='stop')
    told(robot, 'unconfigured')
    assert change(robot, Transition.TRANSITION_UNCONFIGURED_SHUTDOWN)
    assert process.process.communicate(timeout=20) == ('', None)
    assert process.process.returncode == 0


def test_a_signal_while_the_model_loads_ends_it_at_once(robot, domain_id, tmp_path):
    os.mkfifo(tmp_path / 'navigation.json')   # whoever reads it waits for ever
    process = Process(domain_id, tmp_path, policy=tmp_path)
    told(robot, 'unconfigured')
    client = robot.node.create_client(ChangeState, 'navigator/change_state')
    assert client.wait_for_service(20)
    client.call_async(ChangeState.Request(transition=Transition(id=CONFIGURE)))
    time.sleep(1.0)
    assert process.end(signal.SIGINT)[0] == 0


def test_it_starts_active_only_where_it_is_told_to_and_can(domain_id, robot):
    node = Spun(domain_id, lambda context: NavigatorNode(context=context, parameter_overrides=[
        Parameter('policy', value='stop')]), spun_by(SingleThreadedExecutor))
    assert told(robot, 'unconfigured') == ''
    node.close()
    node = navigator(domain_id, policy='stop')
    told(robot, 'idle')
    node.close()
