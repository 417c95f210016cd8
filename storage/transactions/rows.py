"""Records as the cells of their rows and back: what a table holds of a record is said here, and nowhere else."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from functools import partial
from typing import Any

from storage.errors import SessionMissing
from storage.holders import Holder
from storage.records import (
    CallRecord,
    Change,
    DecisionRecord,
    EntryRecord,
    PromptRecord,
    SessionRecord,
    ToolCallRecord,
    Totals,
    TurnRecord,
)
from storage.tables import calls, decisions, sessions, tool_calls, turns
from storage.values import dollars, read_dollars, storable

from . import statements as sql
from .database import Cursor, Row

TOTALS = tuple(field.name for field in fields(Totals))
SUMMED = ("input", "cache_read", "cache_write_5m", "cache_write_1h", "output")
"""The figures of a call, in tokens, that its session's totals grow by."""


def _names(table: Any) -> list[str]:
    return [column.name for column in table.columns if column.name != "number"]


_SESSION, _CALL, _TURN, _DECISION = (_names(table) for table in (sessions, calls, turns, decisions))
_TOOL_CALL = [name for name in _names(tool_calls) if name != "finished"]
_LOCKED = [name for name in _SESSION if name not in sql.COLD]
_FREE = {
    "lease_token": 0, "lease_expires": 0.0, "lease_holder": None, "lease_queue": None, "tend_at": None, "stop": None,
}  # fmt: skip
"""What is for coordination, of a session that nobody holds."""
_OF_SESSION = [name for name in _SESSION if name not in _FREE and name not in TOTALS]
_CHANGED = ("head", "updated_at", "settings", "title", "metadata", "gaps", "tend_after")
_COSTS = ("cost", "miss_cost")


def values(record: Any, names: Iterable[str]) -> dict[str, Any]:
    """Those fields of a record, by name."""
    return {name: getattr(record, name) for name in names}


# Sessions


def session_record(row: Row) -> SessionRecord:
    """Of a row with the session's state behind it. What is for coordination (the lease and so on) is no part of it."""
    cells = dict(zip((*_SESSION, "state"), row, strict=True))
    totals = {name: cells.pop(name) for name in TOTALS}
    for name in _FREE:
        del cells[name]
    return SessionRecord(**cells, totals=Totals(**totals | {"cost": read_dollars(totals["cost"])}))


def session_cells(session: SessionRecord) -> dict[str, Any]:
    """The row of a new session, which nobody holds. Raises `InvalidValue` for a cost that is none."""
    totals = values(session.totals, TOTALS) | {"cost": dollars("cost", session.totals.cost)}
    return values(session, _OF_SESSION) | totals | _FREE


def moving(locked: Cursor, session: str) -> dict[str, Any]:
    """The session's moving parts, which stay locked until the end of the transaction; `cost` as a Decimal.

    Raises `SessionMissing`.
    """
    row = locked.fetchone()
    if row is None:
        raise SessionMissing(session)
    cells = dict(zip(_LOCKED, row, strict=True))
    cells["cost"] = read_dollars(cells["cost"])
    return cells


def totals_cells(totals: Mapping[str, Any]) -> dict[str, Any]:
    """The totals among the moving parts."""
    return {name: totals[name] for name in TOTALS} | {"cost": str(totals["cost"])}


def changed_cells(change: Change, session: Mapping[str, Any]) -> dict[str, Any]:
    """What a commit leaves of the session's row; `session` are its moving parts, with the totals that it has then."""
    holder, expires = (None, 0.0) if change.release else (session["lease_holder"], session["lease_expires"])
    return totals_cells(session) | {"lease_holder": holder, "lease_expires": expires} | values(change, _CHANGED)


def read_holder(text: str | None) -> Holder | None:
    return None if text is None else Holder(**json.loads(text))


def write_holder(holder: Holder) -> str:
    return json.dumps(asdict(holder))


def read_queue(text: str | None) -> list[tuple[Holder, float]]:
    """Who waits for a session, first come first, and until when the place is kept."""
    return [(Holder(**cells), float(until)) for cells, until in json.loads(text or "[]")]


def write_queue(queue: Sequence[tuple[Holder, float]]) -> str | None:
    """None for an empty one: most sessions never have any."""
    return json.dumps([[asdict(holder), until] for holder, until in queue]) if queue else None


# Entries

entry_record: Callable[[Row], EntryRecord] = partial(tuple.__new__, EntryRecord)  # `_make` is a loop of Python calls


def entry_cells(entry: EntryRecord, tree: str, session: str) -> dict[str, Any]:
    return values(entry, EntryRecord._fields) | {"tree": tree, "session": session}


# Calls, prompts, tool calls, turns


def call_record(row: Row) -> CallRecord:
    cells = dict(zip(_CALL, row, strict=True))
    costs = {name: None if cells[name] is None else read_dollars(cells[name]) for name in _COSTS}
    return CallRecord(**cells | costs | {name: bool(cells[name]) for name in ("counters", "estimated")})


def call_cells(call: CallRecord) -> dict[str, Any]:
    """Its error as a turn's. Raises `InvalidValue` for a cost that is none."""
    costs = {name: None if (cost := getattr(call, name)) is None else dollars(name, cost) for name in _COSTS}
    return values(call, _CALL) | costs | {"error": storable(call.error)}


def prompt_cells(prompt: PromptRecord, session: str) -> dict[str, Any]:
    return {"session": session, "digest": prompt.digest, "settings": prompt.settings}


def tool_call_record(row: Sequence[Any]) -> ToolCallRecord:
    """Of a row without its `finished`, which only tells a start from an end."""
    cells = dict(zip(_TOOL_CALL, row, strict=True))
    return ToolCallRecord(**cells | {name: bool(cells[name]) for name in ("idempotent", "is_error")})


def tool_call_cells(tool_call: ToolCallRecord) -> dict[str, Any]:
    return values(tool_call, _TOOL_CALL) | {"finished": tool_call.ended is not None}


def turn_record(row: Row) -> TurnRecord:
    return TurnRecord(**dict(zip(_TURN, row, strict=True)))


def turn_cells(turn: TurnRecord) -> dict[str, Any]:
    """An error's text comes from elsewhere: what cannot be stored of it is marked, and does not refuse the turn."""
    return values(turn, _TURN) | {"error": storable(turn.error)}


def decision_record(row: Row) -> DecisionRecord:
    cells = dict(zip(_DECISION, row, strict=True))
    return DecisionRecord(**cells | {"approved": bool(cells["approved"])})


def decision_cells(decision: DecisionRecord) -> dict[str, Any]:
    return values(decision, _DECISION)
