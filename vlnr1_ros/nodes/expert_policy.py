"""The simulator's shortest-path expert under the interface of a policy."""
from __future__ import annotations

import threading

from rclpy.node import Node
from std_srvs.srv import Trigger

from ..navigation.actions import Action
from ..navigation.card import NavigationCard
from ..navigation.errors import UserError
from ..navigation.memory import History
from ..navigation.prompt import check_instruction


class ExpertPolicy:
    """Asks the bridge's `expert` service, which answers in the text a model would write.

    `plan` blocks until the answer has come, so it must not be called by the thread that spins
    the node.
    """

    def __init__(self, node: Node, card: NavigationCard, service: str = 'sim_bridge/expert',
                 timeout_s: float = 10.0):
        self.card = card
        self._client = node.create_client(Trigger, service)
        self._timeout_s = timeout_s

    def reset(self, instruction: str, seed: int = 0) -> None:
        """Begin an episode; the expert knows the goal and reads no instruction."""
        check_instruction(instruction)

    def plan(self, history: History) -> list[Action]:
        """The expert's next `card.horizon` actions; UserError when it does not answer."""
        name = self._client.srv_name
        if not self._client.wait_for_service(timeout_sec=self._timeout_s):
            raise UserError(f'no service {name}: policy expert needs the simulator (sim_bridge)')
        answered = threading.Event()
        future = self._client.call_async(Trigger.Request())
        future.add_done_callback(lambda _: answered.set())
        if not answered.wait(self._timeout_s):
            self._client.remove_pending_request(future)
            raise UserError(f'{name} did not answer within {self._timeout_s:g} s')
        response = future.result()
        if not response.success:
            raise UserError(f'{name} refused: {response.message}')
        actions = self.card.action_set.decode(response.message)
        return (actions + [Action.STOP] * self.card.horizon)[:self.card.horizon]
