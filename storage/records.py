"""The values a store takes and gives: plain records that know no model, no cache and no JSON inside their text fields.

Times are seconds since the epoch, token figures are counts, costs are USD.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal, NamedTuple

from .holders import Holder

CallKind = Literal["turn", "prewarm", "park", "refresh", "compact", "batch", "probe"]
CallStatus = Literal["ok", "error", "cancelled"]
TurnState = Literal["queued", "running", "waiting", "finished", "interrupted", "failed", "cancelled"]
SessionState = Literal["idle", "running", "waiting", "interrupted"]
GroupBy = Literal["session", "owner", "day", "model", "agent"]
WarmupState = Literal["warm", "taken", "leading"]


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write to one session until `expires`, by the store's clock.

    `token` is the fencing token: it grows with every acquisition, and a commit under an older one is refused.
    `stop`: the id of a running turn that somebody has asked to stop, as of when the lease was taken or last renewed.
    """

    session: str
    token: int
    holder: Holder
    expires: float
    stop: str | None = None


@dataclass(frozen=True, slots=True)
class Totals:
    """What a session has used since it was created.

    `turns` counts turn rows and `calls` ledger rows, whatever their state; `unpriced` the calls without a known price.
    """

    turns: int = 0
    calls: int = 0
    input: int = 0
    cache_read: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    output: int = 0
    cost: Decimal = Decimal(0)
    unpriced: int = 0


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """One session. `head` is its conversation's last entry; `tree` is shared by a created session and its forks.

    `state` is what the store finds when it gives the record, and is never written: `running` where a turn runs; else by
    the newest turn that is no summary and has begun: `waiting` where it waits for decisions or ended so that its caller
    runs the tools (its stop reason is "tool_use"), `interrupted` where it was. Where none of these, `running` if a turn
    is queued, else `idle`.
    """

    id: str
    tree: str
    owner: str | None
    title: str | None
    metadata: str
    settings: str
    head: str | None
    created_at: float
    updated_at: float
    forked_from: str | None = None
    base: str | None = None
    totals: Totals = Totals()
    gaps: str = "{}"
    state: SessionState = "idle"


class EntryRecord(NamedTuple):
    """One message, never changed once written. `content` is the exact JSON text; the root has depth 1.

    A tuple, and no dataclass as the others: a long conversation is read as thousands of them, ten times faster.
    """

    id: str
    parent: str | None
    depth: int
    role: str
    content: str
    created_at: float
    stop_reason: str | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    message_id: str | None = None
    call: str | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True)
class CallRecord:
    """One request to a model, as the ledger keeps it, failed and cancelled ones too.

    `entry` is the entry that the call produced, or the head it was asked from. `waited` is seconds at the gate.
    `prompt` is the digest of the settings it was made with, a `PromptRecord` of its session. `miss` tells why it lost
    cached tokens, as the writer's own text; `miss_cause`, `miss_tokens` and `miss_cost` (USD) of it can be added up.
    `estimated`: the counts are the writer's estimate, as nobody told the real ones.
    """

    id: str
    session: str
    kind: CallKind
    model: str
    started: float
    status: CallStatus
    turn: str | None = None
    entry: str | None = None
    first_event: float | None = None
    ended: float | None = None
    request_id: str | None = None
    response_id: str | None = None
    input: int = 0
    cache_read: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    output: int = 0
    counters: bool = True
    expected: str | None = None
    cost: Decimal | None = None
    points: str = "[]"
    waited: float = 0.0
    stop_reason: str | None = None
    miss: str | None = None
    error: str | None = None
    prompt: str | None = None
    miss_cause: str | None = None
    miss_tokens: int | None = None
    miss_cost: Decimal | None = None
    estimated: bool = False


@dataclass(frozen=True, slots=True)
class Subtotal:
    """What the calls of one group, kind and cause of a miss (None: no miss) add up to, failed calls included.

    `key`: the session's id, the owner (None: of nobody), the day the calls started on (UTC, "2026-11-30"), the model,
    or the agent: the text under "agent" in the session's metadata (None: there is none).
    `unpriced` counts the calls without a known price, which `cost` leaves out; `lost` are the tokens of the misses.
    """

    key: str | None
    kind: CallKind
    cause: str | None
    calls: int
    input: int
    cache_read: int
    cache_write_5m: int
    cache_write_1h: int
    output: int
    unpriced: int
    lost: int
    cost: Decimal
    lost_cost: Decimal


@dataclass(frozen=True, slots=True)
class PromptRecord:
    """Settings that calls of a session were made with: `settings` is their JSON text, `digest` its name.

    Kept once for each session and digest, however often it is given, and deleted with the session.
    """

    digest: str
    settings: str


@dataclass(frozen=True, slots=True)
class Activity:
    """A call of a turn that was answered, as it tells when sessions ask: a few columns of its row in the ledger.

    `number`: grows in the order in which the rows were written.
    """

    number: int
    id: str
    session: str
    turn: str
    prompt: str
    started: float
    points: str


@dataclass(frozen=True, slots=True)
class ToolCallRecord:
    """One tool call of the journal: its start while `ended` is None, else its end with the `tool_result` block as JSON.

    `entry` is the assistant entry that asked for it, `index` its place among that entry's calls.
    """

    session: str
    entry: str
    index: int
    tool_id: str
    name: str
    idempotent: bool
    started: float
    ended: float | None = None
    content: str | None = None
    is_error: bool = False


