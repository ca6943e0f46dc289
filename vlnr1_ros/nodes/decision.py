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
from ..policy.base import Policy, Unavailable


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
    """What became of a question: the actions, or why there are none.

    unavailable: whether the policy may answer later what it could not answer now.
    """

    token: int
    actions: tuple[Action, ...]
    error: str
    took_s: float
    unavailable: bool = False


class Decider:
    """Asks the policy in a worker thread; `on_answer` is called there, once a question, and not
    after `close`. It must not wait for anybody.
    """

    def __init__(self, policy: Policy, on_answer: Callable[[Answer], None]):
        self._policy: Policy | None = policy
        self._on_answer = on_answer
        self._questions: queue.SimpleQueue[tuple[Question, int] | None] = queue.SimpleQueue()
        self._run = -1
        self._lock = threading.Lock()
        self._wanted: int | None = None  # the question whose answer is waited for
        self._asked: int | None = None   # the one the policy has now
        self._thread = threading.Thread(target=self._work, name='decider', daemon=True)
        self._thread.start()

    def ask(self, question: Question, seed: int) -> None:
        """Ask this and give up everything asked before.

        The policy is reset, with the seed, when the question belongs to another run than the last
        one.
        """
        self._want(question.token)
        self._questions.put((question, seed))

    def give_up(self) -> None:
        """Nobody waits for an answer any more. May be called again and again."""
        self._want(None)

    def close(self) -> None:
        """End the thread and let go of the policy.

        A question in progress is given up, not waited for; it keeps the policy until it ends.
        """
        self.give_up()
        with self._lock:
            self._policy = None
        self._questions.put(None)

    def _want(self, token):
        with self._lock:
            self._wanted = token
            # Under the lock, so that it never meets the next question.
            if self._asked not in (None, token) and hasattr(self._policy, 'cancel'):
                self._policy.cancel()

    def _work(self):
        while (asked := self._questions.get()) is not None:
            question, seed = asked
            with self._lock:
                self._asked = question.token if question.token == self._wanted else None
                policy = None if self._asked is None else self._policy
            if policy is None:
                answer = Answer(question.token, (), 'nobody waits for this answer', 0.0)
            else:
                answer = self._decide(policy, question, seed)
                policy = None  # closed meanwhile, it is not to be kept
            with self._lock:
                self._asked = None
                if self._policy is not None:
                    self._on_answer(answer)

    def _decide(self, policy: Policy, question, seed) -> Answer:
        started_s = time.monotonic()
        actions, error, unavailable = (), '', False
        try:
            if question.run != self._run:
                policy.reset(question.instruction, seed)
                self._run = question.run
            actions = tuple(policy.plan(question.history))
        except UserError as refused:
            error, unavailable = str(refused), isinstance(refused, Unavailable)
        except Exception as failure:  # the node must live, whatever a model does
            traceback.print_exc()
            error = f'the policy failed: {failure!r}'
        return Answer(question.token, actions, error, time.monotonic() - started_s, unavailable)
