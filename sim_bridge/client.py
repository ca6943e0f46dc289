"""The other end of `sim_bridge.server`: environments that live in another interpreter."""
from __future__ import annotations

import contextlib
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace

import numpy as np

from sim_bridge import wire
from sim_bridge.config import EnvironmentConfig, simulator_name
from sim_bridge.environment import Environment, Episode, Observation, load_episodes
from sim_bridge.server_process import ServerProcess
from vlnr1_ros.navigation.errors import UserError

TIMEOUT_S = 60.0
SLOW_TIMEOUT_S = 300.0
"""For what may load scenes or large files, or compile."""
SLOW = ('load_episodes', 'open', 'reset')
CONNECT_PERIOD_S = 0.01


class ServerError(RuntimeError):
    """A server that worked has failed: what happened, and its last lines."""


def open_environment(config: EnvironmentConfig, habitat_python: str | None = None):
    """An Environment in this process, or one in a process of the interpreter `habitat_python`."""
    return RemoteEnvironment(config, habitat_python) if habitat_python else Environment(config)


def load_split(config: EnvironmentConfig, habitat_python: str | None = None
               ) -> tuple[EnvironmentConfig, list[Episode]]:
    """(settings with the simulator's own name in place of 'auto', the split's episodes).

    Opens no simulator. Raises UserError like Environment.
    """
    if not habitat_python:
        name = simulator_name(config.simulator)
        return replace(config, simulator=name), load_episodes(config)
    connection = Connection(ServerProcess(habitat_python))
    try:
        name, episodes = connection.ask('load_episodes', asdict(config))
    finally:
        connection.close()
    return replace(config, simulator=name), [Episode(**fields) for fields in episodes]


class Connection:
    """Requests to one server process. When one fails the process is ended."""

    def __init__(self, process: ServerProcess, timeout_s: float = TIMEOUT_S):
        self._process = process
        self._timeout_s = timeout_s
        self._number = 0
        self._method = 'start'
        self._has_answered = False
        self._socket = None
        self._connect()

    def ask(self, method: str, *arguments):
        """Send a request and wait for its answer."""
        self.send(method, *arguments)
        return self.receive()

    def send(self, method: str, *arguments) -> None:
        """Send a request; `receive` is to follow, and says if this failed."""
        self._number += 1
        self._method = method
        with contextlib.suppress(OSError):
            self._socket.settimeout(self._seconds())
            wire.send(self._socket, [self._number, method, arguments])

    def receive(self):
        """The answer to the last request.

        Raises the server's UserError; ServerError when it is dead, silent, of another version or
        at a loss; and UserError for that too if it has never answered.
        """
        number = None
        # other numbers are answers that nobody waited for any more
        while number != self._number:
            try:
                number, status, value = wire.receive(self._socket)
            except TimeoutError:
                raise self._failed(f'did not answer within {self._seconds():g} s') from None
            except (EOFError, OSError):
                raise self._failed(self._process.how_it_ended()) from None
            except (TypeError, ValueError) as error:
                raise self._failed(f'answered with nonsense: {error}') from None
            except BaseException:   # Ctrl-C, perhaps in the middle of a message
                self._socket.close()
                self._process.kill()
                raise
            if number == wire.NO_REQUEST or status == wire.DEFECT:
                raise self._failed(f'failed: {value}')
        self._has_answered = True
        if status == wire.USER_ERROR:
            raise UserError(value)
        return value

    def close(self) -> None:
        """End the server."""
        self._socket.close()
        self._process.close()

    def _seconds(self):
        return max(self._timeout_s, SLOW_TIMEOUT_S if self._method in SLOW else 0.0)

    def _connect(self):
        """Connect as soon as the server listens; it takes a moment."""
        deadline = time.monotonic() + SLOW_TIMEOUT_S
        while not self._process.has_ended and time.monotonic() < deadline:
            self._socket, place = wire.opened(self._process.address)
            try:
                self._socket.connect(place)
            except OSError:
                self._socket.close()
                time.sleep(CONNECT_PERIOD_S)
                continue
            self._process.connected()
            return
        raise self._failed(self._process.how_it_ended() if self._process.has_ended else
                           f'did not listen within {SLOW_TIMEOUT_S:g} s')

    def _failed(self, what):
        if self._socket is not None:
            self._socket.close()
        text = (f'the environment server of {self._process.python} {what} '
                f'({self._method}). Its last lines: {self._process.kill() or "none"}')
        if self._has_answered:
            return ServerError(text)
        return UserError(f'{text}. Has that interpreter numpy, habitat-lab and msgpack?')


