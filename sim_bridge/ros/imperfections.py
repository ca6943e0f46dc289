"""What a real base does wrong: its odometry, its wheels, its delays, its camera.

Errors are drawn from a seed and the episode, each kind from a stream of its own: the same seed
makes the same errors, whatever order episodes run in. The pose that measures see is never touched.
"""
from __future__ import annotations

import math
import zlib
from collections import deque
from dataclasses import dataclass, fields

import numpy as np

from sim_bridge.frames import wrap

SLIP_LASTS_S = 0.5


@dataclass(frozen=True)
class Imperfections:
    """How much of each; all zero is a perfect base.

    odom_noise_m, odom_noise_deg: standard deviation of odometry's random walk after one metre or
    one radian of motion. odom_drift: standard deviation of the share by which distances and turns
    are reported too long, drawn once an episode; odom_drift_deg: of the turn reported with every
    metre. wheel_slip: mean share of the motion that the wheels make and the base does not.
    actuation_delay_s: from cmd_vel to the wheels. image_latency_s: from an image's stamp to its
    publication; image_drop: share of images that never come. camera_height_m, camera_pitch_deg:
    how much higher the camera is, and looks up, than camera_info and tf say.
    """

    odom_noise_m: float = 0.0
    odom_noise_deg: float = 0.0
    odom_drift: float = 0.0
    odom_drift_deg: float = 0.0
    wheel_slip: float = 0.0
    actuation_delay_s: float = 0.0
    image_latency_s: float = 0.0
    image_drop: float = 0.0
    camera_height_m: float = 0.0
    camera_pitch_deg: float = 0.0

    @property
    def of_odometry(self) -> bool:
        """Whether odometry is not the true pose."""
        return any((self.odom_noise_m, self.odom_noise_deg, self.odom_drift, self.odom_drift_deg,
                    self.wheel_slip))

    @property
    def of_motion(self) -> bool:
        """Whether the base moves, or says that it moves, otherwise than commanded."""
        return self.of_odometry or bool(self.actuation_delay_s)

    def plus(self, strength: float) -> Imperfections:
        """These and `strength` times TYPICAL; no share exceeds 0.9."""
        values = {item.name: getattr(self, item.name) + strength * getattr(TYPICAL, item.name)
                  for item in fields(self)}
        for share in ('wheel_slip', 'image_drop'):
            values[share] = min(0.9, values[share])
        return Imperfections(**values)


TYPICAL = Imperfections(
    odom_noise_m=0.01, odom_noise_deg=0.5, odom_drift=0.01, odom_drift_deg=0.5, wheel_slip=0.02,
    actuation_delay_s=0.04, image_latency_s=0.06, image_drop=0.05, camera_height_m=-0.03,
    camera_pitch_deg=-1.5)
"""Strength 1: a small differential drive on a smooth floor with a USB camera, by our estimate."""


def stream(seed: int, episode_id: str, kind: int) -> np.random.Generator:
    """The random numbers of one kind of error in one episode."""
    return np.random.default_rng([seed, zlib.crc32(episode_id.encode()), kind])


class Wheels:
    """From what is commanded to what the base does, a tick at a time."""

    def __init__(self, given: Imperfections, seed: int, episode_id: str, tick_s: float):
        self._random = stream(seed, episode_id, 0)
        self._mean_slip = given.wheel_slip
        self._pending = deque([(0.0, 0.0)] * round(given.actuation_delay_s / tick_s))
        self._ticks_a_slip = max(1, round(SLIP_LASTS_S / tick_s))
        self._ticks = 0
        self.slip = (0.0, 0.0)
        """Share of the last tick's driving and turning that was lost."""

    def drive(self, linear_m_s: float, angular_rad_s: float) -> tuple[float, float]:
        """The velocities of the base in this tick."""
        self._pending.append((linear_m_s, angular_rad_s))
        linear_m_s, angular_rad_s = self._pending.popleft()
        if self._mean_slip and self._ticks % self._ticks_a_slip == 0:
            self.slip = tuple(min(0.95, 2 * self._mean_slip * share)
                              for share in self._random.random(2).tolist())
        self._ticks += 1
        return linear_m_s * (1 - self.slip[0]), angular_rad_s * (1 - self.slip[1])


class WheelOdometry:
    """The pose that turning wheels tell, starting at the true one; ROS's frame.

    Without errors it is the true pose to the last bit.
    """

    def __init__(self, given: Imperfections, seed: int, episode_id: str):
        self._random = stream(seed, episode_id, 1)
        self._given = given
        self._exact = not given.of_odometry
        longer, wider, aside = self._random.standard_normal(3).tolist()
        self._longer = 1 + given.odom_drift * longer
        self._wider = 1 + given.odom_drift * wider
        self._turn_a_metre = math.radians(given.odom_drift_deg) * aside
        self._true: tuple[float, float, float] | None = None
        self._told: tuple[float, float, float] | None = None

    def measure(self, x: float, y: float, yaw_rad: float,
                slip: tuple[float, float]) -> tuple[float, float, float]:
        """The told pose for the next true one; `slip` as Wheels has it."""
        if self._exact or self._true is None:
            self._true = self._told = (x, y, yaw_rad)
            return self._told
        x0, y0, yaw0 = self._true
        self._true = (x, y, yaw_rad)
        ahead = ((x - x0) * math.cos(yaw0) + (y - y0) * math.sin(yaw0)) / (1 - slip[0])
        aside = ((y - y0) * math.cos(yaw0) - (x - x0) * math.sin(yaw0)) / (1 - slip[0])
        turn = wrap(yaw_rad - yaw0) / (1 - slip[1])
        metres = math.hypot(ahead, aside)
        walk = math.sqrt(metres + abs(turn))
        noise = self._random.standard_normal(2).tolist() if walk else (0.0, 0.0)
        ahead = ahead * self._longer + self._given.odom_noise_m * walk * noise[0]
        turn = (turn * self._wider + self._turn_a_metre * metres
                + math.radians(self._given.odom_noise_deg) * walk * noise[1])
        x1, y1, yaw1 = self._told
        self._told = (x1 + ahead * math.cos(yaw1) - aside * math.sin(yaw1),
                      y1 + ahead * math.sin(yaw1) + aside * math.cos(yaw1), wrap(yaw1 + turn))
        return self._told


class Shutter:
    """Which images come, and how long after their stamp."""

    def __init__(self, given: Imperfections, seed: int, episode_id: str):
        self._random = stream(seed, episode_id, 2)
        self._drop = given.image_drop
        self.latency_ns = round(given.image_latency_s * 1e9)

    def loses(self) -> bool:
        """Whether the next image never comes."""
        return bool(self._drop and self._random.random() < self._drop)
