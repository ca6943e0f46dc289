"""Episodes that are asked for while the bridge runs, as lines of a file."""
from __future__ import annotations

import json
import os
from dataclasses import dataclass

from vlnr1_ros.navigation.errors import UserError


@dataclass(frozen=True)
class Request:
    """An episode to run; instead of its own instruction a given one, if there is one."""

    episode_id: str
    instruction: str | None = None


class Requests:
    """Reads what is added to the end of a file; an empty path never has anything."""

    def __init__(self, path: str | os.PathLike):
        self._path = path
        self._read_bytes = 0

    def next(self) -> Request | None:
        """The next whole line, None while there is none."""
        if not self._path or not os.path.exists(self._path):
            return None
        with open(self._path, 'rb') as file:
            file.seek(self._read_bytes)
            line = file.readline()
        if not line.endswith(b'\n'):
            return None
        self._read_bytes += len(line)
        try:
            return Request(**json.loads(line))
        except (ValueError, TypeError):
            raise UserError(f'{self._path} has the line {line!r}; give one such as '
                            '{"episode_id": "1"}') from None
