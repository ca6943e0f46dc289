"""The start of an episode: everybody is there, and the navigator follows its instruction."""
from __future__ import annotations

from typing import Callable

from rcl_interfaces.srv import SetParameters
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from std_msgs.msg import String
from std_srvs.srv import Trigger

from sim_bridge.episode_seed import episode_seed
from sim_bridge.ros.parameters import DISCRETE, BridgeParameters
from sim_bridge.ros.peers import Peers
from sim_bridge.ros.waiting import EpisodeError, Waiting
from vlnr1_ros.navigation.prompt import check_instruction
from vlnr1_ros.navigation.run_state import AT_REST, FOLLOWING


class HandOver:
    """listeners: how many subscriptions the bridge's topics have, by topic."""

    def __init__(self, node: Node, given: BridgeParameters, peers: Peers, waiting: Waiting,
                 listeners: Callable[[], dict[str, int]]):
        self._node = node
        self._given = given
        self._peers = peers
        self._waiting = waiting
        self._listeners = listeners
        self._instruction = node.create_publisher(String, 'instruction', QoSProfile(
            depth=1, reliability=ReliabilityPolicy.RELIABLE))
        self._cancel = node.create_client(Trigger, 'navigator/cancel')
        self._set_parameters = node.create_client(SetParameters, 'navigator/set_parameters')

    def begin(self, episode_id: str, instruction: str) -> None:
        """Wait for everybody, then hand over the instruction until it is accepted.

        EpisodeError names who is missing, or what the navigator says against it.
        """
        given, peers = self._given, self._peers
        self._wait_for_driver()
        if 'navigator' not in given.participants:
            return
        self._wait_until_active()
        if peers.navigator['state'] in FOLLOWING:
            self._end_the_last_run()
        self._until(lambda: (self._instruction.get_subscription_count()
                             and self._listeners()['image_raw']
                             and self._listeners()['odom'] >= len(given.participants)),
                    given.startup_timeout_s)
        if given.policy_seed >= 0:
            self._give_seed(episode_seed(given.policy_seed, episode_id))
        text = check_instruction(instruction)
        say = lambda: self._instruction.publish(String(data=text))  # noqa: E731
        peers.navigator = {}
        say()
        self._until(lambda: peers.follows(text) or peers.navigator_trouble(),
                    given.lockstep_timeout_s, say)
        self.check_navigator()

    def check_navigator(self) -> None:
        """EpisodeError when the navigator follows nothing any more."""
        trouble = self._peers.navigator_trouble()
        if trouble:
            raise EpisodeError(trouble)

    def _wait_for_driver(self):
        node = self._node
        if self._given.mode == DISCRETE and node.count_publishers('cmd_vel'):
            raise EpisodeError('mode discrete executes plans itself, but somebody publishes '
                               'cmd_vel; end the driver, or take mode velocity')
        if 'driver' in self._given.participants:
            self._waiting.until('driver', lambda: (node.count_publishers('cmd_vel')
                                                   and node.count_publishers('plan_status')
                                                   and self._listeners()['odom']),
                                self._given.startup_timeout_s)

    def _wait_until_active(self):
        peers = self._peers
        try:
            self._until(lambda: peers.navigator and peers.navigator['state'] not in AT_REST,
                        self._given.startup_timeout_s)
        except EpisodeError:
            if not peers.navigator:
                raise
            raise EpisodeError(f'{peers.navigator_trouble()}; configure and activate it, or set '
                               'its start_active') from None

    def _end_the_last_run(self):
        self._until(self._cancel.service_is_ready, self._given.startup_timeout_s)
        # Answered, not only sent: it must not overtake the instruction that follows.
        cancelled = self._cancel.call_async(Trigger.Request())
        self._until(lambda: cancelled.done() and self._peers.navigator['state'] not in FOLLOWING,
                    self._given.lockstep_timeout_s)

    def _give_seed(self, seed: int):
        self._until(self._set_parameters.service_is_ready, self._given.startup_timeout_s)
        answer = self._set_parameters.call_async(SetParameters.Request(
            parameters=[Parameter('seed', value=seed).to_parameter_msg()]))
        self._until(answer.done, self._given.lockstep_timeout_s)
        result, = answer.result().results
        if not result.successful:
            raise EpisodeError(f'the navigator does not take the seed {seed}: {result.reason}')

    def _until(self, condition, timeout_s, again=None):
        self._waiting.until('navigator', condition, timeout_s, again)
