"""Faults of the driver while the three processes drive in free run, where nobody waits."""
import os
import signal
import time

import pytest
from fault_graph import ENDED, TICK_S, TIMEOUT_S, FaultGraph
from spun_node import busy_processes, wait_until

EPISODE = 11   # across the apartment, more than 11 m
FREE = {'sim_bridge': {'lockstep': False, 'stamped': True, 'cmd_vel_timeout_s': TIMEOUT_S},
        'driver': {'odom_timeout_s': 0.5, 'heartbeat_timeout_s': 1.0, 'obstacle_timeout_s': 1.0},
        'navigator': {'image_timeout_s': 1.0}}   # generous: the machine may be busy
HELD = 'an empty plan asks to hold'
STARVED = ('s old', 'no plan_status', 'stop')   # how a run may end


@pytest.fixture(scope='module')
def running(apartments, tmp_path_factory):
    graph = FaultGraph(apartments, tmp_path_factory.mktemp('graph'), EPISODE, FREE, waits=False)
    yield graph
    graph.close()


@pytest.fixture
def moving(running):
    """The graph, driving towards its goal."""
    under_way(running)
    return running


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
    # It may have been stopped while it published; a new plan may follow at once.
    wait_until(lambda: len(moving.commands) > began + 1)
    assert (0.0, 0.0) in [c[:2] for c in moving.commands[began:began + 2]], 'the plan is over'
    moving.drive_off()
    moving.limits_hold(began)


def stopped_in_a_plan(graph):
    """Time stands still in the middle of a plan, and all that was said has been heard."""
    while True:
        graph.drive_off()
        graph.held, heard = True, None
        while heard != (heard := (len(graph.commands), len(graph.statuses))):
            time.sleep(0.3)   # a busy machine is slow to hear
        plan = graph.statuses[-1]
        if plan.state in ('accepted', 'running') and graph.commands[-1][0] > 0.15:
            return
        graph.held = False


def test_a_clock_that_jumps_stops_the_base_until_there_is_a_new_plan(running):
    for jump_s in (2.0, -2.0):   # in this order, so that all is as it was before
        stopped_in_a_plan(running)
        began, told, before_ns = len(running.commands), len(running.statuses), running.now_ns
        running.jump(jump_s)
        running.held = False
        # Back, a timer waits a period, in which odometry of the new time comes.
        wait_until(lambda told=told: any(
            'the clock jumped by' in status.reason or 'went back in time' in status.reason
            for status in running.statuses[told:]))

        def after(began=began, before_ns=before_ns):
            return [c for c in running.commands[began:] if abs(c[2] - before_ns) > 1e9]

        wait_until(after)
        assert after()[0][:2] == (0.0, 0.0)
        # Ahead, it may see the time before the image of that time, and ends the run.
        wait_until(lambda told=told, ends=jump_s > 0: running.drives(told)
                   or ends and running.state in ENDED)
        if running.state in ENDED:
            running.navigator_says('s old')


def test_a_starved_processor_breaks_no_limit_and_it_drives_or_says_why(moving):
    began, told = len(moving.commands), len(moving.statuses)
    with busy_processes(2 * os.cpu_count()):
        wait_until(lambda: moving.drives(told) or moving.state in ENDED)
    if moving.state in ENDED:
        assert any(known in moving.states[-1]['reason'] for known in STARVED), moving.states[-1]
    moving.drive_off()
    moving.limits_hold(began)


def test_interrupted_twice_all_end_cleanly_and_the_last_word_is_zero(moving):
    told = len(moving.statuses)
    for _ in range(2):
        for process in moving.processes.values():
            process.send_signal(signal.SIGINT)
        time.sleep(0.02)
    for node, process in moving.processes.items():
        assert process.wait(30) == 0, moving.output(node)
        assert 'Traceback' not in moving.output(node), moving.output(node)
    wait_until(lambda: moving.commands[-1][:2] == (0.0, 0.0))
    # the navigator may have ended first
    wait_until(lambda: any(
        status.state == 'dropped' and ('shutdown' in status.reason or HELD in status.reason)
        for status in moving.statuses[told:]))
    moving.processes.clear()
