import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from tiny_checkpoints import history_of

from vlnr1_ros.navigation.actions import Action
from vlnr1_ros.navigation.card import NavigationCard
from vlnr1_ros.navigation.errors import UserError
from vlnr1_ros.policy.load import load_policy

CARD = NavigationCard(frame_width=8, frame_height=8)


def test_random_repeats_by_seed_and_has_the_experts_frequencies():
    policy = load_policy('random')
    history = history_of(CARD, 1)

    def episode(seed):
        policy.reset('go to the chair', seed)
        return [policy.plan(history) for _ in range(20)]

    assert episode(3) == episode(3)
    assert episode(3) != episode(4)
    assert all(len(plan) == policy.card.horizon for plan in episode(3))
    firsts = Counter(plan[0] for seed in range(200) for plan in episode(seed))
    for action, frequency in policy.frequencies.items():
        assert firsts[action] / firsts.total() == pytest.approx(frequency, abs=0.03)


def test_nothing_but_stop_follows_a_stop():
    policy = load_policy('random')
    plans = []
    for seed in range(200):
        policy.reset('go to the chair', seed)
        plans.append(policy.plan(history_of(CARD, 1)))
    stopping = [plan for plan in plans if Action.STOP in plan]
    assert stopping
    for plan in stopping:
        assert set(plan[plan.index(Action.STOP):]) == {Action.STOP}


def test_forward_walks_its_distance_then_stops():
    policy = load_policy('forward', distance_m=1.0)
    policy.reset('go to the chair')
    forward, stop = Action.MOVE_FORWARD, Action.STOP
    assert policy.plan(history_of(CARD, 1)) == [forward] * 4 + [stop] * 2
    assert policy.plan(history_of(CARD, 4)) == [forward] + [stop] * 5
    assert policy.plan(history_of(CARD, 50)) == [stop] * 6


def test_stop_stops_at_once():
    policy = load_policy('stop')
    policy.reset('go to the chair')
    assert policy.plan(history_of(CARD, 1)) == [Action.STOP] * policy.card.horizon


@pytest.mark.parametrize('name', ['random', 'forward', 'stop'])
def test_baselines_refuse_an_empty_instruction(name):
    with pytest.raises(UserError, match='empty'):
        load_policy(name).reset('  ')


def test_bad_arguments():
    with pytest.raises(UserError, match="no policy 'nowhere'.*random, forward, stop"):
        load_policy('nowhere')
    with pytest.raises(UserError, match='distance_m is nan'):
        load_policy('forward', distance_m=float('nan'))


def test_baselines_need_no_torch():
    code = (
        'import sys; from vlnr1_ros.policy.load import load_policy; load_policy("random"); '
        'assert "torch" not in sys.modules and "transformers" not in sys.modules'
    )
    subprocess.run([sys.executable, '-c', code], check=True, cwd=Path(__file__).parents[1])
