"""Policies that look at nothing: what a number of a trained model has to be compared with."""

from __future__ import annotations

import random

from vlnr1_ros.navigation.actions import Action
from vlnr1_ros.navigation.card import NavigationCard
from vlnr1_ros.navigation.errors import UserError
from vlnr1_ros.navigation.memory import History
from vlnr1_ros.navigation.prompt import check_instruction


class RandomPolicy:
    """Draws actions as often as experts take them: 68 % forward, 15 % each turn, 2 % stop.

    The frequencies are those of VLN-CE's training set (Krantz et al. 2020, arXiv 2004.02857).
    """

    frequencies = {
        Action.MOVE_FORWARD: 0.68, Action.TURN_LEFT: 0.15, Action.TURN_RIGHT: 0.15,
        Action.STOP: 0.02,
    }

    def __init__(self, card: NavigationCard | None = None):
        self.card = card or NavigationCard()
        self._random = random.Random(0)

    def reset(self, instruction: str, seed: int = 0) -> None:
        """Begin an episode whose draws are fixed by `seed`."""
        check_instruction(instruction)
        self._random = random.Random(seed)

    def plan(self, history: History) -> list[Action]:
        """`card.horizon` draws; after the first stop all are stop."""
        actions, weights = zip(*self.frequencies.items())
        plan = self._random.choices(actions, weights, k=self.card.horizon)
        if Action.STOP in plan:
            first = plan.index(Action.STOP)
            plan[first:] = [Action.STOP] * (len(plan) - first)
        return plan


class ForwardPolicy:
    """Walks straight on for `distance_m` metres, then stops.

    The default is what a typical shortest path of an evaluation episode measures; give the mean
    of the split at hand for the strongest such baseline.
    """

    def __init__(self, card: NavigationCard | None = None, distance_m: float = 5.0):
        if not 0 <= distance_m < float('inf'):
            raise UserError(f'distance_m is {distance_m}; give metres from 0')
        self.card = card or NavigationCard()
        self.distance_m = distance_m

    def reset(self, instruction: str, seed: int = 0) -> None:
        """Begin an episode."""
        check_instruction(instruction)

    def plan(self, history: History) -> list[Action]:
        """Forward as often as is left of the distance, counted in frames, then stop."""
        steps = round(self.distance_m / self.card.action_set.forward_m)
        left = steps - (len(history) - 1)
        return [
            Action.MOVE_FORWARD if index < left else Action.STOP
            for index in range(self.card.horizon)
        ]


class StopPolicy(ForwardPolicy):
    """Stops at once."""

    def __init__(self, card: NavigationCard | None = None):
        super().__init__(card, distance_m=0.0)
