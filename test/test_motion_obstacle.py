"""Obstacles ahead: what sensors say, what the footprint would touch, and no contact ever."""
import math
from dataclasses import replace

import numpy as np
import pytest
from motion_loop import PERIOD_NS, Base
from motion_sight import BrakingBase, SeeingLoop, ahead_of

from vlnr1_ros.motion.config import DEPTH, SCAN, DriverConfig
from vlnr1_ros.motion.footprint import Footprint
from vlnr1_ros.motion.obstacle import Obstacles
from vlnr1_ros.motion.plan import Pose
from vlnr1_ros.motion.readings import DepthCamera, Readings, scan_readings
from vlnr1_ros.navigation.actions import Action
from vlnr1_ros.navigation.errors import UserError

F, L, R = Action.MOVE_FORWARD, Action.TURN_LEFT, Action.TURN_RIGHT
BOX = '[[0.4, 0.2], [0.4, -0.2], [-0.2, -0.2], [-0.2, 0.2]]'
NS = 10**9


def way(outline, point, linear=0.3, angular=0.0, within_m=2.0, count=1):
    return outline.way_to_contact_m(np.array([point], float), linear, angular, within_m, count)


@pytest.mark.parametrize('point, distance_m', [
    ((1.0, 0.0), 0.6), ((0.0, -1.0), 0.8), ((0.0, 0.0), -0.2), ((0.35, 0.0), -0.05)])
def test_a_polygon_knows_what_is_inside(point, distance_m):
    corners = [[0.4, 0.2], [0.4, -0.2], [-0.2, -0.2], [-0.2, 0.2]]
    for order in (corners, corners[::-1], corners[2:] + corners[:2]):
        outline = Footprint.of(0.1, str([list(map(float, corner)) for corner in order]))
        assert outline.distance_m(*map(np.array, point)) == pytest.approx(distance_m)


@pytest.mark.parametrize('text', [
    'round', '[[0, 0], [1, 0]]', '[1, 2, 3]', '[[0, 0], [1, 0], [0, NaN]]', '{}',
    '[[0, 0], [2, 0], [2, 2], [1, 0.5], [0, 2]]',
    '[[0, 1], [0.6, -0.8], [-1, 0.3], [1, 0.3], [-0.6, -0.8]]'])
def test_a_footprint_that_is_none_is_refused(text):
    with pytest.raises(UserError, match='footprint'):
        DriverConfig(footprint=text)


def test_the_way_ahead_ends_where_the_outline_touches():
    assert way(Footprint.of(0.2), (1.0, 0.0)) == pytest.approx(0.8, abs=0.03)
    assert way(Footprint.of(0.2), (1.0, 0.21)) is None, 'passes beside it'
    assert way(Footprint.of(0.2), (-0.5, 0.0)) is None, 'behind'
    assert way(Footprint.of(0.2, BOX), (1.0, 0.19)) == pytest.approx(0.6, abs=0.03)
    assert way(Footprint.of(0.2), (1.0, 0.0), within_m=0.5) is None, 'too far to matter'


def test_a_turn_on_the_spot_sweeps_only_the_corners_of_a_base_that_is_not_round():
    corner, beside = (0.0, 0.3), (-0.35, 0.0)
    for point in (corner, beside):
        assert way(Footprint.of(0.25), point, 0.0, 1.0) is None
    outline = Footprint.of(0.2, BOX)
    assert outline.reach_m == pytest.approx(math.hypot(0.4, 0.2))
    first = way(outline, corner, 0.0, 1.0)
    yaw = first / outline.reach_m
    turned = (math.sin(yaw) * 0.3, math.cos(yaw) * 0.3)
    assert abs(outline.distance_m(*map(np.array, turned))) < 0.02
    assert way(outline, corner, 0.0, -1.0) > first, 'the other way round it comes later'


