"""Depth, scan and frames against the geometry of a small room."""
import math
from dataclasses import replace

import numpy as np
import pytest
from geometry_msgs.msg import TransformStamped
from nav_msgs.msg import Odometry
from small_scenes import RED, box, episode, room, write_split, write_stage

from sim_bridge.config import MAX_DEPTH_M, EnvironmentConfig
from sim_bridge.environment import Environment
from sim_bridge.ros.scan import DepthScan, with_infinities
from sim_bridge.ros.transforms import OPTICAL_XYZW, base_in_odom, camera_mount
from vlnr1_ros.navigation.camera import Camera

CAMERA = Camera(160, 120, 90.0, 0.8)
AHEAD_M, LEFT_M, RIGHT_M = 4.0, 1.5, 2.5
LOW_M, HIGH_M = 0.1, 1.3


@pytest.fixture(scope='module')
def environment(tmp_path_factory):
    """A camera at the origin that looks along -z; walls at AHEAD_M, LEFT_M and RIGHT_M.

    Before the wall stands a red box of 0.6 x 0.3 x 0.4 m, its front 2 m ahead; a lintel hangs
    across the room 1.5 m ahead, and a doorstep of 4 cm lies there.
    """
    folder = tmp_path_factory.mktemp('scan')
    meshes = [*room(-LEFT_M, -AHEAD_M, RIGHT_M, 3.0),
              box('box', (-0.3, 0.0, -2.4), (0.3, 0.3, -2.0), RED),
              box('lintel', (-LEFT_M, 1.6, -1.6), (RIGHT_M, 2.5, -1.5)),
              box('step', (-LEFT_M, 0.0, -1.6), (RIGHT_M, 0.04, -1.5))]
    write_stage(folder / 'scenes' / 'small', 'room', meshes)
    write_split(folder / 'data', 'val', [episode(1, 'small/room.glb', (0, 0, 0), 0.0,
                                                 [(0, 0, -1)])])
    environment = Environment(EnvironmentConfig(
        dataset=str(folder / 'data'), split='val', scenes_dir=str(folder / 'scenes'),
        camera=CAMERA, depth=True, measures=False, simulator='embedded'))
    environment.reset('1')
    yield environment
    environment.close()


def depth_at(environment, yaw_rad=0.0):
    return with_infinities(environment.look(0.0, 0.0, 0.0, yaw_rad).depth, MAX_DEPTH_M)


def wall_range(angle_rad):
    """Distance to the walls in a direction, positive to the left."""
    ahead, left = math.cos(angle_rad), math.sin(angle_rad)
    return min(AHEAD_M / ahead, (LEFT_M / left if left > 0 else RIGHT_M / -left) if left
               else math.inf)


def test_depth_is_metres_along_the_axis(environment):
    depth_m = depth_at(environment)
    assert depth_m.dtype == np.float32
    assert depth_m[60, 50] == pytest.approx(AHEAD_M, abs=1e-3)
    floor_row = 110
    below = (floor_row + 0.5 - 60) / CAMERA.fx
    assert depth_m[floor_row, 80] == pytest.approx(0.8 / below, abs=1e-3)


def test_the_scan_is_the_room(environment):
    scan = DepthScan(CAMERA, LOW_M, HIGH_M, MAX_DEPTH_M)
    ranges = scan.ranges(depth_at(environment))
    assert ranges.shape == (scan.beams,)
    assert scan.angle_min_rad == -scan.angle_max_rad
    assert scan.angle_max_rad + scan.increment_rad / 2 == pytest.approx(math.pi / 4)
    angles = scan.angle_min_rad + scan.increment_rad * np.arange(scan.beams)
    slack = scan.increment_rad
    on_box = np.abs(np.tan(angles)) < 0.3 / 2.0 - slack
    beside = np.abs(np.tan(angles)) > 0.3 / 2.0 + slack
    assert on_box.sum() > 10
    np.testing.assert_allclose(ranges[on_box], 2.0 / np.cos(angles[on_box]), atol=0.01)
    for angle, found in zip(angles[beside], ranges[beside]):
        near = [wall_range(angle + k * slack) for k in (-0.5, 0, 0.5)]
        assert min(near) - 0.01 <= found <= max(near) + 0.01, math.degrees(angle)
    assert ranges[-1] < ranges[0], 'the left wall is nearer, and the last beam is leftmost'


