"""What every policy promises."""

from __future__ import annotations

from typing import Protocol

from vlnr1_ros.navigation.actions import Action
from vlnr1_ros.navigation.card import NavigationCard
from vlnr1_ros.navigation.errors import UserError
from vlnr1_ros.navigation.memory import History


class Unavailable(UserError):
    """No answer now, perhaps later: a server that is gone, overloaded or too slow."""


class Policy(Protocol):
    """History and instruction in, the next actions out.

    card: how the policy is to be used: action set, frame size, actions per decision.
    """

    card: NavigationCard

    def reset(self, instruction: str, seed: int = 0) -> None:
        """Begin an episode; `seed` fixes all that is random in it.

        Raises UserError if the instruction cannot be used.
        """

    def plan(self, history: History) -> list[Action]:
        """The next `card.horizon` actions, of which the caller executes `card.execute`.

        history: frames of card.frame_width x card.frame_height pixels, one per executed action,
        the newest being what the camera sees now. After a stop all actions are stop.
        """

    # A policy that waits for somebody else may also have `cancel()`: callable from any thread, it
    # makes the `plan` in progress raise UserError at once.