def test_an_arc_is_looked_along_not_the_tangent():
    radius_m = 1.0
    on_arc = (radius_m * math.sin(1.0), radius_m * (1 - math.cos(1.0)))
    outline = Footprint.of(0.1)
    assert way(outline, on_arc, 0.3, 0.3) == pytest.approx(0.9 * 1.1, abs=0.05)
    assert way(outline, on_arc, 0.3, 0.0) is None
    assert way(outline, on_arc, 0.3, -0.3) is None


def test_one_may_leave_what_one_touches_but_not_push_it():
    outline = Footprint.of(0.2)
    assert way(outline, (0.19, 0.0)) == pytest.approx(0.02)
    assert way(outline, (-0.19, 0.0)) is None
    assert way(outline, (0.19, 0.0), 0.0, 1.0) is None


def test_few_points_are_no_obstacle():
    outline = Footprint.of(0.2)
    points = np.array([[0.5, 0.0], [0.7, 0.0], [0.9, 0.0]])
    assert outline.way_to_contact_m(points, 0.3, 0.0, 2.0, 2) == pytest.approx(0.5, abs=0.03)
    assert outline.way_to_contact_m(points, 0.3, 0.0, 2.0, 4) is None


def test_beams_by_rep_117():
    ranges = [1.0, math.inf, math.nan, -math.inf, 0.0, 9.0, 2.0]
    got = scan_readings(DriverConfig(), ranges, -0.3, 0.1, 0.05, 8.0)
    assert (got.measured, got.returns) == (4, 3)
    assert np.hypot(*got.points.T) == pytest.approx([1.0, 0.05, 2.0])
    assert np.arctan2(got.points[2, 1], got.points[2, 0]) == pytest.approx(0.3)
    assert scan_readings(DriverConfig(), [1.0], math.nan, 0.1, 0.05, 8.0).defect
    for nothing in ([], [math.nan] * 9, [0.0] * 9):
        assert scan_readings(DriverConfig(), nothing, 0.0, 0.1, 0.05, 8.0).measured == 0
    assert scan_readings(DriverConfig(), [1.0], 0.0, 0.1, math.nan, 8.0).measured == 0


def test_the_scanner_stands_where_the_parameters_say():
    config = DriverConfig(scan_x_m=0.2, scan_y_m=-0.1, scan_yaw_deg=90.0)
    got = scan_readings(config, [1.0, 1.0], 0.0, -math.pi / 2, 0.05, 8.0)
    assert got.points == pytest.approx(np.array([[0.2, 0.9], [1.2, -0.1]]))


def depth_of_wall(config, width, height, fx, wall_x_m):
    """Depth image of the floor and a wall across the way."""
    right = (np.arange(width) - width / 2)[None, :] / fx
    down = (np.arange(height) - height / 2)[:, None] / fx
    pitch, yaw = math.radians(config.depth_pitch_deg), math.radians(config.depth_yaw_deg)
    ahead = math.cos(pitch) - math.sin(pitch) * down
    up = -math.sin(pitch) - math.cos(pitch) * down
    x = math.cos(yaw) * ahead + math.sin(yaw) * right
    with np.errstate(divide='ignore'):
        floor = np.where(up < 0, config.depth_z_m / -up, np.inf)
        wall = np.where(x > 0, (wall_x_m - config.depth_x_m) / x, np.inf)
    return np.minimum(wall, floor + 0 * right).astype(np.float32)


@pytest.mark.parametrize('mount', [
    {}, {'depth_pitch_deg': 20.0, 'depth_x_m': 0.15}, {'depth_yaw_deg': 30.0, 'depth_z_m': 0.4}])
