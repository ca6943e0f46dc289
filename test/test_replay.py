"""Recordings fed to a policy again; those of real runs are in test_recorder_node."""
import json

import pytest
from teleop_bag import START_NS, Said, T, header, odometry, picture, raw_image, teleoperated
from teleop_bag import write as write_bag

from vlnr1_ros.bags.read import Bag
from vlnr1_ros.bags.values import parse_plan_status
from vlnr1_ros.motion.plan import ACCEPTED, DONE, DROPPED, RUNNING, Pose
from vlnr1_ros.motion.stuck import IGNORE, StuckRule
from vlnr1_ros.navigation.actions import Action
from vlnr1_ros.navigation.card import NavigationCard
from vlnr1_ros.navigation.errors import UserError
from vlnr1_ros.nodes import replay
from vlnr1_ros.nodes.decision import Answer
from vlnr1_ros.nodes.pilot import Pilot
from vlnr1_ros.policy.load import load_policy

F, L, R, S = Action.MOVE_FORWARD, Action.TURN_LEFT, Action.TURN_RIGHT, Action.STOP
TICK_S, ACTION_TICKS = 0.1, 10
CARD = NavigationCard(frame_width=16, frame_height=12)


class Run:
    """A navigator with a policy and a driver that never errs, tick by tick, and what they say.

    disturb: {tick: what happens then: 'pause', 'resume' or 'drop' (the driver does)}.
    """

    def __init__(self, policy, sentence, disturb, ticks=400):
        self.said, self.plan, self.executed, self.begun = [], None, 0, 0
        self.pose = Pose(0.0, 0.0, 0.0)
        self._poses = {}
        self.pilot = Pilot(policy.card, policy.card.execute, 0.0, lambda image: image,
                           self._poses.get, StuckRule(CARD.action_set, IGNORE, 360.0, 1))
        policy.reset(sentence, 7)
        self.pilot.instruct(sentence, 0)
        self._say(-1, '/instruction', 'std_msgs/msg/String', T['std_msgs/msg/String'](sentence))
        self.decisions = []
        for self.tick in range(ticks):
            self._drive(disturb.get(self.tick))
            self._look()
            question = self.pilot.question()
            if question:
                actions = tuple(policy.plan(question.history)[:policy.card.execute])
                self.pilot.answer(Answer(question.token, actions, '', 0.0))
                self.decisions.append((len(question.history), tuple(self.pilot.actions)))
            self._send()
            if not self.pilot.active:
                break

    def _drive(self, what):
        if what in ('pause', 'resume'):
            self.pilot.pause(what == 'pause')
            self._send()
        if self.plan:
            stamp_ns, poses = self.plan
            now = (self.tick - self.begun) / ACTION_TICKS
            k, share = min(int(now), len(poses) - 2), min(now - int(now), 1.0)
            first, last = poses[k], poses[k + 1]
            self.pose = Pose(*(a + share * (b - a) for a, b in zip(first, last)))
            if what == 'drop':
                self._status(DROPPED, 'obstacle')
            elif now >= self.executed + 1:
                self.executed += 1
                self.pose = poses[self.executed]
                self._status(DONE if self.executed == len(poses) - 1 else RUNNING)
        self._say(self.tick, '/odom', 'nav_msgs/msg/Odometry',
                  odometry(self.tick * TICK_S, self.pose))
        self._poses[self._ns()] = self.pose

    def _look(self):
        rgb = picture(self.tick)
        self._say(self.tick, '/image_raw', 'sensor_msgs/msg/Image',
                  raw_image(self.tick * TICK_S, rgb))
        self.pilot.image(self._ns(), rgb)

    def _send(self):
        plans, self.pilot.plans = self.pilot.plans, []
        for plan in plans:
            kind = 'nav_msgs/msg/Path'
            self._say(self.tick, '/plan', kind, T[kind](
                self._header(plan.stamp_ns), [T['geometry_msgs/msg/PoseStamped'](
                    self._header(plan.stamp_ns), odometry(0.0, Pose(*pose)).pose.pose)
                    for pose in plan.poses]))
            if self.plan:
                self._status(DROPPED, 'an empty plan asks to hold')
            if plan.poses:
                self.plan, self.begun, self.executed = plan, self.tick, 0
                self._status(ACCEPTED)

    def _status(self, state, reason=''):
        stamp_ns, poses = self.plan
        values = {'plan_stamp': f'{stamp_ns // 10**9}.{stamp_ns % 10**9:09d}', 'state': state,
                  'executed': str(self.executed), 'of': str(len(poses) - 1), 'reason': reason}
        message = T['diagnostic_msgs/msg/DiagnosticArray'](
            header(self.tick * TICK_S, ''), [T['diagnostic_msgs/msg/DiagnosticStatus'](
                0, 'plan', '', '', [T['diagnostic_msgs/msg/KeyValue'](key, value)
                                    for key, value in values.items()])])
        self._say(self.tick, '/plan_status', 'diagnostic_msgs/msg/DiagnosticArray', message)
        self.pilot.status(parse_plan_status(message), self._ns())
        if state in (DONE, DROPPED):
            self.plan = None

    def _header(self, stamp_ns):
        return header((stamp_ns - START_NS) * 1e-9, 'odom')

    def _ns(self):
        return START_NS + round(self.tick * TICK_S * 1e9)

    def _say(self, tick, topic, kind, message):
        self.said.append(Said(tick * TICK_S, topic, kind, message))


