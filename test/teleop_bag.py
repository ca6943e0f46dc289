"""Bags as `ros2 bag record` writes them of somebody who drives a robot by hand."""
from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from vlnr1_ros.motion.plan import Pose, encode
from vlnr1_ros.navigation.actions import ActionSet

START_NS = 1_700_000_000_000_000_000
STEP_S, ODOM_S, IMAGE_S = 1.0, 0.05, 0.1   # a primitive takes STEP_S
ACTIONS, PLACE = ActionSet(), Pose(1.0, 2.0, 0.5)
STORE = get_typestore(Stores.ROS2_HUMBLE)
T = STORE.types


class Said(NamedTuple):
    """A message at a time in seconds since the beginning."""

    at_s: float
    topic: str
    kind: str
    message: object


def header(at_s, frame_id):
    seconds, nanoseconds = divmod(START_NS + round(at_s * 1e9), 10**9)
    return T['std_msgs/msg/Header'](T['builtin_interfaces/msg/Time'](seconds, nanoseconds),
                                    frame_id)


def odometry(at_s, pose: Pose):
    point, quaternion = T['geometry_msgs/msg/Point'], T['geometry_msgs/msg/Quaternion']
    vector = T['geometry_msgs/msg/Vector3'](0.0, 0.0, 0.0)
    return T['nav_msgs/msg/Odometry'](
        header(at_s, 'odom'), 'base_link',
        T['geometry_msgs/msg/PoseWithCovariance'](T['geometry_msgs/msg/Pose'](
            point(pose.x_m, pose.y_m, 0.0),
            quaternion(0.0, 0.0, math.sin(pose.yaw_rad / 2), math.cos(pose.yaw_rad / 2))),
            np.zeros(36)),
        T['geometry_msgs/msg/TwistWithCovariance'](
            T['geometry_msgs/msg/Twist'](vector, vector), np.zeros(36)))


def picture(number, size=(64, 48)):
    """(H, W, 3) uint8, another one for every number."""
    small = np.random.default_rng(number).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(small, size, interpolation=cv2.INTER_LINEAR)


def raw_image(at_s, rgb):
    return T['sensor_msgs/msg/Image'](header(at_s, 'camera'), rgb.shape[0], rgb.shape[1], 'rgb8',
                                      0, rgb.shape[1] * 3, rgb.reshape(-1))


def jpeg(at_s, rgb):
    data = cv2.imencode('.jpg', rgb[:, :, ::-1])[1].reshape(-1)
    return T['sensor_msgs/msg/CompressedImage'](header(at_s, 'camera'), 'jpeg', data)


def camera_info(at_s, width=64, height=48, fx=20.0):
    roi = T['sensor_msgs/msg/RegionOfInterest'](0, 0, 0, 0, False)
    return T['sensor_msgs/msg/CameraInfo'](
        header(at_s, 'camera'), height, width, 'plumb_bob', np.zeros(5),
        np.array([fx, 0, width / 2, 0, fx, height / 2, 0, 0, 1]), np.eye(3).reshape(-1),
        np.zeros(12), 0, 0, roi)


def driven(actions, action_set=ACTIONS, start=PLACE):
    """Function from seconds to the pose of a base that executes the actions one a STEP_S."""
    poses = encode(start, actions, action_set)

    def at(seconds):
        k = min(max(seconds / STEP_S, 0.0), len(actions) - 1e-9) if actions else 0.0
        first, last, share = poses[int(k)], poses[min(int(k) + 1, len(actions))], k % 1
        turn = math.remainder(last.yaw_rad - first.yaw_rad, 2 * math.pi)
        return Pose(first.x_m + share * (last.x_m - first.x_m),
                    first.y_m + share * (last.y_m - first.y_m), first.yaw_rad + share * turn)

    return at


def teleoperated(actions, sentence='stop by the lamp', compressed=False, rest_s=1.0,
                 action_set=ACTIONS) -> list[Said]:
    """A sentence, the run, and a while of standing still."""
    end_s, at = len(actions) * STEP_S + rest_s, driven(actions, action_set)
    text = 'std_msgs/msg/String'
    said = [Said(-0.5, '/instruction', text, T[text](sentence))] if sentence else []
    said += [Said(k * ODOM_S, '/odom', 'nav_msgs/msg/Odometry',
                  odometry(k * ODOM_S, at(k * ODOM_S))) for k in range(round(end_s / ODOM_S))]
    make, kind, topic = (jpeg, 'CompressedImage', '/camera/image_raw/compressed') if compressed \
        else (raw_image, 'Image', '/camera/image_raw')
    for k in range(round(end_s / IMAGE_S)):
        said.append(Said(k * IMAGE_S, '/camera/camera_info', 'sensor_msgs/msg/CameraInfo',
                         camera_info(k * IMAGE_S)))
        said.append(Said(k * IMAGE_S, topic, f'sensor_msgs/msg/{kind}',
                         make(k * IMAGE_S, picture(k))))
    return said


def write(path, said, storage=StoragePlugin.SQLITE3):
    """The bag's folder; messages are recorded 3 ms after they were stamped."""
    with Writer(path, version=8, storage_plugin=storage) as writer:
        connections = {}
        for at_s, topic, kind, message in sorted(said, key=lambda s: s.at_s):
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=STORE)
            writer.write(connections[topic], START_NS + round(at_s * 1e9) + 3_000_000,
                         STORE.serialize_cdr(message, kind))
    return path
