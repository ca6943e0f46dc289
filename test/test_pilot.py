"""The navigator's state machine, with stamps instead of time and no ROS."""
import numpy as np
import pytest

from vlnr1_ros.motion.plan import (
    EMERGENCY_ENDS,
    STARTED,
    STOPPED_BY_HAND,
    PlanStatus,
    Pose,
    decode,
)
from vlnr1_ros.motion.stuck import StuckRule
from vlnr1_ros.navigation.actions import Action
from vlnr1_ros.navigation.card import NavigationCard
from vlnr1_ros.navigation.errors import UserError
from vlnr1_ros.nodes.decision import Answer
from vlnr1_ros.nodes.pilot import Pilot

F, L, S = Action.MOVE_FORWARD, Action.TURN_LEFT, Action.STOP
CARD = NavigationCard(frame_width=4, frame_height=4)
MS = 10**6


def to_rgb(image):
    if image == 'broken':
        raise UserError("image encoding 'broken' is unknown")
    return np.full((4, 4, 3), image, np.uint8)


class Loop:
    """A pilot whose base stands where `pose` says; images hold the stamp in ms as their pixels."""

    def __init__(self, retry_s=0.0):
        self.pose = Pose(0.0, 0.0, 0.0)
        self.pilot = Pilot(CARD, 3, retry_s, to_rgb, lambda stamp_ns: self.pose,
                           StuckRule(CARD.action_set, 'escape', 360.0, 5))

    def image(self, ms, content=None):
        self.pilot.image(ms * MS, ms if content is None else content)
        return self.pilot.question()

    def answer(self, question, *actions, error=''):
        self.pilot.answer(Answer(question.token, actions, error, 0.0))
        return self.sent()

    def sent(self):
        plans, self.pilot.plans = self.pilot.plans, []
        return plans

    def status(self, plan, state, executed, of, ms, reason=''):
        self.pilot.status(PlanStatus(plan.stamp_ns, state, executed, of, reason), ms * MS)
        return self.pilot.question()


@pytest.fixture
def loop():
    return Loop()


@pytest.fixture
def driving(loop):
    """(loop, plan) of a run whose first plan [F, F, L] was accepted."""
    loop.pilot.instruct('go', 0)
    plan, = loop.answer(loop.image(10), F, F, L, F)
    loop.status(plan, 'accepted', 0, 3, 10)
    return loop, plan


def pixels(question):
    return [int(question.history._frames[i][0, 0, 0]) for i in range(len(question.history))]


def test_a_plan_starts_at_the_base_and_holds_only_what_is_executed(loop):
    loop.pose = Pose(1.0, 2.0, 0.5)
    loop.pilot.instruct('go', 0)
    plan, = loop.answer(loop.image(10), F, L, F, F)
    assert plan.stamp_ns == 10 * MS
    assert plan.poses[0] == loop.pose
    assert decode(plan.poses, CARD.action_set) == [F, L, F]


def test_nothing_after_a_stop_is_sent(loop):
    loop.pilot.instruct('go', 0)
    plan, = loop.answer(loop.image(10), F, S, S, S)
    assert decode(plan.poses, CARD.action_set) == [F, S]


def test_one_frame_per_primitive_from_the_first_image_at_or_after_its_end(driving):
    loop, plan = driving
    assert loop.image(20) is None
    assert loop.status(plan, 'running', 1, 3, 25) is None
    assert loop.image(30) is None
    assert loop.image(40) is None
    assert loop.status(plan, 'running', 2, 3, 40) is None  # its image came before the status
    assert loop.image(50) is None
    assert loop.status(plan, 'done', 3, 3, 60) is None
    assert pixels(loop.image(61)) == [10, 30, 40, 61]


def test_a_clock_that_begins_anew_is_followed(driving):
    loop, plan = driving
    loop.image(9000)
    loop.pilot.cancel()
    loop.pilot.instruct('go again', 0)
    assert loop.image(20) is not None, 'the image is newer than the instruction by any clock'


def test_a_blocked_primitive_still_leaves_a_frame(driving):
    loop, plan = driving
    loop.image(20)
    assert loop.status(plan, 'dropped', 1, 3, 25, 'obstacle') is None
    assert pixels(loop.image(30)) == [10, 30, 30]
    assert loop.pilot.state == 'deciding'


def test_a_refused_plan_asks_again_from_a_fresh_image_without_a_frame(loop):
    loop.pilot.instruct('go', 0)
    plan, = loop.answer(loop.image(10), F, F, F)
    loop.pose = Pose(0.06, 0.0, 0.0)
    assert loop.status(plan, 'dropped', 0, 3, 11, 'moved') is None
    assert 'moved' in loop.pilot.reason
    question = loop.image(20)
    assert pixels(question) == [10]
    plan, = loop.answer(question, F, F, F)
    assert plan.stamp_ns == 20 * MS and plan.poses[0] == loop.pose


def test_a_stop_by_hand_ends_the_run(driving):
    loop, plan = driving
    assert loop.status(plan, 'dropped', 1, 3, 25, STOPPED_BY_HAND) is None
    assert loop.pilot.state == 'idle' and 'stop' in loop.pilot.reason
    assert [plan.poses for plan in loop.sent()] == [[]], 'only an empty plan: hold'
    assert loop.image(30) is None and loop.sent() == []