class Scripted:
    """Decides what is written down, whatever it sees, and what was seen."""

    card = CARD

    def __init__(self, plans):
        self._plans = plans

    def reset(self, instruction, seed=0):
        self._left = iter(self._plans)
        self.seen = []

    def plan(self, history):
        self.seen.append((len(history), history.current.tobytes()))
        return [*next(self._left), *[S] * 6][:6]


PLANS = [[F, F, L], [F, R, R], [F, F, F], [L, L, F], [F, F, R], [F, S]]


@pytest.mark.parametrize('disturb', [
    {}, {17: 'drop'}, {5: 'drop', 12: 'drop'}, {23: 'pause', 60: 'resume'},
    {23: 'pause', 24: 'resume', 45: 'drop'}], ids=str)
def test_every_decision_of_a_run_is_made_again_with_the_same_frames(tmp_path, disturb):
    policy = Scripted(PLANS)
    run = Run(policy, 'go to the lamp', disturb)
    then = policy.seen
    assert len(run.decisions) == len(PLANS) and not run.pilot.active
    with Bag(write_bag(tmp_path / 'run', run.said)) as bag:
        recorded, = bag.runs()
        decisions, remarks = replay.replay_run(bag, recorded, policy)
    assert remarks == []
    assert [(made.frames, made.then) for made in decisions] == run.decisions
    assert policy.seen == then
    assert all(made.differs_at is None for made in decisions)


def test_where_another_policy_differs(tmp_path):
    run = Run(Scripted(PLANS), 'go to the lamp', {})
    other = Scripted([*PLANS[:2], [F, L, F], *PLANS[3:]])
    with Bag(write_bag(tmp_path / 'run', run.said)) as bag:
        decisions, _ = replay.replay_run(bag, bag.runs()[0], other)
    assert [made.differs_at for made in decisions] == [None, None, 1, None, None, None]
    text = replay.table(decisions)
    assert text.splitlines()[3].split()[-2:] == ['action', '2']
    assert 'decisions with the same actions      5 of 6 (83.3%)' in text
    assert 'actions that are the same            16 of 17 (94.1%)' in text


def test_lost_messages_and_a_recording_from_the_middle_are_told(tmp_path):
    run = Run(Scripted(PLANS), 'go to the lamp', {})
    states = [Said(said.at_s + 1e-3, '/navigator/state', 'std_msgs/msg/String',
                   T['std_msgs/msg/String'](json.dumps(
                       {'state': 'executing', 'instruction': 'go to the lamp', 'decisions': k + 1,
                        'frames': run.decisions[k][0]})))
              for k, said in enumerate(s for s in run.said if s.topic == '/plan')]
    whole = run.said + states
    with Bag(write_bag(tmp_path / 'whole', whole)) as bag:
        assert replay.replay_run(bag, bag.runs()[0], Scripted(PLANS))[1] == []
    for name, from_s, to_s, told in (('lost', 0.0, 3.05, '5 decisions could not be replayed'),
                                     ('middle', -1.0, 3.05, 'with another number of frames')):
        kept = [said for said in whole if not (
            from_s < said.at_s < to_s and (name == 'middle' or said.topic == '/plan_status'))]
        if name == 'middle':
            kept.insert(0, run.said[0]._replace(at_s=3.06))
        with Bag(write_bag(tmp_path / name, kept)) as bag:
            _, remarks = replay.replay_run(bag, bag.runs()[0], Scripted(PLANS))
        assert any(told in remark for remark in remarks), remarks


def test_a_run_by_hand_is_asked_about_before_every_few_of_its_actions(tmp_path, capsys):
    actions = [F, F, F, L, F, F, R]
    path = str(write_bag(tmp_path / 'run', teleoperated(actions, 'go')))
    assert replay.main([path, '--policy', 'forward']) == 0
    lines = capsys.readouterr().out.splitlines()
    policy = load_policy('forward')
    assert policy.card.execute == 3
    assert [line.split()[1:5] for line in lines[2:4]] == [['1', 'F', 'F', 'F'],
                                                         ['4', 'L', 'F', 'F']]
    assert lines[4].split()[1:4] == ['7', 'R', 'S']
    with pytest.raises(UserError, match='give --instruction'):
        replay.main([str(write_bag(tmp_path / 'dumb', teleoperated(actions, ''))),
                     '--policy', 'forward'])
    with pytest.raises(UserError, match='does not exist'):
        replay.main([str(tmp_path / 'none'), '--policy', 'forward'])
