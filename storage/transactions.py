"""What each method of a store does inside one transaction: plain functions, the same for every dialect."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from functools import partial
from operator import attrgetter
from typing import Any, Protocol, TypeAlias, TypeVar

from . import statements as sql
from .errors import (
    EntryMissing,
    HeadMoved,
    LeaseGone,
    SessionExists,
    SessionMissing,
    StoreDamaged,
    TurnKeyTaken,
)
from .records import (
    CallRecord,
    Change,
    EntryRecord,
    Holder,
    Lease,
    PromptRecord,
    SessionRecord,
    Stored,
    ToolCallRecord,
    Totals,
    TurnRecord,
)
from .searching import as_written
from .tables import calls, sessions, tool_calls, turns
from .values import at_most, dollars, read_dollars, storable, tokens
from .watching import topic

T = TypeVar("T")
Row = tuple[Any, ...]

_depth = attrgetter("depth")
_record: Callable[[Row], EntryRecord] = partial(tuple.__new__, EntryRecord)  # `_make` is a loop of Python calls


class Cursor(Protocol):
    """What a driver's cursor must offer."""

    @property
    def rowcount(self) -> int: ...
    def __iter__(self) -> Iterator[Row]: ...
    def fetchone(self) -> Row | None: ...
    def fetchall(self) -> list[Row]: ...


class Database(Protocol):
    """A connection inside a transaction."""

    @property
    def again(self) -> bool:
        """Whether an earlier run of this transaction may have been committed, so that its work may be done already."""

    def run(self, statement: sql.Statement, values: Mapping[str, Any]) -> Cursor: ...

    def time(self, now: float) -> float:
        """The time that leases go by: `now`, or the server's own."""

    def ask_time(self, now: float) -> Callable[[], float]:
        """As `time`, read at this point among the statements, and waited for by whoever calls what it gives."""

    def tell(self, name: str) -> None:
        """With the commit, whoever watches that name hears that there is news."""

    def forget(self) -> None:
        """With the commit, what was deleted is no longer to be read in any file of the database."""


Steps: TypeAlias = Generator[None, None, T]
Work: TypeAlias = Callable[[Database], Steps[T]]
"""Work on one session, which locks no other: it asks, yields before it looks at the answers, and writes then."""


def side_by_side(works: Sequence[Work[T]], db: Database) -> list[T]:
    """Does them all in one transaction; on a server, the questions of all of them are one round trip."""
    steps = [work(db) for work in works]
    for one in steps:
        next(one)
    return [_end(one) for one in steps]


def _end(steps: Steps[T]) -> T:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


# Rows and records


def _names(table: Any) -> list[str]:
    return [column.name for column in table.columns if column.name != "number"]


_SESSION, _CALL, _TURN = (_names(table) for table in (sessions, calls, turns))
_TOOL_CALL = [name for name in _names(tool_calls) if name != "finished"]
_LOCKED = [name for name in _SESSION if name not in sql.COLD]
_TOTALS = [field.name for field in fields(Totals)]
_COSTS = ("cost", "miss_cost")
_SUMMED = ("input", "cache_read", "cache_write_5m", "cache_write_1h", "output")
_COORDINATION = ("lease_token", "lease_expires", "lease_holder", "lease_queue", "tend_at")
_ENTRY = EntryRecord._fields


def _values(record: Any, names: Iterable[str]) -> dict[str, Any]:
    return {name: getattr(record, name) for name in names}


def _session(row: Row) -> SessionRecord:
    cells = dict(zip(_SESSION, row, strict=True))
    totals = {name: cells.pop(name) for name in _TOTALS}
    for name in _COORDINATION:
        del cells[name]
    return SessionRecord(**cells, totals=Totals(**totals | {"cost": read_dollars(totals["cost"])}))


def _call(row: Row) -> CallRecord:
    cells = dict(zip(_CALL, row, strict=True))
    costs = {name: None if cells[name] is None else read_dollars(cells[name]) for name in _COSTS}
    return CallRecord(**cells | costs | {name: bool(cells[name]) for name in ("counters", "estimated")})


def _turn(row: Row | None) -> TurnRecord | None:
    return None if row is None else TurnRecord(**dict(zip(_TURN, row, strict=True)))


def read_holder(text: str | None) -> Holder | None:
    return None if text is None else Holder(**json.loads(text))


def write_holder(holder: Holder) -> str:
    return json.dumps(asdict(holder))


# Sessions


