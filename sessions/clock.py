"""All time goes through a clock, so that tests and replays can turn it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar, runtime_checkable

import anyio

T = TypeVar("T")


@runtime_checkable
class Clock(Protocol):
    """Tells the time and waits. `sessions.testing.ManualClock` is the other one."""

    def now(self) -> float:
        """Seconds since the epoch."""
        ...

    def monotonic(self) -> float:
        """Seconds since some moment, for leases and time limits: nobody sets it, and it never goes back.

        Processes of one machine that share a database read the same. A clock without it is asked for `now` instead.
        """
        ...

    async def sleep(self, seconds: float) -> None:
        """Waits that long; zero or less returns at the next chance to switch tasks."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()  # since the machine started, for all its processes

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(max(0.0, seconds))


def monotonic(clock: Clock) -> float:
    """The time that leases and limits go by; see `Clock.monotonic`."""
    try:
        ask = clock.monotonic
    except AttributeError:  # a clock of the user's own, from before there was this one
        ask = clock.now
    return ask()


async def within(clock: Clock, seconds: float | None, work: Callable[[], Awaitable[T]]) -> T:
    """The result of `work()`, or `TimeoutError` when it has not come after that many seconds of this clock.

    Late work is cancelled. `None` waits for ever.
    """
    if seconds is None:
        return await work()
    done: list[T] = []
    failed: list[Exception] = []
    async with anyio.create_task_group() as group:

        async def watch() -> None:
            await clock.sleep(seconds)
            group.cancel_scope.cancel()

        group.start_soon(watch)
        try:
            done.append(await work())
        except Exception as error:  # raised below, outside the group, which would wrap it
            failed.append(error)
        group.cancel_scope.cancel()
    if failed:
        raise failed[0]
    # A result that comes together with the end of the time counts.
    if not done:
        raise TimeoutError(f"not done after {seconds:g} seconds")
    return done[0]
