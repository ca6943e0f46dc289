"""Real and faulty servers of models/nano on loopback, for the tests of the remote policy."""
from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
NANO = REPOSITORY / 'models/nano'
START_TIMEOUT_S = 120.0


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


class ServedNano:
    """`vlnr1 serve models/nano` in a process of its own."""

    def __init__(self, log: Path, port: int | None = None):
        self.port = port or free_port()
        self._log = log
        self.start()

    @property
    def url(self) -> str:
        """The policy's URL; more settings may be added behind it."""
        return f'http://127.0.0.1:{self.port}/v1?card={NANO}&model={NANO}&deadline_s=60'

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = [sys.executable, '-m', 'vlnr1_ros', 'serve', str(NANO), '--port',
                   str(self.port), '--device', 'cpu', '--dtype', 'float32']
        with open(self._log, 'ab') as log:
            self.process = subprocess.Popen(
                command, cwd=REPOSITORY, stdout=log, stderr=log,
                env={**os.environ, 'OMP_NUM_THREADS': '1', 'HF_HUB_OFFLINE': '1'})
        until_s = time.monotonic() + START_TIMEOUT_S
        while not self._healthy():
            assert self.process.poll() is None and time.monotonic() < until_s, \
                self._log.read_text(errors='replace')[-2000:]
            time.sleep(0.1)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal; of those that end it, wait for the end."""
        self.process.send_signal(number)
        if number in (signal.SIGKILL, signal.SIGTERM):
            self.process.wait(30)

    def close(self) -> None:
        """End it, whatever state it is in."""
        if self.process.poll() is None:
            self.signal(signal.SIGKILL)

    def _healthy(self):
        try:
            with urllib.request.urlopen(f'http://127.0.0.1:{self.port}/health', timeout=5):
                return True
        except OSError:
            return False


class FaultyServer:
    """A server that does to each question what the test says; it notes what it was asked.

    `behaviours` are taken one a question, the last one for all that follow. Each is called with
    the request handler, or is a text that becomes the content of a chat completion.
    port: 0 takes a free one.
    """

    def __init__(self, *behaviours, port: int = 0):
        self.behaviours = list(behaviours)
        self.asked: list[dict] = []
        self.keys: list[str | None] = []
        self.hung_up = threading.Event()  # set when a client closes before it had an answer
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = 'HTTP/1.1'

            def do_GET(self):
                send(self, 200, json.dumps({'data': [{'id': 'nano'}]}))

            def do_POST(self):
                body = self.rfile.read(int(self.headers['Content-Length']))
                server.asked.append(json.loads(body))
                server.keys.append(self.headers['Authorization'])
                behaviour = server.behaviours[0] if len(server.behaviours) == 1 \
                    else server.behaviours.pop(0)
                try:
                    if isinstance(behaviour, str):
                        send(self, 200, completion(behaviour))
                    else:
                        behaviour(self)
                except OSError:
                    server.hung_up.set()

            def log_message(self, *_):
                pass

        self._http = ThreadingHTTPServer(('127.0.0.1', port), Handler)
        self._http.daemon_threads = True
        self.port = self._http.server_port
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def url(self, **settings) -> str:
        """The policy's URL."""
        more = ''.join(f'&{name}={value}' for name, value in settings.items())
        return f'http://127.0.0.1:{self.port}/v1?card={NANO}{more}'

    def close(self) -> None:
        """Stop listening."""
        self._http.shutdown()
        self._http.server_close()


def completion(text: str) -> str:
    """A chat completion with that content."""
    return json.dumps({'choices': [{'message': {'role': 'assistant', 'content': text}}]})


def send(handler, status: int, text: str) -> None:
    """A whole response."""
    handler.send_response(status)
    handler.send_header('Content-Length', str(len(text.encode())))
    handler.end_headers()
    handler.wfile.write(text.encode())


def status(code: int, text: str):
    """Behaviour: answer with that status."""
    return lambda handler: send(handler, code, text)


def cut_off(handler) -> None:
    """Behaviour: promise more than is sent, then close, as a server that is killed."""
    handler.send_response(200)
    handler.send_header('Content-Length', '4000')
    handler.end_headers()
    handler.wfile.write(b'{"choices": [')
    handler.wfile.flush()
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


def drip(handler) -> None:
    """Behaviour: a byte every 20 ms, for a minute, until the client has gone."""
    handler.send_response(200)
    handler.send_header('Content-Length', '3000')
    handler.end_headers()
    for _ in range(3000):
        handler.wfile.write(b' ')
        handler.wfile.flush()
        time.sleep(0.02)


def silence(handler) -> None:
    """Behaviour: nothing, for a minute, until the client has gone."""
    handler.connection.settimeout(60)
    if not handler.connection.recv(1):
        raise ConnectionResetError
