"""Reading along in turns that other workers run: what they pass on is read from the store and told here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

import anyio

from sessions.background import Background, each, log
from sessions.clock import Clock, monotonic, within
from sessions.following.channel import FIRST, Channel
from sessions.following.events import Ended, Snapshot, event_id
from sessions.following.parcels import Parcel, new_reader, unpacked
from sessions.following.relay import Place
from sessions.following.serving import Serving
from storage import RelayRecord, StorageError, Store
from storage.watching import Watch

PAUSE = 0.08
"""Seconds between two looks at what was passed on, where no news of it comes."""
LIVE_PAUSE = 0.5
"""The same where news comes."""
GAP = 0.02
"""Seconds between two looks at least, however much news comes."""
SECONDS, RENEW_AFTER = 10.0, 3.0
"""How long it is taken to follow without saying so again, and after how many seconds it says so."""
QUIET = 1.0
"""Seconds without a word after which the turn's row is looked at."""
_AT_ONCE, _ROWS = 8, 1000


class Remote:
    """A turn that others run, as it is followed here. `reader`: under which name, `None` where it is to ask anew."""

    def __init__(self, place: Place, now: float) -> None:
        self.place, self.channel = place, Channel(*place, lags=True)
        self.reader: str | None = None
        self.former: list[str] = []
        self.number, self.renew_at, self.made, self.heard = 0, 0.0, now, now
        self._last: str | None = None
        self._is_in_step = False

    def is_left(self, now: float) -> bool:
        """Whether nobody follows it any more. Who has just asked for it may have something to read before."""
        return not self.channel.followers and (self.channel.was_followed or now >= self.made + SECONDS)

    def ask(self) -> None:
        """Asks anew, by another name: whoever runs the turn looks what is wanted, and shows all there is."""
        if self.reader is not None:
            self.former.append(self.reader)
        self.reader, self.renew_at = None, 0.0

    def take(self, row: RelayRecord) -> None:
        """Tells those who follow here what is new to them; after a row that was missed, it asks anew."""
        self.number = row.number or self.number
        try:
            parcel = unpacked(row.content)
        except (LookupError, TypeError, ValueError):
            log.warning("what was passed on of turn %s cannot be read, asking anew", row.turn)
            # It goes on behind nothing that anybody has seen, so it counts as a gap.
            parcel = Parcel((), after="")
        if self.reader in parcel.readers:
            self._is_in_step = True
        elif not self._is_in_step or parcel.after is None:
            return  # for others
        # It goes on behind something that was not seen here: a row between the two was missed.
        elif parcel.after != self._last and row.id > (self._last or ""):
            self._is_in_step = False
            self.ask()
            return
        self._tell(parcel, row.id)

    def _tell(self, parcel: Parcel, last: str) -> None:
        for event in parcel.events:
            if event.id <= (self._last or ""):
                continue  # it was said already, or by a worker that has lost the turn
            if isinstance(event, Ended):
                self.channel.end(event)
            else:
                self.channel.publish(event)
        self._last = max(self._last or "", last)

    def show_queued(self) -> None:
        """It waits for its turn, and whoever queued it says nothing."""
        if self._last is None:
            self._last = event_id(0, FIRST)
            self.channel.publish(Snapshot(id=self._last, state="queued"))


