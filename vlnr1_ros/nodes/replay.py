"""Feed a recording to a policy and see where it would decide otherwise than it was decided then.

    vlnr1 replay recordings/run_20261125_101500_000 --policy models/nano
    vlnr1 replay kitchen_teleop --policy runs/rft --instruction 'stop by the fridge'

A recording of a run (plan and plan_status) is replayed through the navigator's own state machine:
at every decision of then the policy is asked with the frames that the navigator had, and what was
done then goes on. Any other recording with a camera and odometry is cut into actions, and the
policy is asked before every `execute` of them. No ROS is needed.
"""
from __future__ import annotations

import argparse
import sys
from bisect import bisect_right
from dataclasses import dataclass, replace
from typing import Callable, Iterator, NamedTuple

import numpy as np

from ..bags import values
from ..bags.cut import cut_run
from ..bags.read import DIAGNOSTICS, PATH, Bag, Run, Topics
from ..motion.plan import decode
from ..motion.stuck import IGNORE, StuckRule
from ..navigation.actions import Action
from ..navigation.camera import Camera, centre
from ..navigation.errors import UserError
from ..navigation.memory import History
from ..navigation.run_state import PAUSED
from ..policy.base import Policy
from ..policy.load import BASELINES, is_url, load_policy
from ..resources import given_or_shipped
from .base_pose import BasePose
from .decision import Answer
from .pilot import Pilot

LETTERS = {Action.MOVE_FORWARD: 'F', Action.TURN_LEFT: 'L', Action.TURN_RIGHT: 'R',
           Action.STOP: 'S'}
# What happened at the same time is told in this order, as the navigator hears it.
ODOMETRY, ENDED, IMAGE, PLAN, BEGUN = range(5)
SLACK_NS = 1_000_000   # a plan's stamp may be a few nanoseconds after its image's


@dataclass(frozen=True)
class Decision:
    """then and now: actions decided; of now as many as were to be executed then."""

    seconds: float
    frames: int
    then: tuple[Action, ...]
    now: tuple[Action, ...]

    @property
    def differs_at(self) -> int | None:
        """Index of the first action that is another one, None when all are the same."""
        pairs = zip(self.then, self.now)
        return next((k for k, (then, now) in enumerate(pairs) if then != now), None)


class Event(NamedTuple):
    """Sorted by time, then by kind."""

    stamp_ns: int
    kind: int
    what: object


def replay_run(bag: Bag, run: Run, policy: Policy,
               seed: int = 0) -> tuple[list[Decision], list[str]]:
    """(decisions, remarks) of one run of a recording."""
    policy.reset(run.instruction, seed)
    plans = bag.topic((PATH,), 'plan')
    decisions, remarks = _by_plans(bag, run, policy, plans) if plans else ([], [])
    return (decisions, remarks) if decisions else _by_motion(bag, run, policy)


def _by_plans(bag, run, policy, plan_topic):
    card, base = policy.card, BasePose()
    events = sorted(_events(bag, run, plan_topic, card.action_set), key=lambda e: e[:2])
    due = [event for event in events if event.kind == PLAN and event.what]
    if not due:
        return [], []
    # What was sent then is sent again, whatever rule of the robot's had a say in it.
    pilot = Pilot(card, card.horizon, 0.0, _sight(bag, card.camera), base.at,
                  StuckRule(card.action_set, IGNORE, 360.0, 1))
    pilot.instruct(run.instruction, _image_of(run, due[0]))
    decisions, missed = [], 0
    question = plan = None
    identity = {}   # of a plan then -> in this replay
    for event in events:
        if event.kind == ODOMETRY:
            base.add(event.what)
        elif event.kind == IMAGE:
            if pilot.state == PAUSED and due and event.stamp_ns == _image_of(run, due[0]):
                pilot.pause(False)
            pilot.image(event.stamp_ns, event.stamp_ns)
        elif event.kind in (ENDED, BEGUN):
            if event.what.stamp_ns in identity:
                pilot.status(replace(event.what, stamp_ns=identity[event.what.stamp_ns]),
                             event.stamp_ns)
        elif event.what:
            missed += plan is not None
            plan = due.pop(0)
        else:
            pilot.pause(True)
            question = None
        question = pilot.question() or question
        if plan and question:
            now = policy.plan(question.history)[:len(plan.what)]
            decisions.append(Decision(run.seconds(plan.stamp_ns), len(question.history), plan.what,
                                      tuple(now)))
            pilot.answer(Answer(question.token, plan.what, '', 0.0))
            identity[plan.stamp_ns] = pilot.plans[-1].stamp_ns
            question = plan = None
    missed += plan is not None
    return decisions, _remarks(run, decisions, missed)


def _events(bag: Bag, run: Run, plan_topic, action_set) -> Iterator[Event]:
    """Everything the navigator heard and said during a run."""
    from_ns, to_ns = run.images_ns[0], run.images_ns[-1] + SLACK_NS
    statuses = bag.topic((DIAGNOSTICS,), 'plan_status')
    for odometry in bag.odometry(from_ns - values.NS, to_ns):
        yield Event(odometry.stamp_ns, ODOMETRY, odometry)
    for stamp_ns in run.images_ns:
        yield Event(stamp_ns, IMAGE, None)
    for topic, _, message in bag.messages(plan_topic, statuses):
        stamp_ns = values.time_ns(message.header.stamp)
        if not from_ns <= stamp_ns <= to_ns:
            continue
        if topic == plan_topic:
            yield Event(stamp_ns, PLAN, tuple(decode(values.path_poses(message), action_set)))
        else:
            status = values.parse_plan_status(message)
            # a plan is stamped like its image, and may be answered within the same tick
            begun = status.stamp_ns >= stamp_ns
            yield Event(max(stamp_ns, status.stamp_ns), BEGUN if begun else ENDED, status)


