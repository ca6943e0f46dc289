"""Text and motion of the action set."""
import math

import pytest

from vlnr1_ros.navigation.actions import Action, ActionSet
from vlnr1_ros.navigation.errors import UserError


@pytest.mark.parametrize('turn_deg, text', [(30.0, '30'), (15.0, '15'), (22.5, '22.5')])
def test_text_and_motion_agree(turn_deg, text):
    actions = ActionSet(turn_deg=turn_deg)
    assert actions.phrase(Action.TURN_LEFT) == f'B. Turn left {text} degrees'
    forward_m, turn_rad = actions.displacement(Action.TURN_LEFT)
    assert forward_m == 0 and math.isclose(math.degrees(turn_rad), turn_deg)
    assert actions.displacement(Action.TURN_RIGHT) == (0, -turn_rad)
    assert actions.displacement(Action.MOVE_FORWARD) == (0.25, 0)
    assert actions.displacement(Action.STOP) == (0, 0)


def test_texts_are_those_of_the_method():
    assert ActionSet().phrases == ['A. Move forward 25 cm', 'B. Turn left 30 degrees',
                                   'C. Turn right 30 degrees', 'D. Stop']


def test_every_sequence_survives_the_codec():
    actions = ActionSet()
    sequence = [Action(i % 4) for i in range(9)]
    assert actions.decode(actions.encode(sequence)) == sequence
    assert actions.decode(' D. Stop\n') == [Action.STOP]


@pytest.mark.parametrize('text', ['', 'E. Fly', 'A. Move forward 50 cm', 'a. move forward 25 cm',
                                  'D. Stop,D. Stop', 'B. Turn left 15 degrees', 'D. Stop, '])
def test_unknown_text_is_refused_not_guessed(text):
    with pytest.raises(UserError, match='unknown action text'):
        ActionSet().decode(text)


@pytest.mark.parametrize('numbers', [(0, 30), (-1, 30), (math.nan, 30), (0.25, 0), (0.25, 120),
                                     (0.25, math.inf)])
def test_impossible_numbers_are_refused(numbers):
    with pytest.raises(UserError):
        ActionSet(*numbers)
