"""Getting out of a spin or of an action repeated without effect, a known failure of these models.

The base is *at one place* while it is less than half a forward step from where it came to it. At
one place it is stuck when a plan begins with

- a turn, and turns of `turn_deg` in all, to whichever side, were driven there: a spin, or a swing
  to and fro; or with
- a motion, and each of the last `plans` plans that the driver accepted left it where it was, to
  half a primitive: blocked.

Then *one other action* replaces the plan: a forward step where the plan would turn, a turn to
the left where it would drive forward. The driver keeps its own rules, so that a step into an
obstacle is not driven, and counts as without effect. What did not help twice is given up.
"""
from __future__ import annotations

import math
from typing import Sequence

from ..navigation.actions import Action, ActionSet
from .plan import Pose

ESCAPE, STOP, IGNORE = 'escape', 'stop', 'ignore'
ESCAPES = 2   # at one place, before giving up
TURNS = (Action.TURN_LEFT, Action.TURN_RIGHT)


class StuckRule:
    """Looks at every plan before it is sent, in order.

    when_stuck: escape, stop (give up at once) or ignore. turn_deg: of turns at one place;
    plans: without effect. `count` is how often it interfered, `trouble` why it did so last.
    """

    def __init__(self, action_set: ActionSet, when_stuck: str, turn_deg: float, plans: int):
        self._actions = action_set
        self._when_stuck = when_stuck
        self._most_turn_deg, self._most_plans = turn_deg, plans
        self.count = 0
        self.trouble = ''
        self.begin()

    def begin(self) -> None:
        """Forget what was driven: a new run."""
        self._place: Pose | None = None
        self._before: Pose | None = None   # the last decision was made here
        self._over = False                 # an accepted plan ended since
        self._turned_deg = 0.0
        self._without_effect = 0
        self._escapes = 0

    def plan_over(self, driven: Sequence[Action]) -> None:
        """An accepted plan ended; `driven` are its primitives that were begun."""
        self._over = True
        self._turned_deg += self._actions.turn_deg * sum(action in TURNS for action in driven)

    def instead(self, pose: Pose, actions: list[Action]) -> tuple[list[Action], str]:
        """What to send of a plan made at `pose`, and why it is another; no action: give up."""
        self._follow(pose)
        trouble = self._trouble(actions)
        if not trouble or self._when_stuck == IGNORE:
            return actions, ''
        self.count += 1
        self.trouble = trouble
        if self._when_stuck == STOP:
            return [], f'stuck: {trouble}'
        if self._escapes == ESCAPES:
            return [], f'stuck: {trouble}, and {ESCAPES} other actions did not help'
        self._escapes += 1
        self._turned_deg, self._without_effect = 0.0, 0
        other = Action.MOVE_FORWARD if actions[0] in TURNS else Action.TURN_LEFT
        return [other], trouble

    def _follow(self, pose):
        half_m = 0.5 * self._actions.forward_m
        half_rad = 0.5 * math.radians(self._actions.turn_deg)
        if self._place is None or self._place.distance_m(pose) >= half_m:
            self._place = pose
            self._turned_deg, self._escapes = 0.0, 0
        if self._over:
            stayed = self._before.distance_m(pose) < half_m and \
                self._before.turn_rad(pose) < half_rad
            self._without_effect = self._without_effect + 1 if stayed else 0
        self._before, self._over = pose, False

    def _trouble(self, actions) -> str:
        if actions[0] == Action.STOP:
            return ''
        if actions[0] in TURNS and self._turned_deg >= self._most_turn_deg:
            return f'turned {self._turned_deg:g} degrees at one place'
        if self._without_effect >= self._most_plans:
            return f'{self._without_effect} plans in a row did not move the base'
        return ''
