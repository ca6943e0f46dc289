"""An environment in its own process and interpreter, for clients of any Python version.

    PYTHON -m sim_bridge.server --address unix:///tmp/folder/socket

Started by `sim_bridge.client`, whose end of our standard input tells when to go. Needs numpy,
habitat-lab and msgpack, beside habitat-sim or what the embedded simulator needs.
"""
from __future__ import annotations

import argparse
import os
import re
import select
import signal
import socket
import sys
import threading
import traceback
from dataclasses import fields, is_dataclass

from sim_bridge import wire
from sim_bridge.config import EnvironmentConfig, simulator_name
from sim_bridge.environment import Environment, Observation, load_episodes
from vlnr1_ros.navigation.errors import UserError

LOCAL = re.compile(r'unix://.+|tcp://(127(\.\d+){3}|localhost|\[::1\]):\d+')
METHODS = ('reset', 'step', 'steps', 'move', 'look', 'set_render', 'expert_plan',
           'distance_to_goal_m', 'nearest_candidate', 'metrics', 'top_down_map')
"""What a client may call of its Environment."""
PARENT_CHECK_S = 1.0
FIRST_REQUEST_TIMEOUT_S = 2.0


def config_from_dict(plain: dict) -> EnvironmentConfig:
    """Settings from their plain form (`dataclasses.asdict`), whatever fields they have."""
    default = EnvironmentConfig()
    values = dict(plain)
    for name in (f.name for f in fields(default) if f.name in values):
        kind = type(getattr(default, name))
        if is_dataclass(kind):
            values[name] = kind(**values[name])
        elif kind is tuple:
            values[name] = tuple(values[name])
    return EnvironmentConfig(**values)


class Server:
    """Answers one client; whoever else connects is told so."""

    def __init__(self, listener: socket.socket):
        self._listener = listener
        self._environment: Environment | None = None

    def serve(self) -> None:
        """Answer one client after the other, for ever."""
        while True:
            client, _ = self._listener.accept()
            with client:
                try:
                    self._answer(client)
                except (OSError, EOFError):
                    pass    # this client has gone

    def _answer(self, client):
        """Answer requests until what comes is none; that is answered by the complaint."""
        wire.prepare(client)
        # a silent stranger who was quicker than the client must not keep it out
        client.settimeout(FIRST_REQUEST_TIMEOUT_S)
        try:
            while True:
                number, method, arguments = _request(wire.receive(client))
                client.settimeout(None)
                wire.send(client, [number, *self._reply(method, arguments)])
                self._wait_for(client)
        except wire.WireError as error:
            wire.send(client, _refusal(error))

    def _wait_for(self, client):
        """Until the client's next request comes; others are turned away."""
        while client not in select.select([client, self._listener], [], [])[0]:
            other, _ = self._listener.accept()
            with other:
                other.settimeout(0.0)
                try:
                    wire.send(other, _refusal('this environment server has another client'))
                except OSError:
                    pass

    def _reply(self, method, arguments):
        try:
            return wire.OK, self._call(method, arguments)
        except UserError as error:
            return wire.USER_ERROR, str(error)
        except Exception as error:
            traceback.print_exc()
            return wire.DEFECT, f'{type(error).__name__}: {error}'

    def _call(self, method, arguments):
        if method == 'load_episodes':
            config = config_from_dict(*arguments)
            return simulator_name(config.simulator), [vars(e) for e in load_episodes(config)]
        if method == 'open':
            self._environment = Environment(config_from_dict(*arguments))
            return [vars(e) for e in self._environment.episodes]
        if method not in METHODS or self._environment is None:
            raise wire.WireError(f'{method!r} cannot be called now')
        found = getattr(self._environment, method)(*arguments)
        if method == 'steps':
            return [vars(seen) for seen in found]
        return vars(found) if isinstance(found, Observation) else found


def _refusal(why):
    return [wire.NO_REQUEST, wire.DEFECT, str(why)]


def _request(message):
    if not (isinstance(message, list) and list(map(type, message)) == [int, str, list]):
        raise wire.WireError('a request is [number, method, arguments]')
    return message


def _end_with_client():
    """Leave as soon as the client closes our standard input, even by being killed."""
    parent = os.getppid()
    while os.getppid() == parent:
        ready, _, _ = select.select([0], [], [], PARENT_CHECK_S)
        if ready and not os.read(0, 4096):
            break
    # at once: a simulator may be in the middle of anything, and there is nothing to save
    os._exit(0)


def main(argv: list[str] | None = None) -> int:
    """The command line of this module; returns only with an error."""
    parser = argparse.ArgumentParser(prog='sim_bridge.server', description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('--address', required=True, help='unix://PATH or tcp://127.0.0.1:PORT')
    add('--anywhere', action='store_true', help='allow an address that other machines can reach')
    args = parser.parse_args(argv)
    if not (args.anywhere or LOCAL.fullmatch(args.address)):
        raise UserError(f'address {args.address} may be reached from other machines: take '
                        'unix://PATH or tcp://127.0.0.1:PORT, or add --anywhere')
    # Ctrl-C in a terminal is for the client, which then closes us
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_client, daemon=True).start()
    try:
        listener, place = wire.opened(args.address)
        # a restarted server finds its port still waiting for late packets
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(place)
        listener.listen()
    except (OSError, ValueError) as error:
        raise UserError(f'cannot listen at {args.address}: {error}') from None
    Server(listener).serve()


def run() -> None:
    """Ends the process: with one line on stderr where that says all."""
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f'error: {error}')


if __name__ == '__main__':
    run()