class RemoteEnvironment:
    """`sim_bridge.environment.Environment` in a process of another interpreter.

    The same methods with the same results; `pathfinder` alone stays over there. ServerError says
    that the server died, fell silent for `timeout_s` or failed: it is gone then, and the next
    `reset` starts another one. `address` and `anywhere` as in ServerProcess.
    """

    def __init__(self, config: EnvironmentConfig, python: str, timeout_s: float = TIMEOUT_S,
                 address: str | None = None, anywhere: bool = False):
        self.config = config
        self._place = python, address, anywhere
        self._timeout_s = timeout_s
        self._rendered = True
        self._episode: Episode | None = None
        self._failure: ServerError | None = None
        self.episodes = [Episode(**fields) for fields in self._open()]
        self._by_id = {episode.episode_id: episode for episode in self.episodes}
        self.episode_over = False

    episode = Environment.episode
    episode_by_id = Environment.episode_by_id

    @property
    def pid(self) -> int:
        """Process id of the server."""
        return self._process.pid

    def reset(self, episode_id: str) -> Observation:
        """Place the agent at the start of an episode, in a new server if the last one failed."""
        self.send_reset(episode_id)
        return self.receive()

    def step(self, action: int) -> Observation:
        """Execute one discrete action (habitat's ids)."""
        self.send_step(action)
        return self.receive()

    def steps(self, actions: list[int]) -> list[Observation]:
        """Several discrete actions, one question; see Environment."""
        seen = [Observation(**fields) for fields in self._ask('steps', list(actions))]
        self.episode_over = bool(seen) and seen[-1].episode_over
        return seen

    def move(self, linear_m_s: float, angular_rad_s: float, duration_s: float) -> Observation:
        """Drive with constant velocities for a while; see Environment."""
        self._send('move', linear_m_s, angular_rad_s, duration_s)
        return self.receive()

    def look(self, x: float, y: float, z: float, yaw_rad: float) -> Observation:
        """What the cameras show from a pose, whether rendering is on or not; nothing moves."""
        return Observation(**self._ask('look', x, y, z, yaw_rad))

    def send_reset(self, episode_id: str) -> None:
        """The first half of `reset`; `receive` is the other."""
        self._episode = self.episode_by_id(episode_id)
        if self._failure is not None:
            print(f'warning: {self._failure}. Another one is started', file=sys.stderr)
            self._open()
        self._send('reset', self._episode.episode_id)

    def send_step(self, action: int) -> None:
        """The first half of `step`; `receive` is the other."""
        self._send('step', action)

    def receive(self) -> Observation:
        """What the action sent last led to."""
        seen = Observation(**self._receive())
        self.episode_over = seen.episode_over
        return seen

    def set_render(self, on: bool) -> None:
        """Whether observations carry images; poses and measures do not need them."""
        self._rendered = bool(on)
        self._ask('set_render', self._rendered)

    def expert_plan(self, n: int) -> list[int]:
        """The shortest-path expert's next n actions from here, padded with stop."""
        return self._ask('expert_plan', n)

    def distance_to_goal_m(self) -> float:
        """Geodesic distance from here to the nearest goal position."""
        return self._ask('distance_to_goal_m')

    def nearest_candidate(self) -> str | None:
        """Id of the object of the goal's room that is nearest; None outside that room."""
        return self._ask('nearest_candidate')

    def metrics(self) -> dict:
        """Numbers of the episode so far; empty when measures are off."""
        return self._ask('metrics')

    def top_down_map(self, height: int) -> np.ndarray:
        """The map with path, goals and agent as an image, uint8 (height, W, 3)."""
        return self._ask('top_down_map', height)

    def close(self) -> None:
        """End the server."""
        self._connection.close()

    def _open(self):
        self._process = ServerProcess(*self._place)
        self._connection = Connection(self._process, self._timeout_s)
        try:
            episodes = self._connection.ask('open', asdict(self.config))
        except UserError:
            self._connection.close()
            raise
        self._failure = None
        if not self._rendered:
            self._ask('set_render', False)
        return episodes

    def _ask(self, method, *arguments):
        self._send(method, *arguments)
        return self._receive()

    def _send(self, method, *arguments):
        if self._failure is not None:
            raise ServerError(f'{self._failure}. reset starts another one')
        self._connection.send(method, *arguments)

    def _receive(self):
        try:
            return self._connection.receive()
        except ServerError as error:
            self._failure = error
            raise


class EnvironmentVector:
    """Several environments, each in a process of its own, that work at the same time."""

    def __init__(self, config: EnvironmentConfig, python: str, count: int):
        with ThreadPoolExecutor(count) as pool:
            self.environments = list(pool.map(lambda _: RemoteEnvironment(config, python),
                                              range(count)))

    def reset(self, episode_ids: list[str]) -> list[Observation]:
        """Start an episode in each."""
        for one, episode_id in zip(self.environments, episode_ids):
            one.send_reset(episode_id)
        return [one.receive() for one in self.environments]

    def step(self, actions: list[int]) -> list[Observation]:
        """One action in each."""
        for one, action in zip(self.environments, actions):
            one.send_step(action)
        return [one.receive() for one in self.environments]

    def close(self) -> None:
        """End all servers."""
        for one in self.environments:
            one.close()
