"""The tables. Only rows of `sessions`, `turns`, `warmups`, `followers`, `trust` and `spending` are ever updated; others
are written once.

Column names are those of the records. Each table's `number` keeps its rows in the order written and its pages full;
large texts stand last in their row, so that reading the small columns touches no other page. Columns of later
revisions come after them, as a migration can only add them there.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Column, Index, Integer, MetaData, Table, Text, false, text
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

REVISION = "0007"
"""The newest schema revision; revisions are numbered upwards."""

OLDEST = "0004"
"""The oldest revision of the code that may use this schema: workers of that version go on while it is brought in."""

VERSION_TABLE = "warmline_version"
"""Alembic's own, with two more columns: `oldest`, what `OLDEST` is, of the schema of revision `oldest_of`."""

_RowNumber = BigInteger().with_variant(Integer, "sqlite")  # SQLite's row id is exactly an INTEGER PRIMARY KEY


class Base(SQLModel, registry=registry()):
    """Keeps these tables apart from those of an application that uses SQLModel too."""


def _number() -> Any:
    return Field(default=None, primary_key=True, sa_type=_RowNumber)


def _text(*, nullable: bool = False, **options: Any) -> Any:
    return Field(sa_type=Text, nullable=nullable, **options)


def _count() -> Any:
    return Field(sa_type=BigInteger, nullable=False)


DUE = text("tend_at IS NOT NULL")  # said the same way in a query, or its index is not used
_FORKED = text("forked_from IS NOT NULL")


class SessionRow(Base, table=True):
    """`tend_at` is when the idle session is to be tended next, by the store's clock; `stop` the turn to be stopped."""

    __tablename__ = "sessions"
    __table_args__ = (
        Index("sessions_tree", "tree"),
        Index("sessions_owner", "owner"),
        Index("sessions_due", "tend_at", sqlite_where=DUE, postgresql_where=DUE),
        Index("sessions_forked_from", "forked_from", sqlite_where=_FORKED, postgresql_where=_FORKED),
    )

    id: str = _text(primary_key=True)
    tree: str = _text()
    owner: str | None = _text(nullable=True)
    head: str | None = _text(nullable=True)
    base: str | None = _text(nullable=True)
    forked_from: str | None = _text(nullable=True)
    created_at: float
    updated_at: float
    lease_token: int = _count()
    lease_expires: float
    lease_holder: str | None = _text(nullable=True)
    lease_queue: str | None = _text(nullable=True)
    turns: int = _count()
    calls: int = _count()
    input: int = _count()
    cache_read: int = _count()
    cache_write_5m: int = _count()
    cache_write_1h: int = _count()
    output: int = _count()
    unpriced: int = _count()
    cost: str = _text()
    title: str | None = _text(nullable=True)
    gaps: str = _text()
    metadata_: str = Field(sa_column=Column("metadata", Text, nullable=False))
    settings: str = _text()
    tend_at: float | None
    stop: str | None = _text(nullable=True)


class EntryRow(Base, table=True):
    """An id is unique in its tree: forks share the entries before them. `session` is the one that wrote it."""

    __tablename__ = "entries"
    __table_args__ = (Index("entries_id", "tree", "id", unique=True),)

    number: int | None = _number()
    tree: str = _text()
    id: str = _text()
    session: str = _text()
    parent: str | None = _text(nullable=True)
    depth: int = _count()
    role: str = _text()
    created_at: float
    stop_reason: str | None = _text(nullable=True)
    prompt_tokens: int | None = Field(sa_type=BigInteger, nullable=True)
    output_tokens: int | None = Field(sa_type=BigInteger, nullable=True)
    message_id: str | None = _text(nullable=True)
    call: str | None = _text(nullable=True)
    model: str | None = _text(nullable=True)
    content: str = _text()


class CallRow(Base, table=True):
    """Costs are USD as the text of a decimal: SQLite has no number that keeps them exactly."""

    __tablename__ = "calls"
    __table_args__ = (Index("calls_id", "session", "id", unique=True),)

    number: int | None = _number()
    id: str = _text()
    session: str = _text()
    kind: str = _text()
    model: str = _text()
    started: float
    status: str = _text()
    turn: str | None = _text(nullable=True)
    entry: str | None = _text(nullable=True)
    first_event: float | None
    ended: float | None
    request_id: str | None = _text(nullable=True)
    response_id: str | None = _text(nullable=True)
    input: int = _count()
    cache_read: int = _count()
    cache_write_5m: int = _count()
    cache_write_1h: int = _count()
    output: int = _count()
    counters: bool
    cost: str | None = _text(nullable=True)
    waited: float
    stop_reason: str | None = _text(nullable=True)
    expected: str | None = _text(nullable=True)
    miss: str | None = _text(nullable=True)
    error: str | None = _text(nullable=True)
    points: str = _text()
    prompt: str | None = _text(nullable=True)
    miss_cause: str | None = _text(nullable=True)
    miss_tokens: int | None = Field(sa_type=BigInteger, nullable=True)
    miss_cost: str | None = _text(nullable=True)
    estimated: bool = Field(sa_column_kwargs={"server_default": false()})  # a default: older workers write on


class PromptRow(Base, table=True):
    """The settings that calls were made with, once for each session and digest; they go with their session."""

    __tablename__ = "prompts"
    __table_args__ = (Index("prompts_digest", "session", "digest", unique=True),)

    number: int | None = _number()
    session: str = _text()
    digest: str = _text()
    settings: str = _text()


