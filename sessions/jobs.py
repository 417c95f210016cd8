"""Work that its owner may stop waiting for, whatever it does: in tasks of their own, and threads that hold nobody up.

A task that swallows its cancellation, or a thread that never returns, must not hold a turn, the event loop or the end
of the process.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread
import sniffio
from anyio._core import _eventloop

from sessions.clock import Clock, within

T = TypeVar("T")
log = logging.getLogger("sessions")

GRACE = 5.0
"""Seconds that cancelled work has for its end, before it is let go of."""
_TRIES = 5
_PASSES = 10
"""Passes of the event loop in which the work is under cancellation, each time."""
_tasks: set[asyncio.Task[None]] = set()
_busy = 0


def busy() -> int:
    """How many callers wait for a worker thread now."""
    return _busy


@dataclass(frozen=True, slots=True)
class Outcome:
    """How work ended: its value, or what it raised, or neither where `is_late`: it took too long."""

    value: Any = None
    error: BaseException | None = None
    is_late: bool = False


async def outcome(work: Callable[[], Awaitable[Any]], clock: Clock, seconds: float | None, name: str) -> Outcome:
    """Runs `work()` for at most so many seconds. Whatever it raises is its outcome.

    Raises nothing but cancellation and the process's own Ctrl-C. Late or unwanted work is cancelled. What has not
    ended `GRACE` seconds later goes on alone, and its end is ignored; `name` is what the log calls it.
    """
    job = _Job(work, name)
    try:
        await within(clock, seconds, job.ended.wait)
    except TimeoutError:
        await job.stop(clock)
        return job.outcome or Outcome(is_late=True)
    except anyio.get_cancelled_exc_class():
        await job.stop(clock)
        # Work that has ended all the same is told: it has had its effect, and its result is to be stored.
        if job.outcome is None or isinstance(job.outcome.error, asyncio.CancelledError):
            raise  # the event loop that ends cancels both of us: the work may have had its effect
    if job.interrupt is not None:
        raise job.interrupt
    assert job.outcome is not None
    return job.outcome


class _Escaped(Exception):
    """What is no `Exception`, raised in a worker thread: not the process's Ctrl-C, which comes to the main thread."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


def _is_interruptible() -> bool:
    """Whether Ctrl-C raises `KeyboardInterrupt` in whatever runs here; `asyncio.run` and Trio replace that handler."""
    here = threading.current_thread() is threading.main_thread()
    return here and signal.getsignal(signal.SIGINT) is signal.default_int_handler


class _Job:
    """`outcome` stays `None` where the work has not ended, or did as its cancellation told it to."""

    def __init__(self, work: Callable[[], Awaitable[Any]], name: str) -> None:
        self._work, self._name = work, name
        self._scope, self._shield = anyio.CancelScope(), anyio.CancelScope()
        self.ended = anyio.Event()
        self.outcome: Outcome | None = None
        self.interrupt: KeyboardInterrupt | None = None
        _start(self._run)

    async def _run(self) -> None:
        try:
            with self._scope, self._shield:
                self.outcome = Outcome(await self._work())
        except _Escaped as escaped:
            self.outcome = Outcome(error=escaped.error)
        except BaseException as error:  # SystemExit too: raised out of a task, it ends the event loop
            if isinstance(error, KeyboardInterrupt) and _is_interruptible():
                self.interrupt = error
            else:
                self.outcome = Outcome(error=error)
        finally:
            self.ended.set()

    async def stop(self, clock: Clock) -> None:
        """Cancels the work, and again each second. In between it has peace: what swallows that would spin."""
        self._scope.cancel()
        try:
            with anyio.CancelScope(shield=True):
                for _ in range(_TRIES):
                    await self._cancelled_for_a_moment()
                    with suppress(TimeoutError):
                        await within(clock, GRACE / _TRIES, self.ended.wait)
                    if self.ended.is_set():
                        return
        finally:
            if not self.ended.is_set():
                self._let_go()

    async def _cancelled_for_a_moment(self) -> None:
        self._shield.shield = False
        for _ in range(_PASSES):
            if not self.ended.is_set():
                await anyio.lowlevel.checkpoint()
        self._shield.shield = True

    def _let_go(self) -> None:
        log.warning("%s did not end %g seconds after it was cancelled: it goes on alone", self._name, GRACE)
        self._shield.shield = True
        _start(self._until_the_end)

    async def _until_the_end(self) -> None:
        try:
            await self.ended.wait()
            log.info("%s has ended after all: its result is ignored", self._name)
        finally:
            self._shield.shield = False  # the event loop is about to end: so is the work


def _start(work: Callable[[], Awaitable[None]]) -> None:
    """Runs it in a task that belongs to nobody, with the caller's context variables."""
    if sniffio.current_async_library() == "trio":
        import trio

        trio.lowlevel.spawn_system_task(work, context=contextvars.copy_context())
    else:
        task = asyncio.ensure_future(work())
        # asyncio itself keeps its tasks by weak references only.
        _tasks.add(task)
        task.add_done_callback(_tasks.discard)


async def in_thread(function: Callable[[], T]) -> T:
    """Runs a plain function in a thread, with the caller's context variables; a cancelled caller does not wait for it.

    The thread is a daemon: one that never returns does not keep the process from ending.
    """
    global _busy
    _busy += 1
    try:
        async with anyio.to_thread.current_default_thread_limiter():
            run = _in_thread_of_trio if sniffio.current_async_library() == "trio" else _in_daemon
            return await run(lambda: _contained(function))
    finally:
        _busy -= 1


def _contained(function: Callable[[], T]) -> T:
    try:
        return function()
    except Exception:
        raise
    except BaseException as error:
        raise _Escaped(error) from error


async def _in_thread_of_trio(function: Callable[[], T]) -> T:
    """Its threads are daemons. A stuck one takes no place from others: it does not count any more."""
    results: list[T] = []
    own = anyio.CapacityLimiter(1)
    await anyio.to_thread.run_sync(lambda: results.append(function()), abandon_on_cancel=True, limiter=own)
    return results[0]


async def _in_daemon(function: Callable[[], T]) -> T:
    context, loop = contextvars.copy_context(), asyncio.get_running_loop()
    context.run(sniffio.current_async_library_cvar.set, None)  # the function may start an event loop of its own
    done: Future[T] = Future()
    ended = asyncio.Event()

    def run() -> None:
        try:
            with _known_to_anyio(backend, loop, scope):
                done.set_result(context.run(function))
        except BaseException as error:
            done.set_exception(error)
        with suppress(RuntimeError):  # the loop was closed: nobody waits any more
            loop.call_soon_threadsafe(ended.set)

    with anyio.CancelScope() as scope:
        backend = _eventloop.get_async_backend()
        threading.Thread(target=run, name="tool", daemon=True).start()
        await ended.wait()
    return done.result()


@contextmanager
def _known_to_anyio(backend: Any, loop: Any, scope: anyio.CancelScope) -> Iterator[None]:
    """Lets `anyio.from_thread` work in this thread as in anyio's own, which are no daemons (anyio 4.10 to 4.16).

    Private names, as there is no public way: `from_thread.run` takes a token from anyio 4.11 on, but it would be the
    tool's author who had to hand it over, and `from_thread.check_cancelled` takes none.
    """
    with _eventloop.claim_worker_thread(backend, loop):
        _eventloop.threadlocals.current_cancel_scope = scope
        try:
            yield
        finally:
            del _eventloop.threadlocals.current_cancel_scope
