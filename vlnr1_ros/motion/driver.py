"""The driver's state machine: messages and time in, velocities and plan statuses out.

It knows no ROS and no clock: every method is told the time (integer nanoseconds), so that a test
drives it with a time of its own and a node with the node's. It fails safe: whatever is wrong, the
plan is dropped, zero is commanded and a new plan is needed to move again.
"""
from __future__ import annotations

from collections import deque
from typing import NamedTuple, Sequence

from ..navigation.actions import Action
from ..navigation.errors import UserError
from .config import DriverConfig
from .plan import (
    ACCEPTED,
    DONE,
    DROPPED,
    EMERGENCY_ENDS,
    HOLD,
    REPLACED,
    RUNNING,
    STARTED,
    STOPPED_BY_HAND,
    PlanStatus,
    Pose,
    check_frame,
    check_shift,
    check_stamp,
    decode,
)
from .primitive import Blocked, Drive
from .readings import Readings
from .replan import leading_to_skip
from .safety import Odometry, Safety

MAX_STEP_S = 0.1  # a control step that comes later than this ramps no further
RECENT_ACTIONS = 64
START_TOLD_TIMES, START_TOLD_NS = 5, 1_000_000_000   # discovery takes its time
ROUNDING = 1e-9


class Command(NamedTuple):
    """Velocity of the base."""

    linear_m_s: float
    angular_rad_s: float


ZERO = Command(0.0, 0.0)


class Disagreement(UserError):
    """A plan that does not go on from what was driven; the base finishes its primitive."""


class _Running:
    """The plan in execution."""

    def __init__(self, stamp_ns: int, actions: list[Action], executed: int, started: bool):
        self.stamp_ns = stamp_ns
        self.actions = actions
        self.executed = executed
        self.started = started      # whether `current` is being driven
        self.until = len(actions)   # less when a newer plan disagreed with the rest

    @property
    def current(self) -> Action | None:
        """The action to drive, or None when all are done."""
        return self.actions[self.executed] if self.executed < self.until else None


