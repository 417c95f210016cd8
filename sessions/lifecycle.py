"""The life of a manager: where it was entered, and how the work under way ends when it is told to end.

Turns under way stop at their next durable point then, and their rows stay `running`: any live worker's recovery takes
them up, as after a kill. Only a caller that cancelled its own turn while the manager lives on leaves it `interrupted`.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Protocol, TypeVar

import anyio

from sessions.background import log
from sessions.clock import Clock, monotonic, within
from sessions.errors import ConfigurationError, SessionsError
from storage import Holder

T = TypeVar("T")

TOGETHER = 3.0
"""Seconds within which a cancelled turn and a manager left by a cancellation are one event: the process is told to end.

Ctrl-C under `asyncio.run` and a cancelled nursery reach the turn first and the manager a moment later.
"""
STUBBORN = 5.0
"""Seconds that closing waits for work which does not heed its cancellation; it is left as a kill would leave it."""

_TAKES_NONE = "this manager is being closed and takes no new turns: send it to another worker"
ENDED = (
    "this manager was closed before this was done: what is done is stored, "
    "and recover() of a live worker, or resume(), goes on with the turn"
)


class UnderWay(Protocol):
    """A turn under way."""

    @property
    def is_drawn(self) -> bool:
        """Whether somebody waits for what happens next in it."""
        ...

    def interrupt(self) -> None:
        """Whoever waits is told that the manager ended; the turn stops at its next durable point."""

    async def close(self) -> None:
        """The turn stops there."""


class Lifecycle:
    """What one manager has under way. `holder`: its identity, taken anew each time that it is entered."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._process: int | None = None
        self._loop: object = None
        self._holder: Holder | None = None
        self.takes_turns, self.is_ending = True, False
        self._turns: set[UnderWay] = set()
        self._waits: set[anyio.CancelScope] = set()
        self._holds = 0
        self._less = anyio.Event()
        self._given_up: deque[tuple[float, str, str]] = deque()

    # -- where --

    def enter(self) -> None:
        """The manager is entered, in this process and this event loop."""
        self._process, self._loop = os.getpid(), _event_loop()
        self._holder = Holder.current(f"{id(self):x}")
        self.takes_turns, self.is_ending = True, False

    def leave(self) -> None:
        """The manager is closed: what comes now is told by the store that it is not open."""
        self._process = None
        self.takes_turns, self.is_ending = True, False

    @property
    def holder(self) -> Holder:
        """Who holds the leases of this manager."""
        if self._holder is None:
            self._holder = Holder.current(f"{id(self):x}")
        return self._holder

    @property
    def is_inherited(self) -> bool:
        """Whether the manager was entered in another process, of which this one is a copy."""
        return self._process is not None and self._process != os.getpid()

    def check(self) -> None:
        """Raises `ConfigurationError` outside the process and the event loop where the manager was entered.

        Its tasks and connections live there: elsewhere a call would wait for them for ever.
        """
        if self.is_inherited:
            raise ConfigurationError("this manager was entered in another process: make and enter one in this process")
        if self._process is not None and self._loop is not _event_loop():
            raise ConfigurationError(
                "this manager was entered in another event loop: "
                "use one manager for each event loop, or call it through anyio.from_thread"
            )

    # -- what is under way --

    def begin(self, turn: UnderWay) -> None:
        """A turn begins. Raises `SessionsError` where no new ones are taken."""
        self.check_takes_turns()
        self._turns.add(turn)

    def check_takes_turns(self) -> None:
        """Raises `SessionsError` where no new turns are taken, and `ConfigurationError` as `check` does."""
        self.check()
        if not self.takes_turns:
            raise SessionsError(_TAKES_NONE)

    def over(self, turn: UnderWay) -> None:
        """It has ended, or stopped."""
        self._turns.discard(turn)
        self._less.set()

    async def unless_ended(self, work: Callable[[], Awaitable[T]]) -> T:
        """The result of `work()`, which is cancelled when the manager ends: then that is a `SessionsError`."""
        if not self.is_ending:
            # Only the manager's end cancels this scope: the caller's own cancellation goes through it.
            with anyio.CancelScope() as scope:
                self._waits.add(scope)
                try:
                    return await work()
                finally:
                    self._waits.discard(scope)
        raise SessionsError(ENDED)

    @contextmanager
    def holding(self) -> Iterator[None]:
        """A lease is held inside: the manager's end waits until it has been given back."""
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1
            self._less.set()

    # -- the end --

    async def end(self, seconds: float = 0.0) -> None:
        """No new turns; those under way get so long to end, then they are stopped at their next durable point."""
        self.takes_turns = False
        if seconds and self._is_busy:
            with suppress(TimeoutError):
                await within(self._clock, seconds, self._quiet)
        self.is_ending = True
        # The manager may be left by a cancellation: its turns still stop behind a commit, and give their leases back.
        with anyio.CancelScope(shield=True):
            for wait in list(self._waits):
                wait.cancel()
            for turn in list(self._turns):
                if turn.is_drawn:
                    turn.interrupt()
                else:  # nobody would notice the end
                    await self._close(turn)
            if self._is_busy:
                await self._wait_for_the_rest()

    async def _close(self, turn: UnderWay) -> None:
        try:
            await turn.close()
        except Exception as error:
            # One that cannot be closed keeps the others from nothing.
            log.warning("a turn could not be closed in good order, recovery will find it: %s", error)

    async def _wait_for_the_rest(self) -> None:
        try:
            await within(self._clock, STUBBORN, self._quiet)
        except TimeoutError:
            log.warning("a turn does not end though it was cancelled: it is left as if the process had been killed")

    @property
    def _is_busy(self) -> bool:
        return bool(self._turns or self._holds)

    async def _quiet(self) -> None:
        while self._is_busy:
            # Made with no await since the look: no end is missed.
            self._less = anyio.Event()
            await self._less.wait()

    # -- whose cancellation it was --

    def gave_up(self, session: str, turn: str) -> None:
        """A turn was cancelled and its row says so; whether by its own caller, the next seconds will show."""
        now = monotonic(self._clock)
        self._given_up.append((now, session, turn))
        # Older ones can be no part of the manager's end any more.
        while self._given_up[0][0] < now - TOGETHER:
            self._given_up.popleft()

    def taken_along(self, error: BaseException | None) -> list[tuple[str, str]]:
        """The turns (session, turn) whose cancellation was that of the whole manager, which `error` leaves.

        This is the one rule: a manager that is left by a cancellation, Ctrl-C or `SystemExit` (a group of them, too)
        was told to end, and so was what had been cancelled in its last seconds.
        """
        if error is None or isinstance(error, Exception):
            return []
        now = monotonic(self._clock)
        return [(session, turn) for moment, session, turn in self._given_up if moment >= now - TOGETHER]


def _event_loop() -> object:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        import trio

        return trio.lowlevel.current_trio_token()
