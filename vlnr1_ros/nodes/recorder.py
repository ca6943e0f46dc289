"""The flight recorder node: every run, and on an event the last minutes, as MCAP bags.

    ros2 run vlnr1_ros recorder --ros-args --params-file config/recorder.yaml

It is a process of its own that only listens: whatever happens to it or to its disk, navigator and
driver do not notice. Messages are kept as they came, serialised; a thread writes them, so that a
slow disk delays nothing but the file.
"""
from __future__ import annotations

import json
import queue
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path as FilePath

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import Twist, TwistStamped
from nav_msgs.msg import Odometry, Path
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo, LaserScan
from std_msgs.msg import Bool, String
from std_srvs.srv import SetBool, Trigger

from ..bags.flight import MB, FlightRecorder, Limits
from ..bags.ring import Recorded
from ..bags.values import parse_plan_status
from ..bags.write import Folder
from ..motion.config import check_choices, number
from ..motion.plan import DROPPED, HOLD, REPLACED
from ..navigation.errors import UserError
from ..navigation.run_state import FOLLOWING
from . import messages, navigator_config, runtime
from .lean_executor import LeanExecutor
from .navigator_config import RELIABILITY

IMAGES = {**navigator_config.IMAGES, 'none': None}
VELOCITIES = {'geometry_msgs/msg/Twist': Twist, 'geometry_msgs/msg/TwistStamped': TwistStamped}
KNOWN = {'image_transport': IMAGES, 'reliability': RELIABILITY}
QUEUE, IMAGE_QUEUE = 2000, 100
WAITING_MB = 128      # messages not yet written, beyond which new ones are dropped
TICK_S = 0.1
LOOK_S = 0.3
ANSWER_S = 10.0       # a service waits for the disk
CLOSE_S = 20.0        # to finish what is being written
OK, WARN = 0, 1


@dataclass(frozen=True)
class RecorderConfig:
    """UserError names a value that is none of those known."""

    folder: str = number('recordings', 'where recordings are kept')
    runs: bool = number(True, 'record every run, from its instruction to its end')
    image_transport: str = number('raw', 'raw, compressed, or none')
    reliability: str = number('best_effort', 'QoS of the subscriptions to sensors and velocities: '
                              'best_effort or reliable')
    ring_s: float = number(120.0, 'so much of the past is kept in memory', 's', 5.0, 3600.0)
    ring_mb: int = number(256, 'memory for it; the past is shorter when it does not suffice', 'MB',
                          1, 65536)
    max_run_mb: int = number(4000, 'a recording ends at this size', 'MB', 1, 10**9)
    budget_mb: int = number(20000, 'nothing more is recorded when the folder holds so much', 'MB',
                            1, 10**9)
    min_free_mb: int = number(1000, 'nor when the disk has no more than this left', 'MB', 1,
                              10**9)

    def __post_init__(self):
        check_choices(self, KNOWN)

    @property
    def limits(self) -> Limits:
        """For the flight recorder."""
        return Limits(self.ring_s, self.ring_mb, self.max_run_mb, self.budget_mb,
                      self.min_free_mb, runs=self.runs)


