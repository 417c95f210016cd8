"""Small records for the rules, and for tests that need a store with something in it."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

from storage.holders import Holder
from storage.records import (
    CallRecord,
    Change,
    DecisionRecord,
    EntryRecord,
    Lease,
    Limit,
    RelayRecord,
    Reservation,
    SessionRecord,
    ToolCallRecord,
    TurnRecord,
)
from storage.store import Store

NOW = 1_000_000.0
"""The time that the rules give, in seconds."""
ME = Holder.current("me")
OTHER = replace(ME, name="other")
"""Another holder in this process."""


def session_record(id: str = "s", **fields: Any) -> SessionRecord:
    """A small session of its own tree."""
    given = {"tree": id, "owner": None, "title": None, "metadata": "{}", "settings": "{}", "head": None}
    return SessionRecord(**{"id": id, "created_at": NOW, "updated_at": NOW, **given, **fields})


def entries_of(*ids: str, after: EntryRecord | None = None) -> tuple[EntryRecord, ...]:
    """A chain of small entries with these ids."""
    chain: list[EntryRecord] = []
    for id in ids:
        last = chain[-1] if chain else after
        depth = last.depth + 1 if last else 1
        entry = EntryRecord(
            id=id,
            parent=last.id if last else None,
            depth=depth,
            role="user" if depth % 2 else "assistant",
            content=f'[{{"text":"{id}"}}]',
            created_at=NOW + depth,
        )
        chain.append(entry)
    return tuple(chain)


def call_record(id: str = "c", session: str = "s", **fields: Any) -> CallRecord:
    """A small call."""
    given: dict[str, Any] = {"kind": "turn", "model": "m", "started": NOW, "status": "ok"}
    return CallRecord(id, session, **given | fields)


def tool_call_record(entry: str = "e", index: int = 0, session: str = "s", **fields: Any) -> ToolCallRecord:
    """The start of a small tool call."""
    given: dict[str, Any] = {"tool_id": "id", "name": "search", "idempotent": False, "started": NOW}
    return ToolCallRecord(session, entry, index, **given | fields)


def turn_record(id: str = "t", session: str = "s", sequence: int = 1, **fields: Any) -> TurnRecord:
    """A small turn."""
    given: dict[str, Any] = {"state": "running", "started": NOW}
    return TurnRecord(id, session, sequence, **given | fields)


def decision_record(entry: str = "e", index: int = 0, session: str = "s", **fields: Any) -> DecisionRecord:
    """A call that was approved as it is."""
    given: dict[str, Any] = {"approved": True, "input": None, "reason": None, "decided": NOW}
    return DecisionRecord(session, entry, index, **given | fields)


def relay_record(id: str = "r", session: str = "s", turn: str = "t", **fields: Any) -> RelayRecord:
    """Something small to be passed on."""
    given: dict[str, Any] = {"content": "{}", "written": NOW}
    return RelayRecord(None, session, turn, id, **given | fields)


def reservation(call: str = "c", expected: str = "0.1", most: str = "0.2", **fields: Any) -> Reservation:
    """Room for a small request under one limit of $1 a minute."""
    given: dict[str, Any] = {"session": "s", "now": NOW, "until": NOW + 30, "limits": (Limit("a", Decimal(1), 60.0),)}
    return Reservation(**{"call": call, "expected": Decimal(expected), "most": Decimal(most), **given, **fields})


async def hold(store: Store, session: str = "s") -> Lease:
    """A lease on the session."""
    return await store.acquire(session, ME, seconds=60, now=NOW)


def change(expected: str | None, head: str | None, **fields: Any) -> Change:
    """A change that moves the head."""
    return Change(expected, head, **{"updated_at": NOW} | fields)


async def grown(store: Store, *ids: str, session: str = "s") -> Lease:
    """A new session with these entries."""
    await store.create(session_record(session))
    lease = await hold(store, session)
    await store.commit(lease, change(None, ids[-1], entries=entries_of(*ids)))
    return lease
