"""A pooler in transaction mode before a real PostgreSQL, in the respects that a client can notice.

Each transaction gets any one of a few connections to the server; a client is given a process id that is no server's;
what the server tells while no transaction is under way reaches nobody. It knows no passwords, no TLS and no cancelling.
A pgbouncer is the real thing; this one is there on every machine.
"""

from __future__ import annotations

import contextlib
import itertools
import select
import socket
import struct
import threading
from collections.abc import Iterator
from queue import LifoQueue
from types import TracebackType
from typing import Self

from sqlalchemy import make_url

SIZE = 3
"""Connections to the server for each database."""
_SECURELY = (80877103, 80877104)
"""Whether TLS is to be had, and whether GSS; the answer is no."""
_numbers = itertools.count(2_000_000_000)


class Wire:
    """One end of a connection: what comes in, cut into messages."""

    def __init__(self, raw: socket.socket) -> None:
        self._raw = raw
        self._buffer = b""
        self.fileno, self.send, self.close = raw.fileno, raw.sendall, raw.close

    def messages(self) -> list[bytes]:
        """Those that are complete, after waiting for some bytes. Raises `ConnectionError` where no more will come."""
        self._receive()
        found = []
        while len(self._buffer) >= 5 and len(self._buffer) > (length := struct.unpack_from("!I", self._buffer, 1)[0]):
            found.append(self._buffer[: length + 1])
            self._buffer = self._buffer[length + 1 :]
        return found

    def asked(self) -> tuple[int, bytes]:
        """What a client opens with: the protocol or a number that stands for a question, and the rest."""
        length = struct.unpack("!I", self._take(4))[0]
        return struct.unpack("!I", self._take(4))[0], self._take(length - 8)

    def shut(self) -> None:
        """Ends the waiting of other threads."""
        with contextlib.suppress(OSError):
            self._raw.shutdown(socket.SHUT_RDWR)

    def is_readable(self) -> bool:
        return bool(select.select([self], [], [], 0)[0])

    def _take(self, count: int) -> bytes:
        while len(self._buffer) < count:
            self._receive()
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken

    def _receive(self) -> None:
        if not (piece := self._raw.recv(65536)):
            raise ConnectionError
        self._buffer += piece


class Server(Wire):
    """A connection to one database of the server."""

    def __init__(self, path: str, database: str) -> None:
        raw = socket.socket(socket.AF_UNIX)
        raw.connect(path)
        super().__init__(raw)
        words = f"user\0postgres\0database\0{database}\0\0".encode()
        self.send(struct.pack("!II", len(words) + 8, 3 << 16) + words)
        said: list[bytes] = []
        while not said or said[-1][:1] != b"Z":
            said += self.messages()
        self.greeting = b"".join(one for one in said if one[:1] in b"RS")
        self.key = next(one for one in said if one[:1] == b"K")

    def is_usable(self) -> bool:
        """Whether it is still there; what came meanwhile is dropped, as nobody is there to hear it."""
        with contextlib.suppress(ConnectionError):
            while self.is_readable():
                self.messages()
            return True
        return False


class Pool:
    """The connections of one database: each place holds one, or none yet."""

    def __init__(self, path: str, database: str, size: int) -> None:
        self._path, self._database = path, database
        self._places: LifoQueue[Server | None] = LifoQueue()
        for _ in range(size):
            self._places.put(None)

    @contextlib.contextmanager
    def lent(self) -> Iterator[Server]:
        """Waits for one. Where what is inside fails, it is not used again."""
        back, server = None, self._places.get()
        try:
            if server is None or not server.is_usable():
                server = Server(self._path, self._database)
            yield server
            back = server
        finally:
            if back is None and server is not None:
                server.close()
            self._places.put(back)

    def close(self) -> None:
        while not self._places.empty():
            if (server := self._places.get()) is not None:
                server.close()


class Pooler:
    """Listens on a port of its own. `hides`: it gives the server's process id, which `size=1` makes true."""

    def __init__(self, server: str, *, size: int = SIZE, hides: bool = False) -> None:
        there = make_url(server)
        self._path = f"{there.query['host']}/.s.PGSQL.{there.port or there.query.get('port', 5432)}"
        self._size, self._hides = size, hides
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self._pools: dict[str, Pool] = {}
        self._clients: set[Wire] = set()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    def behind(self, url: str) -> str:
        """The URL of that database behind this pooler."""
        port = self._listener.getsockname()[1]
        return f"postgresql://postgres@127.0.0.1:{port}/{make_url(url).database}"

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self._listener.close()
        for client in list(self._clients):
            client.shut()
        for thread in self._threads:
            thread.join()
        for pool in self._pools.values():
            pool.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client = Wire(self._listener.accept()[0])
                self._clients.add(client)
                self._threads.append(threading.Thread(target=self._serve, args=(client,), daemon=True))
                self._threads[-1].start()

    def _serve(self, client: Wire) -> None:
        with contextlib.suppress(OSError):  # a client that went away, or a server: the client sees its connection end
            if (database := _greeted(client)) is not None:
                self._attend(client, self._pool(database))
        self._clients.discard(client)
        client.close()

    def _pool(self, database: str) -> Pool:
        with self._lock:
            return self._pools.setdefault(database, Pool(self._path, database, self._size))

    def _attend(self, client: Wire, pool: Pool) -> None:
        with pool.lent() as server:
            key = server.key if self._hides else struct.pack("!cIII", b"K", 12, next(_numbers), 0)
            client.send(server.greeting + key + b"Z\0\0\0\x05I")
        while True:
            if messages := client.messages():
                if messages[0][:1] == b"X":
                    return
                with pool.lent() as server:
                    _pass_on(client, server, messages)


def _greeted(client: Wire) -> str | None:
    """The database that a client asks for; `None` where it only wants to cancel."""
    code, rest = client.asked()
    while code in _SECURELY:
        client.send(b"N")
        code, rest = client.asked()
    words = rest.decode().split("\0")
    return dict(zip(words[::2], words[1::2], strict=False)).get("database")


def _pass_on(client: Wire, server: Server, messages: list[bytes]) -> None:
    """One transaction: until the server has answered all, is in none, and has been sent nothing that begins one."""
    owed, last, state = 0, b"", b""
    while True:
        for message in messages:
            server.send(message)
            last = message[:1]
            owed += last in b"QS"  # each of these is answered by one that says that the server is ready
        readable = select.select([client, server], [], [])[0]
        for message in server.messages() if server in readable else []:
            client.send(message)
            if message[:1] == b"Z":
                owed, state = owed - 1, message[5:]
        if owed == 0 and state == b"I" and last in b"QS":
            return
        messages = client.messages() if client in readable else []
