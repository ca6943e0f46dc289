"""The thread that asks the policy."""
import threading

from spun_node import wait_until

from vlnr1_ros.navigation.actions import Action
from vlnr1_ros.nodes.decision import Decider, Question


class Slow:
    """A policy that answers when it is let."""

    def __init__(self):
        self.asked, self.go_on = threading.Event(), threading.Event()

    def reset(self, instruction, seed):
        pass

    def plan(self, history):
        self.asked.set()
        assert self.go_on.wait(10)
        return [Action.MOVE_FORWARD]


def test_answers_come_until_it_is_closed_and_none_after():
    policy, answers = Slow(), []
    decider = Decider(policy, answers.append)
    thread = decider._thread
    policy.go_on.set()
    decider.ask(Question(1, 1, 'go', None), 0)
    wait_until(lambda: answers)
    assert answers[0].token == 1 and answers[0].actions == (Action.MOVE_FORWARD,)
    policy.go_on.clear()
    policy.asked.clear()
    decider.ask(Question(2, 1, 'go', None), 0)
    assert policy.asked.wait(10)
    decider.close()
    policy.go_on.set()
    thread.join(10)
    assert not thread.is_alive() and len(answers) == 1
