"""How one VLN-Ego episode comes about: somebody acts, the expert says what should be done."""
from __future__ import annotations

import math
from pathlib import Path
from typing import Protocol

import numpy as np

from sim_bridge.environment import Environment, Episode
from sim_bridge.episode_seed import episode_seed
from training.ego_files import EgoEpisode, EgoSettings, shifted_labels
from vlnr1_ros.navigation.actions import Action
from vlnr1_ros.navigation.camera import resize
from vlnr1_ros.navigation.memory import History

LONGEST_BURST = 4
MOTIONS = (Action.MOVE_FORWARD, Action.TURN_LEFT, Action.TURN_RIGHT)


class Behaviour(Protocol):
    """Who acts. ``strays``: it may leave the expert's path, so every frame is relabelled."""

    strays: bool

    def reset(self, instruction: str, seed: int) -> None: ...
    def act(self, rgb: np.ndarray, expert: list[int]) -> int: ...


class Expert:
    """The expert itself: plain replay."""

    strays = False

    def reset(self, instruction: str, seed: int) -> None:
        """Nothing to forget."""

    def act(self, rgb: np.ndarray, expert: list[int]) -> int:
        """The action due."""
        return expert[0]


class Noisy:
    """The expert, knocked off its path: with ``probability`` a step starts a burst, one random
    motion repeated 1 to 4 times."""

    strays = True

    def __init__(self, probability: float):
        self._probability = probability

    def reset(self, instruction: str, seed: int) -> None:
        """Same seed, same bursts."""
        self._random = np.random.default_rng(seed)
        self._left = 0

    def act(self, rgb: np.ndarray, expert: list[int]) -> int:
        """The burst's motion while it lasts, else the action due."""
        if not self._left and self._random.random() < self._probability:
            self._left = int(self._random.integers(1, LONGEST_BURST + 1))
            self._motion = int(self._random.choice(MOTIONS))
        if self._left:
            self._left -= 1
            return self._motion
        return expert[0]


class Learner:
    """A policy acts as it would when deployed (DAgger); with ``beta`` the expert takes over a
    decision. Where the policy stops too early the expert's action is executed instead."""

    strays = True

    def __init__(self, policy, beta: float):
        self._policy = policy
        self._beta = beta
        self._history = History(policy.card.frame_width, policy.card.frame_height)

    def reset(self, instruction: str, seed: int) -> None:
        """A new episode for policy and history."""
        self._random = np.random.default_rng(seed)
        self._policy.reset(instruction, seed)
        self._history.clear()
        self._due: list[int] = []

    def act(self, rgb: np.ndarray, expert: list[int]) -> int:
        """The next action of the policy's plan, asked for anew every ``card.execute`` steps."""
        self._history.add(rgb)
        if not self._due:
            taken_over = self._random.random() < self._beta
            plan = expert if taken_over else self._policy.plan(self._history)
            self._due = [int(action) for action in plan[:self._policy.card.execute]]
        action = self._due.pop(0)
        if action == Action.STOP:
            self._due.clear()
            return expert[0]
        return action


def collect(environment: Environment, episode_id: str, behaviour: Behaviour,
            settings: EgoSettings) -> EgoEpisode | None:
    """Run one episode until the expert says stop or ``settings.max_steps`` frames are made.

    The expert's stop ends the run whoever acts. Returns None when no way leads to the goal, and
    when plain replay did not get there in time: its labels would be wrong at the cut.
    """
    seen = environment.reset(episode_id)
    episode = environment.episode
    if not math.isfinite(environment.distance_to_goal_m()):
        return None
    behaviour.reset(episode.instruction, episode_seed(settings.seed, episode_id))
    frames, actions, labels = [], [], []
    while True:
        expert = [int(a) for a in environment.expert_plan(
            settings.horizon if behaviour.strays else 1)]
        frames.append(np.array(resize(seen.rgb, settings.frame_width, settings.frame_height)))
        labels.append(expert)
        actions.append(int(Action.STOP) if expert[0] == Action.STOP
                       else behaviour.act(seen.rgb, expert))
        if actions[-1] == Action.STOP or len(actions) == settings.max_steps:
            break
        seen = environment.step(actions[-1])
    stopped = actions[-1] == Action.STOP
    if not behaviour.strays:
        if not stopped:
            return None
        labels = shifted_labels(actions, settings.horizon)
    return EgoEpisode(episode.episode_id, episode.trajectory_id, episode.instruction, frames,
                      actions, labels, _meta(episode, stopped))


def _meta(episode: Episode, stopped: bool) -> dict:
    kept = {key: episode.info[key] for key in ('tier', 'held_out_wording', 'swap')
            if key in episode.info}
    return {'episode_id': episode.episode_id, 'trajectory_id': episode.trajectory_id,
            'scene_id': Path(episode.scene_id).name, 'instruction': episode.instruction,
            'stopped': stopped, **kept}