def _image_of(run: Run, plan: Event) -> int:
    """Stamp of the image that a plan was made from."""
    return run.images_ns[bisect_right(run.images_ns, plan.stamp_ns) - 1]


def _remarks(run, decisions, missed) -> list[str]:
    """What keeps the replay from being the run of then."""
    remarks = []
    if missed:
        remarks.append(f'{missed} decisions could not be replayed: messages are missing')
    other = sum(made.frames != then for made, then in zip(decisions, run.frames_at.values()))
    if other:
        remarks.append(f'{other} decisions were made with another number of frames then: the '
                       'recording has lost messages, or begins in the middle of the run')
    return remarks


def _by_motion(bag, run, policy):
    card, sight = policy.card, _sight(bag, policy.card.camera)
    odometry = bag.odometry(run.images_ns[0], run.end_ns)
    pieces, bad = cut_run(odometry, run.images_ns, card.action_set)
    decisions = []
    for piece in pieces:
        stops = (Action.STOP,) if piece.to_the_end and run.arrived else ()
        actions = (*piece.actions, *stops)
        history = History(card.frame_width, card.frame_height)
        for k, stamp_ns in enumerate(piece.frames_ns):
            history.add(sight(stamp_ns))
            if k % card.execute == 0 and k < len(actions):
                then = actions[k:k + card.execute]
                now = policy.plan(history)[:len(then)]
                decisions.append(Decision(run.seconds(stamp_ns), k + 1, then, tuple(now)))
    return decisions, [f'{run.between(b.from_ns, b.to_ns)} left out, the history begins anew: '
                       f'{b.reason}' for b in bad]


def _sight(bag: Bag, expected: Camera) -> Callable[[int], np.ndarray]:
    """Function from the stamp of an image to what the model is to see of it.

    As on the robot: the centre, where the camera sees more than the model expects.
    """
    hfov_deg = bag.hfov_deg()

    def seen(stamp_ns: int) -> np.ndarray:
        rgb = bag.rgb(stamp_ns)
        if hfov_deg is None:
            return rgb
        live = Camera(rgb.shape[1], rgb.shape[0], hfov_deg)
        return centre(rgb, *expected.window(live))

    return seen


def table(decisions: list[Decision]) -> str:
    """One line a decision, then how many agree."""
    lines = [f'{"time":>8}  {"frames":>6}  {"then":<12}  {"now":<12}  first difference']
    for made in decisions:
        then, now = (' '.join(LETTERS[action] for action in actions)
                     for actions in (made.then, made.now))
        at = made.differs_at
        lines.append(f'{made.seconds:7.2f}s  {made.frames:6}  {then:<12}  {now:<12}  '
                     f'{"-" if at is None else f"action {at + 1}"}')
    pairs = [pair for made in decisions for pair in zip(made.then, made.now)]
    same = sum(made.differs_at is None for made in decisions)
    first = sum(made.differs_at != 0 for made in decisions)
    for what, count, of in (('decisions with the same actions', same, len(decisions)),
                            ('decisions with the same first action', first, len(decisions)),
                            ('actions that are the same', sum(a == b for a, b in pairs),
                             len(pairs))):
        lines.append(f'{what:<37}{count} of {of} ({count / max(of, 1):.1%})')
    return '\n'.join(lines)


def _load(args) -> Policy:
    if is_url(args.policy) or args.policy in BASELINES:
        return load_policy(args.policy)
    return load_policy(given_or_shipped(args.policy), device=args.device or None)


def main(argv: list[str] | None = None) -> int:
    """The command line of this module."""
    parser = argparse.ArgumentParser(prog='vlnr1 replay', description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('bag', metavar='RECORDING', help='folder of a recording, .mcap or .db3')
    add('--policy', required=True, help="checkpoint folder, random, forward, stop, or a server's "
        'URL')
    add('--instruction', default='', help='a sentence in place of the recorded ones')
    add('--seed', type=int, default=0, help='of whatever is random in the policy')
    add('--device', default='', help='torch device (default: a GPU if there is one)')
    add('--image-topic', default='', help='of the camera (default: image_raw, or the only one)')
    add('--odom-topic', default='', help='of odometry (default: odom, or the only one)')
    add('--instruction-topic', default='', help='of the sentence (default: instruction)')
    args = parser.parse_args(argv)
    topics = Topics(args.image_topic, args.odom_topic, args.instruction_topic)
    with Bag(args.bag, topics) as bag:
        policy = _load(args)
        for run in bag.runs(args.instruction):
            if not run.instruction:
                raise UserError(f'{args.bag} has no sentence; give --instruction')
            decisions, remarks = replay_run(bag, run, policy, args.seed)
            print('\n'.join([run.instruction, table(decisions),
                             *(f'note: {remark}' for remark in remarks)]), flush=True)
    return 0


if __name__ == '__main__':
    from ..command import run as run_verb

    sys.exit(run_verb('replay', main, sys.argv[1:]))
