"""Tasks that outlive the call that started them, without a cancel scope held across the caller's `async with`."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

import anyio
import sniffio

log = logging.getLogger("sessions")
T = TypeVar("T")


class Background:
    """Starts tasks on asyncio and Trio; `close` cancels them and waits until they have ended."""

    def __init__(self) -> None:
        self._running: dict[anyio.Event, anyio.CancelScope] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Callable[[], Awaitable[Any]]) -> None:
        """Runs `work()`; an error in it is logged."""
        scope, ended = anyio.CancelScope(), anyio.Event()
        # Known before its first step: `close` must find it by then.
        self._running[ended] = scope

        async def run() -> None:
            try:
                with scope:
                    await work()
            except Exception:
                log.exception("a background task failed")
            finally:
                ended.set()
                self._running.pop(ended, None)

        if sniffio.current_async_library() == "trio":
            import trio

            trio.lowlevel.spawn_system_task(run)
        else:
            empty = contextvars.Context()  # as on Trio: no caller's trace or tenant goes along
            task = asyncio.get_running_loop().create_task(run(), context=empty)
            # asyncio itself keeps its tasks by weak references only.
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    @property
    def running(self) -> int:
        """How many tasks have not ended."""
        return len(self._running)

    async def close(self) -> None:
        """Cancels what runs and waits for its end."""
        running = list(self._running.items())
        for _, scope in running:
            scope.cancel()
        with anyio.CancelScope(shield=True):  # also where the caller is cancelled: nothing may go on alone
            for ended, _ in running:
                await ended.wait()


async def each(items: Iterable[T], work: Callable[[T], Awaitable[None]], at_once: int) -> None:
    """Does it for every item, so many at the same time. What one raises ends them all, and comes out as it is."""
    limiter, failed = anyio.Semaphore(at_once), list[Exception]()

    async def do(item: T) -> None:
        async with limiter:
            try:
                await work(item)
            except Exception as error:  # raised below, outside the group, which would wrap it
                failed.append(error)
                group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        for item in items:
            group.start_soon(do, item)
    if failed:
        raise failed[0]
