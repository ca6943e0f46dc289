"""The bridge is killed and started again while the navigator, and the driver, live on."""
import os
import signal
import time

import pytest

from sim_bridge.environment import Environment
from sim_bridge.ros.graph import Graph

WAIT_S = 240.0
SETTINGS = {'sim_bridge': {'lockstep_timeout_s': 60.0, 'startup_timeout_s': 240.0}}


def wait_until(condition):
    until_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < until_s
        time.sleep(0.02)


def expert_actions(apartments, episode_id):
    environment = Environment(apartments.config())
    environment.set_render(False)
    environment.reset(episode_id)
    actions = []
    while not environment.episode_over:
        actions.append(environment.expert_plan(1)[0])
        environment.step(actions[-1])
    environment.close()
    return actions


@pytest.mark.parametrize('mode', ['discrete', 'velocity'])
def test_the_others_follow_the_new_bridge(apartments, tmp_path, mode):
    # The new bridge's clock begins at one second again, far before what the others have seen.
    with Graph('expert', apartments.data, apartments.split, ['2', '1'], tmp_path, mode=mode,
               parameters=SETTINGS) as graph:
        wait_until(lambda: any(len(list(folder.glob('*.jpg'))) >= 8
                               for folder in tmp_path.glob('*.tmp')))
        os.kill(graph.pid('sim_bridge'), signal.SIGKILL)
        graph._processes['sim_bridge'].wait()
        lost = graph._results.read_text('utf-8').count('\n') if graph._results.exists() else 0
        assert lost == 0, 'it was killed in its first episode'
        graph._processes['sim_bridge'] = graph._start('sim_bridge')
        results = list(graph.results())
    assert [result['ended_by'] for result in results] == ['stop', 'stop']
    assert all(result['metrics']['success'] == 1.0 for result in results)
    assert results[0]['trajectory'][0][0] < 1.2
    if mode == 'discrete':
        assert results[1]['actions'] == expert_actions(apartments, '1')
