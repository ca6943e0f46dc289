"""The bridge node: Habitat as a robot's topics, in lockstep or in wall time.

    ros2 run vlnr1_ros sim_bridge --ros-args --params-file config/sim_bridge.yaml

In lockstep a tick ends when the driver has answered its odometry and the navigator its image; as
long as somebody is late, time stands still. Episodes named by the parameter `episodes` run one
after the other; each ends with a JSON result on `~/result`. In mode discrete there is no driver:
`discrete.py`.
"""
from __future__ import annotations

import json
import os
import sys
import threading
import time
from typing import NoReturn

from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger

from sim_bridge.client import ServerError, open_environment
from sim_bridge.ros.body import Body
from sim_bridge.ros.camera import Picture
from sim_bridge.ros.discrete import DiscreteMode
from sim_bridge.ros.episode_run import EpisodeRun
from sim_bridge.ros.hand_over import HandOver
from sim_bridge.ros.only_one import OnlyOne
from sim_bridge.ros.parameters import DISCRETE, BridgeParameters
from sim_bridge.ros.peers import Peers
from sim_bridge.ros.record import Recorder
from sim_bridge.ros.requests import Request, Requests
from sim_bridge.ros.waiting import EpisodeError, Interrupted, Waiting
from vlnr1_ros.navigation.actions import ActionSet
from vlnr1_ros.navigation.errors import UserError
from vlnr1_ros.nodes import runtime
from vlnr1_ros.nodes.lean_executor import LeanExecutor

FIRST_STAMP_NS = 1_000_000_000  # zero means "no time yet" to nodes on simulated time
EXPERT_ACTIONS = 6
IDLE_S = 0.05                   # between two looks whether an episode is asked for
END_WITHIN_S = 1.0              # of a signal, or the process is ended as it is


