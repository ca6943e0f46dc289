"""Work in several processes that survives the death of any of them.

A ProcessPoolExecutor gives up on everything when one process dies, and a simulator or a model
that runs out of memory takes its process along. Here the task is run once more in a new one.
"""
from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any, Callable, Iterator

from vlnr1_ros.navigation.errors import UserError

ATTEMPTS = 2
STOP_TIMEOUT_S = 10.0


@dataclass
class Outcome:
    """What became of a task: a result, or the error of its last attempt."""

    task: Any
    result: Any = None
    error: str | None = None


class Worker:
    """A process somewhere. What carries tasks there and answers back is a subclass's.

    receive() -> ('ready', None) once, then for every task ('done', result) or ('failed', text);
    ('cannot start', text) or ('died', text) end it. send(task) never raises. stop() frees it.
    """

    def __init__(self):
        self.started = False
        self.group: deque = deque()
        self.task: Any = None

    def send(self, task: Any) -> None:
        raise NotImplementedError

    def receive(self) -> tuple[str, Any]:
        raise NotImplementedError

    def stop(self) -> None:
        raise NotImplementedError


def run_tasks(groups: list[list], start: Callable, arguments: tuple,
              workers: int) -> Iterator[Outcome]:
    """Yield the outcome of every task, in the order they end.

    groups: tasks (hashable) that share something dear to open; a worker takes a group at a time.
    start(*arguments) runs once in every process (spawned) and returns the function from task to
    result. Raises UserError when a process cannot start.
    """
    context = multiprocessing.get_context('spawn')
    return run_team(groups, lambda: _Process(context, start, arguments), _heard, workers)


def run_team(groups: list[list], hire: Callable[[], Worker],
             heard: Callable[[list[Worker]], list[Worker]], workers: int) -> Iterator[Outcome]:
    """Yield the outcome of every task; a task whose worker died is run again by another.

    heard(team) waits, and returns those of the team with something to receive. Raises UserError
    when a worker cannot start, or died while starting ATTEMPTS times in a row.
    """
    waiting = deque(deque(group) for group in groups if group)
    attempts: dict = {}
    false_starts = 0
    team = [hire() for _ in range(min(workers, len(waiting)))]
    try:
        while team:
            for worker in heard(team):
                kind, value = worker.receive()
                if not worker.started and kind != 'ready':
                    false_starts += 1
                    if kind == 'cannot start' or false_starts == ATTEMPTS:
                        raise UserError(value if kind == 'cannot start'
                                        else f'a worker cannot start: {value}')
                elif kind == 'ready':
                    worker.started, false_starts = True, 0
                elif outcome := _outcome(worker, kind, value, attempts):
                    yield outcome
                if kind == 'died':
                    _dismiss(worker, team)
                    if worker.group:
                        waiting.appendleft(worker.group)
                    if waiting:
                        team.append(hire())
                elif not _send_next(worker, waiting):
                    _dismiss(worker, team)
            if not waiting:
                # one that has not even started, and may never, has nothing left to come for
                for worker in [w for w in team if not w.started]:
                    _dismiss(worker, team)
    finally:
        for worker in team:
            worker.stop()


def _outcome(worker, kind, value, attempts):
    """The outcome of the worker's task, or None when it is to be run again."""
    task, worker.task = worker.task, None
    if kind == 'done':
        return Outcome(task, result=value)
    attempts[task] = attempts.get(task, 0) + 1
    if attempts[task] < ATTEMPTS:
        worker.group.appendleft(task)
        return None
    return Outcome(task, error=value)


def _send_next(worker, waiting):
    if not worker.group and waiting:
        worker.group = waiting.popleft()
    if not worker.group:
        return False
    worker.task = worker.group.popleft()
    worker.send(worker.task)
    return True


def _dismiss(worker, team):
    team.remove(worker)
    worker.stop()


class _Process(Worker):
    """A process of this machine, spoken to through a pipe."""

    def __init__(self, context, start, arguments):
        super().__init__()
        # with more processes than cores, several threads in each make all of them slower
        os.environ.setdefault('OMP_NUM_THREADS', '1')
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, start, arguments),
                                        daemon=True)
        self._process.start()
        theirs.close()
        theirs.close()

    def send(self, task):
        try:
            self.pipe.send(task)
        except OSError:
            pass  # it has just died; the next receive says so

    def receive(self):
        try:
            return self.pipe.recv()
        except (EOFError, OSError):
            self._process.join(STOP_TIMEOUT_S)
            return 'died', f'its process died (exit code {self._process.exitcode})'

    def stop(self):
        self.pipe.close()
        if self.started and self.task is None:
            self._process.join(STOP_TIMEOUT_S)  # the closed pipe ends it
        self._process.terminate()
        self._process.join(STOP_TIMEOUT_S)


def _heard(team):
    ready = wait([worker.pipe for worker in team])
    return [worker for worker in team if worker.pipe in ready]


def begin(start: Callable, arguments: tuple) -> tuple[Callable | None, tuple]:
    """(function from task to result, the answer that says so); called in the worker."""
    try:
        return start(*arguments), ('ready', None)
    except Exception as error:
        text = str(error) if isinstance(error, UserError) else f'{type(error).__name__}: {error}'
        return None, ('cannot start', text)


def attempt(work: Callable, task: Any) -> tuple[str, Any]:
    """The answer for one task; called in the worker."""
    try:
        return 'done', work(task)
    except Exception as error:
        return 'failed', f'{type(error).__name__}: {error}'


def _serve(pipe, start, arguments):
    """Life of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    work, answer = begin(start, arguments)
    pipe.send(answer)
    while work:
        try:
            task = pipe.recv()
        except EOFError:
            return
        pipe.send(attempt(work, task))
