"""Decisions in a thread of their own, so that heartbeat and images go on meanwhile."""
from __future__ import annotations

import queue
import threading
import time
import traceback
from dataclasses import dataclass
from typing import Callable

from ..navigation.actions import Action
from ..navigation.errors import UserError
from ..navigation.memory import History
from ..policy.base import Policy


@dataclass(frozen=True)
class Question:
    """One decision to make; `token` comes back with the answer.

    The history must not change before the answer has come.
    """

    token: int
    run: int
    instruction: str
    history: History


@dataclass(frozen=True)
class Answer:
    """What became of a question: the actions, or why there are none."""

    token: int
    actions: tuple[Action, ...]
    error: str
    took_s: float


class Decider:
    """Asks the policy in a worker thread; `on_answer` is called there, once a question."""

    def __init__(self, policy: Policy, on_answer: Callable[[Answer], None]):
        self._policy = policy
        self._on_answer = on_answer
        self._questions: queue.SimpleQueue[tuple[Question, int] | None] = queue.SimpleQueue()
        self._run = -1
        self._thread = threading.Thread(target=self._work, name='decider', daemon=True)
        self._thread.start()

    def ask(self, question: Question, seed: int) -> None:
        """Queue a question; the policy is reset, with the seed, when it belongs to another run
        than the last.
        """
        self._questions.put((question, seed))

    def close(self) -> None:
        """End the thread after the question in progress; does not wait for it."""
        self._questions.put(None)

    def _work(self):
        while (asked := self._questions.get()) is not None:
            question, seed = asked
            started_s = time.monotonic()
            actions, error = (), ''
            try:
                if question.run != self._run:
                    self._policy.reset(question.instruction, seed)
                    self._run = question.run
                actions = tuple(self._policy.plan(question.history))
            except UserError as refused:
                error = str(refused)
            except Exception as failure:  # the node must live, whatever a model does
                traceback.print_exc()
                error = f'the policy failed: {failure!r}'
            self._on_answer(Answer(question.token, actions, error, time.monotonic() - started_s))
