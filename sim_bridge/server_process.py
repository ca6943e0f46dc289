"""Starts an environment server in another interpreter: our code, a clean environment, an end."""
from __future__ import annotations

import collections
import hashlib
import os
import shutil
import subprocess
import tempfile
import threading
import zipfile
from io import BytesIO
from pathlib import Path

from vlnr1_ros.navigation.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
CODE = ('sim_bridge', 'vlnr1_ros/__init__.py', 'vlnr1_ros/navigation')
"""What the server imports of ours, relative to ROOT; ROS stays behind."""
NOT_NEEDED = ('__pycache__', 'ros')
MAIN = """import sys
try:
    from sim_bridge.server import run
except ModuleNotFoundError as error:
    sys.exit(str(error))
run()
"""
NOT_HANDED_ON = ('PYTHON', 'LD_', 'VIRTUAL_ENV', 'AMENT_', 'COLCON_', 'ROS_', 'RMW_', '_ROS_',
                 'CYCLONEDDS', 'FASTRTPS', 'FASTDDS')
"""Beginnings of variables that lead to our packages and libraries, which are built for ours."""
LAST_LINES = 8
END_TIMEOUT_S = 5.0
_STAMP = (1980, 1, 1, 0, 0, 0)


def archive() -> bytes:
    """The code of a server as one zip file; the same code gives the same bytes."""
    files = sorted(path for part in CODE for path in (
        (ROOT / part).rglob('*') if (ROOT / part).is_dir() else [ROOT / part]) if path.is_file())
    packed = BytesIO()
    with zipfile.ZipFile(packed, 'w') as target:
        target.writestr(zipfile.ZipInfo('__main__.py', _STAMP), MAIN)
        for path in files:
            name = path.relative_to(ROOT)
            if not set(NOT_NEEDED) & set(name.parts):
                target.writestr(zipfile.ZipInfo(str(name), _STAMP), path.read_bytes())
    return packed.getvalue()


def unpacked(content: bytes) -> Path:
    """The folder that holds an archive's code, named by its hash and made when it is not there.

    Unpacked, and kept in the user's cache, because numba stores what it has compiled beside the
    source file: only the first server has to wait for it.
    """
    cache = _cache()
    folder = cache / f'server-{hashlib.sha256(content).hexdigest()[:16]}'
    if not folder.is_dir():
        made = tempfile.mkdtemp(dir=cache)
        zipfile.ZipFile(BytesIO(content)).extractall(made)
        try:
            os.rename(made, folder)
        except OSError:  # somebody else was quicker
            shutil.rmtree(made)
    return folder


def _cache():
    """A folder that lasts and that nobody else can write to."""
    usual = Path(os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache'))
    for folder in (usual / 'vlnr1_ros', Path(tempfile.gettempdir(), f'vlnr1_ros-{os.getuid()}')):
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK) and folder.stat().st_uid == os.getuid():
            return folder
    raise UserError(f'neither {usual} nor {tempfile.gettempdir()} can be written: set '
                    'XDG_CACHE_HOME to a folder for the code of the environment server')


def clean_environment() -> dict:
    """Our environment variables without those that lead to packages of ours."""
    return {name: value for name, value in os.environ.items()
            if not name.startswith(NOT_HANDED_ON)}


class ServerProcess:
    """A running server. It ends with `close`, and with this process however that ends."""

    def __init__(self, python: str, address: str | None = None, anywhere: bool = False):
        """Start one with an interpreter given as path or name; UserError if that is none.

        address: a Unix socket that only we can reach by default, or what
        `sim_bridge.server --address` takes; `anywhere` lets other machines reach it.
        """
        found = shutil.which(os.path.expanduser(python))
        if found is None:
            raise UserError(f'{python!r} is no Python interpreter: give the path of the one that '
                            'has habitat-lab')
        self.python = python
        self._folder = None if address else tempfile.mkdtemp(prefix='vlnr1-')
        self.address = address or f'unix://{self._folder}/socket'
        self._process = subprocess.Popen(
            [found, str(unpacked(archive())), '--address', self.address,
             *(['--anywhere'] if anywhere else [])],
            env=clean_environment(), stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self._lines: collections.deque = collections.deque(maxlen=LAST_LINES)
        # an unread pipe would fill up and stop the server
        self._reader = threading.Thread(target=_keep_lines, daemon=True,
                                        args=(self._process.stdout, self._lines))
        self._reader.start()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def connected(self) -> None:
        """The connection stands: take the socket's name away, nobody else shall use it."""
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def has_ended(self) -> bool:
        """Whether the process is gone."""
        return self._process.poll() is not None

    def how_it_ended(self) -> str:
        """Of a process that has closed its connection, or has ended."""
        try:
            code = self._process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return 'closed the connection'
        return f'was ended by signal {-code}' if code < 0 else f'exited with code {code}'

    def kill(self) -> str:
        """End it now; returns its last lines."""
        self._process.kill()
        self.close()
        return ' | '.join(self._lines)

    def close(self) -> None:
        """End it in order, at once if it does not obey."""
        self._process.stdin.close()
        try:
            self._process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(END_TIMEOUT_S)
        self._process.stdout.close()
        self.connected()


def _keep_lines(pipe, lines):
    for line in pipe:
        text = line.decode('utf-8', 'replace').strip()
        if text:
            lines.append(text)
