"""Motion without a plan, cut into primitives."""
import math

import numpy as np
import pytest

from vlnr1_ros.motion.cut import Cutter
from vlnr1_ros.motion.plan import Pose, encode
from vlnr1_ros.navigation.actions import Action, ActionSet

F, L, R = Action.MOVE_FORWARD, Action.TURN_LEFT, Action.TURN_RIGHT
SET = ActionSet(0.25, 30.0)
START = Pose(1.0, -2.0, 0.7)


def between(first, last, steps):
    """Poses from one to the other, the last included."""
    turn = math.remainder(last.yaw_rad - first.yaw_rad, 2 * math.pi)
    for share in np.linspace(0, 1, steps + 1)[1:]:
        yield Pose(first.x_m + share * (last.x_m - first.x_m),
                   first.y_m + share * (last.y_m - first.y_m), first.yaw_rad + share * turn)


def cut(poses, start=START, action_set=SET):
    cutter = Cutter(action_set, start)
    return [action for pose in poses for action in cutter.add(pose)]


@pytest.mark.parametrize('turn_deg', [15.0, 30.0])
@pytest.mark.parametrize('steps', [1, 7, 40])
def test_driven_primitives_come_back_as_they_were(turn_deg, steps):
    actions = [F, F, L, F, R, R, F, L, L, L, F, F, R]
    action_set = ActionSet(0.25, turn_deg)
    poses = encode(START, actions, action_set)
    path = [pose for k in range(len(actions)) for pose in between(poses[k], poses[k + 1], steps)]
    assert cut(path, action_set=action_set) == actions


def test_a_primitive_counts_at_four_fifths_and_the_next_from_its_whole_end():
    cutter = Cutter(SET, Pose(0.0, 0.0, 0.0))
    at_m = [x / 100 for x in range(1, 101) if cutter.add(Pose(x / 100 + 1e-6, 0.0, 0.0))]
    assert at_m == [0.2, 0.45, 0.7, 0.95]


def test_trembling_on_the_spot_is_no_motion():
    random = np.random.default_rng(0)
    poses = [Pose(*(START + shift)) for shift in random.uniform(-0.1, 0.1, (500, 3))]
    assert cut(poses) == []


def test_a_curve_is_steps_and_turns():
    """A quarter circle of 1 m radius to the left: 1.57 m and three turns of 30 degrees."""
    angles = np.linspace(0, math.pi / 2, 200)
    driven = cut([Pose(math.sin(a), 1 - math.cos(a), a) for a in angles], Pose(0.0, 0.0, 0.0))
    assert driven.count(L) == 3 and driven.count(R) == 0 and None not in driven
    assert driven.count(F) == 6


@pytest.mark.parametrize('x, y', [(-0.5, 0.0), (0.0, 0.4), (0.0, -0.4)])
def test_what_no_primitive_describes_is_none(x, y):
    driven = cut(between(Pose(0.0, 0.0, 0.0), Pose(x, y, 0.0), 20), Pose(0.0, 0.0, 0.0))
    assert driven and set(driven) == {None}


def test_a_jump_is_one_piece_of_motion_and_measured_from_anew():
    cutter = Cutter(SET, Pose(0.0, 0.0, 0.0))
    assert cutter.add(Pose(30.0, 0.0, 0.0)) == [None]
    assert cutter.add(Pose(30.1, 0.0, 0.0)) == []
    assert cutter.add(Pose(30.21, 0.0, 0.0)) == [F]
    assert cutter.add(Pose(math.nan, 0.0, 0.0)) == []
