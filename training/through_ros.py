"""Evaluation through the ROS 2 graph, by the processes of `vlnr1 evaluate --through-ros`.

In discrete mode, where the bridge executes plans as habitat actions, the lines are those of
evaluation in process; in velocity mode a driver drives and their numbers are a little different.
"""
from __future__ import annotations

import atexit
import signal
import sys

from sim_bridge.client import load_split
from sim_bridge.environment import Episode
from sim_bridge.ros.graph import VELOCITY, Graph, GraphError, environment_parameters
from training.episode import EpisodeRun
from training.runner import Runner

LATE_S = 300.0       # wall time a node may take for an answer: a large model on a slow machine
START_UP_S = 900.0   # and all of them to come up


class GraphRunner(Runner):
    """One process's graph, started anew after it broke; call it with an episode's id."""

    def __init__(self, job):
        self._job = job
        _, episodes = load_split(job.environment, job.habitat_python)
        self._episodes = {episode.episode_id: episode for episode in episodes}
        self._graph: Graph | None = None
        self._result: dict = {}
        atexit.register(self._end)
        # by which an interrupted evaluation ends its processes: as orderly as any other end
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))

    def _episode(self, episode_id: str) -> Episode:
        return self._episodes[episode_id]

    def _run(self, episode: Episode, instruction: str | None) -> EpisodeRun:
        """GraphError, told on stderr as well, when a node died or did not answer."""
        if self._graph is None:
            self._graph = _graph(self._job).__enter__()
        try:
            result = self._graph.run(episode.episode_id, instruction)
        except GraphError as error:
            print(f'\n{error}; the nodes are started anew', file=sys.stderr, flush=True)
            self._end()
            raise
        self._result = result
        # a driver's way has no corners at the ends of actions: it is told as it was recorded
        poses = result.get('path') or [pose[1:] for pose in result['trajectory']]
        return EpisodeRun(episode, result['actions'], len(result['decisions']), result['metrics'],
                          poses)

    def _nearest_candidate(self) -> str | None:
        return self._result.get('nearest_candidate')

    def _of_time(self, run):
        """Of a driven base: simulated time, and how much of it decisions took."""
        result, first_s = self._result, self._job.decision_time_s
        if self._job.mode != VELOCITY:
            return {}
        there = run.metrics.get('grounded_success', run.metrics['success'])
        later_s = result['deciding_s'] - first_s   # before the first one nothing drives
        return {'seconds': result['sim_s'], 'seconds_to_goal': result['sim_s'] if there else None,
                'decisions_hidden': result['hidden_s'] / later_s if later_s > 1e-6 else None}

    def _end(self):
        graph, self._graph = self._graph, None
        if graph is not None:
            graph.__exit__()


def _graph(job) -> Graph:
    environment = job.environment
    actions = {'forward_m': float(environment.forward_m),
               'turn_deg': float(environment.turn_deg)}
    parameters = {
        'navigator': {**actions, 'device': job.device or '', 'dtype': job.dtype or '',
                      'replan': job.replan, 'decision_time_s': job.decision_time_s,
                      'execute': job.execute or 0},
        'sim_bridge': {**environment_parameters(environment), 'policy_seed': job.seed,
                       'habitat_python': job.habitat_python or '',
                       'imperfections.strength': float(job.imperfections),
                       'imperfections.seed': job.seed,
                       'lockstep_timeout_s': LATE_S, 'startup_timeout_s': START_UP_S}}
    if job.mode == VELOCITY:
        parameters['driver'] = {**actions, 'replan': job.replan}
    return Graph(job.policy, '', environment.split, [], parameters=parameters, mode=job.mode)