@dataclass(frozen=True, slots=True)
class TurnRecord:
    """One turn, from the user's words to the final reply.

    `key` is the caller's idempotency key, unique in its session; `digest` the hash of the words it came with.
    `base` is the head before the turn, `entry` the user's entry, `reply` the last assistant entry.
    `call` is the model call in flight as JSON, None when there is none; `token` the lease that runs the turn.
    `attempts`: how many workers have taken it up after the one that began it had died.
    `queued`: what a queued turn is to begin with; `pending`: which calls a waiting one waits for. Text of the writer's.
    """

    id: str
    session: str
    sequence: int
    state: TurnState
    key: str | None = None
    digest: str | None = None
    started: float = field(kw_only=True)
    ended: float | None = None
    base: str | None = None
    entry: str | None = None
    reply: str | None = None
    stop_reason: str | None = None
    result: str | None = None
    call: str | None = None
    token: int = 0
    error: str | None = None
    attempts: int = 0
    queued: str | None = None
    pending: str | None = None

    @property
    def is_open(self) -> bool:
        """Whether it has begun and not come to its end: it runs, or was interrupted (one that waits is not open)."""
        return self.state in ("running", "interrupted")


@dataclass(frozen=True, slots=True)
class DecisionRecord:
    """What somebody has decided on one tool call that waited for it, never changed once written.

    `entry` is the assistant entry that asked for the call, `index` its place among that entry's calls. `input`: what
    the call is to run with instead, as JSON; `reason`: why it was denied. `decided`: when, in seconds since the epoch.
    """

    session: str
    entry: str
    index: int
    approved: bool
    input: str | None
    reason: str | None
    decided: float


@dataclass(frozen=True, slots=True)
class FollowerRecord:
    """Somebody (`reader`, a name of its own choice) who follows a session until `expires`, by the store's clock."""

    session: str
    reader: str
    expires: float


@dataclass(frozen=True, slots=True)
class RelayRecord:
    """What the worker that runs a turn passes on to those who follow it elsewhere.

    `number` orders them and is the store's to give (None before it has); `id` and `content` are the writer's own text,
    `written` is its time in seconds since the epoch.
    """

    number: int | None
    session: str
    turn: str
    id: str
    content: str
    written: float


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `usd` may be spent under the name `scope` in any `window` (seconds); the name is the caller's choice."""

    scope: str
    usd: Decimal
    window: float


@dataclass(frozen=True, slots=True)
class Reservation:
    """What a request that is about to be sent may cost, to be set against what is left of each of its `limits`.

    `session` and `call` name its row of the ledger to come: as soon as that is there, its cost counts and nothing else.
    Until then `most` counts against others, and from `until` on `expected`, the least that it costs if it was sent.
    `now`: when it is asked for. Times are seconds since the epoch, by the caller's clock.
    """

    session: str
    call: str
    expected: Decimal
    most: Decimal
    now: float
    until: float
    limits: tuple[Limit, ...]


@dataclass(frozen=True, slots=True)
class Change:
    """What one commit writes, all of it or nothing.

    The head moves from `expected_head` to `head` (they may be equal). Entries stand parents first; one that the tree
    has already is left as it is, and so is a prompt that the session has. `turn` is inserted, or replaces the turn with
    its id. None leaves a field of the session as it is. The session's totals grow by the calls and the turn that were
    not there before. `tend_after`: seconds from now until the session is due for tending; None takes the time away if
    the head moves, and leaves it as it is otherwise. `release`: the lease is given back with it. `reserve`: the room
    for a request that is sent once the change is written.
    """

    expected_head: str | None
    head: str | None
    entries: tuple[EntryRecord, ...] = ()
    calls: tuple[CallRecord, ...] = ()
    tool_calls: tuple[ToolCallRecord, ...] = ()
    turn: TurnRecord | None = None
    settings: str | None = None
    title: str | None = None
    metadata: str | None = None
    gaps: str | None = None
    prompts: tuple[PromptRecord, ...] = ()
    tend_after: float | None = None
    release: bool = False
    reserve: Reservation | None = None
    updated_at: float = field(kw_only=True)


@dataclass(frozen=True, slots=True)
class Warmup:
    """What `Store.lead` found out about a point of the model's cache.

    `warm`: written and alive for `seconds_left` more, with this `ttl`. `taken`: `holder` is writing it, and may for
    `seconds_left` more. `leading`: the caller writes it, and says so by `Store.led` with the `token`.
    """

    state: WarmupState
    token: int = 0
    seconds_left: float = 0.0
    ttl: str | None = None
    holder: Holder | None = None


@dataclass(frozen=True, slots=True)
class TrustRecord:
    """How far one rule of an endpoint is trusted with one model, as workers have found out; see `Store.trust`.

    `points`: nothing is trusted at 0 or less; None: nobody has found out yet. `at`: when they were last changed, in
    seconds since the epoch.
    """

    endpoint: str
    model: str
    points: int | None
    at: float


@dataclass(frozen=True, slots=True)
class Stored:
    """A conversation as it stands: its session, the entries from the root to the head, and calls, oldest first."""

    record: SessionRecord
    entries: list[EntryRecord]
    calls: list[CallRecord]


class SchemaState(NamedTuple):
    """The revision of a database's schema, and the oldest revision of the code that may use it; None: it says none."""

    revision: str | None
    oldest: str | None


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a store has done since it was opened: `writes` asked for, and the durable `transactions` they shared."""

    writes: int = 0
    transactions: int = 0
