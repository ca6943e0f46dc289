"""The bridge node: Habitat as a robot's topics, in lockstep or in wall time.

    ros2 run vlnr1_ros sim_bridge --ros-args --params-file config/sim_bridge.yaml

In lockstep a tick ends when the driver has answered its odometry and the navigator its image; as
long as somebody is late, time stands still. Episodes named by the parameter `episodes` run one
after the other; each ends with a JSON result on `~/result`.
"""
from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass

from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger

from sim_bridge.config import EnvironmentConfig
from sim_bridge.environment import Environment
from sim_bridge.ros.peers import ACTIVE, Peers
from sim_bridge.ros.record import Recorder
from sim_bridge.ros.topics import Topics
from vlnr1_ros.navigation.actions import ActionSet
from vlnr1_ros.navigation.camera import Camera
from vlnr1_ros.navigation.errors import UserError
from vlnr1_ros.navigation.prompt import check_instruction
from vlnr1_ros.nodes import runtime
from vlnr1_ros.nodes.lean_executor import LeanExecutor

PARTICIPANTS = ('driver', 'navigator')
FIRST_STAMP_NS = 1_000_000_000  # zero means "no time yet" to nodes on simulated time
REPEAT_S = 1.0                  # what is not answered was perhaps sent before discovery
EXPERT_ACTIONS = 6


class EpisodeError(Exception):
    """The episode cannot go on; the text names the node and what it failed to do."""


class Interrupted(Exception):
    """`~/reset` was called."""


