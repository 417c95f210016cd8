"""Waiting for what another process holds, and renewing what this one holds: one way for leases and for the gate."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from typing import Generic, TypeVar

from sessions.background import Background
from sessions.clock import Clock, within
from storage.watching import Watch

T = TypeVar("T")


async def until(
    look: Callable[[], Awaitable[T | None]],
    watch: Callable[[], Watch],
    clock: Clock,
    seconds_left: Callable[[], float],
    pauses: Iterator[float] | None = None,
) -> T:
    """The first answer of `look` that is not `None`. Whose patience is over gives up in `look`: it answers or raises.

    Between two looks it waits for news, where the store tells any (`watch`), at most `seconds_left()`. Where it tells
    none, it sleeps: `pauses` are the seconds, one for each wait; the watch's own where they are not given.
    """
    with ExitStack() as stack:
        ear: Watch | None = None
        while True:
            is_live = ear is not None and ear.is_live  # before the look: what comes after it is heard
            if (answer := await look()) is not None:
                return answer
            if ear is None:  # only who has to wait listens: most are let in at the first look
                ear = stack.enter_context(watch())
                if ear.is_live:
                    continue  # what was told since the first look was not heard
            pause = next(pauses) if pauses is not None else ear.pause
            if is_live:
                with suppress(TimeoutError):
                    await within(clock, min(ear.pause, seconds_left()), ear.news)
            else:
                await clock.sleep(pause)


class Renewal(Generic[T]):
    """Renews all that is `held`, by name, every so many seconds: one task, which ends when nothing is held any more.

    `every` is asked before each round. `renew` is given the name and what was held under it when the round began: it
    may have been given back since.
    """

    def __init__(
        self,
        clock: Clock,
        background: Background,
        held: Mapping[str, T],
        renew: Callable[[str, T], Awaitable[None]],
        every: Callable[[], float],
    ) -> None:
        self._clock, self._background = clock, background
        self._held, self._renew, self._every = held, renew, every
        self._is_running = False

    def start(self) -> None:
        """Something is held now. Where the task runs already it takes that along."""
        if not self._is_running:
            self._is_running = True
            self._background.start(self._run)

    async def _run(self) -> None:
        try:
            while self._held:
                await self._clock.sleep(self._every())
                for name, value in list(self._held.items()):
                    await self._renew(name, value)
        finally:
            # With no await since nothing was held: what is held next starts the task anew.
            self._is_running = False
