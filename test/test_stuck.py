"""The rule against spins and actions without effect, with poses by hand."""
import math

import pytest

from vlnr1_ros.motion.plan import Pose, encode
from vlnr1_ros.motion.stuck import StuckRule
from vlnr1_ros.navigation.actions import Action, ActionSet

F, L, R, S = Action.MOVE_FORWARD, Action.TURN_LEFT, Action.TURN_RIGHT, Action.STOP
ACTIONS = ActionSet(0.25, 30.0)


class Base:
    """Executes what the rule lets through; a blocked one does not move however it is told."""

    def __init__(self, when_stuck='escape', turn_deg=360.0, plans=5):
        self.rule = StuckRule(ACTIONS, when_stuck, turn_deg, plans)
        self.pose = Pose(1.0, -2.0, 0.3)

    def decide(self, *actions, forward=True, turn=True):
        sent, why = self.rule.instead(self.pose, list(actions))
        for action in sent:
            if forward if action == F else turn:
                self.pose = encode(self.pose, [action], ACTIONS)[-1]
        self.rule.plan_over(sent)
        return sent, why

    def decisions(self, times, *actions, **motion):
        return [self.decide(*actions, **motion) for _ in range(times)]


def test_a_full_turn_at_one_place_ends_in_a_step_forward():
    base = Base()
    assert base.decisions(4, L, L, L) == [([L, L, L], '')] * 4
    assert base.decide(L, L, L) == ([F], 'turned 360 degrees at one place')
    assert (base.rule.count, base.rule.trouble) == (1, 'turned 360 degrees at one place')
    # the step left the place: turning is free again
    assert base.decisions(4, L, L, L) == [([L, L, L], '')] * 4


def test_a_swing_to_and_fro_is_a_spin():
    base = Base(plans=100)
    for _ in range(6):
        assert base.decide(L)[0] == [L]
        assert base.decide(R)[0] == [R]
    assert base.decide(L) == ([F], 'turned 360 degrees at one place')
    base = Base()   # to and fro within one plan has no effect at all
    base.decisions(5, L, R)
    assert base.decide(L, R) == ([F], '5 plans in a row did not move the base')


def test_who_drives_forward_or_stops_after_a_full_turn_is_let():
    base = Base()
    base.decisions(4, R, R, R)
    assert base.decide(S) == ([S], '')
    assert base.decide(F, L, L) == ([F, L, L], '')
    assert base.rule.count == 0


@pytest.mark.parametrize('path', [[F, L, L], [L, F, R], [F, F, L, L, L]])
def test_motion_is_no_spin_however_long(path):
    base = Base()
    assert base.decisions(50, *path) == [(path, '')] * 50


def test_forward_into_something_ends_in_a_turn_to_the_left():
    base = Base()
    assert base.decisions(5, F, F, F, forward=False) == [([F, F, F], '')] * 5
    assert base.decide(F, F, F, forward=False) == (
        [L], '5 plans in a row did not move the base')
    assert base.decide(F, F, F) == ([F, F, F], '')


def test_a_base_that_cannot_turn_drives_forward():
    base = Base(turn_deg=3600.0)
    base.decisions(5, R, R, turn=False)
    assert base.decide(R, R, turn=False)[0] == [F]


def test_what_did_not_help_twice_is_given_up():
    base = Base()
    decided = base.decisions(15, L, L, L, forward=False)
    given_up = ([], 'stuck: turned 360 degrees at one place, and 2 other actions did not help')
    assert [k for k, (sent, _) in enumerate(decided) if sent == [F]] == [4, 9]
    assert decided[14] == given_up
    assert base.rule.count == 3


def test_a_push_away_starts_anew():
    base = Base()
    base.decisions(9, L, L, L, forward=False)
    base.pose = base.pose.moved(0.13, 0.0)
    assert base.decisions(5, L, L, L, forward=False)[-1][0] == [F]


def test_plans_that_the_driver_refused_do_not_count():
    rule = StuckRule(ACTIONS, 'escape', 360.0, 5)
    for _ in range(100):   # an emergency stop is held
        assert rule.instead(Pose(0.0, 0.0, 0.0), [F, F]) == ([F, F], '')


def test_a_new_run_starts_anew():
    base = Base()
    base.decisions(4, L, L, L)
    base.rule.begin()
    assert base.decide(L, L, L) == ([L, L, L], '')


def test_stop_gives_up_at_once_and_ignore_never():
    base = Base('stop')
    base.decisions(4, L, L, L)
    assert base.decide(L, L, L) == ([], 'stuck: turned 360 degrees at one place')
    base = Base('ignore')
    assert base.decisions(100, L, L, L) == [([L, L, L], '')] * 100
    assert base.decisions(100, F, forward=False) == [([F], '')] * 100
    assert base.rule.count == 0


def test_half_a_primitive_is_no_effect_and_more_is():
    rule = StuckRule(ACTIONS, 'escape', 360.0, 1)
    for pose, stuck in ((Pose(0.0, 0.0, 0.0), False), (Pose(0.12, 0.0, 0.0), True),
                        (Pose(0.26, 0.0, 0.0), False), (Pose(0.26, 0.0, 0.25), True),
                        (Pose(0.26, 0.0, 0.25 + math.radians(15.1)), False)):
        assert bool(rule.instead(pose, [F])[1]) is stuck, pose
        rule.plan_over([F])