@pytest.mark.parametrize('reason', [STOPPED_BY_HAND, EMERGENCY_ENDS])
def test_a_stop_by_hand_ends_a_run_that_waits_for_the_policy(loop, reason):
    loop.pilot.instruct('go', 0)
    question = loop.image(10)
    loop.pilot.status(PlanStatus(0, 'dropped', 0, 0, reason), 15 * MS)
    assert loop.pilot.state == 'idle'
    assert [plan.poses for plan in loop.sent()] == [[]]
    assert loop.answer(question, F) == [] and loop.image(30) is None
    loop.pilot.instruct('go', 40 * MS)
    assert loop.image(50) is not None, 'the same sentence, said again, is a new run'


def test_a_driver_that_was_started_anew_ends_the_runs_begun_before(loop):
    loop.pilot.instruct('go', 10 * MS)
    question = loop.image(10)
    loop.pilot.status(PlanStatus(10 * MS, 'dropped', 0, 0, STARTED), 20 * MS)
    assert loop.pilot.state == 'deciding', 'a run that began after its start goes on'
    loop.pilot.status(PlanStatus(15 * MS, 'dropped', 0, 0, STARTED), 20 * MS)
    assert loop.pilot.state == 'failed' and STARTED in loop.pilot.reason
    assert [plan.poses for plan in loop.sent()] == [[]]
    assert loop.answer(question, F) == [] and loop.image(30) is None


def test_a_base_pushed_by_a_primitive_leaves_a_frame(loop):
    loop.pilot.instruct('go', 0)
    plan, = loop.answer(loop.image(10), F, F, F)
    loop.pose = Pose(0.21, 0.0, 0.0)
    loop.status(plan, 'dropped', 0, 3, 11, 'moved')
    assert pixels(loop.image(20)) == [10, 20]


def test_motion_while_paused_leaves_a_frame_a_primitive(driving):
    loop, plan = driving
    loop.pilot.pause(True)
    loop.sent()
    loop.status(plan, 'dropped', 0, 3, 20, 'hold')
    for ms in range(30, 130, 10):   # 91 cm, pushed by hand
        loop.pose = Pose(1.01 * (ms - 30) / 100, 0.0, 0.0)
        assert loop.image(ms) is None
    loop.pilot.pause(False)
    # the interrupted primitive, then 25, 50 and 75 cm, each seen from four fifths on
    assert pixels(loop.image(130)) == [10, 30, 50, 80, 100]
    assert loop.pilot.newest_image_ns == 130 * MS


def test_motion_while_the_policy_decides_enters_the_next_question(loop):
    loop.pilot.instruct('go', 0)
    question = loop.image(10)
    loop.pose = Pose(0.26, 0.0, 0.0)
    loop.image(20)
    assert pixels(question) == [10], 'a question keeps the history it was asked with'
    plan, = loop.answer(question, F, F)
    loop.status(plan, 'dropped', 0, 2, 30, 'moved')
    assert pixels(loop.image(40)) == [10, 20]


def test_what_a_plan_drives_is_not_counted_twice(driving):
    loop, plan = driving
    for k, x in enumerate((0.25, 0.5, 0.5)):
        loop.pose = Pose(x, 0.0, 0.5 if k == 2 else 0.0)
        loop.status(plan, 'done' if k == 2 else 'running', k + 1, 3, 20 + 10 * k)
        question = loop.image(21 + 10 * k)
    assert pixels(question) == [10, 21, 31, 41]
    plan, = loop.answer(question, F)
    loop.status(plan, 'dropped', 0, 1, 50, 'busy')
    assert pixels(loop.image(60)) == [10, 21, 31, 41]


def test_a_refused_plan_waits_before_it_asks_again():
    loop = Loop(retry_s=0.5)
    loop.pilot.instruct('go', 0)
    plan, = loop.answer(loop.image(10), F)
    loop.status(plan, 'dropped', 0, 1, 10, 'paused')
    assert loop.image(100) is None and not loop.pilot.busy
    assert loop.image(510) is not None


def test_stop_ends_the_run(loop):
    loop.pilot.instruct('go', 0)
    plan, = loop.answer(loop.image(10), S)
    assert loop.pilot.busy
    loop.status(plan, 'accepted', 0, 1, 10)
    assert not loop.pilot.busy
    loop.status(plan, 'done', 1, 1, 11, 'stop')
    assert (loop.pilot.state, loop.pilot.reason) == ('finished', 'stop')
    assert loop.image(20) is None


def test_frames_older_than_the_instruction_are_dropped(loop):
    loop.image(10)
    loop.pilot.instruct('go', 15 * MS)
    assert loop.image(12) is None
    assert pixels(loop.image(16)) == [16]


