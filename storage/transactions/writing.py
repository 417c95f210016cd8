"""What changes a store, each in one transaction: sessions come and go, commits move their heads, calls are added.

Plain functions, the same for every dialect. Where it matters, they ask first and write then: see `Work`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from storage.errors import BudgetFull, EntryMissing, HeadMoved, LeaseGone, SessionExists, TurnKeyTaken, TurnMissing
from storage.records import CallRecord, Change, EntryRecord, Lease, PromptRecord, SessionRecord, TurnRecord
from storage.values import tokens

from . import spending
from . import statements as sql
from .database import Cursor, Database, Steps
from .reading import load, turn
from .rows import (
    SUMMED,
    TOTALS,
    call_cells,
    changed_cells,
    entry_cells,
    moving,
    prompt_cells,
    session_cells,
    tool_call_cells,
    totals_cells,
    turn_cells,
    values,
)


def create(db: Database, session: SessionRecord, entries: Sequence[EntryRecord], ledger: Sequence[CallRecord]) -> None:
    """Raises `SessionExists`, unless an earlier run of this transaction made it, and `EntryMissing`."""
    _lock_tree(db, session.tree)  # nobody deletes what a fork is about to point at
    if db.run(sql.INSERT_SESSION, session_cells(session)).rowcount == 0:
        if db.again and is_same(load(db, session.id), session):
            return
        raise SessionExists(session.id)
    _add_entries(db, session.tree, session.id, entries, known=set())
    _check_head(db, session.tree, session.head, entries)
    totals = values(session.totals, TOTALS)
    if _add_calls(db, ledger, (), totals):  # the session is new: nothing is there yet
        db.run(sql.ADD_TOTALS, totals_cells(totals) | {"session": session.id})


def is_same(stored: SessionRecord, given: SessionRecord) -> bool:
    """Whether a session with this id was created by this very call, by what never changes of it."""
    names = ("tree", "owner", "forked_from", "base", "created_at")
    return values(stored, names) == values(given, names)


def delete(db: Database, session: str) -> None:
    """Its rows, and the entries of its tree that no remaining session needs. Raises `SessionMissing`."""
    if db.again and db.run(sql.LOAD, {"session": session}).fetchone() is None:
        return
    tree = load(db, session).tree
    remaining = [id for id in _lock_tree(db, tree) if id != session]
    spending.settle(db, session)
    for statement in sql.DELETE_ROWS:
        db.run(statement, {"session": session})
    db.run(sql.DELETE_UNNEEDED if remaining else sql.DELETE_TREE, {"tree": tree})
    db.forget()


def _lock_tree(db: Database, tree: str) -> list[str]:
    """The living sessions of a tree, locked. Looked for until nothing changes: while it waited for one that went,
    others came which it did not see.
    """
    before, living = None, _locked(db, tree)
    while living != before:
        before, living = living, _locked(db, tree)
    return living


def _locked(db: Database, tree: str) -> list[str]:
    return [id for (id,) in db.run(sql.LOCK_TREE, {"tree": tree}).fetchall()]


# The one writer verb, and the ledger row that needs no lease


def commit(db: Database, lease: Lease, change: Change) -> Steps[BudgetFull | None]:
    """Asks first and writes then: on a server that is one round trip each, and one more where it takes room.

    Gives why there is none, and then writes nothing. Raises `SessionMissing`, `LeaseGone`, `HeadMoved`, `EntryMissing`,
    `TurnKeyTaken`, `TurnMissing`.
    """
    locked = db.run(sql.LOCK, {"session": lease.session})
    same_turns, same_calls = _ask_turn(db, change.turn), _ask_calls(db, lease.session, change.calls)
    if change.reserve is not None:
        spending.take_turns(db)
    yield  # until the works that share this transaction have asked too
    session = moving(locked, lease.session)
    if db.again and _is_written(db, lease, change, session):
        return None
    _check_moving(session, lease, change)
    if change.reserve is not None and (full := spending.reserve(db, change.reserve)) is not None:
        return full
    _add_entries(db, session["tree"], lease.session, change.entries, known={change.expected_head})
    if change.head != change.expected_head:
        _check_head(db, session["tree"], change.head, change.entries)
    _add_calls(db, change.calls, same_calls, session)
    for prompt in change.prompts:
        db.run(sql.INSERT_PROMPT, prompt_cells(prompt, lease.session))
    for tool_call in change.tool_calls:
        db.run(sql.INSERT_TOOL_CALL, tool_call_cells(tool_call))
    if change.turn is not None:
        session["turns"] += _put_turn(db, change.turn, same_turns, session["turns"])
    db.run(sql.MOVE, changed_cells(change, session) | {"session": lease.session})
    if change.release and session["lease_queue"]:  # not for nothing: telling puts commits in a row
        db.tell(lease.session)
    return None


def _check_moving(session: Mapping[str, Any], lease: Lease, change: Change) -> None:
    # Not the time: an expired lease counts until somebody takes it. Nor the token alone, which a release leaves there.
    if session["lease_token"] != lease.token or session["lease_holder"] is None:
        raise LeaseGone(lease.session, lease.token)
    if session["head"] != change.expected_head:
        raise HeadMoved(change.expected_head, session["head"])


def _is_written(db: Database, lease: Lease, change: Change, session: Mapping[str, Any]) -> bool:
    """Whether this commit went through: what only it can have written is there. Else it is safe to do it (again)."""
    if session["lease_token"] == lease.token and change.head != change.expected_head:
        return bool(session["head"] == change.head)
    if change.calls:
        return db.run(sql.HAS_CALL, {"session": lease.session, "id": change.calls[0].id}).fetchone() is not None
    return change.turn is not None and _stands(turn(db, lease.session, None, change.turn.id), change.turn)


def _stands(stored: TurnRecord | None, written: TurnRecord) -> bool:
    """Whether the row was written: one that waits may have been stopped since, or decided, which needs no lease."""
    if stored is not None and written.state == "waiting":
        stored = replace(stored, state=written.state, ended=written.ended)
    return stored == written


def record(db: Database, call: CallRecord, prompt: PromptRecord | None) -> Steps[None]:
    """Adds the row and its figures to the session's totals, once for each id. Raises `SessionMissing`."""
    locked = db.run(sql.LOCK, {"session": call.session})
    same = _ask_calls(db, call.session, [call])
    yield
    session = moving(locked, call.session)
    if prompt is not None:
        db.run(sql.INSERT_PROMPT, prompt_cells(prompt, call.session))
    if _add_calls(db, [call], same, session):
        db.run(sql.ADD_TOTALS, totals_cells(session) | {"session": call.session})


