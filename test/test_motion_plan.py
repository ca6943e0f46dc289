"""Plans on the wire: encoding, decoding, and what is refused."""
import math
import random

import pytest

from vlnr1_ros.motion.plan import Pose, decode, encode, wrap
from vlnr1_ros.motion.replan import leading_to_skip
from vlnr1_ros.navigation.actions import Action, ActionSet
from vlnr1_ros.navigation.errors import UserError

F, L, R, S = Action.MOVE_FORWARD, Action.TURN_LEFT, Action.TURN_RIGHT, Action.STOP


@pytest.mark.parametrize('turn_deg', [15.0, 30.0, 90.0])
def test_decode_inverts_encode_anywhere(turn_deg):
    rng = random.Random(turn_deg)
    actions_set = ActionSet(0.25, turn_deg)
    for _ in range(100):
        start = Pose(rng.uniform(-500, 500), rng.uniform(-500, 500), rng.uniform(-4, 4))
        actions = rng.choices(list(Action), k=rng.randint(1, 8))
        assert decode(encode(start, actions, actions_set), actions_set) == actions


def test_forward_is_along_x_and_left_is_positive():
    poses = encode(Pose(1.0, 2.0, 0.0), [F, L, F, S], ActionSet())
    assert poses[1] == pytest.approx((1.25, 2.0, 0.0))
    assert poses[2] == pytest.approx((1.25, 2.0, math.radians(30)))
    assert poses[3][1] == pytest.approx(2.0 + 0.25 * 0.5)
    assert poses[4] == poses[3]


def test_heading_wraps_over_a_full_circle():
    actions = [L] * 13
    poses = encode(Pose(0.0, 0.0, 3.0), actions, ActionSet())
    assert all(-math.pi <= pose.yaw_rad <= math.pi for pose in poses)
    assert poses[12].yaw_rad == pytest.approx(3.0)
    assert decode(poses, ActionSet()) == actions


@pytest.mark.parametrize('off, accepted', [(0.0009, True), (0.0015, False)])
def test_tolerance_is_one_millimetre_and_one_milliradian(off, accepted):
    for step in ((0.25 + off, 0.0, 0.0), (0.25, off, 0.0), (0.25, 0.0, off)):
        poses = [Pose(0.0, 0.0, 0.0), Pose(*step)]
        if accepted:
            assert decode(poses, ActionSet()) == [F]
        else:
            with pytest.raises(UserError, match='not a primitive of 0.25 m and 30 degrees'):
                decode(poses, ActionSet())


def test_plan_of_another_turn_angle_is_refused():
    poses = encode(Pose(0.0, 0.0, 0.0), [F, L], ActionSet(turn_deg=15.0))
    with pytest.raises(UserError, match='pose 2 .* turned 15.00 degrees'):
        decode(poses, ActionSet(turn_deg=30.0))


def test_driving_backwards_and_two_primitives_at_once_are_refused():
    for step in ((-0.25, 0.0, 0.0), (0.25, 0.0, math.radians(30)), (0.5, 0.0, 0.0)):
        with pytest.raises(UserError):
            decode([Pose(0.0, 0.0, 0.0), Pose(*step)], ActionSet())


@pytest.mark.parametrize('bad', [math.nan, math.inf])
def test_poses_that_are_not_finite_are_refused(bad):
    for index in range(3):
        pose = [0.25, 0.0, 0.0]
        pose[index] = bad
        with pytest.raises(UserError, match='pose 1 of the plan is not finite'):
            decode([Pose(0.0, 0.0, 0.0), Pose(*pose)], ActionSet())


def test_no_pose_is_no_action_and_one_pose_is_refused():
    assert decode([], ActionSet()) == []
    with pytest.raises(UserError, match='one pose'):
        decode([Pose(0.0, 0.0, 0.0)], ActionSet())


def test_wrap_is_the_same_angle():
    for angle in (-10.0, -math.pi, 0.0, 3.5, 100.0):
        assert math.cos(wrap(angle)) == pytest.approx(math.cos(angle))
        assert -math.pi <= wrap(angle) <= math.pi


def test_skipping_what_was_driven_since_the_image():
    assert leading_to_skip([F, L, F], [], F) == 0
    assert leading_to_skip([F, L, F], [F], L) == 1
    assert leading_to_skip([F, L, F], [F, L], None) == 2
    assert leading_to_skip([F, L], [F, L], None) == 2
    assert leading_to_skip([F, L, F], [F], F) is None, 'the one in progress disagrees'
    assert leading_to_skip([F, L, F], [R], L) is None, 'a completed one disagrees'
    assert leading_to_skip([F], [F], L) is None, 'the plan ends before the one in progress'
    assert leading_to_skip([F], [F, F], None) is None
