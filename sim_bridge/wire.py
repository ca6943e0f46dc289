"""What environment server and client say to each other: msgpack over a socket, arrays beside it.

A message is a header (name, protocol version, two lengths), one msgpack value, then the bytes of
its large arrays, which are neither copied nor escaped. Plain sockets, because between processes of
one machine a message library's threads cost more than the message.
"""
from __future__ import annotations

import socket
import struct
from urllib.parse import urlsplit

import msgpack
import numpy as np

PROTOCOL = 2
"""Counts up when messages change their form or their meaning."""
NAME = b'vlnr1environment'
HEADER = struct.Struct(f'<{len(NAME)}sHIQ')
"""NAME, PROTOCOL, bytes of the msgpack value, bytes of the arrays."""
MOST_BYTES = 1 << 32
"""Longer messages are taken for garbage."""
SMALL_BYTES = 1024
"""Arrays up to this size travel within the msgpack value."""
BUFFER_BYTES = 1 << 20
"""Of both ends' sockets, so that an image leaves in one piece."""
PARTS_AT_ONCE = 512
"""Half of what Linux takes in one call (IOV_MAX)."""
ALIGNMENT = 8
_INLINE, _BESIDE = 1, 2

OK, USER_ERROR, DEFECT = 'ok', 'user error', 'defect'
"""How a request ended. It is [number, method, arguments], the answer [number, one of these, value
or error text]."""
NO_REQUEST = -1
"""The number in an answer to what was no request."""


class WireError(ValueError):
    """What came is no message of this protocol version; the text says what it is."""


def opened(address: str) -> tuple[socket.socket, str | tuple]:
    """A new socket for an address, unix://PATH or tcp://HOST:PORT, and what to bind or connect it
    to. Raises ValueError for another address."""
    parts = urlsplit(address)
    if parts.scheme == 'unix' and parts.path and not parts.netloc:
        made, place = socket.socket(socket.AF_UNIX), parts.path
    elif parts.scheme == 'tcp' and parts.hostname and parts.port is not None:
        made = socket.socket(socket.AF_INET6 if ':' in parts.hostname else socket.AF_INET)
        place = parts.hostname, parts.port
    else:
        raise ValueError('an address is unix://PATH or tcp://HOST:PORT')
    prepare(made)
    return made, place


def prepare(connection: socket.socket) -> None:
    """Set up a socket, connected or not, for messages that are waited for."""
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        connection.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)
    if connection.family != socket.AF_UNIX:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def send(connection: socket.socket, value) -> None:
    """Send a message. `value`: plain types and arrays, nested; tuples arrive as lists."""
    arrays = []
    beside_bytes = 0

    def array(thing):
        nonlocal beside_bytes
        if isinstance(thing, np.generic):
            return thing.item()
        if not isinstance(thing, np.ndarray):
            raise TypeError(f'{type(thing).__name__} cannot be sent')
        form = [thing.dtype.str, thing.shape]
        if thing.nbytes <= SMALL_BYTES:
            return msgpack.ExtType(_INLINE, msgpack.packb([*form, thing.tobytes()]))
        place = msgpack.packb([*form, beside_bytes])
        gap = bytes(-thing.nbytes % ALIGNMENT)
        arrays.extend((np.ascontiguousarray(thing).data.cast('B'), gap))
        beside_bytes += thing.nbytes + len(gap)
        return msgpack.ExtType(_BESIDE, place)

    packed = msgpack.packb(value, default=array)
    rest = [memoryview(part) for part in
            (HEADER.pack(NAME, PROTOCOL, len(packed), beside_bytes), packed, *arrays) if part]
    while rest:
        sent = connection.sendmsg(rest[:PARTS_AT_ONCE])
        while rest and sent >= len(rest[0]):
            sent -= len(rest.pop(0))
        if sent:
            rest[0] = rest[0][sent:]


def receive(connection: socket.socket):
    """The value of the next message; large arrays are views of one buffer, and can be written to.

    Raises WireError for anything else, naming both versions when only they differ, EOFError when
    the other end has closed, and OSError as sockets do.
    """
    name, version, value_bytes, beside_bytes = HEADER.unpack(_exactly(connection, HEADER.size))
    if name != NAME:
        raise WireError('not a message of the environment protocol')
    if version != PROTOCOL:
        raise WireError(f'protocol version {version} there, {PROTOCOL} here')
    if value_bytes + beside_bytes > MOST_BYTES:
        raise WireError(f'a message of {value_bytes + beside_bytes} bytes')
    packed = _exactly(connection, value_bytes)
    beside = _exactly(connection, beside_bytes)

    def array(code, data):
        dtype, shape, content = msgpack.unpackb(data)
        if code == _BESIDE:
            count = int(np.prod(shape, dtype=np.int64))
            return np.frombuffer(beside, dtype, count, content).reshape(shape)
        return np.frombuffer(bytearray(content), dtype).reshape(shape)

    try:
        return msgpack.unpackb(packed, ext_hook=array, strict_map_key=False)
    except Exception as error:  # msgpack and numpy have a dozen ways to dislike bytes
        raise WireError(f'garbled message ({type(error).__name__}: {error})') from None


def _exactly(connection, count):
    content = np.empty(count, np.uint8)
    rest = memoryview(content)
    while len(rest):
        received = connection.recv_into(rest)
        if not received:
            raise EOFError('the other end has closed the connection')
        rest = rest[received:]
    return content.data
