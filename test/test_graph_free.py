"""Faults of the driver while the three processes drive in free run, where nobody waits."""
import os
import signal
import time

import pytest
from fault_graph import TICK_S, TIMEOUT_S, FaultGraph
from spun_node import wait_until

EPISODE = 11   # across the apartment, more than 11 m
FREE = {'sim_bridge': {'lockstep': False, 'stamped': True, 'cmd_vel_timeout_s': TIMEOUT_S},
        'driver': {'odom_timeout_s': 0.5, 'heartbeat_timeout_s': 1.0, 'obstacle_timeout_s': 1.0},
        'navigator': {'image_timeout_s': 1.0}}   # generous: the machine may be busy


@pytest.fixture
def moving(apartments, tmp_path):
    """The graph, driving towards its goal."""
    graph = FaultGraph(apartments, tmp_path, EPISODE, FREE, waits=False)
    under_way(graph)
    yield graph
    graph.close()


def under_way(graph):
    """Drive off, until the base is seen to move."""
    graph.drive_off()
    wait_until(lambda: graph.poses[max(graph.poses)][1] > 0.1)


def newest(graph):
    """Stamp of the newest odometry, when nothing is under way any more."""
    while True:
        stamp_ns = max(graph.poses)
        time.sleep(0.2)
        if stamp_ns == max(graph.poses):
            return stamp_ns


def stands_after(graph, began_ns, within_s):
    """The base does not move any more so much later, for a second."""
    limit_ns = began_ns + int(within_s * 1e9)
    wait_until(lambda: max(graph.poses) > limit_ns + 10**9)
    told = sorted((stamp_ns, *rest) for stamp_ns, rest in graph.poses.items()
                  if began_ns - 10**8 < stamp_ns)
    before = [pose for stamp_ns, pose, _, _ in told if stamp_ns <= began_ns]
    after = {pose for stamp_ns, pose, _, _ in told if stamp_ns >= limit_ns}
    assert before[0] not in after, 'it moved before'
    assert len(after) == 1, 'it stands'


def test_a_driver_that_dies_or_hangs_is_outlived_by_the_base_which_stops(moving):
    bridge, driver = (moving.processes[node] for node in ('sim_bridge', 'driver'))
    os.kill(bridge.pid, signal.SIGSTOP)   # only to know what it had heard until then
    driver.kill()
    driver.wait()
    began_ns = newest(moving)
    os.kill(bridge.pid, signal.SIGCONT)
    # A tick to take what was under way, one to find it too old, one until odometry shows it.
    stands_after(moving, began_ns, TIMEOUT_S + 3 * TICK_S)
    wait_until(lambda: 'no plan_status' in moving.states[-1]['reason'])
    began = len(moving.commands)
    moving.start('driver')
    wait_until(lambda: moving.told['driver'].get('odometry_age_s', 'inf') != 'inf'
               and moving.stop.service_is_ready())
    time.sleep(1.0)
    assert {command[:2] for command in moving.commands[began:]} <= {(0.0, 0.0)}, 'it waits'
    under_way(moving)
    driver = moving.processes['driver']
    os.kill(bridge.pid, signal.SIGSTOP)
    os.kill(driver.pid, signal.SIGSTOP)
    began_ns = newest(moving)
    os.kill(bridge.pid, signal.SIGCONT)
    stands_after(moving, began_ns, TIMEOUT_S + 3 * TICK_S)
    began = len(moving.commands)
    os.kill(driver.pid, signal.SIGCONT)
    wait_until(lambda: len(moving.commands) > began)
    assert moving.commands[-1][:2] == (0.0, 0.0), 'the old plan is over'
    moving.drive_off()
    moving.limits_hold(began)


def test_interrupted_twice_all_end_cleanly_and_the_last_word_is_zero(moving):
    for _ in range(2):
        for process in moving.processes.values():
            process.send_signal(signal.SIGINT)
        time.sleep(0.02)
    for node, process in moving.processes.items():
        assert process.wait(30) == 0, moving.output(node)
        assert 'Traceback' not in moving.output(node), moving.output(node)
    wait_until(lambda: moving.commands[-1][:2] == (0.0, 0.0))
    moving.processes.clear()
