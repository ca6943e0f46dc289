"""One process of an evaluation: an environment, a policy, episodes one after the other."""
from __future__ import annotations

import os
from dataclasses import dataclass

from sim_bridge.benchmarks import APARTMENTS
from sim_bridge.client import open_environment
from sim_bridge.config import EnvironmentConfig
from sim_bridge.environment import Episode
from training.episode import ExpertPolicy, run_episode
from training.evaluate_config import EXPERT, folder_of
from vlnr1_ros.navigation.actions import Action
from vlnr1_ros.navigation.card import NavigationCard
from vlnr1_ros.policy.load import BASELINES, is_url, load_policy

WITHOUT_TIER = 'episodes'


@dataclass(frozen=True)
class Job:
    """What a worker process needs.

    forward_m_of_tier: how far the forward policy goes. mode: of the ROS graph, None in process.
    imperfections: strength of a driven base's errors. dtype, plain: of `load_policy`. batch:
    episodes decided at once. replan, decision_time_s, execute (None: as the card says): the
    navigator's.
    """

    policy: str
    card: NavigationCard
    environment: EnvironmentConfig
    swap: bool
    seed: int
    device: str | None
    forward_m_of_tier: dict
    habitat_python: str | None = None
    mode: str | None = None
    imperfections: float = 0.0
    dtype: str | None = None
    plain: bool = False
    batch: int = 1
    replan: str = 'after'
    decision_time_s: float = 0.0
    execute: int | None = None


class Runner:
    """One process's environment and policy; call it with an episode's id."""

    def __init__(self, job: Job):
        self._job = job
        self._environment = open_environment(job.environment, job.habitat_python)
        # images are nine tenths of a step, and these policies look at none
        self._environment.set_render(folder_of(job.policy) is not None and not job.card.blind)
        self._policies: dict = {}

    def __call__(self, episode_id: str) -> dict:
        """Run one episode; returns its line of the result file."""
        episode = self._episode(episode_id)
        swap = self._swap(episode)
        return self._line(self._run(episode, swap and swap['instruction_text']), swap)

    def _line(self, run, swap):
        episode = run.episode
        return {
            'episode_id': episode.episode_id, 'scene_id': os.path.relpath(
                episode.scene_id, os.path.abspath(self._job.environment.scenes_dir)),
            'tier': episode.info.get('tier'),
            'held_out_wording': bool(episode.info.get('held_out_wording')),
            'instruction': swap['instruction_text'] if swap else episode.instruction,
            **run.metrics, 'at_told_object': self._at_told_object(run, swap),
            'decisions': run.decisions, 'actions': ''.join(map(str, run.actions)),
            **self._of_time(run),
            **self._for_leaderboard(run),
        }

    def _swap(self, episode):
        return episode.info.get('swap') if self._job.swap else None

    def _episode(self, episode_id):
        return self._environment.episode_by_id(episode_id)

    def _run(self, episode, instruction):
        return run_episode(self._environment, episode.episode_id, self._policy(tier_of(episode)),
                           self._job.seed, instruction)

    def _nearest_candidate(self):
        return self._environment.nearest_candidate()

    def _of_time(self, run):
        return {}

    def _for_leaderboard(self, run):
        """What `vlnr1 report --leaderboard` needs; generated apartments have none."""
        if self._job.environment.benchmark == APARTMENTS.name:
            return {}
        about = {key: run.episode.info[key] for key in ('instruction_id', 'language', 'role')
                 if key in run.episode.info}
        return {**about, 'path': [[round(value, 6) for value in pose] for pose in run.poses]}

    def _policy(self, tier):
        job = self._job
        # only the forward policy differs by tier
        key = tier if job.policy == 'forward' else None
        if key not in self._policies:
            self._policies[key] = _policy(job, self._environment, tier)
        return self._policies[key]

    def _at_told_object(self, run, swap):
        if not run.episode.info.get('candidates'):
            return None
        told = swap['object'] if swap else run.episode.info['goal_object']
        stopped = run.actions[-1:] == [Action.STOP]
        return float(stopped and self._nearest_candidate() == told)


def _policy(job, environment, tier):
    if job.policy == EXPERT:
        return ExpertPolicy(environment, job.card)
    if job.policy == 'forward':
        return load_policy('forward', card=job.card, distance_m=job.forward_m_of_tier[tier])
    if job.policy in BASELINES:
        return load_policy(job.policy, card=job.card)
    if is_url(job.policy):
        return load_policy(job.policy)
    return load_policy(job.policy, job.plain, device=job.device, dtype=job.dtype)


def tier_of(episode: Episode) -> str:
    """The tier of a generated episode; R2R and RxR have none."""
    return episode.info.get('tier', WITHOUT_TIER)
