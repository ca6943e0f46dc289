"""vlnr1 bench decide: what it compares and what it complains about. No test asserts a speed."""
import numpy as np
import pytest

from training import bench
from training.decide_variants import FAST, FLOOR, PLAIN, Variant, uncovered
from training.nano import SHIPPED
from vlnr1_ros.navigation.actions import Action
from vlnr1_ros.navigation.errors import UserError
from vlnr1_ros.policy.load import load_policy

F, L, S = Action.MOVE_FORWARD, Action.TURN_LEFT, Action.STOP


def test_every_way_decides_the_same_along_real_episodes(apartments, capsys, monkeypatch):
    monkeypatch.setitem(bench.MODELS, '6M', {'hidden': 64, 'layers': 2, 'vision_hidden': 32,
                                             'vision_layers': 1})
    code = bench.main([
        '--data', str(apartments.data), '--size', '56', '--frames', '2', '--decisions', '5',
        '--execute', '1', '3', '--horizon', '4', '--batch', '2', '--device', 'cpu'])
    said = capsys.readouterr()
    assert said.out.count('other plans than plain: 0 of 30') == 2
    for name in ('plain generate', '+ frames encoded once', "+ prefix's keys kept",
                 '+ forced text in one pass', '+ last plan as draft', 'drafts all accepted',
                 'drafts all refused', 'floor'):
        assert said.out.count(f'| {name}') + said.out.count(f'| all steps, {name}') == 2
    assert said.out.count('2 episodes one by one') == 2
    assert code == (1 if 'missed: ' in said.err else 0)


def test_memory_alone(apartments, capsys, monkeypatch):
    monkeypatch.setattr(bench, 'MEMORY', 100.0)
    assert bench.main(['--data', str(apartments.data), '--checkpoint', 'models/nano',
                       '--execute', '3', '--memory', '110', '--device', 'cpu']) == 0
    assert 'MiB after 110: ' in capsys.readouterr().out


@pytest.mark.parametrize('draft, plan, count', [
    ([], [F, F, L], 3), ([F, F], [F, F, L], 1), ([F, L], [F, F, L], 2), ([L, F], [F, F, L], 3),
    ([F, F, L], [F, F, L], 0), ([], [F, S, S], 2), ([F, S], [F, S, S], 0), ([F, F], [F, S, S], 1),
])
def test_choices_that_no_draft_covers(draft, plan, count):
    assert uncovered(draft, plan) == count


def team(plain, fast, floor):
    return [Variant(name, None, None, [seconds] * 20) for name, seconds in
            ((PLAIN, plain), (FAST, fast), (FLOOR, floor))]


def test_what_is_missed_is_named():
    assert bench.missed(team(9.0, 1.0, 0.9), [('x', 1e-5)], 1, exact=True) == []
    assert bench.missed(team(7.0, 1.0, 0.9), [], 1, exact=True) == [
        '7.00 times faster than plain, not 8']
    assert bench.missed(team(5.0, 1.0, 0.9), [], 4, exact=True) == []
    slow = bench.missed(team(90.0, 2.1, 1.0), [], 1, exact=True)
    assert slow == ['mean 2.10 times the floor, not 1.3', 'p95 2.10 times the floor, not 2.0']
    apart = [('all', 2e-4)]
    assert 'two best scores are 2.0e-04 apart' in bench.missed(team(9, 1, 1), apart, 1, True)[0]
    assert bench.missed(team(9, 1, 1), apart, 1, exact=False) == []


@pytest.mark.parametrize('argv, message', [
    (['--decisions', '0'], '--decisions is 0'), (['--execute', '7'], 'give 1 to --horizon'),
    (['--checkpoint', 'nowhere'], 'nowhere'),
])
def test_bad_settings_are_one_line(apartments, argv, message):
    with pytest.raises(UserError, match=message):
        bench.main(['--data', str(apartments.data), *argv])


def test_too_many_decisions_for_the_episodes_at_hand():
    policy = load_policy(SHIPPED, device='cpu')
    episode = 'Go to the chair.', [np.zeros((84, 84, 3), np.uint8)] * 3
    with pytest.raises(UserError, match='episodes hold 2 decisions at --execute 2; .* --data'):
        bench.measure(policy, [episode], 2, 9, (PLAIN, FAST))
