"""A lifecycle node that outlives whatever goes wrong in a transition."""
from __future__ import annotations

import traceback

from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn

from ..navigation.run_state import FINALIZED, INACTIVE, UNCONFIGURED
from . import runtime

ACTIVE = 'active'
SUCCESS, FAILURE, ERROR = (TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE,
                           TransitionCallbackReturn.ERROR)
END_S = 0.5  # from the shutdown transition to the end, so that its answer is still sent


class ManagedNode(LifecycleNode):
    """What transitions do is in `configure`, `activate`, `hold` and `release`, which may raise.

    A failed configure or activate leaves the node in the state before; a failed hold or release
    makes it unconfigured. `phase` is its state, `trouble` why the last transition failed ('' when
    it did not); `changed` is called when either may be another one. `configuring` is true while a
    model may be loading and nothing moves.
    """

    def __init__(self, name: str, **kwargs):
        super().__init__(name, **kwargs)
        self.phase, self.trouble, self.configuring = UNCONFIGURED, '', False
        self._failure: Exception | None = None
        service = self._service_change_state
        service.callback = self._never_raising(service.callback)

    # To be given by the node

    def configure(self) -> None:
        """Make ready to move."""

    def activate(self) -> None:
        """From now on the robot may move."""

    def hold(self) -> None:
        """From now on the robot stands; may be called again."""

    def release(self) -> None:
        """Let go of what `configure` made, if anything; may be called again."""

    def changed(self) -> None:
        """Tell people."""

    # Transitions

    def start(self) -> None:
        """Configure and activate without being asked; raises what made either of them fail."""
        for trigger in (self.trigger_configure, self.trigger_activate):
            if trigger() != SUCCESS:
                raise self._failure

    def on_configure(self, _state) -> TransitionCallbackReturn:
        """Stay unconfigured, with the reason, when it cannot be done."""
        self.configuring = True
        answer = self._attempt('configure', [self.configure], INACTIVE, FAILURE, self.release)
        self.configuring = False
        return answer

    def on_activate(self, _state) -> TransitionCallbackReturn:
        """Stay inactive, with the reason, when it cannot be done."""
        return self._attempt('activate', [self.activate], ACTIVE, FAILURE, self.hold)

    def on_deactivate(self, _state) -> TransitionCallbackReturn:
        """Stop the robot."""
        return self._attempt('deactivate', [self.hold], INACTIVE)

    def on_cleanup(self, _state) -> TransitionCallbackReturn:
        """Free the model."""
        return self._attempt('clean up', [self.release], UNCONFIGURED)

    def on_shutdown(self, _state) -> TransitionCallbackReturn:
        """Stop, free and end the process."""
        answer = self._attempt('shut down', [self.hold, self.release], FINALIZED)
        if answer == SUCCESS:
            self.create_timer(END_S, self.context.try_shutdown,
                              clock=Clock(clock_type=ClockType.STEADY_TIME))
        return answer

    def on_error(self, _state) -> TransitionCallbackReturn:
        """Stop and free as far as that is possible; a person may configure again."""
        self.configuring = False
        for work in (self.hold, self.release):
            try:
                work()
            except Exception:
                self.get_logger().error(traceback.format_exc())
        self.phase = UNCONFIGURED
        self.changed()
        return SUCCESS

    def _attempt(self, name, works, phase, otherwise=ERROR, undo=None) -> TransitionCallbackReturn:
        answer, self.trouble = SUCCESS, ''
        try:
            for work in works:
                work()
            self.phase = phase
        except Exception as error:  # the node must live, whatever a model or a network does
            answer, self._failure = otherwise, error
            text = runtime.user_text(error)
            if not text:
                self.get_logger().error(traceback.format_exc())
                text = f'exception: {error!r}'
            self.trouble = f'{name} failed: {" ".join(text.split())}'
            self.get_logger().error(self.trouble)
            if undo is not None:
                undo()
        self.changed()
        return answer

    def _never_raising(self, callback):
        """rclpy raises, and so ends the node, when a transition is asked for that is not there."""
        def change_state(request, response):
            try:
                return callback(request, response)
            except RuntimeError as error:
                self.get_logger().warning(f'no such transition when {self.phase}: {error}')
                response.success = False
                return response
        return change_state
