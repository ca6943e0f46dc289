"""The navigator node that decides while the robot drives, over real topics."""
import threading
import time

import pytest
from spun_node import fresh_domain, wait_until
from std_srvs.srv import Trigger
from test_navigator_node import Robot, navigator

from vlnr1_ros.motion.plan import decode
from vlnr1_ros.navigation.actions import Action, ActionSet
from vlnr1_ros.nodes import messages
from vlnr1_ros.nodes.lean_executor import LeanExecutor
from vlnr1_ros.policy.base import Unavailable

F, L = Action.MOVE_FORWARD, Action.TURN_LEFT


@pytest.fixture
def drive():
    """drive(answers, **parameters) -> robot that drives the last action of its first plan.

    answers: those of the policy, in turn, to what is asked, or functions that give them.
    robot.asked: frames of the questions. begin=False: it has seen nothing yet.
    """
    ends = []

    def start(*answers, begin=True, **parameters):
        domain_id = fresh_domain()
        robot = Robot(domain_id)
        node = navigator(domain_id, LeanExecutor, replan='during', execute=3, **parameters)
        ends.extend([node.close, robot.close])
        robot.asked, left = [], list(answers)

        def plan(history):
            robot.asked.append(len(history))
            answer = left.pop(0)
            return answer() if callable(answer) else answer

        node.node._policy.plan = plan
        robot.wait_for_navigator()
        robot.say('go on')
        wait_until(lambda: robot.state == 'waiting')
        if not begin:
            return robot
        robot.see()
        wait_until(lambda: robot.plans)
        robot.report(robot.plans[0], 'accepted', 0, 3)
        robot.report(robot.plans[0], 'running', 2, 3)
        robot.see()
        wait_until(lambda: len(robot.asked) == 2)
        return robot

    yield start
    for end in ends:
        end()


def actions_of(plan):
    return decode(messages.path_poses(plan), ActionSet())


def test_the_next_plan_comes_while_the_last_action_is_driven_and_begins_with_it(drive):
    robot = drive([F, F, L, F, F, F], [L, L, F, F, F, F])
    assert actions_of(robot.plans[0]) == [F, F, L] and robot.asked == [1, 3]
    wait_until(lambda: len(robot.plans) == 2)
    assert actions_of(robot.plans[1]) == [L, L, F]
    assert robot.plans[1].header.stamp != robot.plans[0].header.stamp
    wait_until(lambda: robot.states[-1]['decisions'] == 2)
    assert all(state['state'] == 'executing' for state in robot.states[-2:])


def test_a_policy_that_is_away_is_asked_again_when_the_plan_is_done(drive):
    def away():
        raise Unavailable('the server is away')

    robot = drive([F] * 6, away, [L] * 6)
    time.sleep(0.2)
    assert robot.state == 'executing' and len(robot.plans) == 1
    robot.report(robot.plans[0], 'done', 3, 3)
    robot.see()
    wait_until(lambda: len(robot.plans) == 2)
    assert robot.asked[2] == 4 and actions_of(robot.plans[1]) == [L, L, L]
    assert not any(state['policy_trouble'] for state in robot.states)


def test_cancel_while_deciding_and_driving_holds_and_no_late_answer_is_driven(drive):
    go_on = threading.Event()

    def late():
        go_on.wait(60)
        return [F] * 6

    robot = drive([F] * 6, late)
    robot.call(Trigger, 'navigator/cancel', Trigger.Request())
    wait_until(lambda: robot.state == 'idle')
    go_on.set()
    time.sleep(0.2)
    assert [len(plan.poses) for plan in robot.plans] == [4, 0]


def test_a_simulator_sees_a_decision_take_its_time(drive):
    robot = drive([F] * 6, [F] * 6, begin=False, lockstep=True, decision_time_s=0.5)
    for number, ms in enumerate((1000, 1100, 1400), 1):
        robot.see(stamp_ns=ms * 10**6)
        wait_until(lambda: len(robot.acknowledged) == number)  # noqa: B023
    assert robot.asked == [1] and not robot.plans and robot.state == 'deciding'
    robot.see(stamp_ns=1500 * 10**6)
    wait_until(lambda: robot.plans)
    assert messages.time_ns(robot.plans[0].header.stamp) == 10**9, 'of the image that was seen'
    time.sleep(0.2)
    assert len(robot.acknowledged) == 3, 'the driver has not answered'
    robot.report(robot.plans[0], 'accepted', 0, 3)
    wait_until(lambda: len(robot.acknowledged) == 4)
    assert robot.states[-1]['deciding_s'] == 0.5 and robot.states[-1]['hidden_s'] == 0.0
