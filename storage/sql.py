"""The store on an SQL database: each method hands a plain transaction to the dialect and waits for its outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

from .dialects import Dialect, dialect
from .errors import BudgetFull, LeaseTaken
from .holders import Holder
from .records import (
    CallRecord,
    Change,
    DecisionRecord,
    EntryRecord,
    GroupBy,
    Lease,
    PromptRecord,
    RelayRecord,
    Reservation,
    SessionRecord,
    SessionState,
    Statistics,
    Stored,
    TrustRecord,
    TurnRecord,
    TurnState,
    Warmup,
)
from .store import (
    Activities,
    Calls,
    Decisions,
    DueSessions,
    Entries,
    Followers,
    Relays,
    Sessions,
    Subtotals,
    ToolCalls,
    Turns,
)
from .threads import outcome, run
from .transactions import (
    Database,
    following,
    leasing,
    listing,
    reading,
    spending,
    tending,
    totals,
    trust,
    unleased,
    warmups,
    writing,
)
from .watching import Watch

T = TypeVar("T")


class SQLStore:
    """A `Store` on SQLite or PostgreSQL; the methods are described there.

    `dialect` is the database under it, for those who run work of their own in its transactions.
    """

    def __init__(self, url: str, reading: bool = False) -> None:
        self.dialect: Dialect = dialect(url, reading)

    async def open(self) -> None:
        await run(self.dialect.open)

    async def close(self) -> None:
        await run(self.dialect.close)

    async def upgrade(self) -> str:
        return await run(self.dialect.upgrade)

    @property
    def is_shared(self) -> bool:
        return self.dialect.is_shared

    def statistics(self) -> Statistics:
        return self.dialect.statistics()

    async def create(
        self, session: SessionRecord, entries: Sequence[EntryRecord] = (), calls: Sequence[CallRecord] = ()
    ) -> None:
        await self._write(writing.create, session, entries, calls)

    async def load(self, session: str) -> SessionRecord:
        return await self._read(reading.load, session)

    async def read(self, session: str, *, calls: int) -> Stored:
        return await self._read(reading.read, session, calls)

    async def list(
        self,
        *,
        owner: str | None = None,
        limit: int = 50,
        before: str | None = None,
        search: str | None = None,
        prefix: str | None = None,
        state: SessionState | None = None,
        parent: str | None = None,
        branches: bool = True,
    ) -> Sessions:
        return await self._read(listing.listing, owner, limit, before, search, prefix, state, parent, branches)

    async def chain(self, session: str, head: str | None, *, after: str | None = None) -> Entries:
        return await self._read(reading.chain, session, head, after)

    def chain_now(self, session: str, head: str | None) -> Entries:
        return self.dialect.read(lambda db: reading.chain(db, session, head, None)).result()

    async def has_ancestor(self, session: str, head: str | None, ancestor: str) -> bool:
        return await self._read(reading.has_ancestor, session, head, ancestor)

    async def entry(self, session: str, entry: str) -> EntryRecord | None:
        return await self._read(reading.entry, session, entry)

    async def acquire(self, session: str, holder: Holder, *, seconds: float, now: float, queue: float = 0.0) -> Lease:
        work = partial(leasing.acquire, session=session, holder=holder, seconds=seconds, now=now, queue=queue)
        job = self.dialect.change(session, work, durable=False)
        try:
            lease = await outcome(job)
        except asyncio.CancelledError:  # on asyncio's own cancellation nobody learns of the lease: give it back
            if job.exception() is None and isinstance(unheard := job.result(), Lease):
                await self.release(unheard)
            raise
        if isinstance(lease, LeaseTaken):
            raise lease
        return lease

    async def renew(self, lease: Lease, *, seconds: float, now: float) -> Lease:
        work = partial(leasing.renew, lease=lease, seconds=seconds, now=now)
        return await outcome(self.dialect.change(lease.session, work, durable=False))

    async def release(self, lease: Lease) -> None:
        work = partial(leasing.release, lease=lease)
        await outcome(self.dialect.change(lease.session, work, durable=False))

    async def commit(self, lease: Lease, change: Change) -> None:
        await _with_room(self.dialect.change(lease.session, partial(writing.commit, lease=lease, change=change)))

    async def reserve(self, reservation: Reservation) -> None:
        def work(db: Database) -> BudgetFull | None:
            spending.take_turns(db)
            return spending.reserve(db, reservation)

        await _with_room(self.dialect.write(work))

    async def free(self, session: str, call: str) -> None:
        await outcome(self.dialect.write(lambda db: spending.free(db, session, call), durable=False))

    async def record(self, call: CallRecord, prompt: PromptRecord | None = None) -> None:
        await outcome(self.dialect.change(call.session, partial(writing.record, call=call, prompt=prompt)))

    async def prompt(self, session: str, digest: str) -> str | None:
        return await self._read(reading.prompt, session, digest)

    async def calls(self, session: str, *, limit: int | None = None, newest_first: bool = False) -> Calls:
        return await self._read(reading.ledger, session, limit, newest_first)

    async def activity(self, *, after: int = 0, limit: int) -> Activities:
        return await self._read(reading.activity, after, limit)

    async def totals(
        self,
        by: GroupBy | None = None,
        *,
        session: str | None = None,
        owner: str | None = None,
        since: float | None = None,
        until: float | None = None,
    ) -> Subtotals:
        kept = {"session": session, "owner": owner, "since": since, "until": until}
        return await self._read(totals.totals, by, {name: value for name, value in kept.items() if value is not None})

    async def journal(self, session: str, entry: str | None = None) -> ToolCalls:
        return await self._read(reading.journal, session, entry)

    async def turn(self, session: str, *, key: str | None = None, id: str | None = None) -> TurnRecord | None:
        if (key is None) == (id is None):
            raise ValueError("give either key or id")
        return await self._read(reading.turn, session, key, id)

    async def open_turn(self, session: str) -> TurnRecord | None:
        return await self._read(reading.open_turn, session)

    async def queue(self, turn: TurnRecord) -> TurnRecord:
        return await outcome(self.dialect.change(turn.session, partial(unleased.queue, turn=turn)))

    async def queued(self, session: str) -> TurnRecord | None:
        return await self._read(reading.queued, session)

    async def ask_stop(self, session: str, turn: str, *, now: float) -> TurnState:
        work = partial(unleased.ask_stop, session=session, turn=turn, now=now)
        return await outcome(self.dialect.change(session, work))

    async def entitle(self, session: str, title: str) -> None:
        work = partial(unleased.entitle, session=session, title=title)
        await outcome(self.dialect.change(session, work))

    async def decide(self, decision: DecisionRecord, *, turn: str, of: int) -> int:
        work = partial(unleased.decide, decision=decision, turn=turn, of=of)
        return await outcome(self.dialect.change(decision.session, work))

    async def decisions(self, session: str, entry: str) -> Decisions:
        return await self._read(unleased.decisions, session, entry)

    async def turns(self, session: str, limit: int | None = None) -> Turns:
        return await self._read(reading.turns_of, session, limit)

    async def delete(self, session: str) -> None:
        await self._write(writing.delete, session)

    async def tend(self, session: str, after: float | None, *, now: float, head: str | None = None) -> None:
        work = partial(tending.tend, session=session, after=after, now=now, head=head)
        await outcome(self.dialect.change(session, work, durable=False))

    async def claim_due(
        self,
        holder: Holder,
        *,
        now: float,
        limit: int,
        late: float = 0.0,
        seconds: float,
        lease_now: float | None = None,
    ) -> DueSessions:
        lease_now = now if lease_now is None else lease_now
        work = partial(
            tending.claim_due, holder=holder, now=now, limit=limit, late=late, seconds=seconds, lease_now=lease_now
        )
        return await outcome(self.dialect.write(work, durable=False))

    async def orphans(self, *, now: float, limit: int) -> DueSessions:
        return await self._read(tending.orphans, now, limit)

    async def lead(self, point: str, holder: Holder, *, seconds: float, now: float) -> Warmup:
        job = self.dialect.write(lambda db: warmups.lead(db, point, holder, seconds, now), durable=False)
        try:
            return await outcome(job)
        except asyncio.CancelledError:  # as for a lease
            if job.exception() is None and job.result().state == "leading":
                await self.led(point, job.result().token, ttl=None, alive=0.0, now=now)
            raise

    async def led(self, point: str, token: int, *, ttl: str | None, alive: float, now: float) -> None:
        await outcome(self.dialect.write(lambda db: warmups.led(db, point, token, ttl, alive, now), durable=False))

    async def follow(self, session: str, reader: str, *, seconds: float, now: float) -> None:
        work = partial(following.follow, session=session, reader=reader, seconds=seconds, now=now)
        await outcome(self.dialect.write(work, durable=False))

    async def unfollow(self, session: str, reader: str) -> None:
        work = partial(following.unfollow, session=session, reader=reader)
        await outcome(self.dialect.write(work, durable=False))

    async def followed(self, *, now: float) -> Followers:
        return await self._read(following.followed, now)

    async def relay(self, rows: Sequence[RelayRecord]) -> None:
        await outcome(self.dialect.write(partial(following.relay, rows=rows), durable=False))

    async def relayed(self, session: str, turn: str, *, after: int = 0, limit: int = 1000) -> Relays:
        return await self._read(following.relayed, session, turn, after, limit)

    async def relayed_in(self, places: Sequence[tuple[str, str, int]], *, limit: int = 1000) -> Relays:
        return await self._read(following.relayed_in, places, limit)

    async def end_relays(self, *, before: float) -> None:
        await outcome(self.dialect.write(partial(following.end_relays, before=before), durable=False))

    async def trust(self, endpoint: str, model: str) -> TrustRecord | None:
        return await self._read(trust.load, endpoint, model)

    async def weigh_trust(
        self, endpoint: str, model: str, by: int, *, first: int, most: int, now: float, forget: float
    ) -> TrustRecord:
        return await self._write(trust.weigh, endpoint, model, by, first, most, now, forget)

    async def claim_trust(self, endpoint: str, model: str, *, seconds: float, now: float, forget: float) -> bool:
        work = partial(trust.claim, endpoint=endpoint, model=model, seconds=seconds, now=now, forget=forget)
        return await outcome(self.dialect.write(work, durable=False))

    def watch(self, name: str) -> Watch:
        return self.dialect.watch(name)

    async def _write(self, function: Callable[..., T], *args: Any) -> T:
        return await outcome(self.dialect.write(lambda db: function(db, *args)))

    async def _read(self, function: Callable[..., T], *args: Any) -> T:
        return await outcome(self.dialect.read(lambda db: function(db, *args)))


async def _with_room(job: Future[BudgetFull | None]) -> None:
    """Waits for work that takes room, and raises where there was none: then nothing was written.

    Also on asyncio's own cancellation, so that nobody takes it for done (see `threads.outcome`).
    """
    try:
        full = await outcome(job)
    except asyncio.CancelledError as error:
        if error.__cause__ is None and (unheard := job.result()) is not None:
            raise error from unheard
        raise
    if full is not None:
        raise full