def test_beams_hit_what_is_between_the_heights_only(environment):
    depth_m = depth_at(environment)
    centre = DepthScan(CAMERA, 0.0, 0.03, MAX_DEPTH_M).ranges(depth_m)
    assert centre[len(centre) // 2] < 1.6, 'the doorstep'
    above = DepthScan(CAMERA, 0.35, HIGH_M, MAX_DEPTH_M).ranges(depth_m)
    assert above[len(above) // 2] == pytest.approx(AHEAD_M, abs=0.01), 'over the box'
    lintel = DepthScan(CAMERA, 1.65, 1.75, MAX_DEPTH_M).ranges(depth_m)
    assert lintel[len(lintel) // 2] == pytest.approx(1.5, abs=0.01)


def test_what_is_too_far_or_not_there_is_infinite(environment):
    depth_m = depth_at(environment, math.pi / 2)
    near = DepthScan(CAMERA, LOW_M, HIGH_M, 1.0).ranges(depth_m)
    assert np.isposinf(near).all()
    raw = np.array([[0.0, 3.0, MAX_DEPTH_M, 12.0]], np.float32)
    np.testing.assert_array_equal(with_infinities(raw, MAX_DEPTH_M)[0],
                                  [np.inf, 3.0, np.inf, np.inf])
    nothing = DepthScan(CAMERA, LOW_M, HIGH_M, MAX_DEPTH_M).ranges(
        np.full((120, 160), np.inf, np.float32))
    assert np.isposinf(nothing).all()


@pytest.mark.parametrize('width, hfov_deg', [(16, 170.0), (17, 90.0), (224, 90.0), (640, 57.0)])
def test_no_beam_is_without_a_column(width, hfov_deg):
    camera = Camera(width, 9, hfov_deg, 1.0)
    scan = DepthScan(camera, 0.5, 1.5, 1e6)
    ranges = scan.ranges(np.full((9, width), 2.0, np.float32))
    angles = scan.angle_min_rad + scan.increment_rad * np.arange(scan.beams)
    edges = np.cos(np.minimum(np.abs(angles) + scan.increment_rad / 2,
                              math.radians(hfov_deg) / 2))
    assert (ranges <= 2.0 / edges + 1e-3).all() and (ranges >= 2.0 - 1e-3).all()


def test_a_pitched_camera_sees_more_floor(environment):
    config = environment.config
    down = Environment(replace(config, camera_pitch_deg=-30.0))
    down.reset('1')
    depth_m = depth_at(down)
    down.close()
    # The ray of the image's middle row meets the floor 0.8 / sin(30 deg) away.
    assert (depth_m[59, 10] + depth_m[60, 10]) / 2 == pytest.approx(1.6, abs=0.02)


def rotated(rotation, vector):
    """A vector in the parent's frame."""
    w, axis = rotation.w, np.array([rotation.x, rotation.y, rotation.z])
    return vector + 2 * np.cross(axis, np.cross(axis, vector) + w * np.asarray(vector))


def test_frames_of_the_camera():
    body, optical = camera_mount(0.8)
    assert isinstance(body, TransformStamped)
    assert (body.header.frame_id, body.child_frame_id) == ('base_link', 'camera_link')
    assert (optical.header.frame_id, optical.child_frame_id) == ('camera_link',
                                                                 'camera_optical_frame')
    assert body.transform.translation.z == 0.8 and body.transform.rotation.w == 1.0
    assert np.linalg.norm(OPTICAL_XYZW) == 1.0
    rotation = optical.transform.rotation
    np.testing.assert_allclose(rotated(rotation, np.array([0, 0, 1.0])), [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(rotated(rotation, np.array([1.0, 0, 0])), [0, -1, 0], atol=1e-12)
    np.testing.assert_allclose(rotated(rotation, np.array([0, 1.0, 0])), [0, 0, -1], atol=1e-12)


def test_the_frame_of_the_base_is_that_of_its_odometry():
    odometry = Odometry(child_frame_id='base_link')
    odometry.header.frame_id = 'odom'
    odometry.header.stamp.sec = 12
    odometry.pose.pose.position.x, odometry.pose.pose.position.y = 1.5, -2.0
    odometry.pose.pose.orientation.z, odometry.pose.pose.orientation.w = 0.6, 0.8
    moved = base_in_odom(odometry)
    assert (moved.header.frame_id, moved.child_frame_id) == ('odom', 'base_link')
    assert moved.header.stamp.sec == 12
    translation, rotation = moved.transform.translation, moved.transform.rotation
    assert (translation.x, translation.y, rotation.z, rotation.w) == (1.5, -2.0, 0.6, 0.8)
