"""One closed-loop episode: the loop that evaluation shares with everybody who runs a policy."""
from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np

from sim_bridge.environment import Environment, Episode
from sim_bridge.episode_seed import episode_seed
from vlnr1_ros.navigation.actions import Action
from vlnr1_ros.navigation.card import NavigationCard
from vlnr1_ros.navigation.errors import UserError
from vlnr1_ros.navigation.memory import History
from vlnr1_ros.policy.base import Policy


@dataclass
class EpisodeRun:
    """What happened: the actions taken and habitat-lab's metrics at the end.

    poses: (x, y, z, yaw) at the start and after every action, in habitat's frame.
    """

    episode: Episode
    actions: list[int]
    decisions: int
    metrics: dict
    poses: list[tuple[float, float, float, float]]


class ExpertPolicy:
    """The simulator's shortest-path expert behind the interface of a policy."""

    def __init__(self, environment: Environment, card: NavigationCard):
        self.card = card
        self._environment = environment

    def reset(self, instruction: str, seed: int = 0) -> None:
        """Nothing to prepare: the expert knows the goal."""

    def plan(self, history: History) -> list[Action]:
        """The next `card.horizon` actions on the expert's path."""
        return [Action(a) for a in self._environment.expert_plan(self.card.horizon)]


def run_episode(environment: Environment, episode_id: str, policy: Policy, seed: int = 0,
                instruction: str | None = None) -> EpisodeRun:
    """Run a policy until it stops or the environment's `max_steps` are used up.

    One frame enters the history per executed action, a black one where the environment renders
    none. `instruction` replaces the episode's own
    (the goal stays the episode's). `seed` and the episode's id fix all that is random.
    """
    episode = decisions_of(environment, episode_id, policy.card)
    history = next(episode)
    policy.reset(instruction or environment.episode.instruction, episode_seed(seed, episode_id))
    while True:
        plan = policy.plan(history)
        try:
            history = episode.send(plan)
        except StopIteration as end:
            return end.value


def decisions_of(environment: Environment, episode_id: str,
                 card: NavigationCard) -> Generator[History, list[Action], EpisodeRun]:
    """An episode that asks for its decisions: yields the history, is sent a plan, and returns
    what happened. For whoever runs several episodes side by side.
    """
    check_actions(card, environment.config)
    seen = environment.reset(episode_id)
    episode = environment.episode
    history = History(card.frame_width, card.frame_height)
    dark = np.zeros((card.frame_height, card.frame_width, 3), np.uint8)
    history.add(dark if seen.rgb is None else seen.rgb)
    actions: list[int] = []
    poses = [_pose(seen)]
    decisions = 0
    while not seen.episode_over:
        wanted = yield history
        plan = [int(action) for action in wanted[:card.execute]]
        decisions += 1
        for action, seen in zip(plan, environment.steps(plan)):
            actions.append(action)
            poses.append(_pose(seen))
            if not seen.episode_over:
                history.add(dark if seen.rgb is None else seen.rgb)
    return EpisodeRun(episode, actions, decisions, environment.metrics(), poses)


def _pose(seen):
    return seen.x, seen.y, seen.z, seen.yaw_rad


def check_actions(card: NavigationCard, config) -> None:
    """Raise UserError when a model's actions are not those the simulator executes."""
    actions = card.action_set
    for name, ours, theirs in (('turn_deg', config.turn_deg, actions.turn_deg),
                               ('forward_m', config.forward_m, actions.forward_m)):
        if abs(ours - theirs) > 1e-6:
            raise UserError(f'the policy was made for {name} {theirs:g}, the simulator has '
                            f'{ours:g}; give --{name.replace("_", "-")} {theirs:g}')