def _add_entries(db: Database, tree: str, session: str, entries: Sequence[EntryRecord], known: set[str | None]) -> None:
    for entry in entries:
        if entry.parent is not None and entry.parent not in known:
            _check_entry(db, tree, entry.parent)
        db.run(sql.INSERT_ENTRY, entry_cells(entry, tree, session))
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
        cells = call_cells(call)
        for name in SUMMED:
            totals[name] += tokens(name, getattr(call, name))
        tokens("miss_tokens", call.miss_tokens or 0)
        db.run(sql.INSERT_CALL, cells)
        totals["calls"] += 1
        totals["unpriced"] += call.cost is None
        totals["cost"] += call.cost or 0
    return added


def _ask_turn(db: Database, turn: TurnRecord | None) -> Cursor | None:
    if turn is None:
        return None
    return db.run(sql.SAME_TURNS, {"session": turn.session, "id": turn.id, "key": turn.key})


def _put_turn(db: Database, turn: TurnRecord, same: Cursor | None, count: int) -> int:
    """Inserts the turn or replaces the one with its id; how many turns there are more than before, `count`.

    Raises `TurnKeyTaken`, and `TurnMissing` for one that is to run and was stopped before it began.
    """
    present = {str(id): str(state) for id, state in same.fetchall()} if same is not None else {}
    if turn.key is not None and present.keys() - {turn.id}:
        raise TurnKeyTaken(turn.session, turn.key)
    # Stopped in the queue, which needs no lease, since its worker has looked: its words are not said.
    if turn.state == "running" and present.get(turn.id) == "cancelled":
        raise TurnMissing(turn.session, turn.id, "cancelled")
    if present:
        db.run(sql.UPDATE_TURN, turn_cells(turn) | {"of_session": turn.session, "of_id": turn.id})
        return 0
    # Others were queued since its worker has looked: it runs before those, and so it stands before them.
    if turn.state != "queued" and turn.sequence <= count:
        db.run(sql.MOVE_QUEUED, {"session": turn.session, "sequence": turn.sequence})
    db.run(sql.INSERT_TURN, turn_cells(turn))
    return 1
