"""The navigator's state machine: instructions, images and plan statuses in, plans out.

It knows no ROS, no clock and no thread. Times are stamps of messages in integer nanoseconds, so
that a run replayed from the same messages makes the same decisions.

With replan `during`, the next decision is made while the last action of a plan is driven, from
the frame at its beginning. If the answer begins with that action, it becomes the next plan, which
the driver takes over in motion; otherwise the base finishes the plan and the policy is asked again
when it stands.
"""
from __future__ import annotations

from collections import deque
from typing import Any, Callable, NamedTuple, Sequence

import numpy as np

from ..motion.cut import Cutter
from ..motion.plan import (
    DONE,
    DROPPED,
    EMERGENCY_ENDS,
    STARTED,
    STOPPED_BY_HAND,
    PlanStatus,
    Pose,
    encode,
)
from ..motion.stuck import StuckRule
from ..navigation.actions import Action
from ..navigation.camera import resize
from ..navigation.card import NavigationCard
from ..navigation.errors import UserError
from ..navigation.memory import History
from ..navigation.prompt import check_instruction
from ..navigation.run_state import (
    DECIDING,
    EXECUTING,
    FAILED,
    FINISHED,
    FOLLOWING,
    IDLE,
    PAUSED,
    REFUSED,
    WAITING,
)
from .decision import Answer, Question

# idle: nothing to follow; waiting: for an image; the rest speak for themselves

RECENT_IMAGES = 10


class Plan(NamedTuple):
    """Poses to publish; none of them means hold."""

    stamp_ns: int
    poses: list[Pose]


