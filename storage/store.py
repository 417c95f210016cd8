"""The contract of a store: what has happened in each session, written by one verb, `commit`, under a lease.

Every method can raise `StoreUnavailable` and `StoreDamaged`. A write runs to its end even if its caller is cancelled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias

from .holders import Holder
from .records import (
    CallRecord,
    Change,
    EntryRecord,
    GroupBy,
    Lease,
    PromptRecord,
    SessionRecord,
    Statistics,
    Stored,
    Subtotal,
    ToolCallRecord,
    TurnRecord,
    Warmup,
)
from .watching import Watch

# Named here because the method `list` hides the type of that name inside the class.
Sessions: TypeAlias = list[SessionRecord]
Entries: TypeAlias = list[EntryRecord]
Calls: TypeAlias = list[CallRecord]
ToolCalls: TypeAlias = list[ToolCallRecord]
Turns: TypeAlias = list[TurnRecord]
Subtotals: TypeAlias = list[Subtotal]
DueSessions: TypeAlias = list[str]


class Store(Protocol):
    """Sessions, their entries, calls, tool calls and turns; which session is due for tending, and who warms what.

    `open` first, `close` last; many tasks may share one.
    """

    async def open(self) -> None:
        """Connects and checks the schema; a second call does nothing.

        SQLite brings an older schema up to date by itself; PostgreSQL raises `SchemaTooOld`. A newer schema than this
        version knows raises `SchemaTooNew`. Nothing is created or changed when an error is raised.
        """

    async def close(self) -> None:
        """Waits for writes under way and disconnects; a second call does nothing."""

    async def upgrade(self) -> str:
        """Brings the schema up to date, on an open or an unopened store; gives the revision it then has."""

    @property
    def is_shared(self) -> bool:
        """Whether other processes can use the same store: one in memory is this process's own."""
        ...

    def statistics(self) -> Statistics:
        """Counters since `open`, for measurements."""

    async def create(
        self, session: SessionRecord, entries: Sequence[EntryRecord] = (), calls: Sequence[CallRecord] = ()
    ) -> None:
        """Writes a new session, with entries (parents first) and calls of its own; totals grow by the calls.

        A fork is a session with the tree and head of another. Raises `SessionExists`, and `EntryMissing` if the head or
        a parent is neither given nor in the tree; then nothing is written.
        """

    async def load(self, session: str) -> SessionRecord:
        """The session as it stands. Raises `SessionMissing`."""

    async def read(self, session: str, *, calls: int) -> Stored:
        """The session, its chain and its newest calls, at most that many, for the price of one look. As `load`."""

    async def list(
        self,
        *,
        owner: str | None = None,
        limit: int = 50,
        before: str | None = None,
        search: str | None = None,
        prefix: str | None = None,
    ) -> Sessions:
        """At most `limit` sessions, newest updated first.

        `owner` keeps those of one owner. `before` is the id of the last session of the page before (`SessionMissing`
        if it is gone). `search` keeps those with these words, in any letter case, in title, id, metadata, or the
        content of any entry of their tree. `prefix` keeps those whose id begins with it.
        """

    async def chain(self, session: str, head: str | None, *, after: str | None = None) -> Entries:
        """The entries from the root to `head`, in order; with `after` only those behind that entry, read in O(new).

        Raises `EntryMissing` for an unknown head, `HeadMoved` if `after` is not on its chain.
        """

    def chain_now(self, session: str, head: str | None) -> Entries:
        """As `chain`, but the calling thread waits for it: for the few places where nothing can be awaited."""

    async def has_ancestor(self, session: str, head: str | None, ancestor: str) -> bool:
        """Whether `ancestor` is `head` or stands before it on its chain."""

    async def entry(self, session: str, entry: str) -> EntryRecord | None:
        """One entry of the session's tree, on the present chain or not."""

    async def acquire(self, session: str, holder: Holder, *, seconds: float, now: float, queue: float = 0.0) -> Lease:
        """The lease on a session, for `seconds` from now, with the next token.

        Raises `SessionMissing`, and `LeaseTaken` while another holder has it; an expired lease, and one whose process
        on the same host has ended, is taken over. The same holder gets a new lease at once, which ends its old one.
        With `queue`, a holder that is refused keeps its place in line for that many seconds (each try renews it): first
        come, first served. `now`, here and for all that has to do with leases and leads, is a clock which nobody sets
        and all processes of the host share; a store on a server uses that server's time instead. Holders on other hosts
        keep it for two minutes at most without a renewal. A caller
        ended by asyncio's `task.cancel()` holds nothing; any other cancellation comes after the lease is returned.
        """

    async def renew(self, lease: Lease, *, seconds: float, now: float) -> Lease:
        """The same lease, lasting `seconds` from now; also if it expired and nobody took it. Raises `LeaseGone`."""

    async def release(self, lease: Lease) -> None:
        """Gives the lease back. One that is gone already is no error."""

    async def commit(self, lease: Lease, change: Change) -> None:
        """Writes the whole change in one transaction, durable on return.

        Raises `SessionMissing`, `LeaseGone` if the token is not the newest or was released (an expired lease that
        nobody took still counts), `HeadMoved`, `EntryMissing`, `TurnKeyTaken`; then nothing is written.
        """

    async def record(self, call: CallRecord, prompt: PromptRecord | None = None) -> None:
        """Adds a ledger row, without a lease; the same id again does nothing. Raises `SessionMissing`.

        `prompt`: the settings it was made with, kept unless the session has them.
        """

    async def prompt(self, session: str, digest: str) -> str | None:
        """The settings (JSON text) of that digest, as calls of the session were made with them; None if never given."""

    async def calls(self, session: str, *, limit: int | None = None, newest_first: bool = False) -> Calls:
        """The session's ledger in the order written, or the other way round; at most `limit` rows of that order."""

    async def totals(
        self, by: GroupBy | None = None, *, session: str | None = None, owner: str | None = None
    ) -> Subtotals:
        """The ledger added up by the database, by group, kind and cause of a miss; with None in one group.

        `session` and `owner` keep the calls of one. Groups stand in the order of their keys, nobody's anywhere.
        """

    async def journal(self, session: str, entry: str | None = None) -> ToolCalls:
        """The session's tool calls, or those of one assistant entry, in the order first started.

        The first start and the first end of a call count; later ones with the same place are left out.
        """

    async def turn(self, session: str, *, key: str | None = None, id: str | None = None) -> TurnRecord | None:
        """The turn with this idempotency key, or with this id; exactly one of them is given (`ValueError`)."""

    async def open_turn(self, session: str) -> TurnRecord | None:
        """The newest turn (by sequence) that is `running` or `interrupted`."""

    async def turns(self, session: str, limit: int | None = None) -> Turns:
        """The session's turns by sequence, oldest first; with `limit` only the newest ones."""

    async def delete(self, session: str) -> None:
        """Deletes the session, its calls, prompts, journal and turns, and the entries that nobody else needs.

        An entry stays while a remaining session of the tree wrote it, points at it (head, base, call, turn, journal),
        or has such an entry behind it. Raises `SessionMissing`.
        """

    async def tend(self, session: str, after: float | None, *, now: float, head: str | None = None) -> None:
        """Says that the session is due for tending `after` seconds from now (None: never), whatever was said before.

        With `head`, only while that is still the session's head. A session that is gone is no error. Like a claim it
        is not durable: a loss of power may forget it.
        """

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
        """The ids of at most `limit` sessions that have been due for `late` seconds, those longest due.

        Each is given to one caller only: it is due again `seconds` from now, when that caller has not said otherwise
        by then (`tend`, or a commit). A session under another holder's lease is left to that holder; `lease_now` is the
        time that leases go by (see `acquire`), where it is another than `now`.
        """

    async def orphans(self, *, now: float, limit: int) -> DueSessions:
        """The ids of at most `limit` sessions with a `running` turn that nobody runs: no lease, or one that is over.

        A lease is over when it has expired, or at once when its process, on this host, has ended.
        """

    async def lead(self, point: str, holder: Holder, *, seconds: float, now: float) -> Warmup:
        """Asks to write a point of the model's cache, which at most one holder does at a time.

        The answer is `leading` (for `seconds` from now; `led` must follow), `taken` by another live holder, or `warm`.
        A holder that leads already goes on, with the same token. Not durable: a loss of power may forget who leads,
        and then a point is written twice. A caller ended by asyncio's `task.cancel()` leads nothing; any other
        cancellation comes after the answer.
        """

    async def led(self, point: str, token: int, *, ttl: str | None, alive: float, now: float) -> None:
        """The leader's end: the point was written with this `ttl` and lives `alive` seconds from now; 0 if it was not.

        A token that leads no more changes nothing. With 0 and the token of a `warm` answer, that is taken back.
        """

    def watch(self, name: str) -> Watch:
        """An ear for news of a session (somebody who was waited for has released it) or of a point (`led`).

        It hears what other processes do too, where the store can tell it; elsewhere its `pause` is short.
        """
