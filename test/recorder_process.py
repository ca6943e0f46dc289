"""The recorder node as a process of its own, beside the processes of a graph."""
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import yaml
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from spun_node import Spun, wait_until

from sim_bridge.ros.graph import Graph, end_with_parent


class RecorderProcess:
    """Records a graph's namespace to a folder; ready when it is made."""

    def __init__(self, graph: Graph, folder: Path, **parameters):
        self.folder = folder
        self._log = graph.folder / f'recorder_{time.monotonic_ns()}.txt'
        given = {'folder': str(folder), 'reliability': 'reliable', 'use_sim_time': True,
                 'min_free_mb': 1, **parameters}
        file = self._log.with_suffix('.yaml')
        file.write_text(yaml.safe_dump({'/**': {'ros__parameters': given}}))
        with open(self._log, 'wb') as log:
            self.process = subprocess.Popen(
                [sys.executable, '-m', 'vlnr1_ros.nodes.recorder', '--ros-args', '-r',
                 f'__ns:={graph.namespace}', '--params-file', str(file)],
                env=graph.environment, stdout=log, stderr=subprocess.STDOUT,
                preexec_fn=end_with_parent)
        wait_until(lambda: 'records to' in self.log or self.process.poll() is not None)
        _wait_for_those_who_speak(graph)
        time.sleep(2.0)   # until they know the recorder too: nobody waits for one

    @property
    def log(self) -> str:
        return self._log.read_text(errors='replace')

    def finished(self, count: int) -> list[Path]:
        """Folders of finished recordings, oldest first, once there are so many."""
        def found():
            return sorted(path for path in self.folder.glob('[!.]*') if path.is_dir())

        wait_until(lambda: len(found()) >= count)
        return found()

    def lost(self) -> int:
        """Messages it says it has lost."""
        return sum(map(int, re.findall(r'(\d+) messages were lost', self.log)))

    def end(self, number: int = signal.SIGINT) -> int:
        """Its exit code after a signal."""
        self.process.send_signal(number)
        return self.process.wait(30)


def _wait_for_those_who_speak(graph: Graph) -> None:
    """Until bridge and navigator are there, whichever of the processes came up first."""
    looking = Spun(int(graph.environment['ROS_DOMAIN_ID']),
                   lambda context: Node('looking', context=context),
                   lambda node: SingleThreadedExecutor(context=node.context))
    for topic in ('instruction', 'odom', 'navigator/state'):
        wait_until(lambda name=f'{graph.namespace}/{topic}': looking.node.count_publishers(name))
    looking.close()
