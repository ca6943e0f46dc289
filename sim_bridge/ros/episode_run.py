"""Bookkeeping of one episode, from its instruction to its result."""
from __future__ import annotations

import time
from dataclasses import dataclass, field

from sim_bridge.ros.peers import Peers


@dataclass
class EpisodeRun:
    """started_s: wall time (monotonic), started_ns: simulated time; poses: [seconds, x, y, z,
    yaw] of every tick, in habitat's frame.
    """

    episode_id: str
    started_s: float
    started_ns: int
    instruction: str = ''
    ended_by: str = ''
    ticks: int = 0
    poses: list = field(default_factory=list)

    def result(self, now_ns: int, ended_by: str, metrics: dict, peers: Peers, error: str) -> dict:
        """What is told about the episode; `trajectory` has every fifth pose and the last one."""
        wall_s = time.monotonic() - self.started_s
        sim_s = (now_ns - self.started_ns) * 1e-9
        return {'episode_id': self.episode_id, 'instruction': self.instruction,
                'ended_by': ended_by, 'error': error, 'metrics': metrics,
                'navigator': peers.navigator.get('reason', ''),
                'deciding_s': peers.navigator.get('deciding_s', 0.0),
                'hidden_s': peers.navigator.get('hidden_s', 0.0),
                'actions': [action for _, action in peers.executed],
                'decisions': peers.decisions, 'trajectory': self.poses[::5] + self.poses[-1:],
                'ticks': self.ticks, 'sim_s': round(sim_s, 3), 'wall_s': round(wall_s, 3)}
