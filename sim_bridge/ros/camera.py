"""The bridge's camera: in step with the episode, or free of it in a thread of its own.

Both turn a stamp and a pose into a picture, which leaves when the imperfections let it.
"""
from __future__ import annotations

import sys
import threading
from collections import deque
from dataclasses import replace
from typing import Callable, Iterable, NamedTuple

import numpy as np

from sim_bridge.client import RemoteEnvironment, open_environment
from sim_bridge.config import EnvironmentConfig, simulator_name
from sim_bridge.environment import Environment, Observation
from sim_bridge.ros.imperfections import Shutter


class Picture(NamedTuple):
    """rgb uint8 (H, W, 3), depth_m float32 (H, W) or None; stamp_ns: when it was taken."""

    stamp_ns: int
    rgb: np.ndarray
    depth_m: np.ndarray | None


def take(environment: Environment | RemoteEnvironment, stamp_ns: int, pose: tuple) -> Picture:
    """What an environment's cameras show from a pose (x, y, z, yaw; habitat's frame)."""
    seen = environment.look(*pose)
    return Picture(stamp_ns, seen.rgb, seen.depth)


def pose_of(seen: Observation) -> tuple[float, float, float, float]:
    """Where an observation was made."""
    return seen.x, seen.y, seen.z, seen.yaw_rad


class CameraInStep:
    """Takes pictures in the caller's thread; they wait in `due` for their time."""

    def __init__(self, environment: Environment | RemoteEnvironment):
        self._environment = environment
        self._late: deque[Picture] = deque()

    def begin(self, episode_id: str, shutter: Shutter) -> None:
        """Forget what is still on its way."""
        self._shutter = shutter
        self._late.clear()

    def ready(self) -> bool:
        """Whether the episode's scene is open."""
        return True

    def look(self, stamp_ns: int, seen: Observation) -> None:
        """Take a picture from where that was observed, or the one observed, if it was."""
        if self._shutter.loses():
            return
        self._late.append(take(self._environment, stamp_ns, pose_of(seen)) if seen.rgb is None
                          else Picture(stamp_ns, seen.rgb, seen.depth))

    def due(self, now_ns: int) -> Iterable[Picture]:
        """The pictures that leave now."""
        while self._late and self._late[0].stamp_ns + self._shutter.latency_ns <= now_ns:
            yield self._late.popleft()

    def end(self) -> None:
        """The episode is over."""

    close = end


class FreeCamera:
    """Takes pictures, and sends them, in a thread of its own with an environment of its own.

    Nothing here makes the caller wait for rendering. A picture asked for while another is being
    rendered waits; of several that wait the newest is taken. send: called with every Picture, in
    the thread. now_ns: simulated time, as fast as wall time. habitat_python: as in
    open_environment.
    """

    def __init__(self, config: EnvironmentConfig, habitat_python: str | None,
                 send: Callable[[Picture], None], now_ns: Callable[[], int]):
        self._config = replace(config, measures=False)
        self._habitat_python = habitat_python
        self._send, self._now_ns = send, now_ns
        self._changed = threading.Condition()
        self._late: deque[Picture] = deque()
        self._to_open: tuple[str, Shutter] | None = None
        self._wanted: tuple[int, tuple] | None = None
        self._error: Exception | None = None
        self._busy = self._closing = False
        self._thread = threading.Thread(target=self._live, daemon=True)
        self._thread.start()

    def begin(self, episode_id: str, shutter: Shutter) -> None:
        """Open an episode's scene; the camera shows nothing until `ready`."""
        with self._changed:
            self._wanted, self._to_open = None, (episode_id, shutter)
            self._changed.notify_all()

    def ready(self) -> bool:
        """Whether the scene is open. Raises what went wrong in the thread."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        return self._to_open is None

    def look(self, stamp_ns: int, seen: Observation) -> None:
        """Ask for a picture from where that was observed."""
        with self._changed:
            self._wanted = stamp_ns, pose_of(seen)
            self._changed.notify_all()

    def due(self, now_ns: int) -> Iterable[Picture]:
        """None: pictures leave by themselves. Raises what went wrong in the thread."""
        self.ready()
        return ()

    def end(self) -> None:
        """The episode is over: nothing is sent after this returns."""
        with self._changed:
            self._wanted = self._to_open = None
            self._late.clear()
            self._changed.wait_for(lambda: not self._busy)
            self._late.clear()

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    def _live(self):
        environment = None
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._to_open or self._wanted or self._closing,
                                       self._until_due_s())
                if self._closing:
                    break
                opening, wanted, self._wanted = self._to_open, self._wanted, None
                self._busy = True
            try:
                if opening:
                    environment = self._open(environment, *opening)
                elif wanted and not self._shutter.loses():
                    self._late.append(take(environment, *wanted))
                while self._late and self._until_due_s() <= 0:
                    self._send(self._late.popleft())
            except Exception as error:
                self._error = error
                self._to_open = None
        if environment is not None:
            environment.close()

    def _open(self, environment, episode_id, shutter):
        if environment is None:
            python = self._habitat_python
            if not python and simulator_name(self._config.simulator) == 'habitat-sim':
                python = sys.executable   # it does not let other threads run while it draws
            environment = open_environment(self._config, python)
        seen = environment.reset(episode_id)
        take(environment, 0, pose_of(seen))     # compiles, and fills caches
        self._shutter = shutter
        with self._changed:
            self._late.clear()
            if self._to_open and self._to_open[0] == episode_id:
                self._to_open = None
        return environment

    def _until_due_s(self):
        """Wall time until the next picture leaves; None: none is on its way."""
        if not self._late:
            return None
        due_ns = self._late[0].stamp_ns + self._shutter.latency_ns
        return (due_ns - self._now_ns()) * 1e-9
