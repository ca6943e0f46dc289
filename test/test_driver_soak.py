"""What takes longer than `make test` has: every fault twenty times, the rate beside a decision."""
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from driver_process import DriverProcess, Robot, wait_until
from spun_node import fresh_domain

from sim_bridge.ros.graph import end_with_parent
from vlnr1_ros.navigation.actions import Action

FAULTS = [str(Path(__file__).with_name(f'test_{name}.py'))
          for name in ('driver_faults', 'graph_faults', 'graph_free')]
DECISION = 'import numpy as np; a = np.ones((512, 512), np.float32)\nwhile True: a @ a'
PERIODS = 1000


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.parametrize('run', range(20))
def test_every_fault_again(run):
    done = subprocess.run([sys.executable, '-m', 'pytest', '-q', *FAULTS],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def control_periods_ms(tmp_path, count):
    """(count,) milliseconds between velocities at 50 Hz, beside a process that computes."""
    domain_id = fresh_domain()
    process = DriverProcess(domain_id, {'stamped': True, 'stop_repeat_s': 60.0}, tmp_path, False)
    robot = Robot(domain_id, stamped=True)
    robot.wait_for_driver()
    robot.wait_until_driver_is_content()
    decision = subprocess.Popen([sys.executable, '-c', DECISION], preexec_fn=end_with_parent)
    try:
        robot.send_plan([Action.MOVE_FORWARD, Action.TURN_LEFT] * 20)
        wait_until(lambda: len(robot.commands) > count, 10 * count * 0.02)
    finally:
        decision.kill()
        decision.wait()
        robot.close()
        process.end()
    return np.diff([stamp_ns for _, _, stamp_ns in robot.commands]) * 1e-6


@pytest.mark.soak
def test_the_control_loop_keeps_its_rate_beside_a_decision(tmp_path):
    assert np.percentile(control_periods_ms(tmp_path, PERIODS), 99) < 25.0
