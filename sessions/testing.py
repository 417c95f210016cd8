"""For tests, ours and yours: a clock that is turned by hand, and a manager on the simulator."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.lowlevel
import sniffio

from sessions import jobs, simulator
from sessions.clock import Clock, SystemClock
from sessions.manager import SessionManager
from storage import Store, threads

__all__ = ["ManualClock", "simulated_manager"]


@dataclass(eq=False, slots=True)
class _Waiter:
    """Somebody who waits for a moment. `is_advance`: the end of an advance, which comes after sleepers due with it."""

    due: float
    is_advance: bool
    number: int
    event: anyio.Event
    reached: bool = False

    @property
    def order(self) -> tuple[float, bool, int]:
        return self.due, self.is_advance, self.number


class ManualClock:
    """A clock that stands still until `advance` moves it. `start`: seconds since the epoch."""

    def __init__(self, start: float = 1_700_000_000.0) -> None:
        self._now = float(start)
        self._stepped = 0.0
        self._waiters: list[_Waiter] = []
        self._count = 0
        self._is_driven = False

    def now(self) -> float:
        """The time it shows, in seconds since the epoch."""
        return self._now + self._stepped

    def monotonic(self) -> float:
        """The time that has passed, in seconds; `step` does not change it."""
        return self._now

    def step(self, seconds: float) -> None:
        """Sets the time it shows forwards or backwards, as an administrator does: nobody has waited any longer."""
        self._stepped += seconds

    async def sleep(self, seconds: float) -> None:
        """Waits until the clock has been turned that far."""
        if seconds <= 0:
            await anyio.lowlevel.checkpoint()
            return
        waiter = self._wait_for(seconds, is_advance=False)
        try:
            await waiter.event.wait()
        finally:
            self._leave(waiter)

    async def advance(self, seconds: float) -> None:
        """Turns the clock: time moves to each due moment in order, and each is let happen before the next.

        Returns when all that fell due has happened: every other task waits, and none of our worker threads is busy.
        Any task may call it, also while another advance is under way: time goes to the earliest moment that anybody
        waits for and never jumps over one. What goes through sockets it cannot know.
        """
        if not seconds >= 0:
            raise ValueError(f"time does not go back: advance({seconds!r})")
        waiter = self._wait_for(seconds, is_advance=True)
        try:
            while not waiter.reached:
                if self._is_driven:
                    await waiter.event.wait()
                    waiter.event = waiter.event if waiter.reached else anyio.Event()
                else:
                    await self._drive(waiter)
        finally:
            self._leave(waiter)

    def _wait_for(self, seconds: float, *, is_advance: bool) -> _Waiter:
        self._count += 1
        waiter = _Waiter(self._now + seconds, is_advance, self._count, anyio.Event())
        self._waiters.append(waiter)
        return waiter

    def _leave(self, waiter: _Waiter) -> None:
        if waiter in self._waiters:
            self._waiters.remove(waiter)

    async def _drive(self, own: _Waiter) -> None:
        """Moves time for everybody until the own end has come, then hands over to another advance."""
        self._is_driven = True
        try:
            while own in self._waiters:
                await _all_wait()
                following = min(self._waiters, key=lambda waiter: waiter.order)
                self._now = max(self._now, following.due)
                self._waiters.remove(following)
                following.reached = True
                following.event.set()
        finally:
            self._is_driven = False
            others = [waiter for waiter in self._waiters if waiter.is_advance and waiter is not own]
            if others:
                min(others, key=lambda waiter: waiter.order).event.set()


async def _all_wait() -> None:
    """Returns when every other task waits and no worker thread of ours is busy."""
    quiet = 0
    while quiet < _QUIET:
        if threads.busy() or jobs.busy():
            quiet = 0
            await anyio.sleep(_THREAD_PAUSE)
        elif sniffio.current_async_library() == "trio":
            import trio.testing

            await trio.testing.wait_all_tasks_blocked()
            quiet = 0 if threads.busy() or jobs.busy() else _QUIET
        else:
            quiet = quiet + 1 if _others_wait() else 0
            await asyncio.sleep(0)


_QUIET = 4
"""Passes of the event loop without any task to run, before all is taken to wait: a callback may wake a task."""
_THREAD_PAUSE = 0.0002


def _others_wait() -> bool:
    """Whether every other task waits for a future that is not done (as `anyio.wait_all_tasks_blocked` tells it)."""
    own = asyncio.current_task()
    for task in asyncio.all_tasks():
        waits_for = getattr(task, "_fut_waiter", None)
        if task is not own and (waits_for is None or waits_for.done()):
            return False
    return True


def simulated_manager(
    store: str | Store = "sqlite://",
    script: Callable[..., Any] | None = None,
    clock: Clock | None = None,
    **kwargs: Any,
) -> SessionManager:
    """A `SessionManager` whose model is the simulator: no key, no network.

    `script`: what the model answers (see `sessions.simulator`). `clock`: shared by manager and simulator; the machine's
    own where `None`: give a `ManualClock` to turn time by hand. Other arguments are the manager's; `client` may be
    given too.
    """
    clock = clock if clock is not None else SystemClock()
    client = kwargs.pop("client", None) or simulator.client(script, clock=clock)
    return SessionManager(store, client=client, clock=clock, **kwargs)
