"""Rewards over action sequences, against numbers worked out by hand."""
import pytest

from training import rewards
from vlnr1_ros.navigation.actions import Action, ActionSet
from vlnr1_ros.navigation.errors import UserError

S, F, L, R = Action
EXPERT = [F, F, L, S]


@pytest.mark.parametrize('name, predicted, expected', [
    ('time_decayed', [F, F, L, S], 1.0),
    ('time_decayed', [F, R, L, R], (1 + 0.25) / 1.875),
    ('time_decayed', [L, F, R, S], (0.5 + 0.125) / 1.875),
    ('linear', [F, R, L, R], (1 + 0.5) / 2.5),
    ('uniform', [F, R, L, R], 0.5),
    ('hard', [F, F, L, S], 1.0),
    ('hard', [F, F, L, F], 0.0),
    ('hard', [F, F, L, S, S], 0.0),
    ('uniform', [F, None, L], 0.5),
    ('uniform', [], 0.0),
])
def test_reward_of_a_sequence(name, predicted, expected):
    assert rewards.sequence_reward(name, predicted, EXPERT, gamma=0.5) == pytest.approx(expected)


def test_the_raw_time_decayed_reward_is_the_papers_sum():
    found = rewards.sequence_reward('time_decayed', [F, R, L, S], EXPERT, 0.9, normalised=False)
    assert found == pytest.approx(1 + 0.9**2 + 0.9**3)


def test_with_gamma_one_the_decay_is_uniform():
    for predicted in ([F, R, L, S], [R, R, R, S], [F]):
        assert rewards.sequence_reward('time_decayed', predicted, EXPERT, 1.0) \
            == rewards.sequence_reward('uniform', predicted, EXPERT)


def test_an_early_mistake_costs_more_where_time_counts():
    early, late = [L, F, L, S], [F, F, L, F]
    for name, costs_more in (('time_decayed', True), ('linear', True), ('uniform', False)):
        assert (rewards.sequence_reward(name, early, EXPERT)
                < rewards.sequence_reward(name, late, EXPERT)) == costs_more


def test_format_and_stop():
    assert rewards.format_reward([F, F, L, S], 4) == 1.0
    assert rewards.format_reward([F, F, L], 4) == rewards.format_reward([F, None, L, S], 4) == 0.0
    assert rewards.stop_reward([L, L, L, S], EXPERT) == 1.0
    assert rewards.stop_reward([F, F, S, S], EXPERT) == 0.0
    assert rewards.stop_reward([F, F], [F, L]) == 1.0


def test_sampled_text_is_read_part_by_part():
    actions = ActionSet(0.25, 30.0)
    text = 'A. Move forward 25 cm, B. Turn left 15 degrees, D. Stop'
    assert rewards.read_actions(text, actions) == [F, None, S]
    assert rewards.read_actions(actions.encode(EXPERT), actions) == EXPERT


@pytest.mark.parametrize('call, words', [
    (lambda: rewards.weights('steep', 4), 'steep'),
    (lambda: rewards.weights('time_decayed', 4, 1.5), '1.5'),
    (lambda: rewards.weights('time_decayed', 4, 0.0), 'gamma'),
    (lambda: rewards.weights('uniform', 0), '0'),
])
def test_what_makes_no_sense_is_named(call, words):
    with pytest.raises(UserError, match=words):
        call()