class ToolCallRow(Base, table=True):
    """A tool call has a row for its start and one for its end (`finished`), so that neither is ever rewritten."""

    __tablename__ = "tool_calls"
    __table_args__ = (Index("tool_calls_place", "session", "entry", "index", "finished", unique=True),)

    number: int | None = _number()
    session: str = _text()
    entry: str = _text()
    index: int = _count()
    finished: bool
    tool_id: str = _text()
    name: str = _text()
    idempotent: bool
    started: float
    ended: float | None
    is_error: bool
    content: str | None = _text(nullable=True)


OPEN_TURN = text("state IN ('running', 'interrupted')")  # said the same way in a query, or its index is not used
QUEUED_TURN = text("state = 'queued'")
ANY_TURN = text("state <> ''")  # true of all: SQLite takes this index only where it is said, and never for the others
_KEYED = text("key IS NOT NULL")


class TurnRow(Base, table=True):
    """One row for a turn, replaced by its id with each state; it is found by its id, its key, its place or as open."""

    __tablename__ = "turns"
    __table_args__ = (
        Index("turns_id", "session", "id", unique=True),
        Index("turns_key", "session", "key", unique=True, sqlite_where=_KEYED, postgresql_where=_KEYED),
        Index("turns_open", "session", "sequence", sqlite_where=OPEN_TURN, postgresql_where=OPEN_TURN),
        Index("turns_queued", "session", "sequence", sqlite_where=QUEUED_TURN, postgresql_where=QUEUED_TURN),
        Index("turns_sequence", "session", "sequence", sqlite_where=ANY_TURN, postgresql_where=ANY_TURN),
    )

    number: int | None = _number()
    id: str = _text()
    session: str = _text()
    sequence: int = _count()
    state: str = _text()
    key: str | None = _text(nullable=True)
    digest: str | None = _text(nullable=True)
    started: float
    ended: float | None
    base: str | None = _text(nullable=True)
    entry: str | None = _text(nullable=True)
    reply: str | None = _text(nullable=True)
    stop_reason: str | None = _text(nullable=True)
    token: int = _count()
    error: str | None = _text(nullable=True)
    call: str | None = _text(nullable=True)
    result: str | None = _text(nullable=True)
    attempts: int = Field(sa_type=BigInteger, nullable=False, sa_column_kwargs={"server_default": text("0")})
    queued: str | None = _text(nullable=True)
    pending: str | None = _text(nullable=True)


class DecisionRow(Base, table=True):
    """What was decided on a tool call that waited for it: once for each call."""

    __tablename__ = "decisions"
    __table_args__ = (Index("decisions_place", "session", "entry", "index", unique=True),)

    number: int | None = _number()
    session: str = _text()
    entry: str = _text()
    index: int = _count()
    approved: bool
    decided: float
    input: str | None = _text(nullable=True)
    reason: str | None = _text(nullable=True)


class FollowerRow(Base, table=True):
    """Who follows a session until `expires`. Unlogged on PostgreSQL: after a crash they all say so again."""

    __tablename__ = "followers"

    session: str = _text(primary_key=True)
    reader: str = _text(primary_key=True)
    expires: float


class RelayRow(Base, table=True):
    """What a turn's worker passes on to its followers; removed when it is old. Unlogged on PostgreSQL.

    A number is never given twice, whatever has been removed: readers go by it.
    """

    __tablename__ = "relays"
    __table_args__ = (Index("relays_place", "session", "turn", "number"), {"sqlite_autoincrement": True})

    number: int | None = _number()
    session: str = _text()
    turn: str = _text()
    id: str = _text()
    written: float
    content: str = _text()


class SpendingRow(Base, table=True):
    """What was spent or may be under one limit's name (`scope`), in trillionths of a USD; it counts until `leaves`.

    With a `call` it is a reservation (see `Reservation`), whose ledger row counts as soon as it is there. Without one
    it is the sum, `expected`, of several that have ended.
    """

    __tablename__ = "spending"
    __table_args__ = (
        Index("spending_scope", "scope", "leaves"),
        Index("spending_leaves", "leaves"),
        Index("spending_call", "session", "call"),
    )

    number: int | None = _number()
    scope: str = _text()
    session: str | None = _text(nullable=True)
    call: str | None = _text(nullable=True)
    leaves: float
    until: float
    expected: int = _count()
    most: int = _count()


class WarmupRow(Base, table=True):
    """A point that somebody writes into the model's cache until `expires`, or that is known alive until `until`.

    A row that is neither is removed when the next point is entered.
    """

    __tablename__ = "warmups"
    __table_args__ = (Index("warmups_until", "until"),)

    point: str = _text(primary_key=True)
    token: int = _count()
    expires: float
    until: float
    ttl: str | None = _text(nullable=True)
    holder: str | None = _text(nullable=True)


class TrustRow(Base, table=True):
    """How far an endpoint is trusted with a model: `points` since `at`. Somebody has until `expires` to find out."""

    __tablename__ = "trust"

    endpoint: str = _text(primary_key=True)
    model: str = _text(primary_key=True)
    points: int | None = Field(sa_type=BigInteger, nullable=True)
    at: float
    expires: float


metadata: MetaData = Base.metadata
sessions: Table = metadata.tables["sessions"]
entries: Table = metadata.tables["entries"]
calls: Table = metadata.tables["calls"]
tool_calls: Table = metadata.tables["tool_calls"]
turns: Table = metadata.tables["turns"]
prompts: Table = metadata.tables["prompts"]
warmups: Table = metadata.tables["warmups"]
decisions: Table = metadata.tables["decisions"]
followers: Table = metadata.tables["followers"]
relays: Table = metadata.tables["relays"]
trust: Table = metadata.tables["trust"]
spending: Table = metadata.tables["spending"]
