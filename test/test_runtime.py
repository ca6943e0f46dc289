"""How a node's process ends."""
import subprocess
import sys

import pytest

from sim_bridge.ros.graph import isolated_environment

PROGRAM = """
import os, signal, sys, time
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from std_msgs.msg import String
from vlnr1_ros.nodes import runtime

class Teller(Node):
    def __init__(self):
        super().__init__('teller')
        self.said = self.create_publisher(String, 'said', 1)
        self.create_timer(0.01, self.tell)

    def tell(self):
        {}
        self.said.publish(String())

sys.exit(runtime.run(Teller, make_executor=lambda node: SingleThreadedExecutor()))
"""
INTERRUPTED = """os.kill(os.getpid(), signal.SIGTERM)
        while rclpy.ok():
            time.sleep(0.01)"""


@pytest.mark.parametrize('callback, code, told', [
    (INTERRUPTED, 0, ''),
    ("raise RuntimeError('a defect')", 1, 'a defect'),
])
def test_a_callback_that_meets_the_closed_context_is_no_defect(tmp_path, callback, code, told):
    ended = subprocess.run([sys.executable, '-c', PROGRAM.format(callback)], text=True, timeout=60,
                           capture_output=True, env=isolated_environment(tmp_path))
    assert ended.returncode == code, ended.stderr
    assert (told in ended.stderr) if told else ended.stderr == ''
