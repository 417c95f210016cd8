"""One connection that listens for news, while anybody waits for some; behind a pooler there is none to be had.

A pooler in transaction mode gives each statement another connection to the server, so nothing told there comes back:
that is tried out before anybody relies on it. Nothing is ever listened to on a connection of a pooler.
"""

from __future__ import annotations

import contextlib
import secrets
import selectors
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

import psycopg

from storage.threads import Bell
from storage.watching import topic

from .connections import is_pooled

LIVE_PAUSE, DEAF_PAUSE = 0.5, 0.1
"""Seconds between two looks of a waiter: where news comes by itself (a lease may also just lapse), and where not."""
REST = 10.0
"""Seconds that the connection is kept when nobody waits any more."""
ECHO = 2.0
"""Seconds in which what another connection tells must have come."""
_RETRY = 1.0
_DEAF = 60.0
"""Seconds after which it is tried again whether news comes."""


class Listener:
    """The ears of one store. `connect` gives a new connection; `tell` tells something through an ordinary one, on the
    channel that is listened to.
    """

    def __init__(self, connect: Callable[[], psycopg.Connection], tell: Callable[[str], None], channel: str) -> None:
        self._connect, self._tell, self._channel = connect, tell, channel
        self._bells: dict[str, set[Bell]] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._wake: socket.socket | None = None
        self._closing = False
        self._not_before = 0.0
        self.is_live = False

    def add(self, name: str, bell: Bell) -> None:
        """From now on the bell rings at news of that name; the first one starts the thread."""
        with self._lock:
            self._bells.setdefault(topic(name), set()).add(bell)
            if self._thread is None and not self._closing and time.monotonic() >= self._not_before:
                self._wake, heard = socket.socketpair()
                self._thread = threading.Thread(target=self._run, args=(heard,), name="storage-listener", daemon=True)
                self._thread.start()

    def remove(self, name: str, bell: Bell) -> None:
        """The thread goes on for `REST` seconds without bells: turns follow one another."""
        with self._lock:
            bells = self._bells.get(topic(name), set())
            bells.discard(bell)
            if not bells:
                self._bells.pop(topic(name), None)

    def open(self) -> None:
        """Listens when it is asked to; whether news comes is tried out anew."""
        self._closing, self._not_before = False, 0.0

    def close(self) -> None:
        """Ends the thread and its connection."""
        with self._lock:
            self._closing = True
            thread, wake = self._thread, self._wake
            if wake is not None:
                wake.send(b"x")
        if thread is not None:
            thread.join(ECHO)  # it may be connecting to a server that does not answer

    def _run(self, heard: socket.socket) -> None:
        with heard:
            while not self._is_done():
                try:
                    with contextlib.closing(self._connect()) as raw:
                        if self._can_hear(raw):
                            self._pass_on(raw, heard)
                            return
                        self._not_before = time.monotonic() + _DEAF
                except (psycopg.Error, OSError):  # the server is away: those who wait look for themselves, at once
                    self.is_live = False
                    self._ring(None)
                    _readable(heard, heard, _RETRY)

    def _is_done(self, idle: bool = False) -> bool:
        """Whether the thread ends; if so, the next waiter starts another one."""
        with self._lock:
            done = self._closing or time.monotonic() < self._not_before or (idle and not self._bells)
            if done and self._wake is not None:
                self._wake.close()
                self._thread = self._wake = None
                self.is_live = False
            return done

    def _ring(self, about: str | None) -> None:
        with self._lock:
            bells = [bell for one, bells in self._bells.items() if about in (None, one) for bell in bells]
        for bell in bells:
            bell.ring()

    def _can_hear(self, raw: psycopg.Connection) -> bool:
        return not is_pooled(raw) and self._comes_back(raw)

    def _comes_back(self, raw: psycopg.Connection) -> bool:
        """Whether something told through another connection is heard here."""
        raw.execute(f"LISTEN {self._channel}")
        nonce = secrets.token_hex(12)
        self._tell(nonce)
        deadline = time.monotonic() + ECHO
        while (left := deadline - time.monotonic()) > 0:
            for notice in raw.notifies(timeout=left, stop_after=1):
                if notice.payload == nonce:
                    return True
        return False

    def _pass_on(self, raw: psycopg.Connection, heard: socket.socket) -> None:
        self.is_live = True
        last = time.monotonic()
        while True:
            for notice in raw.notifies(timeout=0):
                self._ring(notice.payload)
            if self._bells:
                last = time.monotonic()
            if self._is_done(idle=time.monotonic() - last >= REST):
                return
            _readable(raw, heard, REST)


class ListeningWatch:
    """A waiter's ear at the listener of a PostgreSQL store."""

    def __init__(self, listener: Listener, name: str) -> None:
        self._listener, self._name, self._bell = listener, name, Bell()

    @property
    def is_live(self) -> bool:
        return self._listener.is_live

    @property
    def pause(self) -> float:
        return LIVE_PAUSE if self.is_live else DEAF_PAUSE

    async def news(self) -> None:
        await self._bell.heard()

    def __enter__(self) -> Self:
        self._listener.add(self._name, self._bell)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.remove(self._name, self._bell)


def _readable(one: psycopg.Connection | socket.socket, other: socket.socket, seconds: float) -> None:
    """Waits until there is something to read on one of them."""
    with selectors.DefaultSelector() as selector:
        for number in {one.fileno(), other.fileno()}:
            selector.register(number, selectors.EVENT_READ)
        selector.select(seconds)
