"""Work in several processes that survives the death of any of them.

A ProcessPoolExecutor gives up on everything when one process dies, and a simulator or a model
that runs out of memory takes its process along. Here the task is run once more in a new one.
"""
from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from dataclasses import dataclass, field
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


@dataclass
class _Worker:
    process: Any
    pipe: Any
    ready: bool = False
    group: deque = field(default_factory=deque)
    task: Any = None


def run_tasks(groups: list[list], start: Callable, arguments: tuple,
              workers: int) -> Iterator[Outcome]:
    """Yield the outcome of every task, in the order they end.

    groups: tasks (hashable) that share something dear to open; a worker takes a group at a time.
    start(*arguments) runs once in every process (spawned) and returns the function from task to
    result. Raises UserError when a process cannot start.
    """
    context = multiprocessing.get_context('spawn')
    waiting = deque(deque(group) for group in groups if group)
    attempts: dict = {}
    team = [_spawn(context, start, arguments) for _ in range(min(workers, len(waiting)))]
    try:
        while team:
            for pipe in wait([worker.pipe for worker in team]):
                worker = next(w for w in team if w.pipe is pipe)
                outcome = _receive(worker, attempts)
                if outcome is not None:
                    yield outcome
                if not worker.process.is_alive() and worker.task is None and not worker.ready:
                    team.remove(worker)
                    if worker.group:
                        waiting.appendleft(worker.group)
                    if waiting:
                        team.append(_spawn(context, start, arguments))
                elif not _send_next(worker, waiting):
                    team.remove(worker)
                    worker.process.join(STOP_TIMEOUT_S)
    finally:
        for worker in team:
            worker.pipe.close()
            worker.process.terminate()
            worker.process.join(STOP_TIMEOUT_S)


def _spawn(context, start, arguments):
    # with more processes than cores, several threads in each make all of them slower
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, start, arguments), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process, ours)


def _receive(worker, attempts):
    """The outcome of the worker's task, or None while there is none to tell."""
    try:
        kind, value = worker.pipe.recv()
    except (EOFError, OSError):
        worker.process.join(STOP_TIMEOUT_S)
        kind, value = 'died', f'its process died (exit code {worker.process.exitcode})'
    if kind == 'ready':
        worker.ready = True
        return None
    if kind == 'cannot start' or not worker.ready:
        raise UserError(f'a worker cannot start: {value}' if kind == 'died' else value)
    task, worker.task = worker.task, None
    worker.ready = kind != 'died'
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
    worker.task = worker.group.popleft() if worker.group else None
    try:
        worker.pipe.send(worker.task)
    except OSError:
        pass  # it has just died; the next receive says so
    return worker.task is not None


def _serve(pipe, start, arguments):
    """Life of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        work = start(*arguments)
    except Exception as error:
        text = str(error) if isinstance(error, UserError) else f'{type(error).__name__}: {error}'
        pipe.send(('cannot start', text))
        return
    pipe.send(('ready', None))
    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return
        if task is None:
            return
        try:
            answer = ('done', work(task))
        except Exception as error:
            answer = ('failed', f'{type(error).__name__}: {error}')
        pipe.send(answer)
