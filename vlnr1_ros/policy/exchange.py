"""One HTTP request that can be given up at any moment.

The request runs in a thread of its own while its owner waits for the outcome, so that neither a
name that does not resolve, nor a server that sends a byte a second, nor one that sends nothing
keeps the owner beyond the deadline. Whoever gives up also closes the connection: servers take
that as the order to stop generating.
"""

from __future__ import annotations

import http.client
import queue
import socket
import threading
from typing import NamedTuple
from urllib.parse import urlsplit

MAX_REPLY_BYTES = 1 << 20


class Cancelled(Exception):
    """The request was given up by `Exchange.cancel`."""


class Reply(NamedTuple):
    """What the server sent."""

    status: int
    body: bytes


class Exchange:
    """A request to `url`, begun at once; a POST if there is a `body`, otherwise a GET.

    timeout_s: how long the connection may be silent before the thread behind it ends; the owner's
    own patience is an argument of `reply`. Redirects are not followed, proxies not used.
    """

    def __init__(self, url: str, timeout_s: float, body: bytes | None = None,
                 headers: dict[str, str] | None = None):
        parts = urlsplit(url)
        kind = http.client.HTTPSConnection if parts.scheme == 'https' \
            else http.client.HTTPConnection
        self._connection = kind(parts.hostname, parts.port, timeout=timeout_s)
        self._closed = False
        # An outcome is a Reply or the exception that took its place; the first one counts.
        self._outcomes: queue.SimpleQueue[Reply | Exception] = queue.SimpleQueue()
        request = ('GET' if body is None else 'POST', parts.path or '/', body, headers or {})
        threading.Thread(target=self._run, args=request, name='exchange', daemon=True).start()

    def reply(self, timeout_s: float) -> Reply:
        """Wait for the reply.

        Raises TimeoutError after `timeout_s`, Cancelled, OSError or http.client.HTTPException.
        """
        try:
            outcome = self._outcomes.get(timeout=max(0.0, timeout_s))
        except queue.Empty:
            self._close()
            raise TimeoutError from None
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def cancel(self) -> None:
        """Give the request up, from any thread; whoever waits gets Cancelled."""
        self._outcomes.put(Cancelled())
        self._close()

    def _run(self, *request):
        try:
            self._outcomes.put(self._exchange(*request))
        except Exception as error:  # a closed connection fails in many ways
            self._outcomes.put(error)
        finally:
            self._connection.close()

    def _exchange(self, method, path, body, headers) -> Reply:
        self._connection.connect()
        if self._closed:
            raise Cancelled
        self._connection.request(method, path, body, headers)
        response = self._connection.getresponse()
        data = response.read(MAX_REPLY_BYTES)
        if response.length:
            raise http.client.IncompleteRead(data, response.length)
        return Reply(response.status, data)

    def _close(self):
        self._closed = True
        connected = self._connection.sock
        if connected is not None:
            try:
                connected.shutdown(socket.SHUT_RDWR)
            except (OSError, ValueError):
                pass  # it was closed already
