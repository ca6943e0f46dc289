"""The navigator with a model on another computer that is slow, gone or wrong."""
import time

import pytest
from served_model import FaultyServer, cut_off, silence, status
from spun_node import fresh_domain, wait_until
from std_srvs.srv import SetBool, Trigger
from test_navigator_node import Robot, navigator

FORWARD = ', '.join(['A. Move forward 25 cm'] * 6)


@pytest.fixture
def drive():
    """drive(*behaviours) -> (robot that follows 'go on', server); the question is on its way."""
    ends = []

    def start(*behaviours, **settings):
        domain_id = fresh_domain()
        server, robot = FaultyServer(*behaviours), Robot(domain_id)
        node = navigator(domain_id, policy=server.url(**settings), retry_s=0.2)
        ends.extend([node.close, robot.close, server.close])
        robot.wait_for_navigator()
        robot.say('go on')
        wait_until(lambda: robot.state == 'waiting')
        robot.see()
        wait_until(lambda: server.asked)
        return robot, server

    yield start
    for end in ends:
        end()


def words(asked):
    return asked['messages'][0]['content'][0]['text']


def see_until(robot, condition):
    """Publish images until the condition holds, as a camera does."""
    def seen():
        robot.see()
        time.sleep(0.05)
        return condition()
    wait_until(seen)


@pytest.mark.parametrize('trouble', [status(500, 'oops'), cut_off, silence])
def test_a_server_in_trouble_is_shown_and_asked_again_from_a_fresh_image(drive, trouble):
    robot, server = drive(trouble, trouble, FORWARD, deadline_s=0.3)
    wait_until(lambda: robot.state == 'paused')
    assert 'http://127.0.0.1' in robot.states[-1]['policy_trouble']
    assert robot.states[-1]['instruction'] == 'go on'
    see_until(robot, lambda: any(plan.poses for plan in robot.plans))
    wait_until(lambda: robot.state == 'executing' and not robot.states[-1]['policy_trouble'])
    assert len(server.asked) == 3


def test_a_server_that_is_gone_is_waited_for_and_the_robot_stands(drive):
    robot, server = drive(FORWARD)
    wait_until(lambda: robot.plans)
    plan = robot.plans[-1]
    robot.report(plan, 'accepted', 0, 3)
    server.close()
    robot.report(plan, 'done', 3, 3)
    see_until(robot, lambda: 'refused' in robot.states[-1]['policy_trouble'])
    count = len(robot.plans)
    until_s = time.monotonic() + 1.0
    see_until(robot, lambda: time.monotonic() > until_s)
    assert not any(plan.poses for plan in robot.plans[count:])
    wait_until(lambda: any(message.status[0].level != b'\x00'
                           and 'refused' in str(message.status[0].values)
                           for message in robot.diagnostics))
    back = FaultyServer(FORWARD, port=server.port)
    see_until(robot, lambda: any(plan.poses for plan in robot.plans[count:]))
    back.close()


def test_a_new_instruction_gives_up_the_question_of_the_old_one(drive):
    robot, server = drive(silence, FORWARD, deadline_s=60)
    robot.say('come back')
    wait_until(lambda: robot.states[-1]['instruction'] == 'come back')
    assert server.hung_up.wait(10)
    see_until(robot, lambda: any(plan.poses for plan in robot.plans))
    assert [words(asked) for asked in server.asked] == ['go on', 'come back']


def test_cancel_and_pause_give_up_the_question(drive):
    robot, server = drive(silence, FORWARD, deadline_s=60)
    robot.call(SetBool, 'navigator/pause', SetBool.Request(data=True))
    assert server.hung_up.wait(10)
    robot.call(SetBool, 'navigator/pause', SetBool.Request(data=False))
    see_until(robot, lambda: any(plan.poses for plan in robot.plans))
    robot.call(Trigger, 'navigator/cancel', Trigger.Request())
    wait_until(lambda: robot.state == 'idle')


def test_a_person_s_pause_is_not_ended_by_the_wait_for_a_server(drive):
    robot, server = drive(status(500, 'oops'))
    wait_until(lambda: robot.state == 'paused')
    robot.call(SetBool, 'navigator/pause', SetBool.Request(data=True))
    count = len(server.asked)
    until_s = time.monotonic() + 1.0
    see_until(robot, lambda: time.monotonic() > until_s)
    assert len(server.asked) <= count + 1 and robot.state == 'paused'


@pytest.mark.parametrize('answer', ['turn left, I guess', status(200, '<html>'),
                                    status(404, 'no such model')])
def test_an_answer_that_cannot_be_used_ends_the_run_with_the_reason(drive, answer):
    robot, _ = drive(answer)
    wait_until(lambda: robot.state == 'failed')
    assert 'http://127.0.0.1' in robot.states[-1]['reason']
    assert not any(plan.poses for plan in robot.plans)
