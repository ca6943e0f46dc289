"""The last minutes, in memory."""
from __future__ import annotations

from collections import deque
from typing import NamedTuple


class Recorded(NamedTuple):
    """A serialised message and when it came."""

    topic: str
    kind: str
    stamp_ns: int
    data: bytes


class Ring:
    """Keeps messages for `length_s` seconds, fewer when they would take more than `most_bytes`."""

    def __init__(self, length_s: float, most_bytes: int):
        self._length_ns = int(length_s * 1e9)
        self._most_bytes = most_bytes
        self._messages: deque[Recorded] = deque()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._messages)

    @property
    def length_s(self) -> float:
        """From the oldest message to the newest."""
        try:
            return (self._messages[-1].stamp_ns - self._messages[0].stamp_ns) * 1e-9
        except IndexError:   # empty, perhaps since a moment ago, by another thread
            return 0.0

    def add(self, message: Recorded) -> None:
        """Take a message; the oldest go."""
        if self._messages and message.stamp_ns < self._messages[-1].stamp_ns:
            self.take()   # the clock was started anew
        self._messages.append(message)
        self.bytes += len(message.data)
        oldest_ns = message.stamp_ns - self._length_ns
        while self._messages and (self._messages[0].stamp_ns < oldest_ns
                                  or self.bytes > self._most_bytes):
            self.bytes -= len(self._messages.popleft().data)

    def since(self, stamp_ns: int) -> list[Recorded]:
        """Messages from a stamp on, oldest first; they stay."""
        return [message for message in self._messages if message.stamp_ns >= stamp_ns]

    def take(self) -> list[Recorded]:
        """All of them, oldest first; the ring is empty then."""
        taken = list(self._messages)
        self._messages.clear()
        self.bytes = 0
        return taken