class RecorderNode(Node):
    """ROS side of :class:`vlnr1_ros.bags.flight.FlightRecorder`."""

    def __init__(self, **kwargs):
        super().__init__('recorder', **kwargs)
        self._config = runtime.declare_dataclass(self, RecorderConfig)
        folder = Folder(FilePath(self._config.folder).expanduser())
        self._flight = FlightRecorder(folder, self._config.limits, self._say, (
            self.resolve_topic_name('navigator/state'), self.resolve_topic_name('camera_info')))
        self._todo: queue.SimpleQueue = queue.SimpleQueue()
        self._waiting_bytes = 0
        self._lock = threading.Lock()
        self._dropped = 0
        self._stopped, self._drop_reason = False, ''   # as was said last: news is an event
        self._connect()
        self._thread = threading.Thread(target=self._work, name='writer', daemon=True)
        self._thread.start()
        threading.Thread(target=self._repair, args=(folder,), name='repair', daemon=True).start()
        self.get_logger().info(f'records to {folder.path.resolve()}')

    def _connect(self):
        # Deep queues: what comes while Python is busy elsewhere belongs into the file, also in a
        # simulation that runs many times faster than a robot and waits for no recorder.
        reliable = QoSProfile(depth=QUEUE, reliability=ReliabilityPolicy.RELIABLE)
        latched = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE,
                             durability=DurabilityPolicy.TRANSIENT_LOCAL)
        # Best effort hears everybody and never makes a publisher wait.
        sensor = QoSProfile(depth=QUEUE, reliability=RELIABILITY[self._config.reliability])
        image = QoSProfile(depth=IMAGE_QUEUE, reliability=sensor.reliability)
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', reliable)
        for kind, topic, qos, handler in (
                (String, 'instruction', reliable, self._on_instruction),
                (String, 'navigator/state', latched, self._on_state),
                (Path, 'plan', reliable, None),
                (DiagnosticArray, 'plan_status', reliable, self._on_plan_status),
                (Bool, 'emergency_stop', sensor, self._on_emergency),
                (DiagnosticArray, '/diagnostics', sensor, None),
                (Odometry, 'odom', sensor, None),
                (LaserScan, 'scan', sensor, None),
                (CameraInfo, 'camera_info', sensor, None)):
            self._listen(kind, topic, qos, handler)
        if IMAGES[self._config.image_transport]:
            topic, kind, _ = IMAGES[self._config.image_transport]
            self._listen(kind, topic, image, None)
        self.create_service(Trigger, '~/save', self._on_save)
        self.create_service(SetBool, '~/record', self._on_record)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(1.0, self._on_diagnostics, clock=steady)
        self._look = self.create_timer(
            LOOK_S, lambda: self._look_for_velocity(sensor), clock=steady)

    def _look_for_velocity(self, qos):
        """Listen to cmd_vel once somebody publishes it: only then its type is known."""
        for publisher in self.get_publishers_info_by_topic(self.resolve_topic_name('cmd_vel')):
            kind = VELOCITIES.get(publisher.topic_type)
            if kind is not None:
                self._look.cancel()
                self._listen(kind, 'cmd_vel', qos, None)
                return

    def _listen(self, kind, topic, qos, handler):
        """Let `handler` read every message of a topic, and queue it as it came."""
        name = self.resolve_topic_name(topic)
        kind_name = f'{kind.__module__.split(".")[0]}/msg/{kind.__name__}'

        def heard(data: bytes):
            stamp_ns = runtime.now_ns(self)
            if handler is not None:
                handler(stamp_ns, deserialize_message(data, kind))
            self._put(self._flight.hear, Recorded(name, kind_name, stamp_ns, data),
                      size=len(data))

        self.create_subscription(kind, topic, heard, qos, raw=True)

    # What is heard

    def _on_instruction(self, stamp_ns, message):
        self._put(self._flight.hear_instruction, stamp_ns, message.data)

    def _on_state(self, stamp_ns, message):
        try:
            said = json.loads(message.data)
            active, instruction = said['state'] in FOLLOWING, str(said['instruction'])
        except (ValueError, KeyError, TypeError):
            return   # not our navigator's; it is recorded all the same
        self._put(self._flight.hear_state, stamp_ns, time.monotonic(), active, instruction)

    def _on_plan_status(self, _stamp_ns, message):
        try:
            status = parse_plan_status(message)
        except UserError:
            return
        reason = status.reason if status.state == DROPPED else ''
        if reason not in ('', HOLD, REPLACED, self._drop_reason):
            self._put(self._flight.event, time.monotonic(), f'plan dropped: {reason}')
        self._drop_reason = reason

    def _on_emergency(self, _stamp_ns, message):
        if message.data and not self._stopped:
            self._put(self._flight.event, time.monotonic(), 'emergency stop')
        self._stopped = message.data

    def _on_save(self, _request, response):
        return self._ask(lambda: self._flight.save('~/save'), response)

    def _on_record(self, request, response):
        on = bool(request.data)
        return self._ask(lambda: self._flight.record(on), response)

    def _ask(self, call, response):
        """Let the writer do something; what comes meanwhile waits in the middleware."""
        answers: queue.SimpleQueue = queue.SimpleQueue()
        self._put(lambda: answers.put(call()))
        try:
            response.success, response.message = answers.get(timeout=ANSWER_S)
        except queue.Empty:
            response.success, response.message = False, 'not done yet; the log will tell'
        return response

    # What is done, in a thread of its own

    def _put(self, call, *arguments, size=0):
        with self._lock:
            if size and self._waiting_bytes + size > WAITING_MB * MB:
                self._dropped += 1
                return
            self._waiting_bytes += size
        self._todo.put((call, arguments, size))

    def _work(self):
        while True:
            try:
                call, arguments, size = self._todo.get(timeout=TICK_S)
            except queue.Empty:
                call, arguments, size = None, (), 0
            try:
                if call is not None:
                    with self._lock:
                        self._waiting_bytes -= size
                    call(*arguments)
                    if call == self._flight.close:
                        return
                self._flight.tick(time.monotonic())
            except Exception as error:   # a recorder with a defect goes on recording
                self._flight.trouble = f'exception: {error!r}'
                self.get_logger().error(traceback.format_exc())

    def _repair(self, folder: Folder):
        for name, outcome in folder.repair_all():
            self._say(f'{name} was not finished; {outcome}', 'cannot' in outcome)

    def close(self):
        """Finish what is being written."""
        self._put(self._flight.close)
        self._thread.join(CLOSE_S)

    # What is said

    def _say(self, text: str, trouble: bool):
        logger = self.get_logger()
        if trouble:
            logger.warning(text)
        else:
            logger.info(text)

    def _on_diagnostics(self):
        flight = self._flight
        trouble = flight.trouble or (
            f'{self._dropped} messages were lost: the disk is too slow' if self._dropped else '')
        self._diagnostics.publish(messages.diagnostics(
            self.get_fully_qualified_name(), WARN if trouble else OK,
            trouble or (f'records {flight.recording}' if flight.recording else 'waits for a run'),
            {'recording': flight.recording or 'none', 'trouble': trouble or 'none',
             'recording_mb': f'{flight.bag_bytes / MB:.1f}', 'recordings': flight.recordings,
             'ring_s': f'{flight.ring.length_s:.1f}', 'ring_mb': f'{flight.ring.bytes / MB:.1f}',
             'lost': self._dropped}, runtime.now_ns(self)))


def main(args=None) -> int:
    """Entry point of ``ros2 run vlnr1_ros recorder``."""
    return runtime.run(RecorderNode, args, lambda node: LeanExecutor(context=node.context))


if __name__ == '__main__':
    sys.exit(main())