@pytest.mark.parametrize('size', [(640, 480, 400.0), (64, 48, 40.0)])
def test_a_depth_image_shows_the_wall_and_not_the_floor(mount, size):
    config = DriverConfig(**mount)
    width, height, fx = size
    depth_m = depth_of_wall(config, width, height, fx, 1.5)
    got = DepthCamera(config, width, height, fx, fx, width / 2, height / 2).readings(depth_m)
    assert got.points[:, 0] == pytest.approx(1.5, abs=1e-3)
    assert len(got.points) > 100 and got.returns > len(got.points)
    for nothing in (np.nan, 0.0):
        got = DepthCamera(config, width, height, fx, fx, 0, 0).readings(
            np.full((height, width), nothing, np.float32))
        assert (got.measured, len(got.points)) == (0, 0)


def test_a_depth_camera_that_is_none_is_refused():
    with pytest.raises(UserError, match='calibrate'):
        DepthCamera(DriverConfig(), 64, 48, 0.0, 0.0, 32, 24)
    camera = DepthCamera(DriverConfig(), 64, 48, 40.0, 40.0, 32, 24)
    assert '32x24' in camera.readings(np.ones((24, 32), np.float32)).defect


def test_what_was_seen_stays_where_it_is_while_the_base_moves_on():
    config = DriverConfig(obstacle_source='both')
    obstacles = Obstacles(config)
    obstacles.hear_pose(1 * NS, Pose(5.0, 5.0, math.pi / 2))
    obstacles.hear_pose(2 * NS, Pose(5.0, 6.0, math.pi / 2))
    point = Readings(np.repeat([[1.45, 0.0]], 20, axis=0), 20, 20)
    obstacles.hear(2 * NS, SCAN, 1 * NS, point)   # a metre ago: now it is 0.45 m ahead
    assert obstacles.ahead(Pose(5.0, 6.0, math.pi / 2), 0.3, 0.0) == (
        'obstacle 0.26 m ahead, seen by scan')
    assert obstacles.ahead(Pose(5.0, 6.0, 0.0), 0.3, 0.0) is None
    obstacles.hear(2 * NS, DEPTH, 2 * NS, point)
    assert 'depth' in obstacles.ahead(Pose(5.0, 7.0, math.pi / 2), 0.3, 0.0)


LOOKING = DriverConfig(obstacle_source='scan')


def driving(config=LOOKING, **kwargs):
    loop = SeeingLoop(config, centres=[(100.0, 100.0), (2.0, 2.0)], radii=[0.1, 0.1], **kwargs)
    loop.plan([F] * 6)
    loop.tick(40)
    assert loop.driver.moving and loop.commands[-1][0] > 0.2, loop.states()
    return loop


def stops(loop, reason, within_s):
    ticks = 0
    while loop.commands[-1] != (0.0, 0.0):
        loop.tick()
        ticks += 1
        assert ticks * PERIOD_NS * 1e-9 <= within_s + 0.04 + 1e-9
    last = loop.states()[-1]
    assert last.state == 'dropped' and reason in last.reason
    loop.tick(10)
    assert set(loop.commands[-10:]) == {(0.0, 0.0)}, 'and stays'
    for _ in range(5):   # asked again and again, it ends up before the obstacle, if there is one
        loop.plan([F])
        loop.tick(100)
        assert not loop.driver.moving
    assert reason in loop.states()[-1].reason


def test_a_scan_that_falls_silent():
    loop = driving()
    loop.spoil = lambda ranges: None
    stops(loop, 'the scan is silent', LOOKING.obstacle_timeout_s + 5 * 0.02)
    loop.spoil = lambda ranges: ranges
    loop.tick(20)
    loop.plan([F])
    loop.tick(10)
    assert loop.commands[-1][0] > 0.0, 'a new plan goes on'


@pytest.mark.parametrize('value, reason', [(math.nan, 'measures nothing'),
                                           (0.0, 'measures nothing'), (math.inf, 'sees nothing')])
def test_a_scan_of_nothing(value, reason):
    loop = driving()
    loop.spoil = lambda ranges: np.full_like(ranges, value)
    stops(loop, reason, 9 * 0.02)


