"""Passing on: what happens in the turns of this process, written for those who follow them in other processes.

Nothing is written for a turn that nobody elsewhere follows: a look whether somebody does is all that it costs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from typing import TypeAlias

import anyio

from sessions.background import Background, log
from sessions.clock import Clock, monotonic, within
from sessions.following.channel import Channel
from sessions.following.events import Delta, TurnEvent
from sessions.following.parcels import packed, turn_of
from sessions.following.serving import Serving
from storage import RelayRecord, StorageError, Store
from storage.watching import Watch

PAUSE = 0.15
"""Seconds between two writes, each for all turns that are followed elsewhere."""
LOOK = 0.2
"""Seconds between two looks at who follows, where no news of it comes."""
LIVE_LOOK = 1.0
"""The same where news comes: who just stops following, as a killed process does, tells nobody."""
GAP = 0.05
"""Seconds between two looks at least, however much news comes."""
TOGETHER = 0.01
"""Seconds in which what is to go out at once goes out together."""
KEEP = 15.0
"""Seconds that a row stays: long enough for every reader that is alive, and one that is not asks anew."""

Place: TypeAlias = tuple[str, str]
"""A session and a turn."""


class Relayed:
    """One turn that is passed on. A new reader gets a snapshot, marked with its name, and goes on from there."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self._place: int | None = None
        self._last = ""
        self._served: set[str] = set()

    def parcels(self, readers: set[str]) -> list[tuple[str, str]]:
        """What is to be written now for these readers: each text with the id of its last event."""
        fresh, is_first = readers - self._served, self._place is None
        self._served = set(readers)
        events = self._taken()
        found = []
        if events and not is_first:
            found.append((events[-1].id, packed(merged(events), after=self._last)))
        if events:
            self._last = events[-1].id
        if fresh and (shown := events if is_first else self._shown()):
            found.append((shown[-1].id, packed(shown, readers=sorted(fresh))))
        return found

    def begin_anew(self) -> None:
        """What was written may be lost: every reader gets a snapshot."""
        self._place, self._served = None, set()

    def _taken(self) -> list[TurnEvent]:
        events = list[TurnEvent]()
        while True:
            event, self._place = self.channel.step(self._place)
            if event is None:
                return events
            events.append(event)

    def _shown(self) -> list[TurnEvent]:
        """All there is, for somebody who has seen nothing."""
        snapshot, place = self.channel.step(None)
        end, _ = self.channel.step(place)
        return [event for event in (snapshot, end) if event is not None]


