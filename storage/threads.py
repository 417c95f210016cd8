"""Blocking work runs in threads, always to its end: a cancelled caller learns of its cancellation only afterwards.

The same code serves asyncio and Trio. On asyncio it holds against `task.cancel()` too, which knows no shield.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar, TypeVarTuple

import anyio
import sniffio

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")

READERS = 16
"""Plain functions that run at the same time; more wait their turn."""


class _Threads:
    """The process's worker threads and the number of callers that wait for one."""

    def __init__(self) -> None:
        self.pool = ThreadPoolExecutor(READERS, thread_name_prefix="storage")
        self.busy = 0


_threads = _Threads()
if hasattr(os, "register_at_fork"):  # pragma: no branch - only Windows has no fork
    os.register_at_fork(after_in_child=_threads.__init__)  # type: ignore[misc]  # a child inherits the pool without its threads


def busy() -> int:
    """How many pieces of work have been asked for whose callers have not gone on yet, over all stores."""
    return _threads.busy


def start(function: Callable[[*Arguments], T], *args: *Arguments) -> Future[T]:
    """Runs a plain function in a worker thread, as soon as one is free."""
    return _threads.pool.submit(function, *args)


async def run(function: Callable[[*Arguments], T], *args: *Arguments) -> T:
    """Runs a plain function in a worker thread and gives its result; see `outcome` for cancellation."""
    return await outcome(start(function, *args))


async def outcome(job: Future[T]) -> T:
    """Waits until the job has ended, whatever happens to the caller, and gives its result or raises its error.

    A cancellation of the caller takes effect after the end. Where it must be raised from here (asyncio's
    `task.cancel()`), the job's own error is its `__cause__`: None says that the job was done.
    """
    _threads.busy += 1
    try:
        with anyio.CancelScope(shield=True):
            if sniffio.current_async_library() == "trio":
                await _ended_trio(job)
            else:
                await _ended_asyncio(job)
    finally:
        _threads.busy -= 1
    return job.result()


async def _ended_trio(job: Future[Any]) -> None:
    import trio

    ended = trio.Event()
    token = trio.lowlevel.current_trio_token()
    job.add_done_callback(lambda _: _wake(token.run_sync_soon, ended.set))
    await ended.wait()


async def _ended_asyncio(job: Future[Any]) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    job.add_done_callback(lambda _: _wake(loop.call_soon_threadsafe, ended.set))
    cancelled: asyncio.CancelledError | None = None
    while not ended.is_set():
        try:
            await ended.wait()
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled from job.exception()


class Bell:
    """Rung by any thread, heard by one task of the event loop that made it. Rung often before it is heard is once."""

    def __init__(self) -> None:
        self._event = anyio.Event()
        self._call_soon: Callable[[Callable[[], Any]], Any]
        if sniffio.current_async_library() == "trio":
            import trio

            self._call_soon = trio.lowlevel.current_trio_token().run_sync_soon
        else:
            self._call_soon = asyncio.get_running_loop().call_soon_threadsafe

    def ring(self) -> None:
        """From any thread; also when its loop is closed."""
        _wake(self._call_soon, lambda: self._event.set())

    async def heard(self) -> None:
        """Returns when it was rung since the last time; may be cancelled."""
        await self._event.wait()
        self._event = anyio.Event()


def _wake(call_soon: Callable[[Callable[[], Any]], Any], wake: Callable[[], Any]) -> None:
    with contextlib.suppress(RuntimeError):  # the loop was closed under its tasks: nobody waits any more
        call_soon(wake)