def create(db: Database, session: SessionRecord, entries: Sequence[EntryRecord], ledger: Sequence[CallRecord]) -> None:
    _lock_tree(db, session.tree)  # nobody deletes what a fork is about to point at
    cells = _values(session, (name for name in _SESSION if name not in _COORDINATION and name not in _TOTALS))
    cells |= _values(session.totals, _TOTALS) | {"cost": dollars("cost", session.totals.cost)}
    cells |= {"lease_token": 0, "lease_expires": 0.0, "lease_holder": None, "lease_queue": None, "tend_at": None}
    if db.run(sql.INSERT_SESSION, cells).rowcount == 0:
        if db.again and _is_ours(load(db, session.id), session):
            return
        raise SessionExists(session.id)
    _add_entries(db, session.tree, session.id, entries, known=set())
    _check_head(db, session.tree, session.head, entries)
    totals = _values(session.totals, _TOTALS)
    if _add_calls(db, ledger, (), totals):  # the session is new: nothing is there yet
        db.run(sql.ADD_TOTALS, {"session": session.id, **totals, "cost": str(totals["cost"])})


def _is_ours(found: SessionRecord, given: SessionRecord) -> bool:
    names = ("tree", "owner", "forked_from", "base", "created_at")
    return _values(found, names) == _values(given, names)


def load(db: Database, session: str) -> SessionRecord:
    row = db.run(sql.LOAD, {"session": session}).fetchone()
    if row is None:
        raise SessionMissing(session)
    return _session(row)


def read(db: Database, session: str, calls: int) -> Stored:
    record = load(db, session)
    newest = ledger(db, session, calls, newest_first=True)
    try:
        return Stored(record, chain(db, session, record.head, None), newest[::-1])
    except EntryMissing:  # nobody asked for that entry by name
        raise StoreDamaged(
            f"entry {record.head!r}, the head of {session!r}, is gone: restore a copy of the store"
        ) from None


def listing(
    db: Database, owner: str | None, limit: int, before: str | None, search: str | None, prefix: str | None
) -> list[SessionRecord]:
    values: dict[str, Any] = {"limit": at_most(limit)}
    if owner is not None:
        values["owner"] = owner
    if before is not None:
        values |= {"before": before, "before_time": load(db, before).updated_at}
    if search is not None:
        words = str(search).lower()
        values |= {"words": words, "written": as_written(words)}
    if prefix is not None:
        values["prefix"] = prefix
    query = sql.listing(
        owner=owner is not None, before=before is not None, search=search is not None, prefix=prefix is not None
    )
    return [_session(row) for row in db.run(query, values).fetchall()]


def delete(db: Database, session: str) -> None:
    if db.again and db.run(sql.LOAD, {"session": session}).fetchone() is None:
        return
    tree = load(db, session).tree
    remaining = [id for id in _lock_tree(db, tree) if id != session]
    for statement in sql.DELETE_ROWS:
        db.run(statement, {"session": session})
    db.run(sql.DELETE_UNNEEDED if remaining else sql.DELETE_TREE, {"tree": tree})
    db.forget()


def _lock_tree(db: Database, tree: str) -> list[str]:
    """The living sessions of a tree, locked. Looked for until nothing changes: while it waited for one that went,
    others came which it did not see.
    """
    before, found = None, _locked(db, tree)
    while found != before:
        before, found = found, _locked(db, tree)
    return found


def _locked(db: Database, tree: str) -> list[str]:
    return [id for (id,) in db.run(sql.LOCK_TREE, {"tree": tree}).fetchall()]


def release(db: Database, lease: Lease) -> Steps[None]:
    db.run(sql.RELEASE, {"session": lease.session, "lease_token": lease.token, "topic": topic(lease.session)})
    yield


# The one writer verb, and the ledger row that needs no lease


def commit(db: Database, lease: Lease, change: Change) -> Steps[None]:
    """Asks first and writes then: on a server that is one round trip each."""
    locked = db.run(sql.LOCK, {"session": lease.session})
    same_turns, same_calls = _ask_turn(db, change.turn), _ask_calls(db, lease.session, change.calls)
    yield
    session = moving(locked, lease.session)
    if db.again and _is_written(db, lease, change, session):
        return
    if session["lease_token"] != lease.token or session["lease_holder"] is None:
        raise LeaseGone(lease.session, lease.token)
    if session["head"] != change.expected_head:
        raise HeadMoved(change.expected_head, session["head"])
    _add_entries(db, session["tree"], lease.session, change.entries, known={change.expected_head})
    if change.head != change.expected_head:
        _check_head(db, session["tree"], change.head, change.entries)
    _add_calls(db, change.calls, same_calls, session)
    for kept in change.prompts:
        _add_prompt(db, lease.session, kept)
    for tool_call in change.tool_calls:
        finished = tool_call.ended is not None
        db.run(sql.INSERT_TOOL_CALL, _values(tool_call, _TOOL_CALL) | {"finished": finished})
    if change.turn is not None:
        session["turns"] += _put_turn(db, change.turn, same_turns)
    db.run(sql.MOVE, _moved(change, session) | {"session": lease.session})
    if change.release and session["lease_queue"]:  # not for nothing: telling puts commits in a row
        db.tell(lease.session)