class Driver:
    """Executes plans. Feed it messages, call :meth:`step` at the control rate.

    `statuses` collects what became of plans, oldest first; whoever publishes them clears it.
    """

    def __init__(self, config: DriverConfig):
        self.config = config
        self.safety = Safety(config)
        self.statuses: list[PlanStatus] = []
        self.reason = 'waiting for a plan'
        self.last_stop = ''       # why the last plan was broken off
        self._actions = config.action_set
        self._drive = Drive(config)
        self._plan: _Running | None = None
        self._completed: deque[tuple[Action, int]] = deque(maxlen=RECENT_ACTIONS)
        self._last_stamp_ns = 0   # of the last plan taken
        self._last_stop_ns = 0    # plans from images before this are answers to an old question
        self._repeat_until_ns = 0
        self._stepped_ns: int | None = None
        self._started_ns = 0      # of the first control step
        self._start_told_ns: list[int] = []
        self._faulted = False     # brake with stop_decel instead of the ordinary limit

    def configure(self, config: DriverConfig):
        """Take what is `live` in `config`; it holds from the next control step."""
        self.config = config
        self.safety.configure(config)
        self._drive.configure(config)

    @property
    def moving(self) -> bool:
        """Whether a plan is in execution."""
        return self._plan is not None

    @property
    def state(self) -> str:
        """One word for people: running, or holding."""
        return 'running' if self.moving else 'holding'

    def progress(self) -> tuple[int, int, int]:
        """(stamp_ns, executed, of) of the plan in execution, zeros without one."""
        if self._plan is None:
            return 0, 0, 0
        return self._plan.stamp_ns, self._plan.executed, len(self._plan.actions)

    # What is heard

    def hear_odometry(self, now_ns: int, odometry: Odometry):
        """Take an odometry message."""
        reason = self.safety.hear_odometry(now_ns, odometry)
        if reason:
            self.stop(now_ns, reason)

    def hear_heartbeat(self, now_ns: int):
        """Note that the navigator is alive."""
        self.safety.hear_heartbeat(now_ns)

    def hear_readings(self, now_ns: int, source: str, stamp_ns: int, readings: Readings):
        """Take what a source of `obstacle_source` saw."""
        self.safety.obstacles.hear(now_ns, source, stamp_ns, readings)

    def hear_emergency(self, now_ns: int, engaged: bool):
        """Engage or release the emergency stop; releasing it does not resume anything."""
        before = self.safety.emergency
        reason = self.safety.hear_emergency(now_ns, engaged)
        if reason == EMERGENCY_ENDS and not before:   # not for every message of one that repeats
            self._end_run(now_ns, reason)
        elif reason:
            self.stop(now_ns, reason)

    def tell_progress(self):
        """Say again what is driven: a primitive may take longer than others wait for its end."""
        if self._plan is not None:
            self._report(RUNNING, '')

    def tell_start(self, now_ns: int):
        """Say a few times that there is a new driver, from when the navigator can be heard on.

        It knows of no pause and of no emergency stop that the one before was told of, so a run of
        before must not go on by itself. No plan is taken before the first of these statuses.
        """
        told_ns = self._start_told_ns
        if (self.safety.knows_navigator and len(told_ns) < START_TOLD_TIMES
                and not (told_ns and 0 <= now_ns - told_ns[-1] < START_TOLD_NS)):
            told_ns.append(now_ns)
            self.statuses.append(PlanStatus(self._started_ns, DROPPED, 0, 0, STARTED))

    def pause(self, now_ns: int, paused: bool):
        """Forbid or allow motion; the plan in execution is dropped."""
        self.safety.paused = paused
        if paused:
            self.stop(now_ns, 'paused')

    def stop_by_hand(self, now_ns: int):
        """Stop, and end the run."""
        self._end_run(now_ns, STOPPED_BY_HAND)

    def _end_run(self, now_ns: int, reason: str):
        """Stop, and say so even without a plan: a navigator that decides must end its run too."""
        if self._plan is None:
            self.last_stop = reason
            self.statuses.append(PlanStatus(0, DROPPED, 0, 0, reason))
        self.stop(now_ns, reason)

    def stop(self, now_ns: int, reason: str, stop_ns: int | None = None):
        """Zero velocity, drop the plan, and refuse plans from images before `stop_ns` (now)."""
        self.reason = reason
        self._faulted = True
        if self.config.stop_decel_m_s2 == 0.0:
            self.halt()
        self._last_stop_ns = max(self._last_stop_ns, now_ns if stop_ns is None else stop_ns)
        self._repeat_until_ns = now_ns + int(self.config.stop_repeat_s * 1e9)
        if self._plan is not None:
            self.last_stop = reason
            self._report(DROPPED, reason)
            self._plan = None

    def halt(self):
        """Go on from zero: it was commanded past this, or nobody knows how long the base stood."""
        self._drive.linear.halt()
        self._drive.angular.halt()

    def hear_plan(self, now_ns: int, frame_id: str, stamp_ns: int, poses: Sequence[Pose]):
        """Take a plan, or refuse it with the reason in `statuses`; either way the last one ends.

        No poses: drop what is there and hold, which is acknowledged as accepted, 0 of 0.
        """
        if not poses:
            self.stop(now_ns, HOLD, min(stamp_ns, now_ns) or now_ns)
            self.statuses.append(PlanStatus(stamp_ns, ACCEPTED, 0, 0, self.reason))
            return
        try:
            actions = decode(poses, self._actions)
            self._check_plan(now_ns, frame_id, stamp_ns)
            if self.config.replan == 'during' and self._join(stamp_ns, actions):
                return
            check_shift(Pose(*poses[0]), self.safety.odometry.pose, self.config.plan_max_shift_m,
                        self.config.plan_max_shift_deg)
        except Disagreement as error:
            self.statuses.append(PlanStatus(stamp_ns, DROPPED, 0, len(poses) - 1, str(error)))
            return
        except UserError as error:
            self.refuse_plan(now_ns, stamp_ns, len(poses) - 1, str(error))
            return
        self._take(stamp_ns, actions)

    def refuse_plan(self, now_ns: int, stamp_ns: int, of: int, reason: str):
        """Answer a plan with `dropped`, and end the one in execution, whose successor it was."""
        if self._plan is not None:
            self.stop(now_ns, f'the next plan was refused: {reason}')
        self.reason = f'plan refused: {reason}'
        self.statuses.append(PlanStatus(stamp_ns, DROPPED, 0, of, reason))

    # The control law

    def step(self, now_ns: int) -> Command | None:
        """One control step: the velocity to command, or None when there is nothing to say."""
        dt_s = 0.0
        if self._stepped_ns is None:   # a driver before this one may have left the base moving
            self._repeat_until_ns = now_ns + int(self.config.stop_repeat_s * 1e9)
            self._started_ns = now_ns
        else:
            dt_s = min(max((now_ns - self._stepped_ns) * 1e-9, 0.0), MAX_STEP_S)
        self._stepped_ns = now_ns
        self._watch(now_ns)
        share = self._share_of_limits()
        if self._plan is not None:
            self._execute(now_ns, dt_s)
            self._look_ahead(now_ns, dt_s)
        else:
            self._slow_down(dt_s)
        if self._share_of_limits() > 1.0:   # of limits that were lowered
            self._shrink(share, 1.0, dt_s)
        command = Command(self._drive.linear.velocity, self._drive.angular.velocity)
        if not (abs(command.linear_m_s) <= self.config.hard_linear_m_s + ROUNDING
                and abs(command.angular_rad_s) <= self.config.hard_angular_rad_s + ROUNDING):
            self.stop(now_ns, f'the control law gave {tuple(command)}')
            self.halt()
            command = ZERO
        if self._plan is None and command == ZERO and now_ns >= self._repeat_until_ns:
            return None
        return command

    def _watch(self, now_ns: int):
        jumped = self.safety.tick(now_ns)
        if jumped:
            self.stop(now_ns, jumped)
            self.halt()
            self._last_stamp_ns = min(self._last_stamp_ns, now_ns)
            self._last_stop_ns = now_ns
            self._started_ns = min(self._started_ns, now_ns)
            self._completed.clear()
        if self._plan is not None:
            reason = self.safety.obstacle_to_motion(now_ns)
            if reason:
                self.stop(now_ns, reason)

    def _look_ahead(self, now_ns: int, dt_s: float):
        if self._plan is None:
            return
        reason = self.safety.obstacles.ahead(
            self.safety.odometry.pose, self._drive.linear.velocity, self._drive.angular.velocity)
        if reason:
            self.stop(now_ns, reason)
            self._slow_down(dt_s)

    def _execute(self, now_ns: int, dt_s: float):
        plan, odometry = self._plan, self.safety.odometry
        if plan.current is None:   # all of it was driven before it came
            self._slow_down(dt_s)
            self._finish(now_ns, DONE, '')
        elif plan.current is Action.STOP:
            self._slow_down(dt_s)
            plan.executed += 1
            self._finish(now_ns, DONE, 'stop')
        else:
            self._drive_primitive(now_ns, plan, odometry, dt_s)

    def _drive_primitive(self, now_ns: int, plan: _Running, odometry: Odometry, dt_s: float):
        if not plan.started:
            plan.started = True
            self._drive.begin(odometry.pose, *self._actions.displacement(plan.current))
        try:
            if not self._drive.step(odometry.pose, odometry.linear_m_s, odometry.angular_rad_s,
                                    dt_s):
                return
        except Blocked as error:
            self.stop(now_ns, str(error))
            return
        self._completed.append((plan.current, now_ns))
        plan.executed += 1
        plan.started = False
        if plan.executed < plan.until:
            self._report(RUNNING, '')
        elif plan.until < len(plan.actions):
            self._finish(now_ns, DROPPED, 'a newer plan disagreed with the rest')
        else:
            self._finish(now_ns, DONE, '')

    def _finish(self, now_ns: int, state: str, reason: str):
        self.reason = reason or 'the plan is done'
        self._report(state, reason)
        self._repeat_until_ns = now_ns + int(self.config.stop_repeat_s * 1e9)
        self._plan = None

    def _slow_down(self, dt_s: float):
        if self._faulted and self.config.stop_decel_m_s2:
            self._shrink(self._share_of_limits(), 0.0, dt_s)
        else:
            self._drive.brake(dt_s)

    def _share_of_limits(self) -> float:
        return max(abs(self._drive.linear.velocity) / self.config.max_linear_m_s,
                   abs(self._drive.angular.velocity) / self.config.max_angular_rad_s)

    def _shrink(self, from_share: float, to_share: float, dt_s: float):
        """From one share of the limits to another, by `stop_decel_m_s2` or at once.

        The whole velocity shrinks together: a turn on the spot as if its rim were driven.
        """
        share, decel = self._share_of_limits(), self.config.stop_decel_m_s2
        left = from_share - decel * dt_s / self.config.max_linear_m_s if decel else 0.0
        self._drive.scale(min(1.0, max(to_share, left) / share) if share > 0.0 else 0.0)

    # Taking plans

    def _check_plan(self, now_ns: int, frame_id: str, stamp_ns: int):
        reason = self.safety.obstacle_to_motion(now_ns)
        if reason:
            raise UserError(reason)
        check_frame(frame_id, self.safety.odometry.frame_id)
        check_stamp(stamp_ns, now_ns, self._last_stamp_ns, self._last_stop_ns,
                    self.config.plan_max_age_s)
        ahead_s = (stamp_ns - now_ns) * 1e-9
        if ahead_s > self.config.odom_timeout_s:
            raise UserError(f'the plan is stamped {ahead_s:.2f} s ahead; synchronise the clocks')

    def _join(self, stamp_ns: int, actions: list[Action]) -> bool:
        """Go on with a plan made while the base moved; False when there is no motion to join."""
        completed = [action for action, ended_ns in self._completed if ended_ns > stamp_ns]
        current = self._plan.current if self._plan is not None else None
        if current is None and not completed:
            return False
        skip = leading_to_skip(actions, completed, current)
        if skip is None:
            if self._plan is not None:
                self._plan.until = self._plan.executed + 1
            raise Disagreement('the plan disagrees with what was driven since its image')
        started = self._plan is not None and self._plan.started
        self._take(stamp_ns, actions, skip, started)
        return True

    def _take(self, stamp_ns: int, actions: list[Action], executed: int = 0,
              started: bool = False):
        if self._plan is not None:
            self._report(DROPPED, REPLACED)
        self._plan = _Running(stamp_ns, actions, executed, started)
        self._last_stamp_ns = stamp_ns
        self._faulted = False
        self.reason = ''
        self._report(ACCEPTED, '')

    def _report(self, state: str, reason: str):
        plan = self._plan
        self.statuses.append(PlanStatus(plan.stamp_ns, state, plan.executed, len(plan.actions),
                                        reason))