def test_a_large_hall_is_free_space_if_one_says_so():
    loop = driving(replace(LOOKING, stop_on_empty_scan=False))
    loop.spoil = lambda ranges: np.full_like(ranges, math.inf)
    loop.run()
    assert loop.states()[-1].state == 'done'


def test_an_obstacle_that_appears_ahead_stops_and_a_turn_away_from_it_does_not():
    loop = driving()
    loop.centres[0] = ahead_of(loop.base.pose, 0.2 + 0.15 + 0.1)
    stops(loop, 'obstacle', 9 * 0.02)
    assert loop.clearance_m(LOOKING.outline()) == pytest.approx(LOOKING.stop_distance_m, abs=0.05)
    loop.tick(20)
    loop.states()
    loop.plan([L, L, L, F])
    loop.run()
    assert loop.states()[-1].state == 'done'


def test_odometry_that_jumped_makes_what_was_seen_worthless():
    loop = driving()
    loop.base.pose = loop.base.pose.moved(1.0, 0.0)
    loop.spoil = lambda ranges: None
    loop.pending = type(loop.pending)([None] * len(loop.pending))
    loop.tick(1)
    loop.tick(20)
    loop.plan([F])
    assert loop.states()[-1].reason == 'no scan yet'


def approach(seed):
    """The smallest clearance on a drive at full speed towards something in the way."""
    rng = np.random.default_rng(seed)
    speed = float(rng.uniform(0.2, 1.0))
    box = bool(rng.integers(2))
    config = DriverConfig(
        forward_m=2.0, turn_deg=90.0, max_linear_m_s=speed, max_linear_m_s2=float(rng.uniform(
            0.5, 2.0)), obstacle_source='scan', footprint=BOX if box else '',
        min_turn_radius_m=float(rng.choice([0.0, 0.6])))
    base = BrakingBase(max(1.0, config.max_linear_m_s2), delay_s=float(rng.choice([0.0, 0.04,
                                                                                    0.08])),
                       lag_s=float(rng.uniform(0.0, 0.1)))
    radius_m = float(rng.uniform(0.03, 1.5))
    forward_m = float(rng.uniform(1.5, 4.0)) + radius_m
    centre = ahead_of(base.pose, forward_m, float(rng.uniform(-0.15, 0.15)))
    loop = SeeingLoop(config, base, [centre], [radius_m], scan_every=int(rng.integers(2, 6)),
                      scan_delay=int(rng.integers(0, 5)), noise_m=0.01, seed=seed)
    turn = [Action.TURN_LEFT] * int(rng.integers(2)) if config.min_turn_radius_m else []
    loop.plan([F] * 3 + turn)
    outline, closest_m, fastest = config.outline(), math.inf, 0.0
    for _ in range(300):
        loop.tick(3)
        fastest = max(fastest, loop.base.linear)
        closest_m = min(closest_m, loop.clearance_m(outline))
        if not loop.driver.moving and loop.base.linear < 1e-3:
            break
    reason = loop.states()[-1].reason
    return closest_m, reason, fastest / speed


def test_two_hundred_approaches_at_full_speed_touch_nothing():
    results = [approach(seed) for seed in range(200)]
    assert min(closest_m for closest_m, _, _ in results) > 0.0
    stopped = [reason for _, reason, _ in results if reason.startswith('obstacle')]
    assert len(stopped) >= 190, 'nearly all are in the way'
    assert np.median([share for _, _, share in results]) > 0.95, 'at full speed'


def test_the_blind_base_does_touch():
    """The world of the approaches above is one in which contact happens."""
    config = DriverConfig(forward_m=2.0)
    base = Base()
    loop = SeeingLoop(replace(config, obstacle_source='scan', stop_distance_m=0.01,
                              time_to_collision_s=0.0), base,
                      [ahead_of(base.pose, 1.5)], [0.2])
    loop.driver.safety.obstacles._min_points[SCAN] = 10**6
    loop.plan([F])
    loop.run()
    assert loop.clearance_m(config.outline()) < 0.0
