"""A turn as those see it who do not run it: read along, wait for its end, stop it, from whatever process."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Generic, TypeVar

from sessions.clock import within
from sessions.conversation.entries import read_entry
from sessions.conversation.leases import LEASE_SECONDS
from sessions.conversation.pending import read_pending
from sessions.core.settings import Settings
from sessions.core.transcript import Entry
from sessions.core.usage import Usage
from sessions.errors import ModelError, SessionBusy, SessionsError
from sessions.following.channel import Channel
from sessions.following.events import (
    AT_REST,
    Ended,
    PendingCall,
    Restarted,
    Snapshot,
    TurnEvent,
    TurnState,
    attempt_of,
    event_id,
    first_of,
    is_another_attempt,
    is_of_rest,
)
from sessions.ledger import Call, total_cost
from sessions.lifecycle import ENDED
from sessions.runtime import Runtime
from sessions.tools import Toolbox
from sessions.translate import storage_errors
from sessions.turns import states
from sessions.turns.beginning import Options, stored_outcome
from sessions.turns.loop import Loop
from sessions.turns.outcome import Outcome, ended
from storage import HeadMoved, Store, TurnRecord

R = TypeVar("R")
_LAST = AT_REST + 999
"""The number of the last event of a turn that is told from what is stored."""


@dataclass(frozen=True, slots=True)
class TurnInfo:
    """A turn of a session, as `Session.turns` gives it. Times are seconds since the epoch, `cost` is USD.

    `entry`: the id of the user's words, `replies`: of the model's answers, in order; `calls`: ids of the ledger's rows.
    `key`: the idempotency key it was begun with.
    """

    id: str
    state: TurnState
    started: float
    ended: float | None
    entry: str | None
    replies: tuple[str, ...]
    stop_reason: str | None
    usage: Usage
    cost: Decimal | None
    calls: tuple[str, ...]
    error: str | None
    key: str | None = None


class TurnHandle(Generic[R]):
    """One turn of a conversation: it may run here, in another worker, wait, or have ended.

    `reply_of` makes the caller's reply of the turn's outcome. The attributes are as this process last heard of them.
    """

    def __init__(self, runtime: Runtime, row: TurnRecord, reply_of: Callable[[Outcome], Awaitable[R]]) -> None:
        self._runtime, self._row, self._reply_of = runtime, row, reply_of
        # Held as long as this handle: a turn that begins here later, queued or recovered, has the same channel then.
        self._here = runtime.following.known(row.session, row.id)
        here, is_own = self._here.row, runtime.following.own(row.session, row.id) is not None
        if not is_own and (here is None or not states.is_over(here) or here.token < row.token):
            self._here.row = row  # as it is stored: it may have been decided since it was told of here
        self._there: Channel | None = None
        self._is_answered = False
        """Whether the session has gone on behind calls that the caller was to run, which no row tells."""

    def __repr__(self) -> str:
        return f"<Turn {self.id} of session {self.session_id}, {self.state}>"

    @property
    def id(self) -> str:
        """The turn's id."""
        return self._row.id

    @property
    def session_id(self) -> str:
        """The session it belongs to."""
        return self._row.session

    @property
    def _known(self) -> TurnRecord:
        """The turn as it was last heard of: where it runs here, or where it is followed."""
        for channel in (self._here, self._there):
            if channel is not None and channel.row is not None and _age(channel.row) >= _age(self._row):
                self._row = channel.row
        return self._row

    @property
    def state(self) -> TurnState:
        """`queued`, `running`, `waiting`, `interrupted`, `finished`, `cancelled` or `failed`; see `Session.state`."""
        return self._shown(self._known)

    def _shown(self, row: TurnRecord) -> TurnState:
        return "finished" if self._is_answered and row.state == "finished" else states.shown(row)

    @property
    def started(self) -> float:
        """When it began (or was queued), in seconds since the epoch."""
        return self._known.started

    @property
    def ended(self) -> float | None:
        """When it ended, broke off or began to wait, in seconds since the epoch."""
        return self._known.ended

    @property
    def error(self) -> str | None:
        """What interrupted it or made it fail."""
        return self._known.error

    async def follow(self, after: str | None = None) -> AsyncGenerator[TurnEvent]:
        """What happens in it, from now to its end: first a snapshot, then live. Ends when it ends or waits.

        `after`: the id of the last event seen; what came since is given again, as a snapshot where it is no longer
        kept. Leaving the iterator stops nothing. Raises `SessionsError` where this manager ends before the turn does:
        it goes on elsewhere, and so can whoever follows it.
        """
        while (channel := await self._live()) is not None:
            after = await self._seen(channel, after)
            async with aclosing(channel.follow(after)) as events:
                async for event in events:
                    if isinstance(event, Snapshot) and is_another_attempt(after, event.id):
                        yield Restarted(id=first_of(event.id))
                    after = event.id
                    if isinstance(event, Snapshot | Ended) and event.state != self._known.state:
                        await self._load()  # it is told from elsewhere, where its row is written
                    yield event
                    if isinstance(event, Ended):
                        return
            # What has ended is the channel, with its manager, not the turn.
            if self._runtime.lifecycle.is_ending:
                raise SessionsError(ENDED)
        row = self._known  # as it is now: it may be stopped, or go on, while its entries are read
        snapshot, end = await self._snapshot(row), await self._end(row)
        if is_another_attempt(after, snapshot.id):
            yield Restarted(id=first_of(snapshot.id))
        for event in (snapshot, end):
            if after not in (event.id, end.id):
                yield event

    async def _live(self) -> Channel | None:
        """Where it is told of, here or in another worker; `None` where it is at rest."""
        following = self._runtime.following
        # Memory first: a turn that runs here costs no read.
        if (channel := following.own(self.session_id, self.id)) is not None:
            return channel
        await self._load()
        if states.is_at_rest(self._row):
            return None
        if (channel := following.own(self.session_id, self.id)) is not None:  # it has begun here meanwhile
            return channel
        self._there = following.elsewhere(self.session_id, self.id)
        return self._there

    async def _seen(self, channel: Channel, after: str | None) -> str | None:
        """The event that was seen last; `None` where there has been no such attempt."""
        if channel.is_earlier_than(after):
            await self._load()
            row, attempt = self._row, attempt_of(after)
            # It is, or has been, at rest under that token: then it went on when its calls had been decided.
            may_be = not is_of_rest(after) or states.is_at_rest(row) or row.pending is not None
            return after if attempt < row.token or (attempt == row.token and may_be) else None
        return after

    async def _load(self) -> None:
        with storage_errors():
            row = await self._runtime.store.turn(self.session_id, id=self.id)
            if row is not None and row.state == "finished" and states.shown(row) == "waiting":
                self._is_answered = (await self._runtime.store.load(self.session_id)).head != row.reply
        if row is None:
            raise SessionsError(f"turn {self.id} of session {self.session_id} is gone: the session was deleted")
        self._row = row
        # While it runs here its channel is ahead of what has just been read.
        if self._runtime.following.own(self.session_id, self.id) is None:
            self._here.row = row

    async def _snapshot(self, row: TurnRecord) -> Snapshot:
        state = self._shown(row)
        with storage_errors():
            entries = await entries_of(self._runtime.store, row)
            pending = await self._pending(row) if state == "waiting" else ()
        id = event_id(row.token, _last_of(state) - 1)
        return Snapshot(id=id, state=state, entries=tuple(entries), pending=pending)

    async def _pending(self, row: TurnRecord) -> tuple[PendingCall, ...]:
        """The calls that it waits for; none where the session has gone on, or back."""
        store, record = self._runtime.store, await self._runtime.store.load(self.session_id)
        if row.reply is None or record.head != row.reply:
            return ()
        stored = await store.entry(self.session_id, row.reply)
        last = None if stored is None else read_entry(stored)
        return await read_pending(store, self.session_id, last, Settings.from_json(record.settings).by_caller)

    async def _end(self, row: TurnRecord) -> Ended:
        with storage_errors():
            calls = await calls_of_turn(self._runtime.store, row)
        state = self._shown(row)
        return replace(ended(row, calls), state=state, id=event_id(row.token, _last_of(state)))

    async def reply(self) -> R:
        """Waits for its end, and gives its reply: of a turn that waits, with the calls it waits for (`pending`).

        Raises what ended it (where that was in another process: `SessionsError` or `ModelError` with its words).
        """
        while (channel := await self._live()) is not None:
            if channel is self._runtime.following.own(self.session_id, self.id):
                await channel.over()
            else:
                # Another worker's turn is read only while somebody follows it.
                async with aclosing(channel.follow()) as events:
                    async for _ in events:
                        continue
            if self._runtime.lifecycle.is_ending and not states.is_at_rest(self._known):
                raise SessionsError(ENDED)
        if not states.has_outcome(self._row) or self._is_too_late:
            raise self._problem()
        with storage_errors():
            outcome = await stored_outcome(self._runtime.store, self._row)
            if self.state == "waiting":
                outcome = replace(outcome, pending=await self._pending(self._row))
        return await self._reply_of(outcome)

    @property
    def _is_too_late(self) -> bool:
        """Whether its time was up while it was still queued."""
        return isinstance(self._here.error, TimeoutError) and self._row.state == "cancelled"

    def _problem(self) -> BaseException:
        if isinstance(self._here.error, SessionsError | TimeoutError):
            return self._here.error
        if self._row.state == "failed":
            return ModelError(self._row.error or "the turn failed")
        return SessionsError(f"the turn was interrupted ({self._row.error}): resume() goes on")

    async def stop(self) -> None:
        """Stops it, wherever it runs, and returns when what there is has been stored; one at rest stays as it is.

        Finished blocks and the text so far are kept as the reply, running tools are closed truthfully. A worker that
        cannot be heard sees it when it renews its lease, within 3 seconds. What a dead one left is stopped here when
        its lease has run out, within 10 seconds.
        """
        while not await self._stopped():
            continue  # it began to wait for approvals, or went on elsewhere, before it heard of it

    async def _stopped(self) -> bool:
        """Asks whoever runs it to stop, and waits for its end; false where it had gone on, and is to be asked again."""
        channel = self._runtime.following.own(self.session_id, self.id)
        # One that is only queued here has a channel too, and nothing to stop: that goes through the store.
        if channel is not None and channel.stop is not None:
            channel.stop()
            await channel.over()
            await self._load()
            return self._is_settled
        store, now = self._runtime.store, self._runtime.clock.now()
        with storage_errors():
            before = await store.ask_stop(self.session_id, self.id, now=now)
        if before == "queued" and channel is not None:
            await self._load()
            channel.row = self._row
            channel.end(ended(self._row, ()))
        if before == "running":
            self._runtime.following.ask(self.session_id, self.id)  # a new follower makes the worker look
            try:
                await within(self._runtime.clock, LEASE_SECONDS, self._followed_to_its_end)
            except TimeoutError:
                await stop_what_is_left(self._runtime, self.session_id, self.id)
        await self._load()
        return self._is_settled

    async def _followed_to_its_end(self) -> None:
        async with aclosing(self.follow()) as events:
            async for _ in events:
                continue

    @property
    def _is_settled(self) -> bool:
        return states.is_at_rest(self._row) and self._row.state != "waiting"


