"""Who may write: one turn of a session at a time, first come first served, under a lease renewed while it runs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from weakref import WeakValueDictionary

import anyio

from sessions.background import Background, log
from sessions.clock import Clock, monotonic, within
from sessions.errors import SessionBusy
from sessions.lifecycle import Lifecycle
from storage import Holder, Lease, LeaseGone, LeaseTaken, StorageError, Store
from storage.watching import Watch

SECONDS = 10.0
"""How long a lease lasts without renewal."""
RENEW_AFTER = 3.0
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

    `releasing`: a commit that gives it back is under way, `released`: it has gone through. `named`: how many ids have
    been made from it.
    """

    def __init__(self, lease: Lease) -> None:
        self.lease = lease
        self.lost = self.releasing = self.released = False
        self.named = 0


class Leases:
    """The leases of one manager."""

    def __init__(
        self, store: Store, clock: Clock, background: Background, lifecycle: Lifecycle, busy_timeout: float
    ) -> None:
        self._store, self._clock, self._background, self._busy_timeout = store, clock, background, busy_timeout
        self._lifecycle = lifecycle
        self._turnstiles: WeakValueDictionary[str, _Turnstile] = WeakValueDictionary()
        self._held: dict[str, Hold] = {}
        self._renewing = False
        self.seconds, self.renew_after = SECONDS, RENEW_AFTER

    @asynccontextmanager
    async def hold(self, session: str, patience: float | None = None) -> AsyncIterator[Hold]:
        """Waits for this caller's turn and the lease. Raises `SessionBusy` after `patience` (the busy timeout) seconds.

        With no patience at all it does not stand in line either.
        """
        self._lifecycle.check()
        patience = self._busy_timeout if patience is None else patience
        deadline = monotonic(self._clock) + patience
        turnstile = self._turnstiles.setdefault(session, _Turnstile())
        with self._lifecycle.holding():
            hold = await self._lifecycle.unless_ended(lambda: self._take(session, turnstile, patience, deadline))
            self._held[session] = hold
            self._keep_renewing()
            try:
                yield hold
            finally:
                del self._held[session]
                try:
                    if not hold.released:
                        await self._release(hold)
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
        place = _PLACE if deadline > monotonic(self._clock) else 0.0
        try:
            with ExitStack() as stack:
                watch: Watch | None = None
                while True:
                    is_live = watch is not None and watch.is_live  # before the look: what comes after it is heard
                    try:
                        return await self._try(session, place)
                    except LeaseTaken:
                        if monotonic(self._clock) + _LAST_CHANCE > deadline:
                            raise
                    watch = watch or stack.enter_context(self._store.watch(session))
                    await self._pause(watch, is_live, deadline)
        except BaseException as error:
            if place and (isinstance(error, LeaseTaken) or not isinstance(error, Exception)):
                await self._leave(session)
            raise

    async def _try(self, session: str, place: float) -> Lease:
        now = monotonic(self._clock)
        return await self._store.acquire(session, self.holder, seconds=self.seconds, now=now, queue=place)

    async def _pause(self, watch: Watch, is_live: bool, deadline: float) -> None:
        if not is_live:
            await self._clock.sleep(watch.pause)
            return
        with suppress(TimeoutError):
            await within(self._clock, min(watch.pause, deadline - monotonic(self._clock)), watch.news)

    async def _leave(self, session: str) -> None:
        """Gives up the place in line: nobody shall wait for one who is not coming. Asking without a place does that."""
        with anyio.CancelScope(shield=True), suppress(StorageError):
            now = monotonic(self._clock)
            await self._store.release(await self._store.acquire(session, self.holder, seconds=self.seconds, now=now))

    async def _release(self, hold: Hold) -> None:
        with anyio.CancelScope(shield=True):
            await self._store.release(hold.lease)

    def _keep_renewing(self) -> None:
        if not self._renewing:
            self._renewing = True
            self._background.start(self._renew)

    async def _renew(self) -> None:
        try:
            while self._held:
                await self._clock.sleep(self.renew_after)
                for session, hold in list(self._held.items()):
                    if not (hold.lost or hold.released) and self._held.get(session) is hold:
                        await self._renew_one(session, hold)
        finally:
            self._renewing = False

    async def _renew_one(self, session: str, hold: Hold) -> None:
        try:
            lease = await self._store.renew(hold.lease, seconds=self.seconds, now=monotonic(self._clock))
        except LeaseGone:
            if hold.releasing or self._held.get(session) is not hold:
                return  # given back meanwhile
            log.warning("session %s was taken over by another worker", session)
            hold.lost = True
        except StorageError as error:
            log.warning("the lease of session %s could not be renewed, trying again: %s", session, error)
        else:
            hold.lease = lease