def test_the_instruction_repeated_changes_nothing_and_another_one_starts_anew(driving):
    loop, plan = driving
    loop.pilot.instruct(' go ', 0)
    assert loop.pilot.state == 'executing' and not loop.sent()
    loop.pilot.instruct('come', 0)
    hold, = loop.sent()
    assert hold.poses == [] and hold.stamp_ns > plan.stamp_ns
    loop.status(plan, 'dropped', 1, 3, 20, 'hold')   # of the old run: no frame of the new one
    question = loop.image(30)
    assert pixels(question) == [30] and question.instruction == 'come'


def test_an_answer_to_an_old_question_is_dropped(loop):
    loop.pilot.instruct('go', 0)
    question = loop.image(10)
    loop.pilot.cancel()
    assert [plan.poses for plan in loop.sent()] == [[]]
    assert loop.answer(question, F) == []
    assert loop.pilot.state == 'idle'


@pytest.mark.parametrize('text, words', [('', 'empty'), ('  \n', 'empty'), ('a' * 2001, '2001')])
def test_a_bad_instruction_holds_and_says_why(driving, text, words):
    loop, _ = driving
    loop.pilot.instruct(text, 0)
    assert loop.pilot.state == 'refused' and words in loop.pilot.reason
    assert [plan.poses for plan in loop.sent()] == [[]]
    loop.pilot.instruct('better', 0)
    assert loop.image(50) is not None


def test_a_bad_image_holds_and_says_why(loop):
    loop.pilot.instruct('go', 0)
    assert loop.image(10, 'broken') is None
    assert loop.pilot.state == 'refused' and 'broken' in loop.pilot.reason
    assert [plan.poses for plan in loop.sent()] == [[]]


def test_a_policy_that_fails_holds(loop):
    loop.pilot.instruct('go', 0)
    assert [plan.poses for plan in loop.answer(loop.image(10), error='out of memory')] == [[]]
    assert loop.pilot.state == 'failed' and loop.pilot.reason == 'out of memory'


def test_pause_holds_and_goes_on_from_a_fresh_image(driving):
    loop, plan = driving
    loop.pilot.pause(True)
    assert [p.poses for p in loop.sent()] == [[]]
    loop.status(plan, 'dropped', 1, 3, 20, 'hold')
    assert loop.image(30) is None and loop.pilot.state == 'paused'
    loop.pilot.pause(False)
    assert pixels(loop.image(40)) == [10, 30, 30]


def test_a_camera_whose_clock_starts_anew_is_followed(loop):
    loop.image(5000)
    loop.image(10)
    loop.pilot.instruct('go', 0)
    plan, = loop.answer(loop.image(20), F)
    assert plan.stamp_ns == 20 * MS


def test_without_the_pose_of_the_image_there_is_no_question(loop):
    loop.pilot.instruct('go', 0)
    loop.pose = None
    assert loop.image(10) is None and loop.pilot.busy
    loop.pose = Pose(0.0, 0.0, 0.0)
    assert loop.pilot.question() is not None


def test_a_spin_ends_in_one_step_forward(loop):
    loop.pilot.instruct('go', 0)
    question = loop.image(10)
    for k in range(4):
        plan, = loop.answer(question, L, L, L)
        loop.status(plan, 'accepted', 0, 3, 20 + 10 * k)
        loop.status(plan, 'done', 3, 3, 20 + 10 * k)
        question = loop.image(20 + 10 * k)
    plan, = loop.answer(question, L, L, L)
    assert decode(plan.poses, CARD.action_set) == [F]
    assert loop.pilot.reason == 'A. Move forward 25 cm: turned 360 degrees at one place'
    assert loop.pilot.actions == [F], 'the driver will report one primitive'


def test_a_base_that_stays_blocked_is_given_up_and_held(loop):
    loop.pilot.instruct('go', 0)
    question, sent = loop.image(10), []
    for k in range(20):
        plans = loop.answer(question, F, F, F)
        sent.append(plans[0].poses and decode(plans[0].poses, CARD.action_set))
        if not plans[0].poses:
            break
        of = len(sent[-1])
        loop.status(plans[0], 'accepted', 0, of, 20 + 10 * k)
        loop.status(plans[0], 'dropped', 0, of, 20 + 10 * k, 'obstacle 0.1 m ahead')
        question = loop.image(20 + 10 * k)
    other = [k for k, actions in enumerate(sent) if actions == [L]]
    assert other == [5, 10] and sent[15] == [], sent
    assert loop.pilot.state == 'failed' and loop.pilot.reason.startswith('stuck: 5 plans')
    assert loop.pilot.last_stop == loop.pilot.reason
    loop.pilot.instruct('go', 0)
    plan, = loop.answer(loop.image(900), F, F, F)
    assert len(plan.poses) == 4, 'a new sentence starts anew'


def test_plans_that_the_driver_refuses_for_long_give_nothing_up(loop):
    loop.pilot.instruct('go', 0)
    question = loop.image(10)
    for k in range(30):
        plan, = loop.answer(question, F, F, F)
        loop.status(plan, 'dropped', 0, 3, 15 + 10 * k, 'emergency stop is engaged')
        question = loop.image(20 + 10 * k)
    assert question is not None and loop.pilot.stuck.count == 0
    assert loop.pilot.last_stop == 'emergency stop is engaged'