class Pilot:
    """Follows one instruction at a time.

    card: how the policy is to be used. to_rgb: image message -> uint8 (H, W, 3), UserError when
    it cannot be read. pose_at: stamp in ns -> pose of the base, None while it is not known yet.
    stuck: looks at every plan before it is sent. during: decide while the base drives.
    `plans` collects what is to be published, oldest first; whoever publishes clears it.
    """

    def __init__(self, card: NavigationCard, execute: int, retry_s: float,
                 to_rgb: Callable[[Any], np.ndarray], pose_at: Callable[[int], Pose | None],
                 stuck: StuckRule, during: bool = False):
        self.card = card
        self.plans: list[Plan] = []
        self.state = IDLE
        self.reason = 'send an instruction'
        self.instruction = ''
        self.decisions = 0
        self.actions: list[Action] = []
        self.accepted = False  # whether the driver has answered the plan in execution
        self.last_stop = ''    # why the last plan or run was broken off
        self.stuck = stuck
        self.retry_s = retry_s
        self.asked_ns = 0      # the newest image when the last question was asked
        self.deciding_ns = 0   # of the run, all in all
        self.hidden_ns = 0     # of that, while the base drove
        self._execute = execute
        self._during = during
        self._ahead = False      # a question asked while the base drove has no answer yet
        self._looked = False     # what is to follow the plan in execution was asked already
        self._to_rgb = to_rgb
        self._pose_at = pose_at
        self._recent: deque[tuple[int, Any]] = deque(maxlen=RECENT_IMAGES)
        self._history = History(card.frame_width, card.frame_height)
        self._run = 0
        self._begun_ns = 0     # when the run was
        self._token = 0
        self._due: deque[int] = deque()   # ends of primitives whose frame has not come yet
        self._cutter: Cutter | None = None  # of motion without a plan
        self._uncut: deque[tuple[int, Any]] = deque(maxlen=RECENT_IMAGES)
        # Frames for the next question, whose history must not change while it is answered;
        # bounded, however long somebody else drives.
        self._taken: deque[tuple[int, np.ndarray, Pose]] = deque(
            maxlen=self._history.exact_frames)
        self._look_ns: int | None = None  # a refused plan asks again from an image after this
        self._frame_ns = 0
        self._frame_pose: Pose | None = None
        self._plan_ns = 0        # identity of the plan in execution, 0 without one
        self._last_sent_ns = -1
        self._executed = 0
        self._driving = False    # whether the base drives it, or the plan that it goes on from
        self._told = 0           # so many of its actions the stuck rule knows to be over
        self._over_ns = 0        # when the last plan was done

    @property
    def active(self) -> bool:
        """Whether an instruction is being followed (or paused)."""
        return self.state in FOLLOWING

    @property
    def frames(self) -> int:
        """Frames of the run so far."""
        return len(self._history)

    @property
    def newest_frame(self) -> np.ndarray:
        """The newest frame of the run at the model's size, uint8 (H, W, 3)."""
        return self._history.current

    @property
    def newest_image_ns(self) -> int:
        """Stamp of the newest image, 0 before the first."""
        return self._recent[-1][0] if self._recent else 0

    @property
    def deciding(self) -> bool:
        """Whether an answer of the policy is waited for, standing or driving."""
        return self.state == DECIDING or self._ahead

    @property
    def busy(self) -> bool:
        """Whether an answer, of the policy or of the driver, is outstanding for an image seen."""
        if (self.state == WAITING or self._looks_ahead()) and self._next_image() is not None:
            return True
        return self.deciding or self.state == EXECUTING and not self.accepted

    # What people ask

    def instruct(self, text: str, now_ns: int) -> None:
        """Follow a new sentence from the first image after `now_ns`; repeats change nothing."""
        try:
            text = check_instruction(text)
        except UserError as error:
            self._end(REFUSED, str(error))
            return
        if self.active and text == self.instruction:
            return
        if self.active:
            self._hold()
        self._plan_ns = 0
        self._run += 1
        self._begun_ns = now_ns
        self._forget_question()
        self.instruction = text
        self.decisions, self.actions = 0, []
        self.deciding_ns = self.hidden_ns = 0
        self._history = History(self.card.frame_width, self.card.frame_height)
        self._due = deque([max(now_ns, self.newest_image_ns + 1)])
        self._look_ns = None
        self._taken.clear()
        self.stuck.begin()
        self._stands()
        self._go_on()

    def cancel(self, reason: str = 'cancelled') -> None:
        """Hold, and forget the instruction."""
        self._end(IDLE, reason)

    def pause(self, paused: bool) -> None:
        """Hold until `pause(False)`, then go on from a fresh image."""
        if paused and self.active and self.state != PAUSED:
            self._hold()
            self._forget_question()   # the answer still to come is about a scene of before
            self.state, self.reason = PAUSED, 'paused'
        elif not paused and self.state == PAUSED:
            self._look_ns = self.newest_image_ns + 1
            self._go_on()

    # What comes in

    def image(self, stamp_ns: int, message: Any) -> None:
        """Take an image; it is converted only if it enters the history."""
        if self._recent and stamp_ns < self._recent[-1][0]:
            # The camera or its clock was started anew: what was due then is due now.
            self._recent.clear()
            self._last_sent_ns = -1
            self._due = deque(min(due_ns, stamp_ns) for due_ns in self._due)
            if self._look_ns is not None:
                self._look_ns = min(self._look_ns, stamp_ns)
            self._stands()
        self._recent.append((stamp_ns, message))
        if self.active and len(self._history) and not (self._plan_ns and self._driving):
            self._uncut.append((stamp_ns, message))

    def status(self, status: PlanStatus, stamp_ns: int) -> None:
        """Take the driver's word on a plan; `stamp_ns` is when it happened."""
        if self.active and status.reason == STOPPED_BY_HAND:
            self._end(IDLE, "stopped by the driver's ~/stop")
        if self.active and status.reason == EMERGENCY_ENDS:
            self._end(IDLE, EMERGENCY_ENDS)
        if self.active and status.reason == STARTED and status.stamp_ns > self._begun_ns:
            self._end(FAILED, f'{STARTED}, and knows of no pause or emergency stop of before')
        if not self.active or status.stamp_ns != self._plan_ns or not self._plan_ns:
            return
        driven = min(status.executed, sum(action != Action.STOP for action in self.actions))
        self._due.extend([stamp_ns] * max(0, driven - self._executed))
        self._executed = max(self._executed, driven)
        if status.state == DROPPED:
            self._dropped(status, stamp_ns)
        elif status.state == DONE and Action.STOP in self.actions:
            self._finish()
        elif status.state == DONE:
            self._plan_ns, self._over_ns = 0, stamp_ns
            self._stands()
            if self._ahead:
                self.state, self.reason = DECIDING, 'the policy still decides'
                return
            self._tell(len(self.actions))
            if self.state == EXECUTING:
                self._go_on()
        elif self.state == EXECUTING:
            self.accepted = self._driving = True

    def answer(self, answer: Answer) -> None:
        """Take the policy's answer; one to an old question is dropped."""
        if answer.token != self._token or not self.deciding:
            return
        begun = self._begun_when_asked()
        if answer.error:
            self._end(FAILED, answer.error)
            return
        actions = list(answer.actions[:self._execute])
        if Action.STOP in actions:
            actions = actions[:actions.index(Action.STOP) + 1]
        if not actions:
            self._end(FAILED, 'the policy gave no action')
            return
        if begun and (actions[:1] != begun or actions == begun):
            self._decide_at_rest()
            return
        following, stuck = self.stuck.instead(self._frame_pose, actions[len(begun):])
        if not following:
            self._end(FAILED, stuck)
            return
        self._go(begun + following, begun)
        self.reason = self.card.action_set.encode(self.actions) + (f': {stuck}' if stuck else '')

    def give_up_ahead(self) -> None:
        """No answer will come to what was asked while driving: ask when the plan is done."""
        self._begun_when_asked()
        self._decide_at_rest()

    def question(self) -> Question | None:
        """The decision to ask for now, if everything it needs is there."""
        if not self.active:
            return None
        try:
            self._take_frames()
        except UserError as error:
            self._end(REFUSED, str(error))
            return None
        ahead = self._looks_ahead()
        if not (ahead or self.state == WAITING) or not self._ready():
            return None
        self._token += 1
        self.asked_ns = self.newest_image_ns
        if ahead:
            self._ahead = self._looked = True
            self._tell(self._executed)
        else:
            self.state, self.reason = DECIDING, 'the policy decides'
        return Question(self._token, self._run, self.instruction, self._history)

    def fail(self, reason: str) -> None:
        """Hold and end the run because something is missing."""
        self._end(FAILED, reason)

    # Frames

    def _next_image(self) -> tuple[int, Any] | None:
        """The image that is wanted next, if it has come."""
        wanted_ns = self._due[0] if self._due else self._look_ns
        if wanted_ns is None:
            return None
        return next((item for item in self._recent if item[0] >= wanted_ns), None)

    def _take_frames(self):
        """Take the images of ended primitives, then of motion that no plan asked for."""
        while self._due:
            image = self._next_image()
            pose = image and self._pose_at(image[0])
            if pose is None:
                return
            self._due.popleft()
            self._take(image, pose)
            self._cutter = self._cutter or Cutter(self.card.action_set, pose)
        while self._uncut:
            pose = self._pose_at(self._uncut[0][0])
            if pose is None:
                return
            image = self._uncut.popleft()
            self._cutter = self._cutter or Cutter(self.card.action_set, pose)
            self._take(image, pose, len(self._cutter.add(pose)))

    def _take(self, image, pose, times=1):
        if times:
            rgb = resize(self._to_rgb(image[1]), self._history.width, self._history.height)
            self._taken += [(image[0], rgb, pose)] * times

    def _ready(self) -> bool:
        """Let what was taken enter the history; True when a decision can be made."""
        if self._due:
            return False
        look = self._look_ns is not None
        image = self._next_image()
        pose = image and self._pose_at(image[0])
        if look and pose is None:
            return False
        while self._taken:
            self._frame_ns, rgb, self._frame_pose = self._taken.popleft()
            self._history.add(rgb)
        if look:
            self._look_ns = None
            self._frame_ns, self._frame_pose = image[0], pose
        return True

    def _stands(self):
        """Motion without a plan is measured from the next image on."""
        self._cutter = None
        self._uncut.clear()

    # While the base drives

    def _looks_ahead(self) -> bool:
        """Whether to decide now, while the last action of the plan is driven."""
        return (self._during and self.state == EXECUTING and self.accepted and not self._looked
                and 0 < self._executed == len(self.actions) - 1
                and self.actions[-1] != Action.STOP)

    def _begun_when_asked(self) -> list[Action]:
        """End the question in progress; the action that was begun when it was asked, if any."""
        ahead, self._ahead = self._ahead, False
        took_ns = max(0, self.newest_image_ns - self.asked_ns)
        self.deciding_ns += took_ns
        if ahead:
            self.hidden_ns += took_ns if self._plan_ns else min(
                took_ns, max(0, self._over_ns - self.asked_ns))
        return self.actions[-1:] if ahead else []

    def _decide_at_rest(self):
        """Nothing came of a decision while driving: the plan goes on to its end."""
        if self.state == DECIDING:
            self._tell(len(self.actions))
            self._go_on()

    def _go(self, actions, begun):
        """Have a plan driven, by a base that stands or that drives what is begun of it."""
        self._driving = bool(begun and self._plan_ns)
        self._executed = 0 if self._driving else len(begun)
        self.actions, self._told, self._looked, self.accepted = actions, 0, False, False
        self.decisions += 1
        self._send(encode(self._frame_pose, actions, self.card.action_set))
        self.state = EXECUTING

    def _tell(self, count):
        """The stuck rule learns that so many actions of the plan are over."""
        self.stuck.plan_over(self.actions[self._told:count])
        self._told = max(self._told, count)

    # Ends and turns

    def _dropped(self, status, stamp_ns):
        was_moving = self._driving
        self._plan_ns = 0
        self.last_stop = status.reason
        self._forget_question()
        if was_moving:
            self._tell(status.executed + 1)
            self._stands()
            self._due.append(stamp_ns)  # the interrupted primitive was executed as far as it went
        if self.state == EXECUTING:
            self.accepted = True
            wait_ns = 0 if status.executed else int(self.retry_s * 1e9)
            self._look_ns = stamp_ns + wait_ns
            self.state, self.reason = WAITING, f'the driver dropped the plan: {status.reason}'

    def _go_on(self):
        self.state, self.reason = WAITING, 'waits for an image'

    def _finish(self):
        self._plan_ns = 0
        self.state, self.reason = FINISHED, 'stop'

    def _end(self, state: str, reason: str):
        self.last_stop = reason
        if self.active:
            self._hold()
        self._forget_question()
        self.instruction = ''
        self.state, self.reason = state, reason

    def _forget_question(self):
        """An answer still to come is of no use."""
        self._token += 1
        self._ahead = False

    def _hold(self):
        self._send([], self.newest_image_ns)

    def _send(self, poses: Sequence[Pose], stamp_ns: int | None = None):
        """A stamp is a plan's identity, so none is used twice."""
        stamp_ns = self._frame_ns if stamp_ns is None else stamp_ns
        self._last_sent_ns = max(stamp_ns, self._last_sent_ns + 1)
        self.plans.append(Plan(self._last_sent_ns, list(poses)))
        if poses:
            self._plan_ns = self._last_sent_ns