class Reader:
    """The turns of other workers that are followed in this manager. One task, which runs while there are any.

    `is_own`: whether a turn runs in this process by now.
    """

    def __init__(self, store: Store, clock: Clock, background: Background, is_own: Callable[[Place], bool]) -> None:
        self._store, self._clock, self._is_own = store, clock, is_own
        self._remotes: dict[Place, Remote] = {}
        self._dropped: list[Remote] = []
        self._serving = Serving(store, background, "relays", self._serve, self._listen, self._announce)
        self._is_failing = False
        self._alarm, self._is_due = anyio.Event(), anyio.Event()

    def channel(self, place: Place) -> Channel:
        """Where that turn is told of; it is read while somebody follows."""
        remote = self._remotes.get(place)
        if remote is None:
            remote = self._remotes[place] = Remote(place, monotonic(self._clock))
            self._begin()
        return remote.channel

    def ask(self, place: Place) -> None:
        """Whoever runs the turn is to look now what others want of it."""
        if (remote := self._remotes.get(place)) is not None:
            remote.ask()
            self._begin()

    def leave(self, place: Place) -> None:
        """It is not read any more: it has ended, runs here, or nobody follows."""
        if (remote := self._remotes.pop(place, None)) is not None:
            remote.channel.leave()
            self._dropped.append(remote)
            self._ring()

    async def close(self) -> None:
        """Nobody here follows any more."""
        for place in list(self._remotes):
            self.leave(place)
        # What cannot be taken back now lapses by itself.
        with suppress(StorageError):
            await self._take_leave()

    def _ring(self) -> None:
        self._alarm.set()
        self._is_due.set()

    def _begin(self) -> None:
        self._ring()
        self._serving.start()

    # -- the task --

    async def _listen(self, ear: Watch) -> None:
        while True:
            await ear.news()
            self._alarm.set()
            await self._clock.sleep(GAP)

    async def _announce(self, _: Watch) -> None:
        """Says whom we follow, apart from the reading: where others write, that may take its time."""
        while True:
            # Made before the look at who is due: what is asked for meanwhile is not missed.
            self._is_due = anyio.Event()
            pause = RENEW_AFTER
            try:
                await self._take_leave()
                now = monotonic(self._clock)
                await each([one for one in self._remotes.values() if now >= one.renew_at], self._say_so, _AT_ONCE)
                now = monotonic(self._clock)
                pause = max(0.0, min((one.renew_at - now for one in self._remotes.values()), default=pause))
            except StorageError as error:
                self._failed(error)
                pause = QUIET
            with suppress(TimeoutError):
                await within(self._clock, pause + GAP, self._is_due.wait)

    async def _serve(self, ear: Watch) -> None:
        while self._remotes or self._dropped:
            # Made before the round: what is rung for meanwhile is not missed.
            self._alarm = anyio.Event()
            is_live = ear.is_live  # before the look: what comes after it is heard
            try:
                await self._round()
                self._is_failing = False
            except StorageError as error:
                self._failed(error)
                await self._clock.sleep(PAUSE)
            with suppress(TimeoutError):
                await within(self._clock, LIVE_PAUSE if is_live else PAUSE, self._alarm.wait)

    def _failed(self, error: StorageError) -> None:
        if not self._is_failing:
            log.warning("turns of other workers cannot be followed now, trying again: %s", error)
        self._is_failing = True

    async def _round(self) -> None:
        now = monotonic(self._clock)
        for place, remote in list(self._remotes.items()):
            if remote.is_left(now) or self._is_own(place):
                self.leave(place)
        await self._read(list(self._remotes.values()))
        now = monotonic(self._clock)
        await each([one for one in self._remotes.values() if now >= one.heard + QUIET], self._look, _AT_ONCE)

    async def _take_leave(self) -> None:
        while self._dropped:
            # Taken off first: where the store fails its word lapses by itself, after `SECONDS`.
            remote = self._dropped.pop()
            for reader in [*remote.former, remote.reader]:
                if reader is not None:
                    await self._store.unfollow(remote.place[0], reader)

    async def _say_so(self, remote: Remote) -> None:
        session, turn = remote.place
        name = remote.reader = remote.reader or new_reader(turn)
        now = monotonic(self._clock)
        await self._store.follow(session, name, seconds=SECONDS, now=now)
        if remote.reader == name:  # else it asks anew already
            remote.renew_at = now + RENEW_AFTER
        # After the new name stands: whoever runs the turn would see nobody in between, and stop writing.
        while remote.former:
            await self._store.unfollow(session, remote.former[-1])
            remote.former.pop()

    async def _read(self, remotes: Sequence[Remote]) -> bool:
        """Reads on in these turns; whether there was anything."""
        by_place = {remote.place: remote for remote in remotes}
        rows = (
            await self._store.relayed_in([(*remote.place, remote.number) for remote in remotes], limit=_ROWS)
            if remotes
            else []
        )
        now = monotonic(self._clock)
        for row in rows:
            remote = by_place[row.session, row.turn]
            remote.heard = now
            if not remote.channel.is_over:
                remote.take(row)
            if remote.reader is None:  # it asks anew
                self._is_due.set()
        for remote in remotes:
            if remote.channel.is_over:
                self.leave(remote.place)
        # There may be more: the next look comes without a pause.
        if len(rows) >= _ROWS:
            self._alarm.set()
        return bool(rows)

    async def _look(self, remote: Remote) -> None:
        """Nothing was heard for a while: its worker may have died, or ended it without a word."""
        remote.heard = monotonic(self._clock)
        row = await self._store.turn(remote.place[0], id=remote.place[1])
        if row is not None and row.state in ("queued", "running"):
            remote.channel.row = row
            if row.state == "queued":
                remote.show_queued()
        # It is at rest: what was passed on before its end is told first, then who follows goes on with what is stored.
        elif not await self._read([remote]):
            self.leave(remote.place)
