"""A relay before a PostgreSQL server that counts round trips, and loses connections when and how a test wants it."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Literal, Self

from sqlalchemy import make_url

COMMIT = b"COMMIT\0"
"""The statement as it is sent (and not the words READ COMMITTED)."""

Fate = Literal["pass", "lose", "deliver and lose"]
"""What becomes of bytes that a client sends: passed on; lost with the connection; or passed on, and the answer lost."""


def everything(_: bytes) -> Fate:
    return "pass"


class Relay:
    """Listens on a port of its own. `fate` is asked about each piece that a client sends."""

    def __init__(self, url: str) -> None:
        there = make_url(url)
        self._target = f"{there.query['host']}/.s.PGSQL.{there.port or there.query.get('port', 5432)}"
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        self.url = there.set(query={}, host="127.0.0.1", port=port).render_as_string(hide_password=False)
        self.fate: Callable[[bytes], Fate] = everything
        self.round_trips = 0
        self.connected = 0
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        for thread in self._threads:
            thread.join()

    def stop(self) -> None:
        """Nobody can connect any more, and whoever is connected is cut off."""
        _close(self._listener)
        self._threads[0].join()
        self.cut()

    def start(self) -> None:
        """Listens again, on the same port."""
        self._listener = socket.create_server(("127.0.0.1", make_url(self.url).port or 0))
        self._threads[0] = threading.Thread(target=self._accept, daemon=True)
        self._threads[0].start()

    def cut(self) -> None:
        """Cuts off whoever is connected."""
        while self._sockets:
            _close(self._sockets.pop())

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._target)
                self._sockets += [client, server]
                self.connected += 1
                self._threads.append(threading.Thread(target=self._serve, args=(client, server), daemon=True))
                self._threads[-1].start()

    def _serve(self, client: socket.socket, server: socket.socket) -> None:
        asked, lost = threading.Event(), threading.Event()
        back = threading.Thread(target=self._answer, args=(client, server, asked, lost), daemon=True)
        back.start()
        for piece in _pieces(client):
            fate = self.fate(piece)
            if fate == "lose":
                break
            if fate == "deliver and lose":
                lost.set()  # `_answer` closes the connection when the server has answered
            asked.set()
            with contextlib.suppress(OSError):
                server.sendall(piece)
        _close(client)
        _close(server)
        back.join()

    def _answer(
        self, client: socket.socket, server: socket.socket, asked: threading.Event, lost: threading.Event
    ) -> None:
        """A round trip: something was asked since the last answer."""
        for piece in _pieces(server):
            if lost.is_set():
                break
            if asked.is_set():
                asked.clear()
                self.round_trips += 1
            with contextlib.suppress(OSError):
                client.sendall(piece)
        _close(client)


def _pieces(source: socket.socket) -> Iterator[bytes]:
    with contextlib.suppress(OSError):
        while piece := source.recv(65536):
            yield piece


def _close(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()
