"""The robot around an environment: its wheels, its odometry and its camera, and their topics."""
from __future__ import annotations

from typing import Callable

from rclpy.node import Node

from sim_bridge import frames
from sim_bridge.client import RemoteEnvironment
from sim_bridge.config import MAX_DEPTH_M
from sim_bridge.environment import Environment, Observation
from sim_bridge.ros.camera import CameraInStep, FreeCamera, Picture
from sim_bridge.ros.imperfections import Shutter, WheelOdometry, Wheels
from sim_bridge.ros.parameters import BridgeParameters
from sim_bridge.ros.topics import Topics


class Body:
    """Knows how imperfect they are; the environment's own pose is the true one.

    send: called with every Picture that leaves the camera, in free run by the camera's thread.
    """

    def __init__(self, node: Node, given: BridgeParameters,
                 environment: Environment | RemoteEnvironment,
                 send: Callable[[Picture], None], now_ns: Callable[[], int]):
        self._given = given
        self.topics = Topics(node, given.camera, given.reliable_images, given.depth, given.scan,
                             MAX_DEPTH_M)
        self.camera = CameraInStep(environment) if given.lockstep else FreeCamera(
            given.environment, given.habitat_python, send, now_ns)

    def begin(self, episode_id: str) -> None:
        """Stand where an episode starts; the camera may need some time until it is ready."""
        drawn = self._given.imperfections, self._given.seed, episode_id
        self._wheels = Wheels(*drawn, self._given.tick_ns * 1e-9)
        self._odometry = WheelOdometry(*drawn)
        self.camera.begin(episode_id, Shutter(*drawn))
        self.topics.moved_by_hand()

    def drive(self, linear_m_s: float, angular_rad_s: float) -> tuple[float, float]:
        """What the base does in the next tick when that is commanded."""
        return self._wheels.drive(linear_m_s, angular_rad_s)

    def feel(self, stamp_ns: int, seen: Observation) -> Callable[[], None]:
        """Publish the clock and odometry of where the base is; returns what publishes them again.

        To be called once a tick.
        """
        told = self._odometry.measure(*frames.to_ros(seen.x, seen.z, seen.yaw_rad),
                                      self._wheels.slip)

        def say():
            self.topics.clock_and_odometry(stamp_ns, told, seen.y, self._given.tick_ns * 1e-9)

        say()
        return say
