"""An environment in its own process and interpreter, for clients of any Python version.

    PYTHON -m sim_bridge.server --address ipc:///tmp/folder/socket

Started by `sim_bridge.client`, whose end of our standard input tells when to go. Needs numpy,
habitat-lab, pyzmq and msgpack, beside habitat-sim or what the embedded simulator needs.
"""
from __future__ import annotations

import argparse
import os
import re
import select
import signal
import sys
import threading
import traceback
from dataclasses import fields, is_dataclass

import zmq

from sim_bridge import wire
from sim_bridge.config import EnvironmentConfig, simulator_name
from sim_bridge.environment import Environment, Observation, load_episodes
from vlnr1_ros.navigation.errors import UserError

LOCAL = re.compile(r'ipc://.+|tcp://(127(\.\d+){3}|localhost|\[::1\]):\d+')
METHODS = ('reset', 'step', 'steps', 'move', 'look', 'set_render', 'expert_plan',
           'distance_to_goal_m', 'nearest_candidate', 'metrics', 'top_down_map')
"""What a client may call of its Environment."""
PARENT_CHECK_S = 1.0


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
    """Answers one client; whoever else writes is told so."""

    def __init__(self, socket):
        self._socket = socket
        self._client: bytes | None = None
        self._environment: Environment | None = None

    def answer_next(self) -> None:
        """Wait for a message and answer it. Garbage is answered by its complaint."""
        sender, *frames = self._socket.recv_multipart(copy=False)
        number = wire.NO_REQUEST
        try:
            number, method, arguments = _request([frame.buffer for frame in frames])
            if self._client not in (None, sender.bytes):
                raise wire.WireError('this environment server has another client')
            self._client = sender.bytes
            reply = wire.OK, self._call(method, arguments)
        except UserError as error:
            reply = wire.USER_ERROR, str(error)
        except Exception as error:
            traceback.print_exc()
            reply = wire.DEFECT, f'{type(error).__name__}: {error}'
        self._socket.send_multipart([sender, *wire.pack([number, *reply])], copy=False)

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


def _request(frames):
    message = wire.unpack(frames)
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
    add('--address', required=True, help='ipc://PATH or tcp://127.0.0.1:PORT')
    add('--anywhere', action='store_true', help='allow an address that other machines can reach')
    args = parser.parse_args(argv)
    if not (args.anywhere or LOCAL.fullmatch(args.address)):
        raise UserError(f'address {args.address} may be reached from other machines: take '
                        'ipc://PATH or tcp://127.0.0.1:PORT, or add --anywhere')
    # Ctrl-C in a terminal is for the client, which then closes us
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_client, daemon=True).start()
    socket = zmq.Context.instance().socket(zmq.ROUTER)
    socket.linger = 0
    socket.sndbuf = socket.rcvbuf = wire.BUFFER_BYTES
    try:
        socket.bind(args.address)
    except zmq.ZMQError as error:
        raise UserError(f'cannot listen at {args.address}: {error}') from None
    server = Server(socket)
    while True:
        server.answer_next()


def run() -> None:
    """Ends the process: with one line on stderr where that says all."""
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f'error: {error}')


if __name__ == '__main__':
    run()
