"""What environment server and client say to each other: msgpack, with large arrays beside it.

A message is a list of frames: the protocol's name and version, one msgpack value, then the bytes
of its large arrays, which are neither copied nor escaped.
"""
from __future__ import annotations

import msgpack
import numpy as np

PROTOCOL = 1
"""Counts up when messages change their form or their meaning."""
NAME = b'vlnr1-environment/'
SMALL_BYTES = 1024
"""Arrays up to this size travel within the msgpack value."""
BUFFER_BYTES = 1 << 20
"""Of both ends' sockets, so that an image leaves in one piece."""
_INLINE, _BESIDE = 1, 2

OK, USER_ERROR, DEFECT = 'ok', 'user error', 'defect'
"""How a request ended. It is [number, method, arguments], the answer [number, one of these, value
or error text]."""
NO_REQUEST = -1
"""The number in an answer to what was no request."""


class WireError(ValueError):
    """What came is no message of this protocol version; the text says what it is."""


def pack(value) -> list:
    """Frames of a message. `value`: plain types and arrays, nested; tuples arrive as lists."""
    frames = [NAME + str(PROTOCOL).encode(), b'']

    def array(thing):
        if isinstance(thing, np.generic):
            return thing.item()
        if not isinstance(thing, np.ndarray):
            raise TypeError(f'{type(thing).__name__} cannot be sent')
        form = [thing.dtype.str, thing.shape]
        if thing.nbytes <= SMALL_BYTES:
            return msgpack.ExtType(_INLINE, msgpack.packb([*form, thing.tobytes()]))
        frames.append(np.ascontiguousarray(thing).data.cast('B'))
        return msgpack.ExtType(_BESIDE, msgpack.packb([*form, len(frames) - 1]))

    frames[1] = msgpack.packb(value, default=array)
    return frames


def unpack(frames: list):
    """The value of a message; large arrays are views of `frames` (bytes or memoryviews).

    Raises WireError for anything else, naming both versions when only they differ.
    """
    if not frames or not bytes(frames[0][:len(NAME)]) == NAME:
        raise WireError('not a message of the environment protocol')
    version = bytes(frames[0][len(NAME):])[:16].decode('ascii', 'replace')
    if version != str(PROTOCOL):
        raise WireError(f'protocol version {version} there, {PROTOCOL} here')

    def array(code, data):
        dtype, shape, content = msgpack.unpackb(data)
        if code == _BESIDE:
            return np.frombuffer(frames[content], dtype).reshape(shape)
        return np.frombuffer(bytearray(content), dtype).reshape(shape)

    try:
        return msgpack.unpackb(frames[1], ext_hook=array, strict_map_key=False)
    except Exception as error:  # msgpack and numpy have a dozen ways to dislike bytes
        raise WireError(f'garbled message ({type(error).__name__}: {error})') from None
