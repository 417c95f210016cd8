"""When idle conversations fall due: turns set it, and the work that was named waits for it.

Which session is due stands in the store; here is only when to look there next.
"""

from __future__ import annotations

import heapq
from collections.abc import Awaitable, Callable
from contextlib import suppress

import anyio

from sessions.background import Background
from sessions.clock import Clock, within
from sessions.core.gaps import NEVER

LOOK_EVERY = 10.0
"""Seconds between looks for what other workers have left, while this one is in use."""
IN_USE = 300.0
"""Seconds after its last turn for which a worker keeps looking."""


class Schedule:
    """The times at which one manager looks after idle conversations.

    `looks`: other workers share the store, so what they left is looked for too while this one is in use.
    """

    def __init__(self, clock: Clock, background: Background, *, looks: bool) -> None:
        self._clock, self._background, self._looks = clock, background, looks
        self._work: Callable[[], Awaitable[None]] | None = None
        self._due: list[float] = []
        self._changed = anyio.Event()
        self._in_use_until = -NEVER
        self._is_running = False

    def serve(self, work: Callable[[], Awaitable[None]]) -> None:
        """Names what is run in the background whenever something falls due; without it nothing ever does."""
        self._work = work

    def wake(self, after: float | None) -> None:
        """Something falls due so many seconds from now (`None`: nothing, but the manager is in use)."""
        if self._work is None:
            return
        now = self._clock.now()
        rests = now >= self._in_use_until
        if self._looks:
            self._in_use_until = now + IN_USE
        if after is not None:
            heapq.heappush(self._due, now + after)
        if not self._is_running and self.next() is not None:
            self._is_running = True
            self._background.start(self._run)
        # Most turns change nothing of the next moment: a wait ends only for those that do.
        elif self._is_running and ((self._looks and rests) or (after is not None and self._due[0] == now + after)):
            self._changed.set()

    def add(self, after: float) -> None:
        """The work itself has found something that falls due so many seconds from now."""
        heapq.heappush(self._due, self._clock.now() + after)
        self._changed.set()

    def next(self) -> float | None:
        """When to look into the store next (epoch seconds); `None`: not before `wake`."""
        now = self._clock.now()
        own = self._due[0] if self._due else NEVER
        look = now + LOOK_EVERY if now < self._in_use_until else NEVER
        soonest = min(own, look)
        return None if soonest == NEVER else soonest

    async def wait(self, moment: float | None) -> bool:
        """Until that moment (`None`: without end), or until something changes before; whether the moment has come."""
        # With no await since the caller looked when to wake: nothing that changes is missed.
        self._changed = anyio.Event()
        seconds = None if moment is None else max(0.0, moment - self._clock.now())
        with suppress(TimeoutError):
            await within(self._clock, seconds, self._changed.wait)
        return moment is not None and self._clock.now() >= moment

    def notify(self) -> None:
        """Ends a wait: what is to be waited for may have changed."""
        self._changed.set()

    def take_due(self) -> bool:
        """Takes off what has fallen due by now; whether anything had."""
        now = self._clock.now()
        is_due = bool(self._due) and self._due[0] <= now
        while self._due and self._due[0] <= now:
            heapq.heappop(self._due)
        return is_due

    async def _run(self) -> None:
        assert self._work is not None
        try:
            await self._work()
        finally:
            self._is_running = False
