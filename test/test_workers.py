"""Work that survives the death of worker processes."""
import os
from pathlib import Path

import pytest

from training.workers import run_tasks
from vlnr1_ros.navigation.errors import UserError


class Squares:
    """Squares numbers; dies, every time or once, or fails where told to."""

    def __init__(self, folder, dies_at=(), dies_once_at=(), fails_at=()):
        self._marks = Path(folder)
        self._dies_at, self._dies_once_at, self._fails_at = dies_at, dies_once_at, fails_at

    def __call__(self, number):
        tries = self._marks / f'{number}'
        with open(tries, 'a') as file:
            file.write('x')
        if number in self._dies_at or (number in self._dies_once_at
                                       and tries.stat().st_size == 1):
            os._exit(9)
        if number in self._fails_at:
            raise ValueError(f'no square of {number}')
        return number * number


def no_start(text):
    if text == 'die':
        os._exit(3)
    raise UserError(text)


def run(folder, groups, workers=2, **trouble):
    return {o.task: o for o in run_tasks(groups, Squares, (folder, *trouble.values()), workers)}


def test_a_death_loses_one_task_at_most(tmp_path):
    outcomes = run(tmp_path, [[1, 2, 3], [4, 5, 6], [7]], dies_at=(2,), dies_once_at=(5,),
                   fails_at=(6,))
    assert sorted(outcomes) == [1, 2, 3, 4, 5, 6, 7]
    assert {task: o.result for task, o in outcomes.items() if o.error is None} == {
        1: 1, 3: 9, 4: 16, 5: 25, 7: 49}
    assert 'exit code 9' in outcomes[2].error and 'no square of 6' in outcomes[6].error
    tries = {int(p.name): p.stat().st_size for p in tmp_path.iterdir()}
    assert tries == {1: 1, 2: 2, 3: 1, 4: 1, 5: 2, 6: 2, 7: 1}


def test_nothing_to_do_starts_nothing(tmp_path):
    assert list(run_tasks([[], []], no_start, ('unused',), 2)) == []


@pytest.mark.parametrize('text, told', [('no such model', 'no such model'), ('die', 'code 3')])
def test_a_worker_that_cannot_start_ends_the_run(text, told):
    with pytest.raises(UserError, match=told):
        list(run_tasks([[1]], no_start, (text,), 1))
