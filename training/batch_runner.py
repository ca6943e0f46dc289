"""One process of an evaluation that decides for several episodes at once."""
from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, Generator

from sim_bridge.config import simulator_name
from sim_bridge.episode_seed import episode_seed
from training.episode import decisions_of
from training.evaluate_config import folder_of
from training.runner import Job, Runner
from vlnr1_ros.navigation.errors import UserError
from vlnr1_ros.navigation.memory import History
from vlnr1_ros.policy.load import is_url, load_policy


class Seat(Runner):
    """One environment of several; runs its episodes as far as their next question."""

    def begin(self, episode_id: str, policy, row: int) -> tuple[Generator, History]:
        """(the episode, its first question) with the policy's row set to its instruction."""
        self.episode = self._episode(episode_id)
        swap = self._swap(self.episode)
        run = decisions_of(self._environment, episode_id, self._job.card)
        history = next(run)
        policy.reset(swap['instruction_text'] if swap else self.episode.instruction,
                     episode_seed(self._job.seed, episode_id), row)
        return run, history

    def line(self, run) -> dict:
        """The line of the result file of the episode that has just ended."""
        return self._line(run, self._swap(self.episode))


@dataclass
class Going:
    """An episode under way."""

    episode_id: str
    run: Generator
    history: History


class BatchRunner:
    """A process's environments and its policy; call it with the ids of several episodes.

    Raises UserError when the policy is no checkpoint, or the simulator has no room for several
    environments in a process.
    """

    def __init__(self, job: Job):
        if folder_of(job.policy) is None or is_url(job.policy):
            raise UserError(f'--batch {job.batch}: only checkpoints decide several episodes at '
                            f'once, not {job.policy}')
        if simulator_name(job.environment.simulator) == 'habitat-sim' and not job.habitat_python:
            raise UserError(f'--batch {job.batch}: habitat-sim has room for one simulator a '
                            'process; give --habitat_python, which starts one for each')
        self._seats = [Seat(job) for _ in range(job.batch)]
        self._policy = load_policy(job.policy, device=job.device, dtype=job.dtype, rows=job.batch)

    def __call__(self, episode_ids: tuple[str, ...]) -> list[dict]:
        """Run these episodes; returns their lines in the order they ended."""
        waiting, going, lines = deque(episode_ids), {}, []
        while waiting or going:
            for row, seat in enumerate(self._seats):
                while row not in going and waiting:
                    episode_id = waiting.popleft()
                    begun = _tried(episode_id, lines, seat.begin, episode_id, self._policy, row)
                    if begun:
                        going[row] = Going(episode_id, *begun)
            plans = self._policy.plan_rows({row: one.history for row, one in going.items()}) \
                if going else {}
            for row, plan in plans.items():
                one = going.pop(row)
                if _tried(one.episode_id, lines, self._advance, row, one, plan, lines):
                    going[row] = one
        return lines

    def _advance(self, row, one, plan, lines) -> bool:
        """Carry out a plan; whether the episode goes on."""
        try:
            one.history = one.run.send(plan)
        except StopIteration as end:
            lines.append(self._seats[row].line(end.value))
            return False
        return True


def _tried(episode_id, lines, step, *arguments) -> Any:
    """What a step of an episode returns; None, and its line, when the episode ends in an error."""
    try:
        return step(*arguments)
    except Exception as error:
        lines.append({'episode_id': episode_id, 'error': f'{type(error).__name__}: {error}'})
        return None
