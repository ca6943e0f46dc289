"""Episodes through the real graph: navigator, driver and bridge as three processes."""
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import cv2
import pytest
import rclpy
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from spun_node import Spun, wait_until
from std_srvs.srv import SetBool, Trigger
from tiny_checkpoints import build

from sim_bridge.environment import Environment
from sim_bridge.ros.graph import Graph, GraphError, isolated_environment
from vlnr1_ros.navigation.errors import UserError
from vlnr1_ros.nodes import messages
from vlnr1_ros.nodes.lean_executor import LeanExecutor

SETTINGS = {'sim_bridge': {'lockstep_timeout_s': 60.0, 'startup_timeout_s': 240.0}}
START_S = 240.0


def in_process(apartments, episode_id):
    """Metrics and actions of the expert with discrete actions in this process."""
    environment = Environment(apartments.config())
    environment.set_render(False)
    seen = environment.reset(episode_id)
    actions = []
    while not seen.episode_over:
        actions.append(environment.expert_plan(1)[0])
        seen = environment.step(actions[-1])
    metrics = environment.metrics()
    environment.close()
    return metrics, actions


class Watcher(Spun):
    """Reads the clock of a graph and calls its services."""

    def __init__(self, graph):
        super().__init__(int(graph.environment['ROS_DOMAIN_ID']),
                         lambda context: rclpy.create_node('watcher', context=context,
                                                           namespace=graph.namespace),
                         lambda node: LeanExecutor(context=node.context))
        self.now_s = 0.0
        # Not reliable: the bridge waits for nobody who only watches.
        self.node.create_subscription(Clock, '/clock', self._on_clock, QoSProfile(
            depth=1, reliability=ReliabilityPolicy.BEST_EFFORT))

    def _on_clock(self, message):
        self.now_s = messages.time_ns(message.clock) * 1e-9


def pause_and_reset(graph):
    """In the middle of the first episode; simulated times at begin and end of the pause."""
    watcher = Watcher(graph)
    try:
        wait_until(lambda: watcher.now_s > 2.0, START_S)
        assert watcher.call(SetBool, 'sim_bridge/pause', SetBool.Request(data=True)).success
        time.sleep(0.3)
        begun_s = watcher.now_s
        time.sleep(0.7)
        ended_s = watcher.now_s
        assert watcher.call(SetBool, 'sim_bridge/pause', SetBool.Request(data=False)).success
        wait_until(lambda: watcher.now_s > ended_s)
        assert watcher.call(Trigger, 'sim_bridge/reset', Trigger.Request()).success
    finally:
        watcher.close()
    return begun_s, ended_s


@pytest.fixture(scope='module')
def run(apartments, tmp_path_factory):
    """(results of two episodes, their records' folder, the processes' ids, the times of a pause)
    with the expert, after a pause and a reset.
    """
    records = tmp_path_factory.mktemp('records')
    results = []
    with Graph('expert', apartments.data, apartments.split, ['1', '2', 'nobody'], records,
               parameters=SETTINGS) as graph:
        pids = [graph.pid(node) for node in ('navigator', 'driver', 'sim_bridge')]
        pause = pause_and_reset(graph)
        with pytest.raises(GraphError, match='episode nobody is not in'):
            for result in graph.results():
                results.append(result)
    return results, records, pids, pause


def test_the_expert_succeeds_as_it_does_in_process(run, apartments):
    results, *_ = run
    assert [result['episode_id'] for result in results] == ['1', '2']
    for result in results:
        expected, actions = in_process(apartments, result['episode_id'])
        got = result['metrics']
        assert result['ended_by'] == 'stop' and not result['error']
        assert got['success'] == got['grounded_success'] == expected['success'] == 1.0
        assert abs(got['path_length'] - expected['path_length']) < 0.3
        assert abs(got['distance_to_goal'] - expected['distance_to_goal']) < 0.15
        assert abs(got['spl'] - expected['spl']) < 0.05
        assert abs(got['ndtw'] - expected['ndtw']) < 0.05
        assert abs(got['steps_taken'] - len(actions)) <= 2
        assert got['steps_taken'] == len(result['actions'])
        assert result['actions'][-1] == 0


def test_decisions_hold_what_was_executed(run):
    for result in run[0]:
        decided = [action for _, actions in result['decisions'] for action in actions]
        assert decided == result['actions']
        assert all(1 <= len(actions) <= 3 for _, actions in result['decisions'])


def test_time_goes_on_from_one_episode_to_the_next(run):
    first, second = (result['trajectory'] for result in run[0])
    assert all(a[0] <= b[0] for a, b in zip(first, first[1:]))
    assert second[0][0] > first[-1][0]


def test_time_stands_still_in_a_pause_and_a_reset_begins_anew(run):
    results, _, _, (begun_s, ended_s) = run
    assert begun_s == ended_s
    first = results[0]['trajectory'][0]
    assert first[0] > ended_s, 'what was driven before the reset is no part of the result'


def test_the_record_has_a_frame_every_tenth_of_a_second(run):
    for result in run[0]:
        folder = Path(result['record'])
        record = json.loads((folder / 'record.json').read_text('utf-8'))
        frames = sorted(folder.glob('frame_*.jpg'))
        assert len(frames) == len(record['frame_s']) > 50
        steps = [b - a for a, b in zip(record['frame_s'], record['frame_s'][1:])]
        assert all(abs(step - 0.1) < 1e-6 for step in steps)
        assert cv2.imread(str(frames[0])).shape == (224, 224, 3)
        assert cv2.imread(str(frames[0])).std() > 5
        assert len(record['poses']) == result['ticks']
        assert record['executed'] and record['result']['metrics']['success'] == 1.0
    assert not list(run[1].glob('*.tmp'))


def test_no_process_is_left(run):
    for pid in run[2]:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_checkpoint_drives_until_the_episode_ends(apartments, tmp_path):
    checkpoint = build(tmp_path / 'tiny', stop_bias=-30.0, execute=2)
    settings = {'sim_bridge': {**SETTINGS['sim_bridge'], 'max_steps': 4}}
    with Graph(str(checkpoint), apartments.data, apartments.split, ['1'],
               parameters=settings) as graph:
        result, = graph.results()
    assert result['ended_by'] == 'max_steps' and not result['error']
    assert len(result['actions']) == 4 and set(result['actions']) <= {1, 2, 3}
    assert all(len(actions) == 2 for _, actions in result['decisions'])


def test_a_missing_split_is_one_clear_error(apartments):
    with Graph('stop', apartments.data, 'moon', ['1'], parameters=SETTINGS) as graph:
        with pytest.raises(GraphError, match=r"ended with code 2.*'moon'.*vlnr1 worlds"):
            list(graph.results())


def test_another_turn_than_the_checkpoints_is_refused(tmp_path):
    from vlnr1_ros.navigation.card import NavigationCard

    NavigationCard().save(tmp_path)
    with pytest.raises(UserError, match='turn_deg is 15.*turns by 30'):
        Graph(str(tmp_path), tmp_path, 'val_unseen', ['1'], turn_deg=15.0)


def test_bridge_parameters_that_make_no_sense_are_one_line_and_code_2(tmp_path):
    done = subprocess.run(
        [sys.executable, '-m', 'sim_bridge.ros.bridge', '--ros-args', '-p', 'camera_hz:=7.0'],
        env=isolated_environment(tmp_path), capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith('error: parameter camera_hz is 7')
    assert 'Traceback' not in done.stderr
