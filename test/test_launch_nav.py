"""nav.launch.py for real, where ROS's launch and this package are installed (colcon test).

Run in a sourced workspace: python3 -m pytest test/test_launch_nav.py
"""
import os
import signal
import tempfile
import time
import unittest
from pathlib import Path

import pytest

launch_testing = pytest.importorskip(
    'launch_testing', reason='needs an ament installation: launch_testing')

import rclpy  # noqa: E402
from ament_index_python.packages import get_package_share_directory  # noqa: E402
from launch.actions import IncludeLaunchDescription  # noqa: E402
from launch.launch_description_sources import PythonLaunchDescriptionSource  # noqa: E402
from launch_testing.actions import ReadyToTest  # noqa: E402
from launch_testing.asserts import assertExitCodes  # noqa: E402
from lifecycle_msgs.msg import Transition  # noqa: E402
from lifecycle_msgs.srv import ChangeState, GetState  # noqa: E402

from launch import LaunchDescription  # noqa: E402
from sim_bridge.ros.graph import isolated_environment  # noqa: E402

NAMESPACE = f'vlnr1_launch_{os.getpid()}'
START_S, QUIET_S = 60.0, 3.0


@pytest.mark.launch_test
@launch_testing.parametrize('model, autostart, expected', [
    ('forward', 'true', 'active'), ('forward', 'false', 'unconfigured'),
    ('/nowhere', 'true', 'unconfigured')])
def generate_test_description(model, autostart, expected):
    """Start navigator and driver where no robot can hear them."""
    os.environ.update(isolated_environment(tempfile.mkdtemp()))
    file = Path(get_package_share_directory('vlnr1_ros')) / 'launch' / 'nav.launch.py'
    arguments = {'model': model, 'autostart': autostart, 'namespace': NAMESPACE}
    return LaunchDescription([
        IncludeLaunchDescription(PythonLaunchDescriptionSource(str(file)),
                                 launch_arguments=arguments.items()), ReadyToTest()])


class TestNavigator(unittest.TestCase):
    """What an operator sees."""

    def setUp(self):
        rclpy.init()
        self.node = rclpy.create_node('operator', namespace=NAMESPACE)
        self.get_state = self.node.create_client(GetState, 'navigator/get_state')
        self.change_state = self.node.create_client(ChangeState, 'navigator/change_state')

    def tearDown(self):
        self.node.destroy_node()
        rclpy.shutdown()

    def call(self, client, request):
        """The answer, None if none came: DDS takes a while to notice that a server was killed."""
        self.assertTrue(client.wait_for_service(START_S))
        future = client.call_async(request)
        rclpy.spin_until_future_complete(self.node, future, timeout_sec=2.0)
        return future.result() if future.done() else None

    def state(self):
        answer = self.call(self.get_state, GetState.Request())
        return answer and answer.current_state.label

    def stays(self, state):
        until_s = time.monotonic() + QUIET_S
        while time.monotonic() < until_s:
            self.assertIn(self.state(), (state, None))
            time.sleep(0.2)
        self.wait_for(lambda: self.state() == state)

    def wait_for(self, condition):
        until_s = time.monotonic() + START_S
        while not condition():
            self.assertLess(time.monotonic(), until_s)
            time.sleep(0.1)

    def test_who_is_active_and_who_is_not_after_a_kill(self, expected):
        self.wait_for(lambda: self.state() == expected)
        self.stays(expected)
        killed = process_id()
        os.kill(killed, signal.SIGKILL)
        self.wait_for(lambda: process_id() not in (None, killed))
        self.wait_for(lambda: self.state() == 'unconfigured')
        self.stays('unconfigured')
        if expected == 'active':
            self.call(self.change_state, ChangeState.Request(
                transition=Transition(id=Transition.TRANSITION_CONFIGURE)))
            self.wait_for(lambda: self.state() != 'unconfigured')
            self.stays('inactive')


def process_id():
    """Process id of the navigator, None while there is none."""
    for file in Path('/proc').glob('[0-9]*/cmdline'):
        try:
            words = file.read_bytes().split(b'\0')
        except OSError:
            continue
        if {b'__node:=navigator', f'__ns:=/{NAMESPACE}'.encode()} <= set(words):
            return int(file.parent.name)
    return None


@launch_testing.post_shutdown_test()
class TestEnd(unittest.TestCase):
    """Of the launch."""

    def test_every_process_ended_well_but_the_killed_one(self, proc_info):
        assertExitCodes(proc_info, allowable_exit_codes=[0, -signal.SIGKILL])
