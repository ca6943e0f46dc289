"""What every node does alike: declare parameters, start, and end cleanly.

Signals are answered by a thread of our own instead of rclpy's handlers, because those close the
context first, and then the last zero velocity could not be sent any more. Python's own handlers
would wait for the main thread to come back from the middleware, or from a model.
"""
from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from dataclasses import fields, replace
from typing import Callable, TypeVar

import rclpy
from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.executors import Executor, ExternalShutdownException
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions

from ..command import missing_module_text, system_error_text
from ..navigation.errors import UserError
from .lean_executor import executor_for
from .sockets import sockets_only

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
CLOSE_S = 0.2   # for which a node that closes waits for a callback in progress
LAST_WORD_S = 0.2
"""From a node's last word to its end. Fast DDS drops what a hearer has not taken yet of a writer
that is gone: of 50 navigators that ended, one took its hold along, and the base drove on until the
heartbeat was missed."""

Config = TypeVar('Config')


def declare(node: Node, name: str, default, description: str, unit: str = '', minimum=None,
            maximum=None, read_only: bool = True, constraints: str = ''):
    """Declare a parameter, by default one that is read once, at start; returns its value.

    Its type is that of `default` (bool, int, float, str or a list of one of these). constraints:
    words for what else a change has to observe. UserError when
    a value of another type or outside the range was given.
    """
    descriptor = ParameterDescriptor(
        description=f'{description} [{unit}]' if unit else description, read_only=read_only,
        additional_constraints=constraints)
    if minimum is not None or maximum is not None:
        if isinstance(default, float):
            descriptor.floating_point_range = [FloatingPointRange(
                from_value=float(-math.inf if minimum is None else minimum),
                to_value=float(math.inf if maximum is None else maximum))]
        else:
            descriptor.integer_range = [IntegerRange(
                from_value=int(-2**63 if minimum is None else minimum),
                to_value=int(2**63 - 1 if maximum is None else maximum))]
    try:
        return node.declare_parameter(name, default, descriptor).value
    except InvalidParameterTypeException as error:
        raise UserError(f'parameter {name} must be like {default!r} '
                        f'({type(default).__name__}): {error}') from None
    except InvalidParameterValueException:
        limits = f'between {minimum} and {maximum} {unit}'.strip()
        raise UserError(f'parameter {name} is out of range; give a value {limits}') from None


class Live:
    """A dataclass of parameters, of which those that are not read-only follow changes.

    A change is refused in the words that the dataclass would use at start, or when `forbids`
    (names of parameters -> the reason, '' for none) says so. `config` is what is in force: it
    changes in :meth:`take` only, so that no control step sees half of a change.
    """

    def __init__(self, node: Node, kind: type[Config],
                 forbids: Callable[[list[str]], str] = lambda names: ''):
        self.config = declare_dataclass(node, kind)
        self._node, self._forbids, self._changed = node, forbids, False
        self._names = [item.name for item in fields(kind) if not item.metadata['read_only']]
        node.add_on_set_parameters_callback(self._check)

    def take(self) -> bool:
        """Put changes in force; returns whether there were any."""
        if not self._changed:
            return False
        self._changed = False
        before, self.config = self.config, self._given()
        return self.config != before

    def _given(self, **changes) -> Config:
        # Asked of the node: another callback may have refused what this one let pass.
        given = {name: self._node.get_parameter(name).value for name in self._names}
        return replace(self.config, **{**given, **changes})

    def _check(self, parameters: list[Parameter]) -> SetParametersResult:
        changes = {item.name: item.value for item in parameters if item.name in self._names}
        try:
            self._given(**changes)
            reason = self._forbids(list(changes))
        except UserError as error:
            reason = str(error)
        self._changed = self._changed or bool(changes)
        return SetParametersResult(successful=not reason, reason=reason)


def declare_dataclass(node: Node, config: type[Config]) -> Config:
    """Declare every field of a dataclass whose metadata has description, unit and range."""
    return config(**{item.name: declare(node, item.name, item.default, **item.metadata)
                     for item in fields(config)})


def now_ns(node: Node) -> int:
    """The time of the node's clock (simulated with use_sim_time)."""
    return node.get_clock().now().nanoseconds


def run(make_node: Callable[[], Node], args=None,
        make_executor: Callable[[Node], Executor] = executor_for) -> int:
    """Run a node until SIGINT, SIGTERM or a shutdown of its context; returns the exit code.

    A node with a method ``close()`` has it called while it can still publish; one that says that
    it is `configuring` is not waited for. What the user can put right (UserError, wrong ROS
    arguments, a missing package, a full disk) ends in one line and code 2.
    """
    nodes: list[Node] = []
    signalled, ended = _signal_pipe(), threading.Event()
    try:
        changed, shared = sockets_only(os.environ)
        os.environ.update(changed)
        _init(args)
        threading.Thread(target=_end_on_signal, args=(signalled, nodes, ended),
                         daemon=True).start()
        node = make_node()
        nodes.append(node)
        if shared:
            node.get_logger().warning(shared)
        executor = make_executor(node)
        executor.add_node(node)
        executor.spin()
    except ExternalShutdownException:
        pass
    except Exception as error:
        if ended.is_set():
            return 0   # the context went while a callback was at it
        text = user_text(error)
        if not text:
            raise
        print(f'error: {" ".join(text.split())}', file=sys.stderr, flush=True)
        return 2
    finally:
        for node in nodes:
            _close(node)
            node.destroy_node()
        rclpy.try_shutdown()
        # Python gives its handlers up before it ends; an impatient second signal would kill it.
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
    return 0


def _init(args):
    try:
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    except RuntimeError as error:
        raise UserError(f'ROS refused the arguments ({error}); see what follows --ros-args, '
                        'parameter files among it') from None


def user_text(error: Exception) -> str:
    """What to tell the user; empty for a defect."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, ModuleNotFoundError):
        return missing_module_text(error)
    return system_error_text(error)


def _signal_pipe() -> int:
    """A descriptor to read the numbers of caught signals from, whichever thread caught them."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in STOP_SIGNALS:
        signal.signal(number, lambda *_: None)
    return reader


def _end_on_signal(signalled: int, nodes: list[Node], ended: threading.Event):
    while os.read(signalled, 1)[0] not in STOP_SIGNALS:
        pass
    if not nodes or getattr(nodes[0], 'configuring', False):
        # Still being made, perhaps for minutes (a model): nothing moves, nothing is to be closed.
        sys.stdout.flush()
        os._exit(0)
    for node in nodes:
        _close(node)
    ended.set()
    rclpy.try_shutdown()


def _close(node: Node):
    close = getattr(node, 'close', None)
    if close is not None and rclpy.ok():
        close()
        time.sleep(LAST_WORD_S)
