"""The topics that show obstacles: `scan` and `depth/image_raw` with its camera_info."""
from __future__ import annotations

from sensor_msgs.msg import CameraInfo, Image, LaserScan

from ..motion.config import DEPTH, OBSTACLE_SOURCES, SCAN, DriverConfig
from ..motion.readings import DepthCamera, Readings, defective, scan_readings
from ..navigation.errors import UserError
from . import messages
from .polled import PolledSubscription


class RangeSensors:
    """Subscribes what `obstacle_source` names; only the newest message of each is looked at."""

    def __init__(self, node, config: DriverConfig, qos):
        sources = OBSTACLE_SOURCES[config.obstacle_source]
        self._config = config
        self._camera: DepthCamera | None = None
        self._camera_of: tuple | None = None
        self._info: CameraInfo | None = None
        kinds = {}
        if SCAN in sources:
            kinds['scan'] = LaserScan
        if DEPTH in sources:
            kinds.update({'depth/camera_info': CameraInfo, 'depth/image_raw': Image})
        self._polled = {topic: PolledSubscription(node, kind, topic, qos)
                        for topic, kind in kinds.items()}

    @property
    def topics(self) -> tuple[str, ...]:
        """Names of the topics listened to."""
        return tuple(self._polled)

    def take(self) -> list[tuple[str, int, Readings]]:
        """(source, stamp_ns, readings) of every source heard since the last call."""
        came = {topic: polled.take() for topic, polled in self._polled.items()}
        newest = {topic: queue[-1] for topic, queue in came.items() if queue}
        self._info = newest.get('depth/camera_info', self._info)
        taken = []
        for topic, source, read in (('scan', SCAN, self._read_scan),
                                    ('depth/image_raw', DEPTH, self._read_depth)):
            if topic in newest:
                message = newest[topic]
                try:
                    readings = read(message)
                except UserError as error:
                    readings = defective(str(error))
                taken.append((source, messages.time_ns(message.header.stamp), readings))
        return taken

    def _read_scan(self, message: LaserScan) -> Readings:
        return scan_readings(self._config, message.ranges, message.angle_min,
                             message.angle_increment, message.range_min, message.range_max)

    def _read_depth(self, message: Image) -> Readings:
        if self._info is None:
            return defective('depth/image_raw comes without depth/camera_info')
        k = [float(value) for value in self._info.k]
        seen_by = (self._info.width, self._info.height, k[0], k[4], k[2], k[5])
        if seen_by != self._camera_of:
            self._camera = DepthCamera(self._config, *seen_by)
            self._camera_of = seen_by
        return self._camera.readings(messages.image_depth_m(message))