def _is_written(db: Database, lease: Lease, change: Change, session: Mapping[str, Any]) -> bool:
    """Whether this commit went through: what only it can have written is there. Else it is safe to do it (again)."""
    if session["lease_token"] == lease.token and change.head != change.expected_head:
        return bool(session["head"] == change.head)
    if change.calls:
        return db.run(sql.HAS_CALL, {"session": lease.session, "id": change.calls[0].id}).fetchone() is not None
    return change.turn is not None and turn(db, lease.session, None, change.turn.id) == change.turn


def record(db: Database, call: CallRecord, prompt: PromptRecord | None) -> Steps[None]:
    locked = db.run(sql.LOCK, {"session": call.session})
    same = _ask_calls(db, call.session, [call])
    yield
    session = moving(locked, call.session)
    if prompt is not None:
        _add_prompt(db, call.session, prompt)
    if _add_calls(db, [call], same, session):
        values = {name: session[name] for name in _TOTALS}
        db.run(sql.ADD_TOTALS, values | {"session": call.session, "cost": str(session["cost"])})


def moving(locked: Cursor, session: str) -> dict[str, Any]:
    """The session's moving parts, which stay locked until the end of the transaction; `cost` as a Decimal."""
    row = locked.fetchone()
    if row is None:
        raise SessionMissing(session)
    cells = dict(zip(_LOCKED, row, strict=True))
    cells["cost"] = read_dollars(cells["cost"])
    return cells


def _moved(change: Change, session: Mapping[str, Any]) -> dict[str, Any]:
    values = {name: session[name] for name in _TOTALS} | {"cost": str(session["cost"])}
    holder, expires = (None, 0.0) if change.release else (session["lease_holder"], session["lease_expires"])
    values |= {"lease_holder": holder, "lease_expires": expires}
    return values | _values(change, ("head", "updated_at", "settings", "title", "metadata", "gaps", "tend_after"))


def _add_entries(db: Database, tree: str, session: str, entries: Sequence[EntryRecord], known: set[str | None]) -> None:
    for entry in entries:
        if entry.parent is not None and entry.parent not in known:
            _check_entry(db, tree, entry.parent)
        db.run(sql.INSERT_ENTRY, _values(entry, _ENTRY) | {"tree": tree, "session": session})
        known.add(entry.id)


def _check_head(db: Database, tree: str, head: str | None, entries: Sequence[EntryRecord]) -> None:
    if head is not None and (not entries or entries[-1].id != head):
        _check_entry(db, tree, head)


def _check_entry(db: Database, tree: str, entry: str) -> None:
    if db.run(sql.HAS_ENTRY, {"tree": tree, "entry": entry}).fetchone() is None:
        raise EntryMissing(entry)


def _ask_calls(db: Database, session: str, ledger: Sequence[CallRecord]) -> list[Cursor]:
    return [db.run(sql.HAS_CALL, {"session": session, "id": call.id}) for call in ledger]


def _add_calls(db: Database, ledger: Sequence[CallRecord], same: Sequence[Cursor], totals: dict[str, Any]) -> bool:
    """Adds the rows that are new, and their figures to `totals`; whether there were any."""
    present = {str(id) for cursor in same for (id,) in cursor.fetchall()}
    added = False
    for call in ledger:
        if call.id in present:
            continue
        present.add(call.id)
        added = True
        costs = {name: None if (cost := getattr(call, name)) is None else dollars(name, cost) for name in _COSTS}
        for name in _SUMMED:
            totals[name] += tokens(name, getattr(call, name))
        tokens("miss_tokens", call.miss_tokens or 0)
        db.run(sql.INSERT_CALL, _values(call, _CALL) | costs | {"error": storable(call.error)})
        totals["calls"] += 1
        totals["unpriced"] += call.cost is None
        totals["cost"] += call.cost or 0
    return added


def _add_prompt(db: Database, session: str, prompt: PromptRecord) -> None:
    db.run(sql.INSERT_PROMPT, {"session": session, "digest": prompt.digest, "settings": prompt.settings})


def _ask_turn(db: Database, turn: TurnRecord | None) -> Cursor | None:
    if turn is None:
        return None
    return db.run(sql.SAME_TURNS, {"session": turn.session, "id": turn.id, "key": turn.key})