class BridgeNode(Node):
    """ROS side of :class:`sim_bridge.environment.Environment`."""

    def __init__(self, **kwargs):
        super().__init__('sim_bridge', **kwargs)
        self._declare()
        config = self._config
        self._environment = Environment(config)
        self._action_set = ActionSet(config.forward_m, config.turn_deg)
        self._topics = Topics(self, config.camera)
        self._peers = Peers(self, self._action_set, self._stamped or self._lockstep)
        reliable = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
        latched = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE,
                             durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._instruction = self.create_publisher(String, 'instruction', reliable)
        self._result = self.create_publisher(String, '~/result', latched)
        self._cancel = self.create_client(Trigger, 'navigator/cancel')
        self.create_service(Trigger, '~/reset', self._on_reset)
        self.create_service(SetBool, '~/pause', self._on_pause)
        self.create_service(Trigger, '~/expert', self._on_expert)
        self._now_ns = FIRST_STAMP_NS
        self._paused = self._reset_asked = False
        self._in_episode = False

    def _declare(self):
        def declare(*args):
            return runtime.declare(self, *args)

        plain = EnvironmentConfig()
        camera = Camera(
            declare('width', 224, 'image width', 'pixels', 16, 4096),
            declare('height', 224, 'image height', 'pixels', 16, 4096),
            declare('hfov_deg', 90.0, 'horizontal field of view', 'deg', 10.0, 170.0),
            declare('camera_height_m', 1.25, 'camera above the floor', 'm', 0.05, 3.0))
        self._config = EnvironmentConfig(
            dataset=declare('dataset', plain.dataset, 'folder that holds SPLIT/SPLIT.json.gz'),
            split=declare('split', plain.split, 'which episodes'),
            scenes_dir=declare('scenes_dir', plain.scenes_dir, 'what scene ids are relative to'),
            camera=camera,
            forward_m=declare('forward_m', 0.25, "forward step of the expert's and the driver's "
                              'actions', 'm', 0.01, 2.0),
            turn_deg=declare('turn_deg', 30.0, 'their turn', 'deg', 1.0, 90.0),
            allow_sliding=declare('allow_sliding', True, 'slide along walls'),
            max_steps=declare('max_steps', 500, 'actions an episode may take', '', 1, 100000),
            simulator=declare('simulator', 'auto', 'habitat-sim, embedded, or auto'),
            success_distance_m=declare('success_distance_m', 3.0, "radius of VLN-CE's success",
                                       'm', 0.05, 50.0))
        self.declare_parameter('episodes', '', runtime.ParameterDescriptor(
            description='ids, separated by blanks, to run one after the other; ~/reset begins '
            'anew with what it is then; empty: none'))
        self._lockstep = declare('lockstep', True, 'time waits for the participants; otherwise '
                                 'wall time')
        self._participants = declare('participants', list(PARTICIPANTS),
                                     'whom lockstep waits for')
        self._lockstep_timeout_s = declare('lockstep_timeout_s', 60.0, 'wall time after which '
                                           'one who is late ends the episode', 's', 0.1, 3600.0)
        self._startup_timeout_s = declare('startup_timeout_s', 120.0, 'wall time for the '
                                          'participants to come up', 's', 0.1, 3600.0)
        self._stamped = declare('stamped', False, 'cmd_vel is TwistStamped (lockstep: always)')
        self._cmd_vel_timeout_s = declare('cmd_vel_timeout_s', 0.5, 'an older velocity counts as '
                                          'zero', 's', 0.02, 10.0)
        control_hz = declare('control_hz', 50.0, 'ticks a second of simulated time', 'Hz',
                             5.0, 500.0)
        camera_hz = declare('camera_hz', 10.0, 'images a second; divides control_hz', 'Hz',
                            0.1, 500.0)
        self._episode_timeout_s = declare('episode_timeout_s', 1200.0, 'simulated time an episode '
                                          'may take', 's', 1.0, 1e6)
        self._record_dir = declare('record_dir', '', 'folder for a record of every episode; '
                                   'empty: none')
        self._results_file = declare('results_file', '', 'file to which every result is '
                                     'appended as a line; empty: none')
        self._tick_ns = round(1e9 / control_hz)
        self._ticks_per_image = round(control_hz / camera_hz)
        if abs(self._ticks_per_image * camera_hz - control_hz) > 1e-6 * control_hz:
            raise UserError(f'parameter camera_hz is {camera_hz:g}; give one that divides '
                            f'control_hz {control_hz:g}')
        unknown = set(self._participants) - set(PARTICIPANTS)
        if unknown:
            raise UserError(f'parameter participants names {", ".join(sorted(unknown))}; known '
                            f'are {", ".join(PARTICIPANTS)}')

    # Services

    def _on_reset(self, _request, response):
        self._reset_asked = True
        response.success = True
        response.message = f'episodes: {self._episodes_text() or "none"}'
        return response

    def _on_pause(self, request, response):
        self._paused = bool(request.data)
        response.success = True
        response.message = 'time stands still' if self._paused else 'time goes on'
        return response

    def _on_expert(self, _request, response):
        response.success = self._in_episode
        response.message = 'no episode is running'
        if self._in_episode:
            try:
                actions = self._environment.expert_plan(EXPERT_ACTIONS)
                response.message = self._action_set.encode(actions)
            except ValueError as error:
                response.success, response.message = False, str(error)
        return response

    # Episodes

    def live(self, spin_once):
        """Run episodes as they are asked for; returns when the context is shut down."""
        self._spin_once = spin_once
        self._reset_asked = True
        while self.context.ok():
            if not self._reset_asked:
                spin_once(timeout_sec=0.1)
                continue
            self._reset_asked = False
            try:
                for episode_id in self._episodes_text().split():
                    self._say(self._run(episode_id))
            except Interrupted:
                self.get_logger().info('reset')

    def _episodes_text(self) -> str:
        return self.get_parameter_or('episodes', Parameter('episodes', value='')).value

    def _say(self, result: dict):
        line = json.dumps(result)
        self._result.publish(String(data=line))
        if self._results_file:
            with open(self._results_file, 'a', encoding='utf-8') as file:
                file.write(line + '\n')
        if result['error']:
            self.get_logger().error(f'episode {result["episode_id"]}: {result["error"]}')
        else:
            self.get_logger().info(f'episode {result["episode_id"]}: {result["ended_by"]}, '
                                   f'success {result["metrics"].get("success")}')

    def _run(self, episode_id: str) -> dict:
        """One episode from its instruction to its result."""
        run = _Run(episode_id, time.monotonic(), self._now_ns)
        recorder = None
        try:
            self._environment.set_render(False)
            self._seen = self._environment.reset(episode_id)
            run.instruction = self._environment.episode.instruction
            self._in_episode = True
            self._topics.moved_by_hand()
            self._peers.begin()
            if self._record_dir:
                recorder = Recorder(self._record_dir, episode_id)
            self._start(run.instruction)
            run.started_s, run.started_ns = time.monotonic(), self._now_ns
            self._drive(run, recorder)
            result = self._finish(run)
        except (UserError, EpisodeError) as error:
            result = run.result(self._now_ns, 'error', {}, self._peers, str(error))
        except BaseException:
            if recorder is not None:
                recorder.discard()
            raise
        finally:
            self._in_episode = False
        if recorder is not None:
            path = recorder.finish(result, run.poses, self._peers.decisions, self._peers.executed)
            result['record'] = str(path)
        return result

    def _start(self, instruction: str):
        """Wait for everybody, then hand over the instruction until it is accepted."""
        timeout_s = self._startup_timeout_s
        if 'driver' in self._participants:
            self._wait('driver', lambda: (self.count_publishers('cmd_vel')
                                          and self.count_publishers('plan_status')
                                          and self._topics.listeners()['odom']), timeout_s)
        if 'navigator' not in self._participants:
            return
        self._wait('navigator', lambda: self._peers.navigator, timeout_s)
        if self._peers.navigator['state'] in ACTIVE:
            # Answered, not only sent: it must not overtake the instruction that follows.
            cancelled = self._cancel.call_async(Trigger.Request())
            self._wait('navigator', lambda: (cancelled.done()
                                             and self._peers.navigator['state'] not in ACTIVE),
                       self._lockstep_timeout_s)
        self._wait('navigator', lambda: (self._instruction.get_subscription_count()
                                         and self._topics.listeners()['image_raw']), timeout_s)
        text = check_instruction(instruction)
        say = lambda: self._instruction.publish(String(data=text))  # noqa: E731
        self._peers.navigator = {}
        say()
        self._wait('navigator', lambda: (self._peers.follows(text)
                                         or self._peers.navigator_trouble()),
                   self._lockstep_timeout_s, say)
        self._check_navigator()

    def _check_navigator(self):
        trouble = self._peers.navigator_trouble()
        if trouble:
            raise EpisodeError(trouble)

    def _drive(self, run, recorder):
        """Ticks until the episode is over."""
        dt_s = self._tick_ns * 1e-9
        limit_ns = self._now_ns + int(self._episode_timeout_s * 1e9)
        while True:
            while self._paused:
                self._spin(0.1)
            self._tick(run, recorder, dt_s)
            run.ticks += 1
            if self._peers.stopped:
                run.ended_by = 'stop'
                return
            if len(self._peers.executed) >= self._config.max_steps:
                run.ended_by = 'max_steps'
                return
            if self._now_ns >= limit_ns:
                run.ended_by = 'timeout'
                return
            self._check_navigator()
            self._seen = self._environment.move(*self._velocity(), dt_s)

    def _tick(self, run, recorder, dt_s):
        """Everything that is stamped with one time, and the answers to it."""
        self._now_ns += self._tick_ns
        now_ns, seen = self._now_ns, self._seen
        run.poses.append([round(now_ns * 1e-9, 6), round(seen.x, 4), round(seen.y, 4),
                          round(seen.z, 4), round(seen.yaw_rad, 5)])
        self._topics.clock_and_odometry(now_ns, seen, dt_s)
        image_due = run.ticks % self._ticks_per_image == 0
        # Rendering goes on while the driver thinks; the image leaves when it has spoken, so that
        # the navigator has heard of the end of an action before it sees the image of that end.
        rgb = self._render() if image_due else None
        if not self._lockstep:
            self._sleep_until(run.started_s + (now_ns - run.started_ns) * 1e-9)
        elif 'driver' in self._participants:
            self._wait('driver', lambda: self._peers.velocity_ns == now_ns,
                       self._lockstep_timeout_s,
                       lambda: self._topics.clock_and_odometry(now_ns, seen, dt_s))
        if rgb is None:
            return
        self._topics.camera(now_ns, rgb)
        if recorder is not None:
            recorder.frame(now_ns * 1e-9, rgb)
        if self._lockstep and 'navigator' in self._participants:
            self._wait('navigator', lambda: self._peers.acknowledged_ns == now_ns,
                       self._lockstep_timeout_s, lambda: self._topics.camera(now_ns, rgb))

    def _render(self):
        self._environment.set_render(True)
        rgb = self._environment.move(0.0, 0.0, 0.0).rgb
        self._environment.set_render(False)
        return rgb

    def _velocity(self):
        """The velocity to integrate: the newest, or zero when it is too old."""
        peers = self._peers
        if peers.velocities != self._heard:
            self._heard, self._heard_ns = peers.velocities, self._now_ns
        if self._now_ns - self._heard_ns > self._cmd_vel_timeout_s * 1e9:
            return 0.0, 0.0
        return peers.velocity

    _heard, _heard_ns = 0, -10**18

    def _finish(self, run) -> dict:
        if run.ended_by == 'stop':
            self._environment.step(0)
        metrics = self._environment.metrics()
        metrics['steps_taken'] = len(self._peers.executed)
        return run.result(self._now_ns, run.ended_by, metrics, self._peers, '')

    # Waiting

    def _wait(self, who: str, condition, timeout_s: float, again=None):
        """Spin until the condition holds; EpisodeError names who is late."""
        if condition():
            return
        begun_s = said_s = time.monotonic()
        while not condition():
            self._spin(0.2)
            now_s = time.monotonic()
            if now_s - begun_s > timeout_s and not condition():
                late = 'driver' if who == 'navigator' and self._peers.unanswered_plan() else who
                raise EpisodeError(f'{late} did not answer within {timeout_s:g} s of wall time at '
                                   f'simulated time {self._now_ns * 1e-9:.2f} s')
            if again is not None and now_s - said_s > REPEAT_S:
                said_s = now_s
                again()

    def _sleep_until(self, wall_s: float):
        while (left_s := wall_s - time.monotonic()) > 0:
            self._spin(left_s)
        self._spin(0.0)

    def _spin(self, timeout_s: float):
        self._spin_once(timeout_sec=timeout_s)
        if self._reset_asked:
            raise Interrupted


