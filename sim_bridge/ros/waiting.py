"""How the bridge waits: for the others' answers or for wall time, and what interrupts that."""
from __future__ import annotations

import time
from typing import Callable

from rclpy.executors import ExternalShutdownException

from sim_bridge.ros.peers import Peers

REPEAT_S = 1.0   # what is not answered was perhaps sent before discovery
MAX_LAG_S = 0.1  # of a free run behind wall time; more is let go


class EpisodeError(Exception):
    """The episode cannot go on; the text names the node and what it failed to do."""


class Interrupted(Exception):
    """`~/reset` was called."""


class Waiting:
    """Messages are handled only here, in the thread that runs the episode.

    spin_once: the executor's, set before anything waits. reset_asked: raises Interrupted.
    ending: raises ExternalShutdownException; may be set by another thread.
    """

    spin_once: Callable[..., None]

    def __init__(self, peers: Peers, simulated_ns: Callable[[], int]):
        self._peers = peers
        self._simulated_ns = simulated_ns
        self._due_s = 0.0
        self.reset_asked = self.ending = False

    def spin(self, timeout_s: float) -> None:
        """Handle what has come, or comes within that time."""
        self.spin_until_ending(timeout_s)
        if self.reset_asked:
            raise Interrupted

    def spin_until_ending(self, timeout_sec: float) -> None:
        """Like `spin_once`, but raises ExternalShutdownException when it is to end."""
        self.spin_once(timeout_sec=timeout_sec)
        if self.ending:
            raise ExternalShutdownException

    def until(self, who: str, condition: Callable[[], object], timeout_s: float,
              again: Callable[[], None] | None = None) -> None:
        """Spin until the condition holds, calling `again` now and then.

        EpisodeError names who is late: `who`, or the driver where the navigator waits for it.
        """
        if condition():
            return
        begun_s = said_s = time.monotonic()
        while not condition():
            self.spin(0.2)
            now_s = time.monotonic()
            if now_s - begun_s > timeout_s and not condition():
                late = 'driver' if who == 'navigator' and self._peers.unanswered_plan() else who
                raise EpisodeError(
                    f'{late} did not answer within {timeout_s:g} s of wall time at simulated '
                    f'time {self._simulated_ns() * 1e-9:.2f} s')
            if again is not None and now_s - said_s > REPEAT_S:
                said_s = now_s
                again()

    def keep_pace(self, step_s: float) -> None:
        """Until wall time has gone on by `step_s` since the last call.

        What a pause or a slow machine took is not made good by hurrying.
        """
        self._due_s = max(self._due_s + step_s, time.monotonic() - MAX_LAG_S)
        while (left_s := self._due_s - time.monotonic()) > 0:
            self.spin(left_s)
        self.spin(0.0)
