"""Work waits for a server that is away, and the log says that it does: when it begins, and when it ends."""

from __future__ import annotations

import logging
import threading
import time
from types import TracebackType
from typing import Self

log = logging.getLogger("storage")


class Outage:
    """What is known of a server's absence; all the work of a store shares it."""

    def __init__(self, store: str) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._missed: float | None = None
        self._waiting = 0
        self._began = 0.0

    def over(self) -> None:
        """The server has answered."""
        self._missed = None

    def missed(self) -> float:
        """When the server was first missed since it last answered: the first to miss it starts the count for all."""
        self._missed = self._missed or time.monotonic()
        return self._missed

    def begin(self, problem: str) -> None:
        """A piece of work waits. The log says so once, for the first of them."""
        with self._lock:
            self._waiting += 1
            if self._waiting > 1:
                return
            self._began = time.monotonic()
        log.warning("%s is waited for: %s", self._store, problem)

    def end(self, answered: bool) -> None:
        """It waits no longer. The log says so once, for the last of them."""
        with self._lock:
            self._waiting -= 1
            if self._waiting:
                return
            seconds = time.monotonic() - self._began
        log.info("%s is %s after %.1f s", self._store, "back" if answered else "no longer waited for", seconds)


class Patience:
    """One work's patience, a context manager; it begins when the work first misses the server."""

    def __init__(self, outage: Outage) -> None:
        self._outage = outage
        self._began: float | None = None

    def goes_on(self, problem: str, pause: float, most: float) -> bool:
        """Whether it is worth trying again after that pause; no work waits longer than `most`, all in seconds."""
        now = time.monotonic()
        if self._began is None:
            self._began = now
            self._outage.begin(problem)
        return now + pause < min(self._began, self._outage.missed()) + most

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._began is not None:
            self._outage.end(answered=error is None)
