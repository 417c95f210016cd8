"""What the store is asked for, read in one transaction: sessions, chains, ledgers, journals, turns."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from operator import attrgetter

from storage.errors import EntryMissing, HeadMoved, SessionMissing, StoreDamaged
from storage.records import Activity, CallRecord, EntryRecord, SessionRecord, Stored, ToolCallRecord, TurnRecord
from storage.values import at_most

from . import statements as sql
from .database import Database, Row
from .rows import call_record, entry_record, session_record, tool_call_record, turn_record

_depth = attrgetter("depth")


def load(db: Database, session: str) -> SessionRecord:
    """Raises `SessionMissing`."""
    row = db.run(sql.LOAD, {"session": session}).fetchone()
    if row is None:
        raise SessionMissing(session)
    return session_record(row)


def read(db: Database, session: str, calls: int) -> Stored:
    """Raises `SessionMissing`, and `StoreDamaged` if the head that the session names is gone."""
    record = load(db, session)
    newest = ledger(db, session, calls, newest_first=True)
    try:
        return Stored(record, chain(db, session, record.head, None), newest[::-1])
    except EntryMissing:  # nobody asked for that entry by name
        raise StoreDamaged(
            f"entry {record.head!r}, the head of {session!r}, is gone: restore a copy of the store"
        ) from None


def chain(db: Database, session: str, head: str | None, after: str | None) -> list[EntryRecord]:
    """The entries behind `after` (None: the root's too) up to `head`.

    A whole chain is read by its tree where that has hardly more entries than the chain: one page after the other, where
    the walk from entry to entry looks each of them up. Raises `EntryMissing`, `HeadMoved`, and `StoreDamaged` for a
    chain that is broken or a loop.
    """
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
    entries = list(map(entry_record, rows))
    entries.sort(key=_depth)
    if entries[0].parent != after:
        if after is not None:
            raise HeadMoved(after, head)
        raise StoreDamaged(f"entry {entries[0].parent!r}, before {head!r}, is gone: restore a copy of the store")
    return entries


def _path(rows: Iterable[Row], head: str) -> list[EntryRecord]:
    """The entries from the root to `head`, of rows in any order; none where they do not lead to a root."""
    entries = list(map(entry_record, rows))  # each row is gone again when the next one comes
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
    return None if row is None else entry_record(row)


def ledger(db: Database, session: str, limit: int | None, newest_first: bool) -> list[CallRecord]:
    """At most `limit` rows (None: all) in the order written, or from its end."""
    query = sql.CALLS_BACK if newest_first else sql.CALLS
    values = {"session": session, "limit": at_most(limit)}
    return [call_record(row) for row in db.run(query, values).fetchall()]


def activity(db: Database, after: int, limit: int) -> list[Activity]:
    """At most `limit` answered calls of all sessions' turns behind that number, the newest ones, oldest first."""
    rows = db.run(sql.ACTIVITY, {"after": after, "limit": at_most(limit)}).fetchall()
    return [Activity(*row) for row in reversed(rows)]


def journal(db: Database, session: str, entry: str | None) -> list[ToolCallRecord]:
    """Start and end of each tool call as one record, in the order first seen; the start's time counts."""
    query = sql.JOURNAL if entry is None else sql.JOURNAL_OF_ENTRY
    values = {"session": session} | ({} if entry is None else {"entry": entry})
    joined: dict[tuple[str, int], ToolCallRecord] = {}
    for finished, *cells in db.run(query, values).fetchall():
        tool_call = tool_call_record(cells)
        place = tool_call.entry, tool_call.index
        start = joined.get(place)
        if not finished:
            joined.setdefault(place, tool_call)
        else:
            joined[place] = replace(tool_call, started=start.started) if start else tool_call
    return list(joined.values())


def prompt(db: Database, session: str, digest: str) -> str | None:
    row = db.run(sql.PROMPT, {"session": session, "digest": digest}).fetchone()
    return None if row is None else str(row[0])


def turn(db: Database, session: str, key: str | None, id: str | None) -> TurnRecord | None:
    if key is not None:
        row = db.run(sql.TURN_BY_KEY, {"session": session, "key": key}).fetchone()
    else:
        row = db.run(sql.TURN_BY_ID, {"session": session, "id": id}).fetchone()
    return None if row is None else turn_record(row)


def open_turn(db: Database, session: str) -> TurnRecord | None:
    """The newest that is running or interrupted."""
    row = db.run(sql.OPEN, {"session": session}).fetchone()
    return None if row is None else turn_record(row)


def queued(db: Database, session: str) -> TurnRecord | None:
    """The one that has waited longest for its turn."""
    row = db.run(sql.QUEUED, {"session": session}).fetchone()
    return None if row is None else turn_record(row)


def turns_of(db: Database, session: str, limit: int | None) -> list[TurnRecord]:
    """The newest `limit` turns (None: all), oldest first."""
    rows = db.run(sql.TURNS_BACK, {"session": session, "limit": at_most(limit)}).fetchall()
    return [turn_record(row) for row in reversed(rows)]
