"""A single-threaded executor for nodes that handle thousands of messages a second.

rclpy's own executor collects all entities of a node anew before every message, which takes longer
than handling it. This one keeps the wait set and calls subscriptions directly; everything else
(timers, services, events) is left to rclpy.
"""
from __future__ import annotations

import inspect
import time
from contextlib import ExitStack

from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation as _rclpy
from rclpy.node import Node

REST_PERIOD_S = 0.25  # how often rclpy looks at what this executor does not wait for: QoS events


class LeanExecutor(SingleThreadedExecutor):
    """Like SingleThreadedExecutor; callbacks of subscriptions are plain functions of a message."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self._stale = True
        self._entered = ExitStack()
        self._rest_due_s = 0.0

    def wake(self) -> None:
        """Called by rclpy when a node gains or loses an entity."""
        self._stale = True
        super().wake()

    def shutdown(self, timeout_sec=None) -> bool:
        """Stop spinning and let go of the entities."""
        self._entered.close()
        return super().shutdown(timeout_sec)

    def spin_once(self, timeout_sec: float | None = None) -> None:
        """Wait for something to be ready and handle it: all messages, or one of the rest."""
        if not self._context.ok():
            raise ExternalShutdownException()
        if self._stale:
            self._collect()
        wait_set = self._fill()
        limit_s = REST_PERIOD_S if timeout_sec is None or timeout_sec < 0 else timeout_sec
        wait_set.wait(int(min(limit_s, REST_PERIOD_S) * 1e9))
        if not self._context.ok():
            raise ExternalShutdownException()
        ready = set(wait_set.get_ready_entities('subscription'))
        for subscription in self._subscriptions if ready else ():
            if subscription.handle.pointer in ready:
                taken = subscription.handle.take_message(subscription.msg_type, subscription.raw)
                if taken is not None:
                    subscription.callback(taken[0])
        rest = any(wait_set.get_ready_entities(kind) for kind in ('timer', 'service', 'client'))
        triggered = set(wait_set.get_ready_entities('guard_condition'))
        for guard in self._guards if triggered else ():
            if guard.handle.pointer in triggered:
                guard._executor_triggered = rest = True  # the wait has reset it: rclpy is told
        if rest or time.monotonic() > self._rest_due_s:
            self._rest_due_s = time.monotonic() + REST_PERIOD_S
            super().spin_once(timeout_sec=0.0)

    def _collect(self):
        """Look up the entities to wait for and keep them alive until the next time."""
        self._stale = False
        self._entered.close()
        nodes = self.get_nodes()

        def executable(kind):
            return [entity for node in nodes for entity in getattr(node, kind)
                    if entity.callback_group.can_execute(entity)]

        self._subscriptions = executable('subscriptions')
        for subscription in self._subscriptions:
            if inspect.iscoroutinefunction(subscription.callback):
                raise TypeError(f'{subscription.topic}: LeanExecutor runs no coroutines')
        self._others = (('add_timer', executable('timers')), ('add_client', executable('clients')),
                        ('add_service', executable('services')))
        self._guards = [*executable('guards')]
        for entity in [*self._subscriptions, *self._guards,
                       *(entity for _, found in self._others for entity in found)]:
            self._entered.enter_context(entity.handle)
        self._own_guards = (self._guard.handle, self._sigint_gc.handle)
        sizes = [len(found) for _, found in self._others]
        self._wait_set = _rclpy.WaitSet(
            len(self._subscriptions), len(self._guards) + len(self._own_guards), *sizes, 0,
            self._context.handle)

    def _fill(self):
        wait_set = self._wait_set
        wait_set.clear_entities()
        for subscription in self._subscriptions:
            wait_set.add_subscription(subscription.handle)
        for add, found in self._others:
            for entity in found:
                getattr(wait_set, add)(entity.handle)
        for guard in self._guards:
            wait_set.add_guard_condition(guard.handle)
        for guard in self._own_guards:
            wait_set.add_guard_condition(guard)
        return wait_set


def executor_for(node: Node) -> SingleThreadedExecutor:
    """The lean one for a node in lockstep; rclpy's own on a robot."""
    if node.get_parameter('lockstep').value:
        return LeanExecutor()
    return SingleThreadedExecutor()
