"""Rewards of RFT over the next n actions (arXiv 2506.17221, section 3.3 and table of rewards).

The paper gives the time-decayed reward, R = sum over k of gamma^k [a_k = a*_k], and compares it
with hard, uniform and linear ones. It leaves open gamma, the linear weights, and whether rewards
are normalised: those are ours, and so are the format reward and the stop term.
"""
from __future__ import annotations

from typing import Sequence

import numpy as np

from vlnr1_ros.navigation.actions import SEPARATOR, Action, ActionSet
from vlnr1_ros.navigation.errors import UserError

NAMES = ('time_decayed', 'linear', 'uniform', 'hard')


def weights(name: str, n: int, gamma: float = 0.7) -> np.ndarray:
    """What a right action at each of n positions is worth, (n,), the first action first.

    time_decayed: gamma^k. linear: (n - k) / n (ours). uniform: 1. Raises UserError for another
    name, for gamma outside (0, 1] and for n below 1.
    """
    if n < 1:
        raise UserError(f'a reward over {n} actions; give 1 or more')
    if name == 'time_decayed':
        if not 0.0 < gamma <= 1.0:
            raise UserError(f'gamma is {gamma}; give a number above 0 and up to 1')
        return gamma ** np.arange(n)
    if name == 'linear':
        return 1.0 - np.arange(n) / n
    if name == 'uniform':
        return np.ones(n)
    raise UserError(f'reward {name!r} is unknown; choose one of {", ".join(NAMES)}')


def sequence_reward(name: str, predicted: Sequence[Action | None], expert: Sequence[int],
                    gamma: float = 0.7, normalised: bool = True) -> float:
    """Reward of predicted actions against the expert's, position by position.

    hard: 1 if all are right and no more were given, else 0. The others sum the weights of right
    positions; normalised, a wholly right answer is worth 1. A position that was not given, or
    that is no action (None), is wrong.
    """
    n = len(expert)
    right = np.array([k < len(predicted) and predicted[k] is not None
                      and int(predicted[k]) == int(expert[k]) for k in range(n)])
    if name == 'hard':
        return float(right.all() and len(predicted) == n)
    worth = weights(name, n, gamma)
    return float(right @ worth / (worth.sum() if normalised else 1.0))


def format_reward(predicted: Sequence[Action | None], n: int) -> float:
    """1 for an answer of exactly n actions, else 0."""
    return float(len(predicted) == n and None not in predicted)


def stop_reward(predicted: Sequence[Action | None], expert: Sequence[int]) -> float:
    """1 when the first stop is where the expert's is, or neither stops; else 0."""
    def first_stop(actions):
        return list(actions).index(Action.STOP) if Action.STOP in actions else len(expert)
    return float(first_stop(predicted) == first_stop(expert))


def read_actions(text: str, action_set: ActionSet) -> list[Action | None]:
    """The actions an answer names, None where a part of it is no action's text.

    Sampled answers may be malformed: what stands at the right place still counts.
    """
    by_phrase = {action_set.phrase(action): action for action in Action}
    return [by_phrase.get(part.strip()) for part in text.strip().split(SEPARATOR)]
