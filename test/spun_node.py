"""Nodes that are spun by a thread of the test."""
from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import threading
import time
from typing import Callable

from rclpy.context import Context
from rclpy.executors import ExternalShutdownException

from sim_bridge.ros.graph import end_with_parent
from vlnr1_ros.nodes.sockets import sockets_only

WAIT_S = 60.0


def wait_until(condition: Callable[[], object], timeout_s: float = WAIT_S) -> None:
    """Until the condition holds; AssertionError when it takes too long."""
    until_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until_s, f'not within {timeout_s:g} s'
        time.sleep(0.01)


def fresh_domain() -> int:
    """A ROS domain that probably nobody else on this machine is in."""
    return random.SystemRandom().randint(1, 100)


def on_this_machine() -> None:
    """Contexts of this process meet nobody elsewhere, and nobody who is stopped blocks them."""
    os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
    os.environ.update(sockets_only(os.environ)[0])


@contextlib.contextmanager
def busy_processes(count: int):
    """As many processes that do nothing but take the processor's time."""
    busy = [subprocess.Popen([sys.executable, '-c', 'while True: pass'],
                             preexec_fn=end_with_parent) for _ in range(count)]
    try:
        yield
    finally:
        for each in busy:
            each.kill()
            each.wait()


class Spun:
    """A node that is spun by a thread in a context of its own, on this machine only.

    make_node: context -> node; make_executor: node -> executor.
    """

    def __init__(self, domain_id: int, make_node: Callable, make_executor: Callable):
        on_this_machine()
        self.context = Context()
        self.context.init(domain_id=domain_id)
        self.node = make_node(self.context)
        self._clients: dict = {}
        self.executor = make_executor(self.node)
        self.executor.add_node(self.node)
        self.thread = threading.Thread(target=self._spin, daemon=True)
        self.thread.start()

    def _spin(self):
        try:
            self.executor.spin()
        except ExternalShutdownException:
            pass

    def close(self) -> None:
        """End node and thread."""
        if hasattr(self.node, 'close'):
            self.node.close()
        self.context.try_shutdown()
        self.thread.join(10)
        self.node.destroy_node()

    def call(self, kind: type, name: str, request):
        """The response of a service."""
        # One client a name: the answer to a new one may be lost while discovery is still going on.
        if name not in self._clients:
            self._clients[name] = self.node.create_client(kind, name)
        client = self._clients[name]
        assert client.wait_for_service(WAIT_S)
        future = client.call_async(request)
        wait_until(future.done)
        return future.result()