def _put_turn(db: Database, turn: TurnRecord, same: Cursor | None) -> int:
    """Inserts the turn or replaces the one with its id; how many turns there are more than before."""
    present = {str(id) for (id,) in same.fetchall()} if same is not None else set()
    if turn.key is not None and present - {turn.id}:
        raise TurnKeyTaken(turn.session, turn.key)
    values = _values(turn, _TURN) | {"error": storable(turn.error)}
    if present:
        db.run(sql.UPDATE_TURN, values | {"of_session": turn.session, "of_id": turn.id})
        return 0
    db.run(sql.INSERT_TURN, values)
    return 1


# Reading


def chain(db: Database, session: str, head: str | None, after: str | None) -> list[EntryRecord]:
    if head is None or head == after:
        if head != after:
            raise HeadMoved(after, head)
        return []
    values = {"session": session, "head": head}
    if after is None and (path := _path(db.run(sql.TREE, values), head)):
        return path
    rows = db.run(sql.CHAIN_AFTER if after else sql.CHAIN, values | ({"entry": after} if after else {})).fetchall()
    if not rows:
        load(db, session)
        raise EntryMissing(head)
    if len(rows) == sql.LONGEST:
        raise StoreDamaged(f"the entries before {head!r} form a loop: restore a copy of the store")
    entries = list(map(_record, rows))
    entries.sort(key=_depth)
    if entries[0].parent != after:
        if after is not None:
            raise HeadMoved(after, head)
        raise StoreDamaged(f"entry {entries[0].parent!r}, before {head!r}, is gone: restore a copy of the store")
    return entries


def _path(rows: Iterable[Row], head: str) -> list[EntryRecord]:
    """The entries from the root to `head`, of rows in any order; none where they do not lead to a root."""
    entries = list(map(_record, rows))  # each row is gone again when the next one comes
    by_id = {entry.id: entry for entry in entries}
    path: list[EntryRecord] = []
    step: str | None = head
    while step is not None:
        entry = by_id.pop(step, None)  # taken out, so that a loop ends too
        if entry is None:
            return []
        path.append(entry)
        step = entry.parent
    path.reverse()
    return path


def has_ancestor(db: Database, session: str, head: str | None, ancestor: str) -> bool:
    values = {"session": session, "head": head, "entry": ancestor}
    return db.run(sql.HAS_ANCESTOR, values).fetchone() is not None


def entry(db: Database, session: str, id: str) -> EntryRecord | None:
    row = db.run(sql.ENTRY, {"session": session, "entry": id}).fetchone()
    return None if row is None else EntryRecord(*row)


def ledger(db: Database, session: str, limit: int | None, newest_first: bool) -> list[CallRecord]:
    query = sql.CALLS_BACK if newest_first else sql.CALLS
    values = {"session": session, "limit": at_most(limit)}
    return [_call(row) for row in db.run(query, values).fetchall()]


def journal(db: Database, session: str, entry: str | None) -> list[ToolCallRecord]:
    """Start and end of each tool call as one record, in the order first seen; the start's time counts."""
    query = sql.JOURNAL if entry is None else sql.JOURNAL_OF_ENTRY
    values = {"session": session} | ({} if entry is None else {"entry": entry})
    found: dict[tuple[str, int], ToolCallRecord] = {}
    for row in db.run(query, values).fetchall():
        finished, *rest = row
        cells = dict(zip(_TOOL_CALL, rest, strict=True))
        cells |= {name: bool(cells[name]) for name in ("idempotent", "is_error")}
        started = found.get(place := (cells["entry"], cells["index"]))
        if not finished:
            found.setdefault(place, ToolCallRecord(**cells))
        else:
            found[place] = ToolCallRecord(**cells | ({"started": started.started} if started else {}))
    return list(found.values())


def prompt(db: Database, session: str, digest: str) -> str | None:
    row = db.run(sql.PROMPT, {"session": session, "digest": digest}).fetchone()
    return None if row is None else str(row[0])


def turn(db: Database, session: str, key: str | None, id: str | None) -> TurnRecord | None:
    if key is not None:
        return _turn(db.run(sql.TURN_BY_KEY, {"session": session, "key": key}).fetchone())
    return _turn(db.run(sql.TURN_BY_ID, {"session": session, "id": id}).fetchone())


def open_turn(db: Database, session: str) -> TurnRecord | None:
    return _turn(db.run(sql.OPEN, {"session": session}).fetchone())


def turns_of(db: Database, session: str, limit: int | None) -> list[TurnRecord]:
    rows = db.run(sql.TURNS_BACK, {"session": session, "limit": at_most(limit)}).fetchall()
    return [TurnRecord(**dict(zip(_TURN, row, strict=True))) for row in reversed(rows)]
