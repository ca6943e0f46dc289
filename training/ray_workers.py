"""Work on any number of machines: the team of workers.py with Ray actors for processes.

Every machine has what this one has: the same packages, code, data and checkpoint, the last three
at the same absolute paths. Results come back through Ray, so that only this machine writes.
"""
from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import pickle
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Callable, Iterator

from training.workers import Outcome, Worker, attempt, begin, run_team
from vlnr1_ros.navigation.errors import UserError

LOCAL = 'local'
PACKAGES = ('vlnr1_ros', 'sim_bridge', 'training')
REACH_TIMEOUT_S = 5.0
CONNECT_TIMEOUT_S = 60.0
PATIENCE_S = 60.0
# Ray itself tries a cluster that does not answer for minutes, and cannot be interrupted
TRY = ('import logging, sys, ray; '
       'ray.init(sys.argv[1], log_to_driver=False, logging_level=logging.ERROR)')


def run_tasks(groups: list[list], start: Callable, arguments: tuple, workers: int, address: str,
              gpu: bool = False) -> Iterator[Outcome]:
    """workers.run_tasks on the cluster at `address`; 0 workers: one a CPU (or GPU) it has.

    address: auto, HOST:PORT, ray://HOST:PORT, or local to start a cluster of this machine alone,
    on loopback, that ends with the tasks. gpu: every worker has a whole GPU to itself.
    Raises UserError without Ray, without a cluster there, and when a worker cannot start.
    """
    if not any(groups):
        return
    try:
        yield from _run_tasks(groups, start, arguments, workers, address, gpu)
    except ConnectionError as error:
        raise UserError(f'the Ray cluster at {address} is gone ({_reason(error)}); what is '
                        'finished is kept: repeat the command once it is back') from None


def _run_tasks(groups, start, arguments, workers, address, gpu):
    with contextlib.ExitStack() as stack:
        # Ray's listener prints what dies to stdout, where our tables go
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        ray = stack.enter_context(_connected(address, workers))
        resource = 'GPU' if gpu else 'CPU'
        there = int(ray.cluster_resources().get(resource, 0))
        if not there:
            raise UserError(f'the Ray cluster at {address} has no {resource}; add a machine that '
                            f'has one with: ray start --address HOST:PORT')
        host = ray.remote(num_cpus=1, num_gpus=int(gpu), max_restarts=0,
                          scheduling_strategy='SPREAD')(Host)
        job = ray.cloudpickle.dumps((start, arguments))

        def heard(team: list[Worker]) -> list[Worker]:
            workers_of = {worker.answer: worker for worker in team}
            while not (done := ray.wait(list(workers_of), timeout=PATIENCE_S)[0]):
                if not any(worker.started for worker in team):
                    print(f'still waiting for a free {resource} of the {there} in the Ray '
                          f'cluster at {address}; ray status tells who has them', file=sys.stderr)
            return [workers_of[answer] for answer in done]

        yield from run_team(groups, lambda: _Actor(ray, host, job), heard, workers or there)


class Host:
    """Lives in a Ray actor, holding an environment and a policy."""

    def begin(self, job: bytes, code: str) -> tuple[str, Any]:
        """Make the function from task to result; the answer says what came of it."""
        if code_sha256() != code:
            answer = ('cannot start', 'other code than on this machine: bring both to the same '
                                      f'version of {Path(__file__).parents[1]}')
        else:
            self._work, answer = begin(lambda: _start(job), ())
        kind, text = answer
        return kind, text and f'{socket.gethostname()}: {text}'

    def work(self, task: Any) -> tuple[str, Any]:
        """The answer for one task."""
        return attempt(self._work, task)


def _start(job):
    start, arguments = pickle.loads(job)
    return start(*arguments)


def code_sha256() -> str:
    """Of every module of ours: machines of different code would give a mixture of results."""
    root = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for path in sorted(path for name in PACKAGES for path in (root / name).rglob('*.py')):
        digest.update(f'{path.relative_to(root)} '.encode() + path.read_bytes())
    return digest.hexdigest()


class _Actor(Worker):
    """A Ray actor; `answer` is the reference to what it will say next."""

    def __init__(self, ray, host, job):
        super().__init__()
        self._ray = ray
        self._actor = host.remote()
        self.answer = self._actor.begin.remote(job, code_sha256())

    def send(self, task):
        self.answer = self._actor.work.remote(task)

    def receive(self):
        try:
            return self._ray.get(self.answer)
        except self._ray.exceptions.RayError as error:
            return 'died', f'its Ray worker died: {_reason(error)}'

    def stop(self):
        self._ray.kill(self._actor)


def _reason(error):
    """What matters of Ray's many lines, as one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].split('Some common causes')[0].strip() if lines else type(error).__name__


@contextlib.contextmanager
def _connected(address, workers):
    """The module ray, connected until the end."""
    os.environ.setdefault('RAY_USAGE_STATS_ENABLED', '0')
    if address == LOCAL:
        # the only setting that keeps all of Ray's sockets on loopback; read when it is imported
        os.environ['RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER'] = '0'
    try:
        import ray
    except ImportError:
        raise UserError("--ray needs Ray, which is not installed: pip install "
                        "'vlnr1_ros[ray]'") from None
    quiet = {'log_to_driver': False, 'logging_level': logging.ERROR}
    with contextlib.ExitStack() as stack:
        if address == LOCAL:
            folder = stack.enter_context(tempfile.TemporaryDirectory(
                prefix='vlnr1_ray_', ignore_cleanup_errors=True))
            quiet.update(num_cpus=workers or None, include_dashboard=False,
                         _node_ip_address='127.0.0.1', _temp_dir=folder)
        else:
            _try(address)
        try:
            ray.init(address, **quiet)
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(f'no Ray cluster at {address}: {_reason(error)}') from None
        stack.callback(ray.shutdown)
        yield ray


def _try(address):
    """Raise UserError when there is no cluster to be had, within CONNECT_TIMEOUT_S."""
    host, _, port = address.removeprefix('ray://').rpartition(':')
    if address != 'auto':
        if not host or not port.isdigit():
            raise UserError(f'--ray {address}: give auto, local, HOST:PORT or ray://HOST:PORT')
        try:
            socket.create_connection((host.strip('[]'), int(port)), REACH_TIMEOUT_S).close()
        except (OSError, OverflowError) as error:
            raise UserError(f'no Ray cluster at {address}: {error}; start one with: '
                            'ray start --head') from None
    try:
        tried = subprocess.run([sys.executable, '-c', TRY, address], capture_output=True,
                               text=True, timeout=CONNECT_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise UserError(f'no Ray cluster at {address}: no answer within {CONNECT_TIMEOUT_S:g} s; '
                        'is it the port of ray start --head?') from None
    if 'Unauthenticated' in tried.stderr:
        raise UserError(f'the Ray cluster at {address} wants a token: set RAY_AUTH_MODE=token and '
                        'RAY_AUTH_TOKEN as on its head')
    if tried.returncode:
        raise UserError(f'no Ray cluster at {address}: {_reason(tried.stderr)}')
