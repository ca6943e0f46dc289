"""What a real base does wrong, without ROS: seeds, sizes, exactness of nothing."""
import math
from dataclasses import fields

import numpy as np
import pytest

from sim_bridge.ros.imperfections import (
    TYPICAL,
    Imperfections,
    Shutter,
    WheelOdometry,
    Wheels,
)

TICK_S = 0.02


def drive(given, seed=0, episode_id='1', ticks=1500):
    """(true, told) poses (ticks, 3) of a base that drives 0.3 m/s and turns 0.4 rad/s."""
    wheels, odometry = Wheels(given, seed, episode_id, TICK_S), WheelOdometry(given, seed,
                                                                              episode_id)
    pose, true, told = (1.0, -2.0, 0.5), [], []
    for _ in range(ticks):
        told.append(odometry.measure(*pose, wheels.slip))
        true.append(pose)
        linear, angular = wheels.drive(0.3, 0.4)
        x, y, yaw = pose
        pose = (x + linear * TICK_S * math.cos(yaw), y + linear * TICK_S * math.sin(yaw),
                math.remainder(yaw + angular * TICK_S, 2 * math.pi))
    return np.array(true), np.array(told)


def test_nothing_wrong_is_exact():
    true, told = drive(Imperfections())
    assert true.tobytes() == told.tobytes()
    wheels = Wheels(Imperfections(), 0, '1', TICK_S)
    assert wheels.drive(0.1, 0.7) == (0.1, 0.7)
    assert not any(Shutter(Imperfections(), 0, '1').loses() for _ in range(100))


def test_the_same_seed_and_episode_make_the_same_errors():
    given = Imperfections().plus(2.0)
    first = drive(given, seed=3, episode_id='7')
    again = drive(given, seed=3, episode_id='7')
    assert first[0].tobytes() == again[0].tobytes() and first[1].tobytes() == again[1].tobytes()
    for other in (drive(given, seed=4, episode_id='7'), drive(given, seed=3, episode_id='8')):
        assert np.abs(other[1] - first[1]).max() > 0.01
    lost = [Shutter(given, 3, '7') for _ in range(2)]
    assert [lost[0].loses() for _ in range(200)] == [lost[1].loses() for _ in range(200)]


def test_images_and_odometry_do_not_disturb_one_another():
    """Free run takes as many images as it can; odometry must not depend on how many."""
    alone = drive(Imperfections(odom_noise_m=0.02))[1]
    both = drive(Imperfections(odom_noise_m=0.02, image_drop=0.5))[1]
    assert alone.tobytes() == both.tobytes()


@pytest.mark.parametrize('name', ['odom_noise_m', 'odom_noise_deg', 'odom_drift',
                                  'odom_drift_deg'])
def test_odometry_errors_are_of_the_told_size_and_the_base_moves_as_before(name):
    size = getattr(TYPICAL, name)
    perfect = drive(Imperfections())[0]
    ends = []
    for seed in range(30):
        true, told = drive(Imperfections(**{name: size}), seed, ticks=600)
        assert np.array_equal(true, perfect[:600])
        assert np.array_equal(told[0], true[0])
        ends.append(told[-1] - true[-1])
    ends = np.array(ends)
    metres, radians = 600 * TICK_S * 0.3, 600 * TICK_S * 0.4
    yaw_std = {'odom_noise_m': 0.0, 'odom_noise_deg':
               math.radians(size) * math.sqrt(metres + radians), 'odom_drift': size * radians,
               'odom_drift_deg': math.radians(size) * metres}[name]
    yaw = np.array([math.remainder(v, 2 * math.pi) for v in ends[:, 2]])
    assert yaw.std() == pytest.approx(yaw_std, rel=0.5, abs=1e-9)
    assert 0.001 < np.hypot(*ends[:, :2].T).mean() < 0.3


def test_wheels_slip_and_odometry_does_not_notice():
    given = Imperfections(wheel_slip=0.1)
    true, told = drive(given)
    _, perfect = drive(Imperfections())

    def driven(poses):
        return np.hypot(*np.diff(poses[:, :2], axis=0).T).sum()

    assert driven(true) == pytest.approx(0.9 * driven(perfect), rel=0.03)
    assert driven(told) == pytest.approx(driven(perfect), rel=1e-3)
    assert np.abs(told - perfect)[:, :2].max() < 0.01


def test_velocities_reach_the_wheels_later():
    wheels = Wheels(Imperfections(actuation_delay_s=0.06), 0, '1', TICK_S)
    commands = [(0.1 * k, -0.1 * k) for k in range(1, 8)]
    done = [wheels.drive(*command) for command in commands]
    assert done == [(0.0, 0.0)] * 3 + commands[:4]


def test_images_are_lost_in_their_share():
    shutter = Shutter(Imperfections(image_drop=0.2, image_latency_s=0.15), 0, '1')
    assert 0.15 < np.mean([shutter.loses() for _ in range(2000)]) < 0.25
    assert shutter.latency_ns == 150_000_000


def test_strength_adds_the_typical_errors():
    given = Imperfections(odom_noise_m=0.02).plus(2.0)
    assert given.odom_noise_m == pytest.approx(0.04)
    assert given.image_drop == pytest.approx(0.1)
    assert Imperfections().plus(0.0) == Imperfections()
    assert Imperfections(image_drop=0.85).plus(3.0).image_drop == 0.9
    assert all(getattr(TYPICAL, item.name) for item in fields(TYPICAL))
