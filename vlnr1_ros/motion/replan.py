"""Taking over a plan while the last one is still being driven."""
from __future__ import annotations

from typing import Sequence

from ..navigation.actions import Action


def leading_to_skip(actions: Sequence[Action], completed: Sequence[Action],
                    current: Action | None) -> int | None:
    """How many leading `actions` were driven already since the plan's image; None: they disagree.

    `completed` are the actions that ended since the image, `current` the one in progress, which
    must be the next of the plan.
    """
    driven = list(completed)
    if list(actions[:len(driven)]) != driven:
        return None
    following = actions[len(driven):len(driven) + 1]
    if current is not None and list(following) != [current]:
        return None
    return len(driven)
