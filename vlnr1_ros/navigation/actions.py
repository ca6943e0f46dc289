"""The action set: ids, texts and displacements that always agree with one another."""
from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum
from typing import Iterable

from .errors import UserError


class Action(IntEnum):
    """Discrete actions with the ids of VLN-CE and habitat-lab."""

    STOP = 0
    MOVE_FORWARD = 1
    TURN_LEFT = 2
    TURN_RIGHT = 3


OPTION_ORDER = (Action.MOVE_FORWARD, Action.TURN_LEFT, Action.TURN_RIGHT, Action.STOP)
SEPARATOR = ', '


@dataclass(frozen=True)
class ActionSet:
    """Forward step and turn angle; every text and every motion is derived from these two numbers.

    The texts are those of VLN-R1 (arXiv 2506.17221, section 3): a letter and a description.
    """

    forward_m: float = 0.25
    turn_deg: float = 30.0

    def __post_init__(self):
        if not (math.isfinite(self.forward_m) and 0.01 <= self.forward_m <= 2.0):
            raise UserError(f'forward_m is {self.forward_m}; give metres between 0.01 and 2')
        if not (math.isfinite(self.turn_deg) and 1.0 <= self.turn_deg <= 90.0):
            raise UserError(f'turn_deg is {self.turn_deg}; give degrees between 1 and 90')

    def phrase(self, action: int) -> str:
        """Text of one action, for example ``'B. Turn left 30 degrees'``."""
        return {
            Action.MOVE_FORWARD: f'A. Move forward {self.forward_m * 100:g} cm',
            Action.TURN_LEFT: f'B. Turn left {self.turn_deg:g} degrees',
            Action.TURN_RIGHT: f'C. Turn right {self.turn_deg:g} degrees',
            Action.STOP: 'D. Stop',
        }[Action(action)]

    @property
    def phrases(self) -> list[str]:
        """The four texts in letter order."""
        return [self.phrase(action) for action in OPTION_ORDER]

    def encode(self, actions: Iterable[int]) -> str:
        """Join the texts of several actions: the answer format of the model."""
        return SEPARATOR.join(self.phrase(action) for action in actions)

    def decode(self, text: str) -> list[Action]:
        """Inverse of :meth:`encode`; anything else raises UserError, nothing is guessed."""
        by_phrase = {self.phrase(action): action for action in Action}
        actions = []
        for part in text.strip().split(SEPARATOR):
            if part not in by_phrase:
                raise UserError(f'unknown action text {part!r}; known are {self.phrases}')
            actions.append(by_phrase[part])
        return actions

    def displacement(self, action: int) -> tuple[float, float]:
        """(forward in metres, turn in radians, positive to the left: REP 103) of one action."""
        turn_rad = math.radians(self.turn_deg)
        return {
            Action.MOVE_FORWARD: (self.forward_m, 0.0),
            Action.TURN_LEFT: (0.0, turn_rad),
            Action.TURN_RIGHT: (0.0, -turn_rad),
            Action.STOP: (0.0, 0.0),
        }[Action(action)]
