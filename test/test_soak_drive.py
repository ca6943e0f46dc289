"""Eight simulated hours of driving, in legs: one after another, each adds a line to a file.

    SOAK_MINUTES=40 python -m pytest -m soak test/test_soak_drive.py -s
    cat build/soak.jsonl

A leg drives the expert in lockstep, in one graph that is never started anew, for so many minutes.
"""
import importlib.metadata
import itertools
import json
import os
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from conftest import REPOSITORY
from sim_bridge.ros.graph import Graph

MINUTES = float(os.environ.get('SOAK_MINUTES', 40))
HOURS = 8.0
LINES = REPOSITORY / 'build' / 'soak.jsonl'
NODES = ('navigator', 'driver', 'sim_bridge')
EPISODES = [str(number) for number in range(1, 29)]
WARM = len(EPISODES)     # every scene has been loaded then
GROWTH_MIB = 30.0        # of a node after that; what is lost a message would be far more
MAX_M_S, MAX_RAD_S = 0.3, 1.0
TICK_S, TOLD_EVERY = 0.02, 5     # a pose in so many ticks is in the trajectory


def resident_mib(pid):
    """Memory of a process."""
    for line in Path(f'/proc/{pid}/status').read_text().splitlines():
        if line.startswith('VmRSS'):
            return int(line.split()[1]) / 1024
    raise AssertionError(f'process {pid} is gone')


def moved(trajectory):
    """(metres a second (N,), rad a second (N,), whether it still moved at the end)."""
    told = np.array(trajectory)
    dt_s = np.diff(told[:, 0])
    step = np.diff(told[:, 1:5], axis=0)[dt_s > 1e-6]
    dt_s = dt_s[dt_s > 1e-6]
    way_m = np.hypot(step[:, 0], step[:, 2])
    turn_rad = np.abs((step[:, 3] + np.pi) % (2 * np.pi) - np.pi)
    return way_m / dt_s, turn_rad / dt_s, way_m[-1] + turn_rad[-1] > 0.005


def commit():
    done = subprocess.run(['git', 'rev-parse', '--short', 'HEAD'], cwd=REPOSITORY,
                          capture_output=True, text=True)
    return done.stdout.strip() or 'unknown'


def lines():
    return [json.loads(line) for line in LINES.read_text('utf-8').splitlines()] \
        if LINES.exists() else []


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_a_leg_of_eight_simulated_hours(apartments):
    memory, reached, simulated_s, unlimited = [], 0, 0.0, 0
    code = commit()   # whose nodes are started
    began_s = time.monotonic()
    with Graph('expert', apartments.data, apartments.split, []) as graph:
        for episode in itertools.cycle(EPISODES):
            result = graph.run(episode)   # raises when a node died or somebody did not answer
            assert result['ended_by'] == 'stop', result['navigator']
            linear, angular, rolling = moved(result['trajectory'])
            assert not rolling, f'episode {episode}: it moved on after the stop'
            unlimited += int((linear > MAX_M_S + 0.02).sum() + (angular > MAX_RAD_S + 0.05).sum())
            reached += result['metrics']['success']
            simulated_s += result['sim_s']
            memory.append([resident_mib(graph.pid(node)) for node in NODES])
            if len(memory) > WARM + 8 and time.monotonic() - began_s > 60 * MINUTES:
                break
    wall_s = time.monotonic() - began_s
    warm = np.array(memory)[WARM:]
    quarter = max(1, len(warm) // 4)
    first, last = (np.median(part, axis=0) for part in (warm[:quarter], warm[-quarter:]))
    line = {'commit': code, 'rclpy': importlib.metadata.version('rclpy'),
            'simulated_h': round(simulated_s / 3600, 3), 'wall_h': round(wall_s / 3600, 3),
            'times': round(simulated_s / wall_s, 1), 'episodes': len(memory),
            'success': round(reached / len(memory), 3), 'above_limits': unlimited,
            **{f'{node}_mib': [round(a, 1), round(b, 1)]
               for node, a, b in zip(NODES, first, last)}}
    LINES.parent.mkdir(exist_ok=True)
    with open(LINES, 'a', encoding='utf-8') as file:
        file.write(json.dumps(line) + '\n')
    print(f'\n{line}\n{sum(each["simulated_h"] for each in lines()):.2f} of {HOURS:g} h')
    assert unlimited == 0
    assert (last - first < GROWTH_MIB).all(), line