@dataclass
class _Run:
    """Bookkeeping of one episode."""

    episode_id: str
    started_s: float
    started_ns: int
    instruction: str = ''
    ended_by: str = ''
    ticks: int = 0

    def __post_init__(self):
        self.poses: list = []

    def result(self, now_ns: int, ended_by: str, metrics: dict, peers: Peers, error: str) -> dict:
        wall_s = time.monotonic() - self.started_s
        sim_s = (now_ns - self.started_ns) * 1e-9
        return {'episode_id': self.episode_id, 'instruction': self.instruction,
                'ended_by': ended_by, 'error': error, 'metrics': metrics,
                'navigator': peers.navigator.get('reason', ''),
                'actions': [action for _, action in peers.executed],
                'decisions': peers.decisions, 'trajectory': self.poses[::5] + self.poses[-1:],
                'ticks': self.ticks, 'sim_s': round(sim_s, 3), 'wall_s': round(wall_s, 3)}


class _OwnLoop(LeanExecutor):
    """An executor that is spun by its node instead of spinning it."""

    def __init__(self, node: BridgeNode):
        super().__init__()
        self._live = node.live

    def spin(self):
        """Run the node's loop."""
        self._live(self.spin_once)


def main(args=None) -> int:
    """Entry point of ``ros2 run vlnr1_ros sim_bridge``."""
    return runtime.run(BridgeNode, args, _OwnLoop)


if __name__ == '__main__':
    sys.exit(main())
