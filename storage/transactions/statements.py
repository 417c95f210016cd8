"""The statements, built with SQLAlchemy Core and compiled once for each dialect.

They run straight on the driver's connection: a commit takes half a dozen of them, and going through an engine would
cost more than the database does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from typing import cast as cast_to

from sqlalchemy import (
    Column,
    ColumnElement,
    Float,
    Integer,
    Table,
    Text,
    and_,
    bindparam,
    case,
    cast,
    delete,
    func,
    literal_column,
    null,
    or_,
    select,
    union,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql import ClauseElement
from sqlalchemy.sql.compiler import SQLCompiler

from storage.records import EntryRecord
from storage.tables import (
    ANY_TURN,
    DUE,
    OPEN_TURN,
    QUEUED_TURN,
    calls,
    decisions,
    entries,
    followers,
    prompts,
    relays,
    sessions,
    tool_calls,
    turns,
    warmups,
)
from storage.values import NO_LIMIT, check, looks
from storage.watching import CHANNEL

from .states import NEWEST_TURN, state_of

DIALECTS = {"sqlite": sqlite.dialect(paramstyle="named"), "postgresql": postgresql.psycopg.dialect()}  # type: ignore[no-untyped-call]
LONGEST = 150_000
"""Entries after which a chain is taken for a loop, which only damage can make; a request holds 100,000 at most."""


class Statement:
    """One statement in the words of each dialect; `fixed` are the values it was built with.

    `into`: the table that it puts a whole row into.
    """

    def __init__(
        self, clause: ClauseElement, *, postgresql: ClauseElement | None = None, into: Table | None = None
    ) -> None:
        self._postgresql = clause if postgresql is None else postgresql
        self._in_schema: dict[str, bytes] = {}
        self.text: dict[str, str] = {}
        self.fixed: dict[str, Any] = {}
        kinds: dict[str, Any] = {}
        for name, form in (("sqlite", clause), ("postgresql", self._postgresql)):
            compiled = cast_to(SQLCompiler, form.compile(dialect=DIALECTS[name]))
            self.text[name] = str(compiled)
            self.fixed |= {key: value for key, value in (compiled.params or {}).items() if value is not None}
            kinds |= {key: bound.type for bound, key in compiled.bind_names.items()}
        self._looks = looks({key: kind for key, kind in kinds.items() if key not in self.fixed}, into)

    def filled(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """All values of the statement. Raises `InvalidValue` for one that cannot be stored."""
        check(values, self._looks)
        return {**self.fixed, **values}

    def in_schema(self, schema: str | None) -> bytes:
        """For PostgreSQL, with every table in that schema; None leaves it to the server where to look."""
        if schema is None:
            return self.text["postgresql"].encode()
        if schema not in self._in_schema:
            where: dict[str, Any] = {"schema_translate_map": {None: schema}, "render_schema_translate": True}
            compiled = self._postgresql.compile(dialect=DIALECTS["postgresql"], **where)
            self._in_schema[schema] = str(compiled).encode()
        return self._in_schema[schema]


def bound(column: Column[Any], name: str | None = None) -> ColumnElement[Any]:
    return bindparam(name or column.name, type_=column.type)


def _text(name: str) -> ColumnElement[Any]:
    return bindparam(name, type_=Text())


def _limit() -> ColumnElement[Any]:
    return bindparam("limit", type_=Integer())


def insertion(table: Table) -> Statement:
    """An insert of a whole row; a row whose key is there already is left as it is."""
    values = {column.name: bound(column) for column in table.columns if column.name != "number"}
    return Statement(
        sqlite.insert(table).values(values).on_conflict_do_nothing(),
        postgresql=postgresql.insert(table).values(values).on_conflict_do_nothing(),
        into=table,
    )


# Sessions and leases

COLD = {
    "owner", "base", "forked_from", "created_at", "updated_at", "title", "gaps", "metadata", "settings", "tend_at",
}  # fmt: skip
_TOTALS = ("turns", "calls", "input", "cache_read", "cache_write_5m", "cache_write_1h", "output", "unpriced", "cost")
_lease = ("lease_holder", "lease_expires")
_this = sessions.c.id == _text("session")
_tree = select(sessions.c.tree).where(_this).scalar_subquery()


def _kept(name: str) -> ColumnElement[Any]:
    """A given value, or the present one where None is given."""
    return func.coalesce(bound(sessions.c[name]), sessions.c[name])


INSERT_SESSION = insertion(sessions)
LOAD = Statement(select(sessions, state_of(sessions.c.id, sessions.c.head)).where(_this))
LOCK = Statement(select(*(c for c in sessions.columns if c.name not in COLD)).where(_this).with_for_update())
LOCK_TREE = Statement(
    select(sessions.c.id).where(sessions.c.tree == _text("tree")).order_by(sessions.c.id).with_for_update()
)
SERVER_TIME = cast(func.extract("epoch", func.clock_timestamp()), Float())
_from_now = bound(sessions.c.tend_at, "tend_after")


def _move(now: ColumnElement[Any]) -> ClauseElement:
    """Moves the head, and keeps the lease or not; the time of tending is set anew, or goes with the old head."""
    same_head = sessions.c.head.is_not_distinct_from(bound(sessions.c.head))
    return (
        update(sessions)
        .where(_this)
        .values({name: bound(sessions.c[name]) for name in ("head", "updated_at", *_TOTALS, *_lease)})
        .values({name: _kept(name) for name in ("settings", "title", "metadata", "gaps")})
        .values(tend_at=func.coalesce(now + _from_now, case((same_head, sessions.c.tend_at))))
    )


MOVE = Statement(_move(bound(sessions.c.updated_at)), postgresql=_move(SERVER_TIME))
ADD_TOTALS = Statement(update(sessions).where(_this).values({name: bound(sessions.c[name]) for name in _TOTALS}))
SET_LEASE = Statement(
    update(sessions)
    .where(_this)
    .values({name: bound(sessions.c[name]) for name in ("lease_token", "lease_holder", "lease_expires")})
)
SET_QUEUE = Statement(update(sessions).where(_this).values(lease_queue=bound(sessions.c.lease_queue)))
_held = and_(_this, sessions.c.lease_token == bound(sessions.c.lease_token), sessions.c.lease_holder.is_not(None))
_renewed = update(sessions).where(_held).values(lease_expires=bound(sessions.c.lease_expires, "expires"))
RENEW = Statement(_renewed.returning(sessions.c.stop))
_release = update(sessions).where(_held).values(lease_holder=null(), lease_expires=literal_column("0"))
_released = _release.returning(sessions.c.lease_queue).cte("released")
_notify = func.pg_notify(bindparam("channel", CHANNEL, type_=Text()), _text("topic"))
TELL = Statement(select(_notify))
RELEASE = Statement(  # telling is not for nothing (it puts commits in a row): only where somebody waits
    _release,
    postgresql=select(_notify).where(_released.c.lease_queue.is_not(None)),
)


# Entries

_ENTRY = [entries.c[name] for name in EntryRecord._fields]
_entry = and_(entries.c.tree == _tree, entries.c.id == _text("entry"))

INSERT_ENTRY = insertion(entries)
ENTRY = Statement(select(*_ENTRY).where(_entry))
HAS_ENTRY = Statement(select(entries.c.depth).where(entries.c.tree == _text("tree"), entries.c.id == _text("entry")))


def _walk(floor: ColumnElement[Any]) -> Any:
    """The chain from `head` towards the root, down to the depth `floor`; each step is one look-up in the key.

    The steps are counted, since damage can make a loop.
    """
    names = ("number", "id", "parent", "depth")
    first: ColumnElement[int] = literal_column("1")
    start = select(*(entries.c[name] for name in names), first.label("step"))
    walk = start.where(entries.c.tree == _tree, entries.c.id == _text("head")).cte("walk", recursive=True)
    older = entries.alias("older")
    ends = and_(walk.c.depth > floor, walk.c.step < literal_column(str(LONGEST)))
    both = older.join(walk, and_(older.c.tree == _tree, older.c.id == walk.c.parent, ends))
    return walk.union_all(select(*(older.c[name] for name in names), walk.c.step + first).select_from(both))


def _chain(floor: ColumnElement[Any]) -> Statement:
    walk = _walk(floor)  # without the contents, which would be copied at each step
    return Statement(select(*_ENTRY).join_from(walk, entries, entries.c.number == walk.c.number))


def _slim_tree() -> Statement:
    """All entries of a tree that has at most a quarter more than the head is deep; none of any other tree.

    In the order written, for which SQLite is given their numbers: by the key each would be on another page.
    """
    depth, numbers = entries.c.depth, select(entries.c.number)
    sound = depth.between(literal_column("1"), literal_column(str(LONGEST)))  # a damaged one might be no offset
    of_head = and_(entries.c.tree == _tree, entries.c.id == _text("head"), sound)
    most = select(depth + depth // literal_column("4", Integer())).where(of_head).scalar_subquery()
    of_tree = numbers.where(entries.c.tree == _tree)
    excess = of_tree.limit(literal_column("1")).offset(func.coalesce(most, literal_column("0"))).scalar_subquery()
    in_slim_tree = entries.c.tree == select(sessions.c.tree).where(_this, excess.is_(None)).scalar_subquery()
    rows, listed = select(*_ENTRY), entries.c.number.in_(numbers.where(in_slim_tree))
    return Statement(rows.where(listed), postgresql=rows.where(in_slim_tree))


TREE = _slim_tree()
_depth_of = select(entries.c.depth).where(_entry).scalar_subquery()
CHAIN = _chain(literal_column("1"))
CHAIN_AFTER = _chain(func.coalesce(_depth_of + literal_column("1"), literal_column(str(NO_LIMIT))))
_ids = _walk(func.coalesce(_depth_of, literal_column(str(NO_LIMIT))))
HAS_ANCESTOR = Statement(select(_ids.c.id).where(_ids.c.id == _text("entry")))


# Calls, journal, turns

INSERT_CALL = insertion(calls)
HAS_CALL = Statement(select(calls.c.id).where(calls.c.session == _text("session"), calls.c.id == _text("id")))
INSERT_PROMPT = insertion(prompts)
PROMPT = Statement(
    select(prompts.c.settings).where(prompts.c.session == _text("session"), prompts.c.digest == _text("digest"))
)
_ledger = select(*(c for c in calls.columns if c.name != "number")).where(calls.c.session == _text("session"))
CALLS = Statement(_ledger.order_by(calls.c.number).limit(_limit()))
CALLS_BACK = Statement(_ledger.order_by(calls.c.number.desc()).limit(_limit()))
ACTIVITY = Statement(
    select(*(calls.c[name] for name in ("number", "id", "session", "turn", "prompt", "started", "points")))
    .where(calls.c.number > bound(calls.c.number, "after"), calls.c.kind == "turn", calls.c.status == "ok")
    .where(calls.c.turn.is_not(None), calls.c.prompt.is_not(None))
    .order_by(calls.c.number.desc())
    .limit(_limit())
)

INSERT_TOOL_CALL = insertion(tool_calls)
_journal = (
    select(tool_calls.c.finished, *(c for c in tool_calls.columns if c.name not in {"number", "finished"}))
    .where(tool_calls.c.session == _text("session"))
    .order_by(tool_calls.c.number)
)
JOURNAL = Statement(_journal)
JOURNAL_OF_ENTRY = Statement(_journal.where(tool_calls.c.entry == _text("entry")))

_turns = select(*(c for c in turns.columns if c.name != "number")).where(turns.c.session == _text("session"))
_same_turn = and_(turns.c.session == _text("of_session"), turns.c.id == _text("of_id"))
_fixed = {"number", "id", "session"}
INSERT_TURN = insertion(turns)
UPDATE_TURN = Statement(
    update(turns).where(_same_turn).values({c.name: bound(c) for c in turns.columns if c.name not in _fixed})
)
SAME_TURNS = Statement(
    select(turns.c.id, turns.c.state).where(
        turns.c.session == _text("session"), or_(turns.c.id == _text("id"), turns.c.key == _text("key"))
    )
)
TURN_BY_ID = Statement(_turns.where(turns.c.id == _text("id")))
TURN_BY_KEY = Statement(_turns.where(turns.c.key == _text("key")))
OPEN = Statement(_turns.where(OPEN_TURN).order_by(*NEWEST_TURN).limit(literal_column("1")))
QUEUED = Statement(_turns.where(QUEUED_TURN).order_by(turns.c.sequence, turns.c.number).limit(literal_column("1")))
SET_STATE = Statement(
    update(turns)
    .where(_same_turn)
    .values(state=bound(turns.c.state), ended=func.coalesce(bound(turns.c.ended), turns.c.ended))
)
_behind = and_(QUEUED_TURN, turns.c.session == _text("session"), turns.c.sequence >= bound(turns.c.sequence))
MOVE_QUEUED = Statement(update(turns).where(_behind).values(sequence=turns.c.sequence + literal_column("1")))
SET_STOP = Statement(update(sessions).where(_this).values(stop=bound(sessions.c.stop)))
SET_TITLE = Statement(update(sessions).where(_this).values(title=bound(sessions.c.title)))
INSERT_DECISION = insertion(decisions)
DECISIONS = Statement(
    select(*(c for c in decisions.columns if c.name != "number"))
    .where(decisions.c.session == _text("session"), decisions.c.entry == _text("entry"))
    .order_by(decisions.c.index)
)
TURNS_BACK = Statement(_turns.where(ANY_TURN).order_by(*NEWEST_TURN).limit(_limit()))


# Tending

_tended = update(sessions).where(_this).values(tend_at=bound(sessions.c.tend_at))
TEND = Statement(_tended)
TEND_AT_HEAD = Statement(_tended.where(sessions.c.head == _text("of_head")))
_free = or_(
    sessions.c.lease_holder.is_(None),
    sessions.c.lease_holder == bound(sessions.c.lease_holder),
    sessions.c.lease_expires <= bound(sessions.c.lease_expires, "now"),
    sessions.c.lease_expires > bound(sessions.c.lease_expires, "latest"),
)
_due = select(sessions.c.id).where(DUE, sessions.c.tend_at <= bound(sessions.c.tend_at, "due"), _free)
_claimed = _due.order_by(sessions.c.tend_at, sessions.c.id).limit(_limit()).with_for_update(skip_locked=True)
_claimed_ids = _claimed.cte("claimed")  # not a plain subquery: PostgreSQL might run that twice, and claim too many
CLAIM_DUE = Statement(
    update(sessions)
    .where(sessions.c.id.in_(select(_claimed_ids.c.id)))
    .values(tend_at=bound(sessions.c.tend_at, "again"))
    .returning(sessions.c.id)
)
_in_hand = (
    select(turns.c.number, sessions.c.id, sessions.c.lease_holder, sessions.c.lease_expires)
    .join(turns, turns.c.session == sessions.c.id)
    .order_by(turns.c.session, turns.c.sequence)  # or SQLite would read all turns ever
)
RUNNING = Statement(_in_hand.where(OPEN_TURN, turns.c.state == literal_column("'running'")))
ALL_QUEUED = Statement(_in_hand.where(QUEUED_TURN))


# Warm-ups

_point = warmups.c.point == _text("point")
_now, _latest = bound(warmups.c.until, "now"), bound(warmups.c.until, "latest")
_idle = and_(*(or_(column <= _now, column > _latest) for column in (warmups.c.until, warmups.c.expires)))


def _enter() -> Statement:
    """Inserts the row, or locks the one that is there; gives the row that then stands."""
    values = {column.name: bound(column) for column in warmups.columns}
    forms: list[ClauseElement] = [
        dialect.insert(warmups)
        .values(values)
        .on_conflict_do_update(index_elements=[warmups.c.point], set_={"token": warmups.c.token})
        .returning(*warmups.columns)
        for dialect in (sqlite, postgresql)
    ]
    return Statement(forms[0], postgresql=forms[1], into=warmups)


ENTER_WARMUP = _enter()
SET_WARMUP = Statement(
    update(warmups).where(_point).values({c.name: bound(c) for c in warmups.columns if c.name != "point"})
)
END_WARMUP = Statement(
    update(warmups)
    .where(_point, warmups.c.token == bound(warmups.c.token))
    .values({name: bound(warmups.c[name]) for name in ("until", "ttl")})
    .values(holder=null(), expires=literal_column("0"))
)
DELETE_WARMUP = Statement(delete(warmups).where(_point, warmups.c.token == bound(warmups.c.token)))
_swept = select(warmups.c.point).where(_idle).limit(_limit()).with_for_update(skip_locked=True).cte("swept")
DELETE_WARMUPS = Statement(delete(warmups).where(warmups.c.point.in_(select(_swept.c.point))))


# Deletion

DELETE_ROWS = [
    Statement(delete(table).where(table.c.session == _text("session")))
    for table in (calls, prompts, tool_calls, turns, decisions, followers, relays)
] + [Statement(delete(sessions).where(_this))]
DELETE_TREE = Statement(delete(entries).where(entries.c.tree == _text("tree")))


def _unneeded() -> ClauseElement:
    """Deletes the entries of a tree that no remaining session wrote, points at, or has such an entry behind."""
    living = select(sessions.c.id).where(sessions.c.tree == _text("tree"))
    named = [
        select(column.label("id")).where(column.is_not(None), owner.in_(living))
        for column, owner in (
            (entries.c.id, entries.c.session),
            *((sessions.c[name], sessions.c.id) for name in ("head", "base")),
            (calls.c.entry, calls.c.session),
            (tool_calls.c.entry, tool_calls.c.session),
            (decisions.c.entry, decisions.c.session),
            *((turns.c[name], turns.c.session) for name in ("base", "entry", "reply")),
        )
    ]
    seeds = union(*named).subquery("seeds")
    needed = select(seeds.c.id).cte("needed", recursive=True)
    parents = select(entries.c.parent).join(needed, entries.c.id == needed.c.id)
    needed = needed.union(parents.where(entries.c.tree == _text("tree"), entries.c.parent.is_not(None)))
    return delete(entries).where(entries.c.tree == _text("tree"), entries.c.id.not_in(select(needed.c.id)))


DELETE_UNNEEDED = Statement(_unneeded())
