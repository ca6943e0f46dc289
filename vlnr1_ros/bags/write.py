"""Bags as MCAP files with metadata.yaml, written whole or repaired later.

A bag in the making lies in `FOLDER/.partial/NAME/` and is renamed to `FOLDER/NAME/` when its index
is written. One that was cut off (kill -9, a power cut) holds every message up to its last
:meth:`BagFile.flush`; :func:`repair_all` gives it the index it lacks.
"""
from __future__ import annotations

import fcntl
import os
import shutil
import struct
from contextlib import suppress
from pathlib import Path
from typing import Iterator

from ..navigation.errors import UserError

PARTIAL = '.partial'
REPAIRED = '_repaired'
METADATA_VERSION = 8
"""Of metadata.yaml: the newest that distros before Jazzy read as well."""
MAGIC = b'\x89MCAP0\r\n'
DATA_END, FOOTER = b'\x0f', b'\x02'
RECORD = struct.Struct('<cQ')   # opcode and length of every MCAP record


def typestore(distro: str | None = None):
    """The message types of a ROS distro (default: the sourced one, else Jazzy)."""
    # rosbags is imported when it is needed: where it is missing, a node says so in one line
    from rosbags.typesys import Stores, get_typestore

    name = f'ROS2_{(distro or os.environ.get("ROS_DISTRO") or "jazzy").upper()}'
    return get_typestore(getattr(Stores, name, Stores.ROS2_JAZZY))


class Folder:
    """Where one recorder keeps its bags; a second one is refused while it lives."""

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        (self.path / PARTIAL).mkdir(parents=True, exist_ok=True)
        self._lock = open(self.path / PARTIAL / 'lock', 'w')
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise UserError(f'another recorder writes to {self.path}; end it, or give this one '
                            'another folder') from None
        dirs = sorted(path for path in (self.path / PARTIAL).iterdir() if path.is_dir())
        # half a repair is made anew
        self._left = [path for path in dirs if not (
            path.name.endswith(REPAIRED)
            and path.with_name(path.name.removesuffix(REPAIRED)) in dirs)]

    def close(self) -> None:
        """Let others have the folder."""
        self._lock.close()

    def size_bytes(self) -> int:
        """Of all that lies in it."""
        return sum(path.stat().st_size for path in self.path.rglob('*') if path.is_file())

    def free_bytes(self) -> int:
        """Room left on its disk."""
        return shutil.disk_usage(self.path).free

    def repair_all(self) -> Iterator[tuple[str, str]]:
        """Finish what killed recorders left: (name, what became of it) of each.

        It may take a minute a gigabyte, and disturbs nobody who records meanwhile.
        """
        for partial in self._left:
            try:
                yield partial.name, repair(partial, self.path)
            except Exception as error:   # what is in a torn file nobody knows
                yield partial.name, f'cannot be repaired: {error}'


class BagFile:
    """One bag in the making. OSError when it cannot be written: the disk is full, or gone."""

    def __init__(self, folder: Path, name: str):
        """A bag of that name, or with a number behind it where there is one."""
        from rosbags.rosbag2 import StoragePlugin, Writer

        taken, number = name, 1
        while (folder / taken).exists() or (folder / PARTIAL / taken).exists():
            number += 1
            taken = f'{name}_{number}'
        self.path = folder / taken
        self._partial = folder / PARTIAL / taken
        self._typestore = typestore()
        self._writer = Writer(self._partial, version=METADATA_VERSION,
                              storage_plugin=StoragePlugin.MCAP)
        self._writer.open()
        self._connections: dict[str, object] = {}
        self.messages = 0
        self.bytes = 0
        self.last_ns = 0

    def write(self, topic: str, kind: str, stamp_ns: int, data: bytes) -> None:
        """Add a serialised message; kind: as in 'std_msgs/msg/String'.

        Stamps never go back, so that a file without its index can be read in order.
        """
        connection = self._connections.get(topic)
        if connection is None:
            connection = self._connections[topic] = self._writer.add_connection(
                topic, kind, typestore=self._typestore)
        self.last_ns = max(stamp_ns, self.last_ns)
        self._writer.write(connection, self.last_ns, data)
        self.messages += 1
        self.bytes += len(data)

    def flush(self) -> None:
        """What was written so far outlives the end of this process, however sudden."""
        storage = self._writer.storage
        if storage.chunk.msgs:
            storage.close_chunk()
        storage.bio.flush()

    def finish(self) -> Path:
        """Write index and metadata and give the bag its name; returns its folder."""
        self._writer.close()
        # before it has its name: a power cut leaves no empty file of that name
        for path in (*self._partial.iterdir(), self._partial):
            _to_disk(path)
        os.rename(self._partial, self.path)
        _to_disk(self.path.parent)
        return self.path

    def leave(self) -> None:
        """Give up in the middle; what was flushed is repaired by whoever comes next."""
        with suppress(OSError):   # the disk that is full has no room for what is buffered either
            self._writer.abort()

    def discard(self) -> None:
        """Leave nothing of it."""
        self.leave()
        shutil.rmtree(self._partial, ignore_errors=True)


def _to_disk(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def repair(partial: Path, folder: Path) -> str:
    """Make `folder/NAME` of what is left in `partial`; returns what was found in words.

    The new bag holds every whole chunk of the old one, which is deleted. UserError when there is
    no message in it; then it is deleted too.
    """
    from rosbags.highlevel import AnyReader

    file = partial / f'{partial.name}.mcap'
    if not (file.exists() and _end_where_whole(file)):
        shutil.rmtree(partial)
        raise UserError('it holds no message, so it is deleted')
    shutil.rmtree(partial.with_name(partial.name + REPAIRED), ignore_errors=True)
    bag = BagFile(folder, partial.name + REPAIRED)
    try:
        with AnyReader([file]) as reader:
            for connection, stamp_ns, data in reader.messages():
                bag.write(connection.topic, connection.msgtype, stamp_ns, data)
        path = bag.finish()
    except BaseException:
        bag.discard()
        raise
    shutil.rmtree(partial)
    return f'repaired: {bag.messages} messages in {path}'


def _end_where_whole(file: Path) -> bool:
    """Cut an MCAP file after its last whole record and end it without an index.

    https://mcap.dev/spec: a record is an opcode, a length of 8 bytes and so many bytes; DataEnd
    (its checksum 0: none) and Footer (no summary) close a file. Returns whether a chunk is in it.
    """
    size = file.stat().st_size
    whole, chunks = 0, 0
    with open(file, 'r+b') as data:
        if data.read(len(MAGIC)) != MAGIC:
            return False
        end = len(MAGIC)
        while end + RECORD.size <= size:
            opcode, length = RECORD.unpack(data.read(RECORD.size))
            if end + RECORD.size + length > size or opcode in (DATA_END, FOOTER):
                break
            end += RECORD.size + length
            chunks += opcode == b'\x06'
            data.seek(end)
            whole = end
        data.seek(whole)
        data.truncate()
        data.write(RECORD.pack(DATA_END, 4) + bytes(4) + RECORD.pack(FOOTER, 20) + bytes(20)
                   + MAGIC)
    return chunks > 0
