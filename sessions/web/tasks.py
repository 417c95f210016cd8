"""Work beside requests: what outlives the one that asked for it, and what is done by one request at a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any
from weakref import WeakValueDictionary

from sessions import SessionsError

log = logging.getLogger("sessions")


class Tasks:
    """Tasks of the application, which are nobody's loss where the process ends. What fails is logged."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def alone(self, name: str) -> asyncio.Lock:
        """Held by one request of this process at a time: those of other workers find out by the store."""
        lock = self._locks.get(name)
        if lock is None:
            lock = self._locks[name] = asyncio.Lock()
        return lock

    def start(self, work: Coroutine[Any, Any, Any]) -> None:
        """Runs it. The event loop keeps only weak references to tasks, so it is kept here."""
        task = asyncio.create_task(self._run(work))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _run(self, work: Coroutine[Any, Any, Any]) -> None:
        try:
            await work
        except SessionsError as error:
            log.info("work beside a request ended: %s: %s", type(error).__name__, error)
        except Exception:
            log.exception("work beside a request failed")

    async def close(self) -> None:
        """Cancels what still runs, and waits for it."""
        for task in list(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