class BridgeNode(Node):
    """ROS side of :class:`sim_bridge.environment.Environment`."""

    def __init__(self, **kwargs):
        super().__init__('sim_bridge', **kwargs)
        self._given = BridgeParameters.declare(self)
        self._only_one = OnlyOne(self)
        config = self._given.environment
        self._environment = open_environment(config, self._given.habitat_python)
        self._action_set = ActionSet(config.forward_m, config.turn_deg)
        self._body = Body(self, self._given, self._environment, self._send, lambda: self._now_ns)
        discrete = self._given.mode == DISCRETE
        self._peers = Peers(self, self._action_set, self._given.stamped, driver=not discrete)
        self._discrete = DiscreteMode(self, self._environment, self._action_set, self._peers,
                                      lambda: self._now_ns) if discrete else None
        # The other cameras render for themselves.
        self._environment.set_render(discrete and self._given.lockstep)
        self._requests = Requests(self._given.requests_file)
        latched = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE,
                             durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._result = self.create_publisher(String, '~/result', latched)
        self.create_service(Trigger, '~/reset', self._on_reset)
        self.create_service(SetBool, '~/pause', self._on_pause)
        self.create_service(Trigger, '~/expert', self._on_expert)
        self._now_ns = FIRST_STAMP_NS
        self._waiting = Waiting(self._peers, lambda: self._now_ns)
        self._hand_over = HandOver(self, self._given, self._peers, self._waiting,
                                   self._body.topics.listeners)
        self._paused = False
        self._in_episode = False
        self._recorder: Recorder | None = None
        self._at_rest = threading.Event()   # nothing is running that would have to be ended
        self._at_rest.set()

    def close(self):
        """End soon, and leave no half of a record.

        The loop ends where it waits for messages. While a scene is loaded, which may take far
        longer and cannot be interrupted, it does not come there: then the process ends as it is.
        """
        self._waiting.ending = True
        if self._at_rest.wait(END_WITHIN_S):
            return
        if self._recorder is not None:
            self._recorder.discard()
        _exit(0)

    # Services

    def _on_reset(self, _request, response):
        self._waiting.reset_asked = True
        response.success = True
        response.message = f'episodes: {self._episodes_text() or "none"}'
        return response

    def _on_pause(self, request, response):
        self._paused = bool(request.data)
        response.success = True
        response.message = 'time stands still' if self._paused else 'time goes on'
        return response

    def _on_expert(self, _request, response):
        try:
            if not self._in_episode:
                raise UserError('no episode is running')
            actions = self._environment.expert_plan(EXPERT_ACTIONS)
            response.success, response.message = True, self._action_set.encode(actions)
        except (ValueError, ServerError) as error:
            response.success, response.message = False, str(error)
        return response

    # Episodes

    def live(self, spin_once):
        """Run episodes as they are asked for; returns when the context is shut down."""
        self._waiting.spin_once = spin_once
        self._waiting.reset_asked = True
        self._at_rest.clear()
        try:
            self._only_one.check(self._waiting.spin_until_ending)
            request = None   # asked for by the file and not yet answered
            while self.context.ok() and not self._waiting.ending:
                request = request or self._requests.next()
                if self._waiting.reset_asked:
                    self._waiting.reset_asked = False
                    self._run_all(map(Request, self._episodes_text().split()))
                elif request is None:
                    spin_once(timeout_sec=IDLE_S)
                elif self._run_all([request]):
                    request = None
        finally:
            self._body.camera.close()
            self._environment.close()
            self._at_rest.set()

    def _run_all(self, requests) -> bool:
        """Whether all of them were run, and no reset came between."""
        try:
            for request in requests:
                self._say(self._run(request))
        except Interrupted:
            self.get_logger().info('reset')
            return False
        return True

    def _episodes_text(self) -> str:
        return self.get_parameter_or('episodes', Parameter('episodes', value='')).value

    def _say(self, result: dict):
        line = json.dumps(result)
        self._result.publish(String(data=line))
        if self._given.results_file:
            with open(self._given.results_file, 'a', encoding='utf-8') as file:
                file.write(line + '\n')
        if result['error']:
            self.get_logger().error(f'episode {result["episode_id"]}: {result["error"]}')
        else:
            self.get_logger().info(f'episode {result["episode_id"]}: {result["ended_by"]}, '
                                   f'success {result["metrics"].get("success")}')

    def _run(self, request: Request) -> dict:
        """One episode from its instruction to its result."""
        run = EpisodeRun(request.episode_id, time.monotonic(), self._now_ns)
        try:
            self._seen = self._environment.reset(run.episode_id)
            run.instruction = request.instruction or self._environment.episode.instruction
            self._in_episode = True
            self._peers.begin()
            self._body.begin(run.episode_id)
            self._waiting.until('camera', self._body.camera.ready, self._given.startup_timeout_s)
            if self._discrete:
                self._discrete.begin(self._seen)
            if self._given.record_dir:
                self._recorder = Recorder(self._given.record_dir, run.episode_id)
            self._hand_over.begin(run.episode_id, run.instruction)
            run.started_s, run.started_ns = time.monotonic(), self._now_ns
            self._drive(run)
            result = self._finish(run)
        except (UserError, EpisodeError, ServerError) as error:
            result = run.result(self._now_ns, 'error', {}, self._peers, str(error))
        except BaseException:
            self._body.camera.end()
            if self._recorder is not None:
                self._recorder.discard()
                self._recorder = None
            raise
        finally:
            self._in_episode = False
        self._body.camera.end()
        recorder, self._recorder = self._recorder, None
        if recorder is not None:
            path = recorder.finish(result, run.poses, self._peers.decisions, self._peers.executed)
            result['record'] = str(path)
        return result

    def _drive(self, run):
        """Ticks until the episode is over."""
        dt_s = self._given.tick_ns * 1e-9
        limit_ns = self._now_ns + int(self._given.episode_timeout_s * 1e9)
        while not run.ended_by:
            while self._paused:
                self._waiting.spin(0.1)
            self._tick(run, dt_s)
            run.ticks += 1
            run.ended_by = self._end(limit_ns)
            if run.ended_by:
                return
            self._hand_over.check_navigator()
            if self._discrete:
                self._seen = self._discrete.act(self._seen, self._now_ns + self._given.tick_ns)
                # An image of the end would be an answer asked for in vain.
                run.ended_by = self._end(limit_ns)
            else:
                velocity = self._peers.velocity(self._now_ns, self._given.cmd_vel_timeout_s)
                self._seen = self._environment.move(*self._body.drive(*velocity), dt_s)

    def _end(self, limit_ns) -> str:
        """What has ended the episode, or ''."""
        if self._peers.misfit:
            raise EpisodeError(self._peers.misfit)
        if self._peers.stopped:
            return 'stop'
        if len(self._peers.executed) >= self._environment.config.max_steps:
            return 'max_steps'
        return 'timeout' if self._now_ns >= limit_ns else ''

    def _tick(self, run, dt_s):
        """Everything that is stamped with one time, and the answers to it."""
        self._now_ns += self._given.tick_ns
        now_ns, seen = self._now_ns, self._seen
        run.poses.append([round(now_ns * 1e-9, 6), round(seen.x, 4), round(seen.y, 4),
                          round(seen.z, 4), round(seen.yaw_rad, 5)])
        feel_again = self._body.feel(now_ns, seen)
        # Rendering goes on while the driver thinks; the image leaves when it has spoken, so that
        # the navigator has heard of the end of an action before it sees the image of that end.
        if run.ticks % self._given.ticks_per_image == 0:
            self._body.camera.look(now_ns, seen)
        if not self._given.lockstep:
            self._waiting.keep_pace(dt_s)
        elif 'driver' not in self._given.participants:
            self._waiting.spin(0.0)
        else:
            self._waiting.until('driver', lambda: self._peers.velocity_ns == now_ns,
                                self._given.lockstep_timeout_s, feel_again)
        for picture in self._body.camera.due(now_ns):
            self._send(picture)
            if 'navigator' in self._given.participants:
                self._wait_for_navigator(picture, feel_again)

    def _wait_for_navigator(self, picture: Picture, feel_again):
        def again():
            feel_again()
            self._body.topics.camera(picture)

        self._waiting.until('navigator', lambda: self._peers.acknowledged_ns == picture.stamp_ns,
                            self._given.lockstep_timeout_s, again)

    def _send(self, picture: Picture):
        """A picture leaves; in free run this is called in the camera's thread."""
        self._body.topics.camera(picture)
        if self._recorder is not None:
            self._recorder.frame(picture.stamp_ns * 1e-9, picture.rgb)

    def _finish(self, run) -> dict:
        if run.ended_by == 'stop' and not self._discrete:
            self._environment.step(0)
        metrics = self._environment.metrics()
        metrics['steps_taken'] = len(self._peers.executed)
        result = run.result(self._now_ns, run.ended_by, metrics, self._peers, '')
        if self._discrete:
            result['path'] = self._discrete.path
        if self._environment.episode.info.get('candidates'):
            result['nearest_candidate'] = self._environment.nearest_candidate()
        return result


class OwnLoop(LeanExecutor):
    """An executor that is spun by its node instead of spinning it."""

    def __init__(self, node: BridgeNode):
        super().__init__(context=node.context)
        self._live = node.live

    def spin(self):
        """Run the node's loop."""
        self._live(self.spin_once)


def main(args=None) -> NoReturn:
    """Entry point of ``ros2 run vlnr1_ros sim_bridge``."""
    _exit(runtime.run(BridgeNode, args, OwnLoop))


def _exit(code: int) -> NoReturn:
    """End at once: to take the interpreter apart, with habitat-lab in it, takes up to seconds."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == '__main__':
    main()