async def stop_what_is_left(runtime: Runtime, session: str, turn: str) -> None:
    """Ends a turn whose worker is gone; where that still has the session, or another worker by now, it is theirs."""
    # Outside: it is the store that says whose the session is.
    with suppress(SessionBusy), storage_errors():
        # Without tools: none of them runs.
        conversation = await runtime.conversations.open(session, Toolbox())
        loop = Loop(runtime, conversation, None, Options(row=turn, patience=0.0))
        loop.stop()
        async with aclosing(loop.drive()) as happening:
            async for _ in happening:
                continue


def _last_of(state: TurnState) -> int:
    """One that waits may still end otherwise, under the same token: who has heard of the one hears of the other."""
    return _LAST - 2 if state == "waiting" else _LAST


def _age(row: TurnRecord) -> tuple[int, bool, bool]:
    """Of two rows of a turn the later one is greater: it goes on under another lease, and comes to rest under each.

    One that waits may be stopped without a lease.
    """
    return row.token, states.is_at_rest(row), states.is_over(row)


async def calls_of_turn(store: Store, row: TurnRecord) -> list[Call]:
    """The ledger's rows of a turn."""
    return [Call.of(call) for call in await store.calls(row.session) if call.turn == row.id]


async def entries_of(store: Store, row: TurnRecord) -> list[Entry]:
    """The entries of a turn that is at rest, its words first; none where they have left the chain."""
    if row.entry is None or row.state == "failed":
        return []
    head = (await store.load(row.session)).head
    try:
        rows = await store.chain(row.session, head, after=row.base)
    except HeadMoved:  # the session was rewound, or has a summary in place of what lay before
        rows = []
    # The words are not on the present chain: the turn's own reply leads back to them.
    if row.reply is not None and all(entry.id != row.entry for entry in rows):
        rows = await store.chain(row.session, row.reply)
    first = next((place for place, entry in enumerate(rows) if entry.id == row.entry), len(rows))
    rows = rows[first:]
    # After the chain: words that come meanwhile are no entries of this turn, and their turn is known by then.
    others = {other.entry for other in await store.turns(row.session) if other.id != row.id}
    end = next((place for place, entry in enumerate(rows) if place and entry.id in others), len(rows))
    return [read_entry(entry) for entry in rows[:end]]


async def turns_of(store: Store, session: str) -> list[TurnInfo]:
    """The turns of a session as values, oldest first."""
    calls: dict[str | None, list[Call]] = {}
    for record in await store.calls(session):
        calls.setdefault(record.turn, []).append(Call.of(record))
    rows = [row for row in await store.turns(session) if row.stop_reason != "compaction"]
    # Calls that the caller is to answer wait at the end only: behind a later turn they are closed.
    newest = next((row.id for row in reversed(rows) if row.state != "queued"), None)
    return [_info(row, calls.get(row.id, []), is_newest=row.id == newest) for row in rows]


def _info(row: TurnRecord, calls: list[Call], *, is_newest: bool) -> TurnInfo:
    replied = [call.entry for call in calls if call.entry is not None and call.status != "error"]
    return TurnInfo(
        id=row.id,
        state=states.shown(row) if is_newest else row.state,
        started=row.started,
        ended=row.ended,
        entry=row.entry,
        replies=tuple(dict.fromkeys(replied)),
        stop_reason=row.stop_reason,
        usage=sum((call.usage for call in calls), start=Usage()),
        cost=total_cost(calls),
        calls=tuple(call.id for call in calls),
        error=row.error,
        key=row.key,
    )
