"""The connections of one PostgreSQL database: lent for one transaction each, kept a while for the next one."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.types.numeric import Int8Dumper
from sqlalchemy import URL

IDLE = 60.0
"""Seconds after which a connection that nobody has used is closed: a quiet process takes none from a busy one."""
_OFTEN = 5
"""Runs of a statement on one connection after which the server keeps its plan, which is half of its work."""

_OPTIONS: dict[str, Any] = {
    "connect_timeout": 10,
    # A server that vanished without a word is noticed within half a minute, not after the system's two hours.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
    "fallback_application_name": "warmline",
}


class Connections:
    """As many as there are transactions under way, at most `size`: who gets none waits for one. Those at rest wait
    here, the most recently used on top.
    """

    def __init__(self, url: URL, size: int) -> None:
        self._room = threading.BoundedSemaphore(size)
        self._options = _OPTIONS | _given(url)
        self._idle: deque[tuple[psycopg.Connection, float]] = deque()
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._is_open = True

    def connect(self, *, autocommit: bool = True) -> psycopg.Connection:
        """A new connection, which the caller closes. Options that the URL names are the user's own."""
        try:
            raw = psycopg.connect(**self._options, autocommit=autocommit, prepare_threshold=None)
        except (psycopg.ProgrammingError, ValueError) as error:  # an option that the driver does not know
            raise psycopg.OperationalError(str(error)) from error
        raw.adapters.register_dumper(int, Int8Dumper)  # of one size, or each size would have a plan of its own
        return raw

    @contextlib.contextmanager
    def lent(self) -> Iterator[tuple[psycopg.Connection, bool]]:
        """A connection, and whether it was just made; what the borrower left of a transaction is rolled back.

        Nobody borrows a second one while they have one: there may be no other.
        """
        with self._room:
            yield from self._lent()

    def _lent(self) -> Iterator[tuple[psycopg.Connection, bool]]:
        raw, is_new = self._rested(), False
        if raw is None:
            raw, is_new = self.connect(), True
        try:
            if is_new and not is_pooled(raw):
                raw.prepare_threshold = _OFTEN
            yield raw, is_new
        finally:
            with contextlib.suppress(psycopg.Error):  # a lost connection has nothing left to undo
                # Behind a statement that failed, the rest of the pipeline was skipped: plans that the driver takes for
                # made (psycopg 3.3) may not be there.
                if raw.info.transaction_status == TransactionStatus.INERROR and raw.prepare_threshold is not None:
                    raw.close()
                elif raw.info.transaction_status != TransactionStatus.IDLE:
                    raw.execute("ROLLBACK")
            self._take_back(raw)

    def open(self) -> None:
        """From now on, connections that come back are kept."""
        self._is_open = True

    def close(self) -> None:
        """Closes those at rest now, and the others when they come back."""
        self._is_open = False
        self.renew()

    def renew(self) -> None:
        """Closes those at rest: whoever comes next is connected anew, to whatever the URL then leads to."""
        with self._lock:
            self._retire(time.monotonic())

    def _rested(self) -> psycopg.Connection | None:
        with self._lock:
            return self._idle.pop()[0] if self._idle else None

    def _take_back(self, raw: psycopg.Connection) -> None:
        with self._lock:
            if not self._is_open or raw.info.transaction_status != TransactionStatus.IDLE:
                raw.close()
                return
            self._idle.append((raw, time.monotonic()))
            if self._timer is None:
                self._look_again()

    def _look_again(self) -> None:
        self._timer = threading.Timer(IDLE, self._on_time)
        self._timer.daemon = True
        self._timer.start()

    def _on_time(self) -> None:
        with self._lock:
            self._timer = None
            self._retire(time.monotonic() - IDLE)
            if self._idle:
                self._look_again()

    def _retire(self, before: float) -> None:
        while self._idle and self._idle[0][1] <= before:
            self._idle.popleft()[0].close()
        if not self._idle and self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _given(url: URL) -> dict[str, Any]:
    """What the URL says, as options of the driver: it would repeat a text that it cannot read."""
    parts = {"host": url.host, "port": url.port, "user": url.username, "password": url.password, "dbname": url.database}
    given: dict[str, Any] = {name: value for name, value in parts.items() if value is not None}
    return given | {name: text if isinstance(text, str) else ",".join(text) for name, text in url.query.items()}


def is_pooled(raw: psycopg.Connection) -> bool:
    """Whether somebody stands between: a pooler gives a process id of its own for cancelling."""
    row = raw.execute("SELECT pg_backend_pid()").fetchone()
    return row is None or row[0] != raw.info.backend_pid
