"""Decisions while the base drives: pilot, driver and a base on a clock of our own."""
import random
from collections import deque

import numpy as np
import pytest
from motion_loop import PERIOD_NS, Loop

from vlnr1_ros.motion.config import DriverConfig
from vlnr1_ros.motion.stuck import StuckRule
from vlnr1_ros.navigation.actions import Action
from vlnr1_ros.navigation.card import NavigationCard
from vlnr1_ros.nodes.decision import Answer
from vlnr1_ros.nodes.pilot import Pilot

F, L, R, S = Action.MOVE_FORWARD, Action.TURN_LEFT, Action.TURN_RIGHT, Action.STOP
CARD = NavigationCard(frame_width=4, frame_height=4)
SCRIPT = [F, L, L, F, F, R, F, F, L, R, F, F, F]
TICKS_PER_IMAGE = 5


def to_rgb(number):
    return np.full((4, 4, 3), (number // 256, number % 256, 0), np.uint8)


def numbers(history):
    """Which images the history holds."""
    return [int(frame[0, 0, 0]) * 256 + int(frame[0, 0, 1])
            for frame in (history._frames[i] for i in range(len(history)))]


def scripted(question):
    """Policy: what is left of the script, a frame being an action, then stop."""
    return (SCRIPT[len(question.history) - 1:] + [S] * 6)[:6]


class Run:
    """A pilot and a driver with a base that follow a policy; question -> actions.

    decision_s: how long a decision takes. Every question's history is compared with what the
    driver drove: one frame an action, the first image at or after its end.
    """

    def __init__(self, policy=scripted, decision_s=0.5, execute=4, during=True, stuck='ignore'):
        self.loop = Loop(DriverConfig(replan='during' if during else 'after'))
        self.pilot = Pilot(CARD, execute, 0.0, to_rgb, lambda _: self.loop.base.pose,
                           StuckRule(CARD.action_set, stuck, 360.0, 5), during)
        self.policy, self.decision_s = policy, decision_s
        self.late_ns, self.on_the_way = 0, deque()   # statuses
        self.images, self.ends = [], []
        self.asked = []   # (frames, whether the base drove) of each question
        self.question = None
        self.stood_ns = 0   # without a plan, since the first one was sent
        self.pilot.instruct('go', 0)

    def tick(self):
        loop, pilot = self.loop, self.pilot
        loop.tick()
        self.hear()
        if loop.now_ns // PERIOD_NS % TICKS_PER_IMAGE == 0:
            pilot.image(loop.now_ns, len(self.images))
            self.images.append(loop.now_ns)
        self.ask()
        if self.question and loop.now_ns >= self.answer_ns:
            question, self.question = self.question, None
            pilot.answer(Answer(question.token, tuple(self.policy(question)), '', 0.0))
        self.send()
        if pilot.decisions and not loop.driver.moving:
            self.stood_ns += PERIOD_NS

    def ask(self):
        question = self.pilot.question()
        if question is None:
            return
        self.question, self.answer_ns = question, self.loop.now_ns + int(self.decision_s * 1e9)
        self.asked.append((len(question.history), self.loop.driver.moving))
        self.check_history(question)

    def send(self):
        plans, self.pilot.plans = self.pilot.plans, []
        for plan in plans:
            self.loop.driver.hear_plan(self.loop.now_ns, 'odom', plan.stamp_ns, plan.poses)
        self.hear()

    def hear(self):
        now_ns = self.loop.now_ns
        self.on_the_way += [(now_ns, status) for status in self.loop.states()]
        while self.on_the_way and self.on_the_way[0][0] + self.late_ns <= now_ns:
            stamp_ns, status = self.on_the_way.popleft()
            self.pilot.status(status, stamp_ns)
        for action, ended_ns in self.loop.driver._completed:
            if not self.ends or ended_ns > self.ends[-1][1]:
                self.ends.append((action, ended_ns))

    def check_history(self, question):
        assert numbers(question.history) == self.frames_due()

    def frames_due(self):
        first = numbers(self.pilot._history)[0]
        return [first] + [next(k for k, ns in enumerate(self.images) if ns >= ended_ns)
                          for _, ended_ns in self.ends]

    def until(self, condition, limit_s=200.0):
        for _ in range(round(limit_s * 1e9 / PERIOD_NS)):
            if condition():
                return self
            self.tick()
        raise AssertionError((self.pilot.state, self.pilot.reason))

    def to_the_end(self):
        return self.until(lambda: self.pilot.state == 'finished')

    def asked_while_driving(self):
        """Until a question is out while the base drives."""
        return self.until(lambda: self.pilot.state == 'executing' and self.pilot.deciding)

    @property
    def driven(self):
        return [action for action, _ in self.ends]


@pytest.mark.parametrize('execute', [1, 2, 5])
@pytest.mark.parametrize('decision_s', [0.0, 0.5, 3.0])
def test_the_same_way_in_less_time(execute, decision_s):
    after = Run(execute=execute, decision_s=decision_s, during=False).to_the_end()
    during = Run(execute=execute, decision_s=decision_s).to_the_end()
    assert after.driven == during.driven == SCRIPT
    assert during.loop.now_ns <= after.loop.now_ns
    assert not any(moving for _, moving in after.asked)
    assert [moving for _, moving in during.asked[1:]] == \
        [execute > 1] * (len(during.asked) - 1)


@pytest.mark.parametrize('execute', [2, 5])
def test_the_base_does_not_wait_for_decisions_shorter_than_an_action(execute):
    run = Run(execute=execute).to_the_end()
    assert run.stood_ns <= PERIOD_NS
    assert run.pilot.deciding_ns == len(run.asked) * 0.5e9
    assert run.pilot.hidden_ns == (len(run.asked) - 1) * 0.5e9
    run = Run(execute=execute, during=False).to_the_end()
    assert run.pilot.hidden_ns == 0 and run.stood_ns >= (len(run.asked) - 1) * 0.5e9


def test_a_slower_decision_is_hidden_as_far_as_the_action_goes():
    run = Run(decision_s=3.0).to_the_end()
    assert 0.2 < run.pilot.hidden_ns / run.pilot.deciding_ns < 0.5
    assert run.stood_ns == pytest.approx(
        run.pilot.deciding_ns - 3e9 - run.pilot.hidden_ns, abs=0.1e9 * len(run.asked))


def capricious(draw):
    """A run whose policy holds to what is driven half of the time, now quick, now slow."""
    def policy(question):
        run.decision_s = draw.choice([0.0, 0.1, 0.5, 1.2, 2.0])
        actions = draw.choices([F, L, R, S], [6, 3, 3, 0.3], k=6)
        return run.pilot.actions[-1:] + actions[1:] if draw.random() < 0.5 else actions

    run = Run(policy, execute=draw.choice([2, 3, 6]))
    return run


@pytest.mark.parametrize('seed', range(8))
def test_one_frame_an_action_whatever_the_policy_says_and_how_long_it_takes(seed):
    run = capricious(random.Random(seed))
    run.until(lambda: run.pilot.state == 'finished' or len(run.asked) > 30)


@pytest.mark.parametrize('seed', range(8))
def test_no_action_is_lost_or_counted_twice_when_the_driver_is_heard_late(seed):
    run = capricious(random.Random(seed))
    run.late_ns = 3 * PERIOD_NS

    def check(question):
        # the end of the action in progress may not have been heard of
        heard = len(question.history) - 1
        assert heard == len(run.ends) or \
            run.pilot.state == 'executing' and heard == len(run.ends) - 1

    run.check_history = check
    run.until(lambda: run.pilot.state == 'finished' or len(run.asked) > 30)


def scripted_at_rest(other):
    """A run whose policy says something else than the script when the base drives."""
    run = Run(lambda question: other if run.asked[-1][1] else scripted(question))
    return run


def test_who_answers_with_another_action_is_asked_again_when_the_base_stands():
    run = scripted_at_rest([S] * 6)
    run.until(lambda: len(run.asked) == 3)
    assert run.asked == [(1, False), (4, True), (5, False)]
    run.to_the_end()
    assert run.driven == SCRIPT


def test_an_answer_that_adds_nothing_waits_for_the_end_of_the_plan():
    run = scripted_at_rest([SCRIPT[3]])
    run.until(lambda: len(run.asked) == 3)
    assert run.asked[-1] == (5, False)


@pytest.mark.parametrize('broken', [
    lambda run: run.loop.driver.hear_emergency(run.loop.now_ns, True),
    lambda run: run.loop.driver.stop(run.loop.now_ns, 'obstacle')])
def test_an_answer_to_a_question_from_before_a_stop_is_dropped(broken):
    run = Run().asked_while_driving()
    old = run.question
    broken(run)
    run.hear()
    assert run.pilot.state == 'waiting' and not run.pilot.deciding
    run.loop.driver.hear_emergency(run.loop.now_ns, False)
    count = run.pilot.decisions
    run.pilot.answer(Answer(old.token, (F,) * 6, '', 0.0))
    assert run.pilot.decisions == count and not run.pilot.plans
    run.check_history = lambda _: None   # the interrupted action has a frame as well
    run.until(lambda: run.pilot.decisions > count)
    assert run.asked[-1] == (len(run.ends) + 2, False)


def test_a_plan_refused_while_the_base_drives_is_asked_for_again_at_rest():
    run = Run().asked_while_driving()
    run.loop.driver.pause(run.loop.now_ns, True)
    run.loop.states()   # which comes late
    run.pilot.answer(Answer(run.question.token, tuple(scripted(run.question)), '', 0.0))
    run.question = None
    run.send()
    assert run.pilot.state == 'waiting' and 'paused' in run.pilot.reason
    run.loop.driver.pause(run.loop.now_ns, False)
    run.check_history = lambda _: None
    run.until(lambda: len(run.asked) == 3)
    assert run.asked[-1] == (len(run.ends) + 2, False)


@pytest.mark.parametrize('end, state', [
    (lambda pilot: pilot.cancel(), 'idle'), (lambda pilot: pilot.pause(True), 'paused'),
    (lambda pilot: pilot.instruct('come', 0), 'waiting'),
    (lambda pilot: pilot.instruct('', 0), 'refused'),
    (lambda pilot: pilot.fail('no image'), 'failed')])
def test_whoever_breaks_off_gets_a_base_at_rest_and_no_late_answer(end, state):
    run = Run().asked_while_driving()
    old, run.question = run.question, None
    end(run.pilot)
    run.send()
    assert run.pilot.state == state and not run.pilot.deciding and not run.loop.driver.moving
    run.pilot.answer(Answer(old.token, (F,) * 6, '', 0.0))
    assert not run.pilot.plans


def test_an_error_while_driving_holds_and_a_policy_that_is_away_does_not():
    run = Run().asked_while_driving()
    run.pilot.answer(Answer(run.question.token, (), 'out of memory', 0.0))
    run.send()
    assert run.pilot.state == 'failed' and not run.loop.driver.moving
    run = Run().asked_while_driving()
    run.question = None
    run.pilot.give_up_ahead()
    run.until(lambda: len(run.asked) == 3)
    assert run.asked[-1] == (5, False) and run.driven == SCRIPT[:4]


def test_a_spin_is_ended_by_a_step_while_the_base_turns():
    run = Run(lambda question: [L] * 6, execute=2, stuck='escape')
    run.until(lambda: run.pilot.stuck.count)
    assert run.pilot.actions == [L, F] and run.asked[-1][1]
    assert run.pilot.reason.endswith('turned 360 degrees at one place')
    run.until(lambda: F in run.driven)
    assert run.driven == [L] * 13 + [F]


@pytest.mark.parametrize('decision_s', [0.5, 2.0])
@pytest.mark.parametrize('other', [L, F])
def test_the_rule_against_spins_counts_every_turn_once(other, decision_s):
    run = Run(lambda question: [other if run.asked[-1][1] else L, *[L] * 5], execute=2,
              decision_s=decision_s, stuck='escape')
    run.until(lambda: run.pilot.stuck.count)
    assert run.driven.count(L) == (12 if other == F else 12 + (decision_s > 1.0))
