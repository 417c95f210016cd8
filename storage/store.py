"""The contract of a store: what has happened in each session, written by one verb, `commit`, under a lease.

Every method can raise `StoreUnavailable` and `StoreDamaged`. A write runs to its end even if its caller is cancelled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias

from .holders import Holder
from .records import (
    Activity,
    CallRecord,
    Change,
    DecisionRecord,
    EntryRecord,
    FollowerRecord,
    GroupBy,
    Lease,
    PromptRecord,
    RelayRecord,
    Reservation,
    SessionRecord,
    SessionState,
    Statistics,
    Stored,
    Subtotal,
    ToolCallRecord,
    TrustRecord,
    TurnRecord,
    TurnState,
    Warmup,
)
from .watching import Watch

# Named here because the method `list` hides the type of that name inside the class.
Sessions: TypeAlias = list[SessionRecord]
Entries: TypeAlias = list[EntryRecord]
Calls: TypeAlias = list[CallRecord]
Activities: TypeAlias = list[Activity]
ToolCalls: TypeAlias = list[ToolCallRecord]
Turns: TypeAlias = list[TurnRecord]
Subtotals: TypeAlias = list[Subtotal]
DueSessions: TypeAlias = list[str]
Decisions: TypeAlias = list[DecisionRecord]
Followers: TypeAlias = list[FollowerRecord]
Relays: TypeAlias = list[RelayRecord]


class Store(Protocol):
    """Sessions, their entries, calls, tool calls and turns; who tends, warms and follows what.

    `open` first, `close` last; many tasks may share one.
    """

    async def open(self) -> None:
        """Connects and checks the schema; a second call does nothing.

        SQLite brings an older schema up to date by itself; PostgreSQL raises `SchemaTooOld`. A newer schema than this
        version knows raises `SchemaTooNew`, unless it says that code as old as this may use it. Nothing is created or
        changed when an error is raised.
        """

    async def close(self) -> None:
        """Waits for writes under way and disconnects; a second call does nothing."""

    async def upgrade(self) -> str:
        """Brings the schema up to date, on an open or an unopened store; gives the revision it then has.

        A newer schema that this version may use is left as it is.
        """
        ...

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
        state: SessionState | None = None,
        parent: str | None = None,
        branches: bool = True,
    ) -> Sessions:
        """At most `limit` sessions, newest updated first.

        `owner` keeps those of one owner. `before` is the id of the last session of the page before (`SessionMissing`
        if it is gone). `search` keeps those with these words, in any letter case, in title, id, metadata, or the
        content of any entry of their tree. `prefix` keeps those whose id begins with it, `state` those that the store
        finds in that state. `parent` keeps those that were made from that session (their `forked_from`); without
        `branches`, those that were made from a session that is there are left out.
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
        """The same lease, lasting `seconds` from now; also if it expired and nobody took it. Raises `LeaseGone`.

        Its `stop` is what stands there now: of a turn of an earlier holder too.
        """

    async def release(self, lease: Lease) -> None:
        """Gives the lease back. One that is gone already is no error."""

    async def commit(self, lease: Lease, change: Change) -> None:
        """Writes the whole change in one transaction, durable on return.

        A new turn that is not queued takes its place before those that are. Raises `SessionMissing`, `LeaseGone` if the
        token is not the newest or was released (an expired lease that nobody took still counts), `HeadMoved`,
        `EntryMissing`, `TurnKeyTaken`, `TurnMissing` for a turn that is to run and was stopped in the queue, and
        `BudgetFull` (see `reserve`); then nothing is written.
        """

    async def reserve(self, reservation: Reservation) -> None:
        """Takes room for a request under all of its limits, over all processes, durable on return.

        There is room where what is expected of it is no more than is left of a limit. What counts against that is what
        was reserved within its window: `most` of each, from its `until` on what is expected of it; as soon as its
        ledger row is there, that row's cost (None is nothing). Of many that have ended some may leave the window
        together, up to a 200th of it later than they would alone. What a session has spent stays when it is deleted.
        Raises `BudgetFull`; then nothing is written.
        """

    async def free(self, session: str, call: str) -> None:
        """Gives the room back: the request is not sent. One that is in the ledger still counts. Not durable."""

    async def record(self, call: CallRecord, prompt: PromptRecord | None = None) -> None:
        """Adds a ledger row, without a lease; the same id again does nothing. Raises `SessionMissing`.

        `prompt`: the settings it was made with, kept unless the session has them.
        """

    async def prompt(self, session: str, digest: str) -> str | None:
        """The settings (JSON text) of that digest, as calls of the session were made with them; None if never given."""

    async def calls(self, session: str, *, limit: int | None = None, newest_first: bool = False) -> Calls:
        """The session's ledger in the order written, or the other way round; at most `limit` rows of that order."""

    async def activity(self, *, after: int = 0, limit: int) -> Activities:
        """Answered calls of the turns of all sessions, written behind the number `after`: the newest, oldest first.

        At most `limit`. A row that was being written when others were read may be missed.
        """
        ...

    async def totals(
        self,
        by: GroupBy | None = None,
        *,
        session: str | None = None,
        owner: str | None = None,
        since: float | None = None,
        until: float | None = None,
    ) -> Subtotals:
        """The ledger added up by the database, by group, kind and cause of a miss; with None in one group.

        `session` and `owner` keep the calls of one; `since` and `until` those that started at that time or later, and
        before that time. Groups stand in the order of their keys, nobody's anywhere. Metadata that is no JSON has no
        agent.
        """

    async def journal(self, session: str, entry: str | None = None) -> ToolCalls:
        """The session's tool calls, or those of one assistant entry, in the order first started.

        The first start and the first end of a call count; later ones with the same place are left out.
        """

    async def turn(self, session: str, *, key: str | None = None, id: str | None = None) -> TurnRecord | None:
        """The turn with this idempotency key, or with this id; exactly one of them is given (`ValueError`)."""

    async def open_turn(self, session: str) -> TurnRecord | None:
        """The newest turn (by sequence, of one sequence the last written) that is `running` or `interrupted`."""

    async def queue(self, turn: TurnRecord) -> TurnRecord:
        """Adds a turn that is to run later, without a lease, durable on return; gives the row as it is stored.

        Its state is `queued` and its `sequence` one more than the session had turns, whatever was given; the session's
        totals grow by it. The same id again does nothing. Who watches the session hears of it. Raises
        `SessionMissing`, `TurnKeyTaken`.
        """
        ...

    async def queued(self, session: str) -> TurnRecord | None:
        """The oldest turn (by sequence, of one sequence the first written) that is `queued`."""

    async def ask_stop(self, session: str, turn: str, *, now: float) -> TurnState:
        """Asks that the turn stops, without a lease, durable on return; gives the state it had before.

        One that is `queued` or `waiting` is `cancelled`, and `ended` is `now` (seconds since the epoch). Of one that
        is `running`, who holds the session reads it in the lease (`Lease.stop`). Any other stays as it is. Who watches
        the session hears of it, unless nothing was done. Raises `SessionMissing`, `TurnMissing`.
        """
        ...

    async def entitle(self, session: str, title: str) -> None:
        """Gives the session a title, without a lease, durable on return; all else of its row stays as it is.

        Commits that say nothing of the title keep it. Raises `SessionMissing`.
        """
        ...

    async def decide(self, decision: DecisionRecord, *, turn: str, of: int) -> int:
        """Keeps what was decided on a tool call, without a lease, durable on return; gives how many are undecided.

        `of`: how many calls of that entry wait. When all of them are decided, the turn's state is `running`: nobody
        holds a lease for it then, so `orphans` finds it too. Who watches the session hears of it. Raises
        `SessionMissing`, `DecisionTaken` if there is a decision on that call, `HeadMoved` if the entry is not the
        session's head, `TurnMissing` if the turn is not `waiting`; then nothing is written.
        """
        ...

    async def decisions(self, session: str, entry: str) -> Decisions:
        """What was decided on the tool calls of that entry, by their index."""
        ...

    async def turns(self, session: str, limit: int | None = None) -> Turns:
        """The session's turns by sequence, oldest first; with `limit` only the newest ones."""

    async def delete(self, session: str) -> None:
        """Deletes the session with all that is its own, and the entries that nobody else needs.

        An entry stays while a remaining session of the tree wrote it, points at it (head, base, call, turn, journal,
        decision), or has such an entry behind it. Raises `SessionMissing`.
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
        """The ids of at most `limit` sessions with a `running` or `queued` turn and nobody who runs it: there is no
        lease, or one that is over.

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

    async def follow(self, session: str, reader: str, *, seconds: float, now: float) -> None:
        """Says that `reader`, any name of its own, follows the session for `seconds` from now (two minutes at most).

        Said again, it lasts as long from then. Not durable, and no look whether there is such a session. Who watches
        "followers" hears of it. `now` as for leases.
        """

    async def unfollow(self, session: str, reader: str) -> None:
        """Says that it follows no more; nobody who follows is no error. Who watches "followers" hears of it."""

    async def followed(self, *, now: float) -> Followers:
        """Who follows now, by session and reader."""
        ...

    async def relay(self, rows: Sequence[RelayRecord]) -> None:
        """Adds these rows, in their order and behind all others, whatever their `number`; nothing else is written.

        Not durable. Who watches "relays" hears of it once, and not of no rows.
        """

    async def relayed(self, session: str, turn: str, *, after: int = 0, limit: int = 1000) -> Relays:
        """What was relayed of that turn behind the number `after`, at most `limit` rows, in the order of their numbers.

        A number is never given twice, also when the rows before it have been removed.
        """
        ...

    async def relayed_in(self, places: Sequence[tuple[str, str, int]], *, limit: int = 1000) -> Relays:
        """The same of many turns for the price of one look: of each (session, turn) what is behind that number."""
        ...

    async def end_relays(self, *, before: float) -> None:
        """Removes the rows that were `written` before that moment. Not durable."""

    async def trust(self, endpoint: str, model: str) -> TrustRecord | None:
        """What workers have found out about this model at this endpoint; None where nobody has, or has tried to."""

    async def weigh_trust(
        self, endpoint: str, model: str, by: int, *, first: int, most: int, now: float, forget: float
    ) -> TrustRecord:
        """Adds `by` to the points, durable on return; gives the row as it then stands.

        They are never more than `most`. What is at 0 or less stays as it is, until `now` is `forget` seconds after its
        time `at`; then, and where there are none yet, they are `first`. What several say at the same time adds up.
        """
        ...

    async def claim_trust(self, endpoint: str, model: str, *, seconds: float, now: float, forget: float) -> bool:
        """Whether the caller is to find out, for `seconds` from now: where nobody has, and nobody else is about it.

        `now` and `forget` as in `weigh_trust`. Like other claims it is not durable.
        """
        ...

    def watch(self, name: str) -> Watch:
        """An ear for news of a session (somebody who was waited for has released it, or the verbs say so), of a point
        (`led`), of "followers" or of "relays".

        It hears what other processes do too, where the store can tell it; elsewhere its `pause` is short.
        """
