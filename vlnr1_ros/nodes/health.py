"""What the navigator tells about itself on /diagnostics."""
from __future__ import annotations

import time

from ..navigation.run_state import FAILED, REFUSED
from .camera_check import CameraCheck
from .pilot import Pilot
from .rates import Durations, Rate

OK, WARN, ERROR = 0, 1, 2
SILENT_S = 2.0   # without an image or odometry, while there is a sentence to follow, is a warning


class Health:
    """Counts images, odometry and decisions by the steady clock, and sums up how things are."""

    def __init__(self):
        self._images, self._odometry, self._decisions = Rate(), Rate(), Rate()
        self._decisions_s = Durations()

    def image(self) -> None:
        """An image came."""
        self._images.count(time.monotonic())

    def odometry(self, count: int) -> None:
        """So many odometry messages came since the last call."""
        self._odometry.count(time.monotonic(), count)

    def decision(self, took_s: float) -> None:
        """The policy answered."""
        self._decisions.count(time.monotonic())
        self._decisions_s.add(took_s)

    def report(self, pilot: Pilot, camera: CameraCheck, policy: str, policy_trouble: str,
               camera_trouble: str) -> tuple[int, str, dict[str, object]]:
        """Level, text and values of the diagnostic status.

        policy: its name. camera_trouble: of camera and frames. Rates are those of the last 10 s,
        percentiles those of the last 100 decisions, ages infinite before the first message.
        """
        now_s, stuck = time.monotonic(), pilot.stuck
        silent = ', '.join(
            f'no {name}' for name, rate in (('image', self._images), ('odometry', self._odometry))
            if pilot.active and rate.age_s(now_s) > SILENT_S)
        warned = silent or camera_trouble or policy_trouble
        level = {FAILED: ERROR, REFUSED: ERROR}.get(pilot.state, WARN if warned else OK)
        text = f'{pilot.state}: {pilot.reason}' + (f'; {silent}' if silent else '')
        return level, text, {
            'state': pilot.state, 'reason': pilot.reason, 'last_stop': pilot.last_stop or 'none',
            'instruction': pilot.instruction, 'policy': policy,
            'model': pilot.card.base_model or 'none', 'policy_trouble': policy_trouble or 'none',
            'silent': silent or 'none', 'camera': camera.text,
            'camera_trouble': camera_trouble or 'none', 'decisions': pilot.decisions,
            'frames': pilot.frames, 'stuck': stuck.count,
            'stuck_reason': stuck.trouble or 'none',
            'decision_p50_s': f'{self._decisions_s.percentile(50):.3f}',
            'decision_p95_s': f'{self._decisions_s.percentile(95):.3f}',
            'decisions_hz': f'{self._decisions.hz(now_s):.2f}',
            'image_hz': f'{self._images.hz(now_s):.1f}',
            'odometry_hz': f'{self._odometry.hz(now_s):.1f}',
            'image_age_s': f'{self._images.age_s(now_s):.2f}',
            'odometry_age_s': f'{self._odometry.age_s(now_s):.2f}'}


def at_rest(phase: str, trouble: str, policy: str) -> tuple[int, str, dict[str, object]]:
    """The same of a navigator that is not active; trouble: why a transition failed, or ''."""
    return (ERROR if trouble else OK, f'{phase}: {trouble}' if trouble else phase,
            {'state': phase, 'reason': trouble or 'none', 'policy': policy})
