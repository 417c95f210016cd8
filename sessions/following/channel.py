"""One turn as its followers hear it: a view of it, and a bounded log of what has happened since somebody listens."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import replace
from typing import Any

import anyio

from sessions.following.events import Ended, Snapshot, TurnEvent, attempt_of, event_id, is_ahead, is_of_rest, of_stream
from sessions.following.view import View
from storage import TurnRecord

LOG = 1024
"""Events that are kept: a follower that reads slower than that gets a snapshot in place of what it missed."""
FIRST = 1
"""The number of the first snapshot of an attempt; 0 is that of the word that it has begun (`Restarted`)."""


class Channel:
    """What is told of one turn. It costs next to nothing until somebody follows: then a view is made, and kept up.

    Whoever runs the turn says `open`, `begin`, what happens, and `end`; the reader of a turn that another worker runs
    passes on what it reads (`lags`: somebody may have seen more elsewhere). All followers share one log, each has only
    its place in it.
    """

    def __init__(self, session: str, turn: str, *, lags: bool = False) -> None:
        self.session, self.turn, self._lags = session, turn, lags
        self._attempt = self._count = 0
        self._make_view: Callable[[], View] | None = None
        self._view: View | None = None
        self._log: deque[TurnEvent] = deque(maxlen=LOG)
        self._logged = 0
        self._id = ""
        self._news: anyio.Event | None = None
        self._over: anyio.Event | None = None
        self.row: TurnRecord | None = None
        """The turn as it was last written here."""
        self.owner: str | None = None
        """Whose session it is of, where it runs here."""
        self.error: BaseException | None = None
        """What ended it, where that was an error."""
        self.stop: Callable[[], None] | None = None
        """Stops it, while it runs in this process."""
        self.limit: tuple[float, float] | None = None
        """Of one that is queued: the seconds that it may take, and when, by the monotonic clock, they are over."""
        self.is_over = self._is_to_begin = False
        self.followers = 0
        self.was_followed = False
        """Whether anybody has begun to follow it, however long they stayed."""

    # -- whoever runs the turn, or reads it --

    def open(self, row: TurnRecord, stop: Callable[[], None]) -> None:
        """The turn is this process's from now on, and may be stopped. Who follows hears of it from `begin` on."""
        self.row, self.stop, self.is_over, self.error = row, stop, False, None
        # What there is to show is of an earlier attempt: somebody may have seen more of it elsewhere.
        self._is_to_begin = True

    def begin(self, attempt: int, make_view: Callable[[], View]) -> None:
        """The turn runs from now on. `attempt`: the token of its lease; `make_view`: what it looks like then."""
        self._attempt, self._count, self._make_view = attempt, FIRST, make_view
        self._id = event_id(attempt, FIRST)
        self.is_over = self._is_to_begin = False
        if self._view is not None:
            self.show_again()
        self._ring()

    @property
    def is_followed(self) -> bool:
        """Whether somebody has listened: only then is anything to be told."""
        return self._view is not None

    def hear(self, event: Mapping[str, Any]) -> None:
        """A raw event of the API's stream has come."""
        if self._view is None:
            return
        id = event_id(self._attempt, self._count + 1)
        if (told := of_stream(event, id)) is not None:
            self._count += 1
            self._id = id
            self._view.hear(event)
            self._keep(told)

    def publish(self, event: TurnEvent) -> None:
        """It has happened: all who follow are told. An event without an id is given the next one."""
        if self._view is None:
            if not isinstance(event, Snapshot):
                return
            # A reader's channel has no turn to look at: its view begins with the first snapshot that is read.
            self._view = View()
        if not event.id:
            self._count += 1
            event = replace(event, id=event_id(self._attempt, self._count))
        # A snapshot is named after what came before the end: who asks for more behind it still gets the end.
        if not isinstance(event, Ended):
            self._id = event.id
        self._view.add(event)
        self._keep(event)

    def _keep(self, event: TurnEvent) -> None:
        self._log.append(event)
        self._logged += 1
        self._ring()

    def show_again(self) -> None:
        """The turn is no longer what the events added up to: who follows gets a snapshot."""
        if self._view is not None and self._make_view is not None:
            self._view = self._make_view()
            self.publish(self._view.snapshot(""))

    def end(self, ended: Ended) -> None:
        """The turn has ended, or waits, and who follows has nothing more to come."""
        self.publish(ended)
        self.leave()

    def leave(self) -> None:
        """Nobody tells of the turn here any more. Who has not heard its end must look elsewhere."""
        self._make_view, self.stop, self.is_over = None, None, True
        self._ring()
        if self._over is not None:
            self._over.set()
            self._over = None

    def _ring(self) -> None:
        if self._news is not None:
            # One event for all who wait; the next who waits makes another.
            self._news.set()
            self._news = None

    async def _more(self) -> None:
        self._news = self._news or anyio.Event()
        await self._news.wait()

    # -- who follows --

    async def follow(self, after: str | None = None) -> AsyncGenerator[TurnEvent]:
        """A snapshot, then what happens; or, where the event `after` is still in the log, what happened since.

        Ends when the turn does (the last event is `Ended`), or when nobody here tells of it any more.
        """
        self.followers += 1
        self.was_followed = True
        try:
            place = self.place_behind(after)
            while True:
                event, place = (None, place) if place is None and self._is_behind(after) else self.step(place)
                if event is not None:
                    yield event
                    if isinstance(event, Ended):
                        return
                elif self.is_over:
                    return
                else:
                    await self._more()
        finally:
            self.followers -= 1

    def step(self, place: int | None) -> tuple[TurnEvent | None, int | None]:
        """What comes next for somebody at that place (`None`: at none yet), and the place behind it.

        That is a snapshot where the log does not reach back so far, and nothing where there is nothing new.
        """
        if place is None or place < self._logged - len(self._log):
            snapshot = None if self._is_to_begin else self._snapshot()
            return snapshot, place if snapshot is None else self._logged - self._has_end
        if place == self._logged:
            return None, place
        return self._log[place - self._logged + len(self._log)], place + 1

    def place_behind(self, after: str | None) -> int | None:
        """The place of somebody who has seen that event last; `None` where it is not known, or no longer."""
        if after is None or self._view is None:
            return None
        for place, event in enumerate(self._log, self._logged - len(self._log)):
            if event.id == after:
                return place + 1
        return self._logged - self._has_end if after == self._id else None  # a snapshot that is in no log

    @property
    def _has_end(self) -> bool:
        return bool(self._log) and isinstance(self._log[-1], Ended)

    def is_earlier_than(self, after: str | None) -> bool:
        """Whether that event is of a later attempt, or of the rest of this one: it has not been heard of here."""
        attempt, own = attempt_of(after), attempt_of(self._id)
        return attempt > own or (attempt == own and is_of_rest(after))

    def _is_behind(self, after: str | None) -> bool:
        """Whether somebody has seen more of it elsewhere than has come here yet."""
        return self.is_earlier_than(after) or (self._lags and is_ahead(after, self._id, LOG))

    def _snapshot(self) -> Snapshot | None:
        """All there is now, or `None` where a reader has heard nothing yet."""
        if self._view is None and self._make_view is not None:
            self._view = self._make_view()
        return None if self._view is None else self._view.snapshot(self._id)

    async def over(self) -> None:
        """Returns when the turn has ended or waits, or nobody tells of it here any more."""
        while not self.is_over:
            # An event of its own: who waits for the end only is not woken by each word.
            self._over = self._over or anyio.Event()
            await self._over.wait()


NOBODY = Channel("", "")
"""What a turn tells before it has a row: nobody can follow it yet."""
