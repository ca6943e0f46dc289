"""Lockstep when somebody hangs or dies, and that nothing of it is heard elsewhere."""
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from sim_bridge.ros.graph import Graph, GraphError, isolated_environment

WAIT_S = 240.0
SETTINGS = {'sim_bridge': {'lockstep_timeout_s': 3.0, 'startup_timeout_s': 240.0}}
LISTENER = """
import sys, time, rclpy
from geometry_msgs.msg import TwistStamped
rclpy.init()
node, heard = rclpy.create_node('listener'), []
node.create_subscription(TwistStamped, sys.argv[1] + '/cmd_vel', heard.append, 50)
until = time.monotonic() + float(sys.argv[2])
names = set()
while time.monotonic() < until and (not heard or len(names) < 3):
    rclpy.spin_once(node, timeout_sec=0.1)
    names = {name for name, _ in node.get_node_names_and_namespaces()} - {'listener'}
print(len(heard), len(names), flush=True)
"""


def wait_until(condition):
    until_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < until_s
        time.sleep(0.02)


def moving(records):
    """Wait until an episode has been going on for a while, from what the bridge records."""
    wait_until(lambda: any(len(list(folder.glob('*.jpg'))) >= 3
                           for folder in records.glob('*.tmp')))


def listen(environment, namespace, seconds):
    """(velocities heard, nodes seen) by a process with that environment."""
    done = subprocess.run([sys.executable, '-c', LISTENER, namespace, str(seconds)],
                          env=environment, capture_output=True, text=True, check=True)
    return [int(word) for word in done.stdout.split()[-2:]]


@pytest.fixture
def records(tmp_path):
    return tmp_path / 'records'


def test_one_who_hangs_is_named_and_the_next_episode_runs(apartments, records):
    with Graph('expert', apartments.data, apartments.split, ['1', '2', '3'], records,
               parameters=SETTINGS) as graph:
        def told():
            file = graph.folder / 'results.jsonl'
            return [json.loads(line) for line in file.read_text('utf-8').splitlines()] \
                if file.exists() else []

        for number, node in enumerate(('navigator', 'driver'), 1):
            moving(records)
            os.kill(graph.pid(node), signal.SIGSTOP)
            wait_until(lambda: len(told()) == number)  # noqa: B023
            os.kill(graph.pid(node), signal.SIGCONT)
            result = told()[-1]
            assert result['ended_by'] == 'error'
            assert result['error'].startswith(f'{node} did not answer within 3 s'), result
        with pytest.raises(GraphError, match='episode 1: navigator did not answer'):
            list(graph.results())
        wait_until(lambda: len(told()) == 3)
        assert told()[-1]['ended_by'] == 'stop', told()[-1]['error']
        assert told()[-1]['metrics']['success'] == 1.0


def test_one_who_dies_is_named_with_its_last_lines_and_nobody_else_hears(apartments, records):
    domain_id = 1 + os.getpid() % 100
    with Graph('expert', apartments.data, apartments.split, '12345678', records,
               domain_id=domain_id, parameters=SETTINGS) as graph:
        moving(records)
        other = dict(isolated_environment(records, domain_id % 100 + 1))
        assert listen(other, graph.namespace, 1.0) == [0, 0]
        off = {**other, 'ROS_DOMAIN_ID': str(domain_id), 'ROS_AUTOMATIC_DISCOVERY_RANGE': 'OFF'}
        assert listen(off, graph.namespace, 1.0) == [0, 0]
        same = {**other, 'ROS_DOMAIN_ID': str(domain_id)}
        heard, nodes = listen(same, graph.namespace, 30.0)
        assert heard and nodes >= 3
        os.kill(graph.pid('driver'), signal.SIGKILL)
        with pytest.raises(GraphError, match='driver ended with code -9'):
            list(graph.results())
        pids = [graph.pid(node) for node in ('navigator', 'sim_bridge')]
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_the_nodes_end_with_a_caller_that_was_killed(apartments, tmp_path):
    code = ('import sys, time\n'
            'from sim_bridge.ros.graph import Graph\n'
            f'with Graph("stop", {str(apartments.data)!r}, "val_unseen", ["1"]) as graph:\n'
            '    print(*(graph.pid(n) for n in ("navigator", "driver", "sim_bridge")), '
            'graph.folder, flush=True)\n'
            '    time.sleep(100)\n')
    caller = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True)
    *pids, _ = caller.stdout.readline().split()
    caller.kill()
    caller.wait()

    def gone(pid):
        try:
            with open(f'/proc/{pid}/stat', encoding='utf-8') as file:
                return file.read().rsplit(')', 1)[1].split()[0] == 'Z'
        except FileNotFoundError:
            return True

    wait_until(lambda: all(gone(pid) for pid in pids))
