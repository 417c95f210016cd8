"""Who may write: one turn of a session at a time, first come first served, under a lease renewed while it runs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from weakref import WeakValueDictionary

import anyio

from sessions.background import Background, log
from sessions.clock import Clock, monotonic, within
from sessions.errors import SessionBusy
from sessions.lifecycle import Lifecycle
from sessions.waiting import Renewal, until
from storage import Holder, Lease, LeaseGone, LeaseTaken, StorageError, Store

LEASE_SECONDS = 10.0
"""How long a lease lasts without renewal."""
RENEW_AFTER = 3.0
"""Seconds after which it is renewed: twice it may fail, and the lease still holds."""
_LAST_CHANCE = 0.02
"""Seconds before the end of its patience in which a waiter asks no more."""
_PLACE = 2.0
"""Seconds that a waiter's place in line outlives its last try: who stops asking loses it."""


class _Turnstile:
    """Lets one in at a time, in the order of arrival; unlike a lock it may be left from another task."""

    def __init__(self) -> None:
        self.semaphore = anyio.Semaphore(1)


class Hold:
    """A lease that this process holds; `lease` is its newest form.

    `releasing`: a commit that gives it back is under way, `released`: it has gone through. `ids_given`: how many ids
    have been made from it. `asked_to_stop` hears which turn of the session somebody wants stopped, at each renewal.
    """

    def __init__(self, lease: Lease) -> None:
        self.lease = lease
        self.asked_to_stop: Callable[[str | None], None] | None = None
        self.lost = self.releasing = self.released = False
        self.ids_given = 0


class Leases:
    """The leases of one manager: each lasts `seconds` without renewal, and is renewed every `renew_after` seconds."""

    def __init__(
        self, store: Store, clock: Clock, background: Background, lifecycle: Lifecycle, busy_timeout: float
    ) -> None:
        self._store, self._clock, self._background, self._busy_timeout = store, clock, background, busy_timeout
        self._lifecycle = lifecycle
        self._turnstiles: WeakValueDictionary[str, _Turnstile] = WeakValueDictionary()
        self._held: dict[str, Hold] = {}
        self.seconds, self.renew_after = LEASE_SECONDS, RENEW_AFTER
        self._renewal = Renewal(clock, background, self._held, self._renew, lambda: self.renew_after)

    @asynccontextmanager
    async def hold(self, session: str, patience: float | None = None) -> AsyncIterator[Hold]:
        """Waits for this caller's turn and the lease. Raises `SessionBusy` after `patience` (the busy timeout) seconds.

        With no patience at all it does not stand in line either.
        """
        self._lifecycle.check()
        patience = self._busy_timeout if patience is None else patience
        deadline = monotonic(self._clock) + patience
        # This variable keeps it: one that nobody holds, or waits at, is forgotten.
        turnstile = self._turnstiles.setdefault(session, _Turnstile())
        # From before the lease is asked for: one that comes just as the manager ends is given back too.
        with self._lifecycle.holding():
            hold = await self._lifecycle.unless_ended(lambda: self._take(session, turnstile, patience, deadline))
            self._held[session] = hold
            self._renewal.start()
            try:
                yield hold
            finally:
                # First: a renewal that meets the release must not take it for another worker's takeover (`_renew`).
                del self._held[session]
                try:
                    if not hold.released:
                        await self._release(hold)
                finally:
                    # After the lease: who is let in here before that would find it taken.
                    turnstile.semaphore.release()

    @contextmanager
    def alone(self, session: str) -> Iterator[bool]:
        """Whether no turn of this process works with the session; none begins inside, other processes' do."""
        turnstile = self._turnstiles.setdefault(session, _Turnstile())
        try:
            turnstile.semaphore.acquire_nowait()
        except anyio.WouldBlock:
            yield False
            return
        try:
            yield True
        finally:
            turnstile.semaphore.release()

    async def _take(self, session: str, turnstile: _Turnstile, patience: float, deadline: float) -> Hold:
        await self._enter(turnstile, patience)
        try:
            return Hold(await self._acquire(session, deadline))
        except BaseException:
            turnstile.semaphore.release()
            raise

    @property
    def holder(self) -> Holder:
        """Who holds them."""
        return self._lifecycle.holder

    def is_held(self, session: str) -> bool:
        """Whether this manager holds the session now."""
        return session in self._held

    async def _enter(self, turnstile: _Turnstile, patience: float) -> None:
        try:
            turnstile.semaphore.acquire_nowait()
        except anyio.WouldBlock:
            await self._queue(turnstile.semaphore, patience)

    async def _queue(self, semaphore: anyio.Semaphore, patience: float) -> None:
        entered = False

        async def enter() -> None:
            nonlocal entered
            await semaphore.acquire()
            entered = True

        try:
            await within(self._clock, patience, enter)
        except BaseException as error:
            if entered:  # its turn came just when it was cancelled: the next one goes
                semaphore.release()
            if isinstance(error, TimeoutError):
                text = f"another turn of this session still runs in this process after {patience:g} seconds"
                raise SessionBusy(f"{text}: try again later", holder="this process") from None
            raise

    async def _acquire(self, session: str, deadline: float) -> Lease:
        # Who has no time to wait takes no place in line, where it would only keep others back.
        place = _PLACE if deadline > monotonic(self._clock) else 0.0

        async def look() -> Lease | None:
            now = monotonic(self._clock)
            try:
                return await self._store.acquire(session, self.holder, seconds=self.seconds, now=now, queue=place)
            except LeaseTaken:
                if monotonic(self._clock) + _LAST_CHANCE > deadline:
                    raise
                return None

        def seconds_left() -> float:
            return deadline - monotonic(self._clock)

        try:
            return await until(look, lambda: self._store.watch(session), self._clock, seconds_left)
        except BaseException as error:
            # Where the store itself failed, the place lapses by itself.
            if place and (isinstance(error, LeaseTaken) or not isinstance(error, Exception)):
                await self._leave(session)
            raise

    async def _leave(self, session: str) -> None:
        """Gives up the place in line: nobody shall wait for one who is not coming. Asking without a place does that."""
        with anyio.CancelScope(shield=True), suppress(StorageError):
            now = monotonic(self._clock)
            await self._store.release(await self._store.acquire(session, self.holder, seconds=self.seconds, now=now))

    async def _release(self, hold: Hold) -> None:
        with anyio.CancelScope(shield=True):
            # Where the turn was cancelled too: else everybody waits until the lease runs out.
            await self._store.release(hold.lease)

    async def _renew(self, session: str, hold: Hold) -> None:
        if hold.lost or hold.released or self._held.get(session) is not hold:
            return
        try:
            lease = await self._store.renew(hold.lease, seconds=self.seconds, now=monotonic(self._clock))
        except LeaseGone:
            if hold.releasing or self._held.get(session) is not hold:
                return  # given back meanwhile
            log.warning("session %s was taken over by another worker", session)
            # The turn is not interrupted: the store refuses its next commit, and then it ends.
            hold.lost = True
        except StorageError as error:
            log.warning("the lease of session %s could not be renewed, trying again: %s", session, error)
        else:
            hold.lease = lease
            if lease.stop is not None and hold.asked_to_stop is not None:
                hold.asked_to_stop(lease.stop)

    async def look(self, session: str) -> None:
        """Somebody wants something of the turn that holds the session: its lease is renewed now, which tells."""
        if (hold := self._held.get(session)) is not None:
            await self._renew(session, hold)
