"""The bridge is killed and started again while navigator and driver live on."""
import os
import signal
import time

from sim_bridge.ros.graph import Graph

WAIT_S = 240.0
SETTINGS = {'sim_bridge': {'lockstep_timeout_s': 60.0, 'startup_timeout_s': 240.0}}


def wait_until(condition):
    until_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < until_s
        time.sleep(0.02)


def test_the_others_follow_the_new_bridge(apartments, tmp_path):
    # The new bridge's clock begins at one second again, far before what the others have seen.
    with Graph('expert', apartments.data, apartments.split, ['2', '1'], tmp_path,
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