class Relay:
    """Passes on the turns of one manager: `own`, by session and turn. One task, which runs while there are any.

    `look` renews the lease of a session, which tells what others want of its turn.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        background: Background,
        own: Mapping[Place, Channel],
        look: Callable[[str], Awaitable[None]],
        lost: Callable[[Channel], None],
    ) -> None:
        self._store, self._clock = store, clock
        self._own, self._look_at, self._lost = own, look, lost
        self._readers: dict[Place, set[str]] = {}
        self._relayed: dict[Place, Relayed] = {}
        self._serving = Serving(store, background, "followers", self._serve, self._listen)
        self._is_failing = False
        self._is_look_due = True
        self._looked = float("-inf")
        self._sweep_at: float | None = None
        self._written = float("-inf")
        self._alarm, self._writing = anyio.Event(), anyio.Lock()

    def begun(self) -> None:
        """A turn of ours begins: it is followed from elsewhere, perhaps."""
        self._is_look_due = True
        # Of a store that no other process can open there is nobody elsewhere who reads.
        if self._store.is_shared:
            self._serving.start()

    def ended(self, channel: Channel) -> None:
        """It has ended: what is left of it goes out at once."""
        if (channel.session, channel.turn) in self._relayed:
            self._alarm.set()

    async def close(self) -> None:
        """What is left is written; so is the end of those rows that are over."""
        if self._relayed or self._sweep_at is not None:
            with suppress(StorageError):
                await self._pass_on()
                await self._store.end_relays(before=self._clock.now() - KEEP)

    # -- the task --

    async def _listen(self, ear: Watch) -> None:
        while True:
            await ear.news()
            self._is_look_due = True
            if not self._relayed:  # else it looks soon
                self._alarm.set()
            await self._clock.sleep(GAP)

    async def _serve(self, ear: Watch) -> None:
        """A short turn is over before anybody could read along: the first look comes a while after the beginning."""
        pause = PAUSE
        while True:
            # Made before the round: what is rung for meanwhile is not missed.
            self._alarm = anyio.Event()
            with suppress(TimeoutError):
                await within(self._clock, pause, self._alarm.wait)
                # Only behind an alarm: where none came, the pause has gathered enough.
                await self._clock.sleep(TOGETHER)
            if not self._own and not self._relayed and self._sweep_at is None:
                return
            is_live = ear.is_live  # before the look: what comes after it is heard
            try:
                await self._round(LIVE_LOOK if is_live else LOOK)
            except StorageError as error:
                self._failed(error)
            pause = PAUSE if self._relayed else min(ear.pause, LIVE_LOOK) if is_live else LOOK

    async def _round(self, every: float) -> None:
        every = (LOOK if self._relayed else 0.0) if self._is_look_due else every  # who renews makes news too
        if self._own and monotonic(self._clock) >= self._looked + every - _ROUNDING:
            await self._look()
        await self._pass_on()
        if self._sweep_at is not None and (now := self._clock.now()) >= self._sweep_at:
            self._sweep_at = now + KEEP if self._written > now - KEEP else None
            await self._store.end_relays(before=now - KEEP)

    def _failed(self, error: StorageError) -> None:
        if not self._is_failing:
            log.warning("turns cannot be passed on to those who follow them elsewhere, trying again: %s", error)
        self._is_failing = self._is_look_due = True
        for relayed in self._relayed.values():
            relayed.begin_anew()

    async def _look(self) -> None:
        """Who follows now. What a new reader wants may be that the turn is stopped: that is looked for at once."""
        # Before the read: news that comes while it runs makes another look due.
        self._is_look_due, self._looked = False, monotonic(self._clock)
        found: dict[Place, set[str]] = {}
        for row in await self._store.followed(now=monotonic(self._clock)):
            found.setdefault((row.session, turn_of(row.reader)), set()).add(row.reader)
        known, self._readers = self._readers, found
        for place, readers in self._readers.items():
            if place in self._own and readers - known.get(place, set()):
                await self._look_at(place[0])
        await self._look_for_the_lost()
        self._is_failing = False

    async def _look_for_the_lost(self) -> None:
        """A turn that was queued here may run in another worker by now: who follows it here must hear of it there."""
        for channel in list(self._own.values()):
            if channel.followers and channel.row is not None and channel.row.state == "queued":
                row = await self._store.turn(channel.session, id=channel.turn)
                is_same = channel.row is not None and channel.row.state == "queued"  # it may have begun here meanwhile
                if is_same and (row is None or row.state != "queued"):
                    self._lost(channel)

    async def _pass_on(self) -> None:
        """One write, of all that happened since the last one in all turns that are followed elsewhere."""
        # The task and `close` may both come here: a reader gets its rows in order, and each once.
        async with self._writing:
            await self._write()

    async def _write(self) -> None:
        for place, readers in self._readers.items():
            if readers and place in self._own and place not in self._relayed:
                # It holds the channel: what is left of a turn goes out also when it is no longer among our own.
                self._relayed[place] = Relayed(self._own[place])
        now, rows, over = self._clock.now(), list[RelayRecord](), list[Place]()
        for place, relayed in self._relayed.items():
            readers, is_over = self._readers.get(place, set()), relayed.channel.is_over
            if readers:
                rows += [RelayRecord(None, *place, id, text, now) for id, text in relayed.parcels(readers)]
            if is_over or not readers:
                over.append(place)
        if rows:
            # Before the write, which may have gone through where it fails: its rows are to be ended too.
            self._written, self._sweep_at = now, self._sweep_at or now + KEEP
            await self._store.relay(rows)
        for place in over:  # not before they are written
            del self._relayed[place]


_ROUNDING = 0.001


def merged(events: Iterable[TurnEvent]) -> list[TurnEvent]:
    """The same with neighbouring deltas of one block as one, which has the id of the last."""
    found: list[TurnEvent] = []
    parts: list[str] = []
    for event in events:
        last = found[-1] if found else None
        if _goes_on(last, event):
            parts.append(event.value)  # type: ignore[attr-defined]
            found[-1] = event
            continue
        _join(found, parts)
        found.append(event)
        parts = [event.value] if isinstance(event, Delta) and isinstance(event.value, str) else []
    _join(found, parts)
    return found


def _goes_on(last: TurnEvent | None, event: TurnEvent) -> bool:
    if not (isinstance(last, Delta) and isinstance(event, Delta)):
        return False
    are_texts = isinstance(last.value, str) and isinstance(event.value, str)
    return are_texts and (last.index, last.kind) == (event.index, event.kind)


def _join(found: list[TurnEvent], parts: list[str]) -> None:
    if len(parts) > 1 and isinstance(last := found[-1], Delta):
        found[-1] = Delta(id=last.id, index=last.index, kind=last.kind, value="".join(parts))
