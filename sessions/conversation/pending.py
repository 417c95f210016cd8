"""Which tool calls of a conversation wait: for the user's approval, or for results that the caller brings."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable

from sessions.core.steps import ToolCall, call_id, calls_of
from sessions.core.transcript import Entry
from sessions.following.events import PendingCall
from storage import Change, Store, TurnRecord
from storage.records import SessionState


def state_of(turn: TurnRecord) -> SessionState:
    """What a session is doing, by its newest turn."""
    if turn.state in ("running", "queued"):
        return "running"
    if turn.state == "waiting" or (turn.state == "finished" and turn.stop_reason == "tool_use"):
        return "waiting"
    return "interrupted" if turn.state == "interrupted" else "idle"


def state_after(change: Change, before: SessionState) -> SessionState:
    """The same when a change was written: calls that are no longer at the end wait for nobody."""
    if change.turn is not None:
        return state_of(change.turn)
    return "idle" if before == "waiting" and change.head != change.expected_head else before


def held_of(row: TurnRecord | None, last: Entry) -> set[int]:
    """The calls of the last entry, by index, that the turn waits for, or did, decided or not."""
    stored = json.loads(row.pending) if row is not None and row.pending else {}
    return set(stored["calls"]) if stored.get("entry") == last.id else set()


def pending_calls(
    session: str, last: Entry, calls: Iterable[ToolCall], held: Collection[int]
) -> tuple[PendingCall, ...]:
    """Calls of a session's last entry that wait. `held`: those that wait for approval, the others are the caller's."""
    return tuple(
        PendingCall(call_id(session, last.id, call.index), call.id, call.name, call.input, call.index not in held)
        for call in calls
    )


async def newest_turn(store: Store, session: str, *, queued: bool = True) -> TurnRecord | None:
    """The newest turn that is a user's (a compaction is a row too), and has begun or, with `queued`, is in line."""

    def is_wanted(row: TurnRecord) -> bool:
        return row.stop_reason != "compaction" and (_has_begun(row) or (queued and row.state == "queued"))

    return await _newest(store, session, is_wanted)


def _has_begun(row: TurnRecord) -> bool:
    """Whether it got as far as its words; one that was stopped in the queue did not."""
    return row.state != "queued" and (row.state != "cancelled" or row.entry is not None)


async def running_turn(store: Store, session: str) -> TurnRecord | None:
    """The turn that runs, in whatever worker; others may be queued behind it."""
    row = await store.open_turn(session)
    if row is None or row.state == "running":
        return row
    return await _newest(store, session, lambda row: row.state == "running")  # an older one may go on, by its key


async def _newest(store: Store, session: str, is_wanted: Callable[[TurnRecord], bool]) -> TurnRecord | None:
    count = 8
    while True:
        rows = await store.turns(session, limit=count)
        wanted = [row for row in rows if is_wanted(row)]
        if wanted or len(rows) < count:
            return wanted[-1] if wanted else None
        # Compactions and what is queued stand in between: seldom more than a few, but nobody bounds them.
        count *= 4


async def waiting_turn(store: Store, session: str) -> TurnRecord | None:
    """The turn that waits for approvals; only the newest can."""
    row = await newest_turn(store, session, queued=False)
    return row if row is not None and row.state == "waiting" else None


async def read_pending(
    store: Store, session: str, last: Entry | None, by_caller: Collection[str]
) -> tuple[PendingCall, ...]:
    """What waits at the end of a stored conversation."""
    if last is None or last.role != "assistant" or not (calls := calls_of(last.content)):
        return ()
    row = await newest_turn(store, session, queued=False)
    if row is None or row.state not in ("waiting", "finished"):
        return ()  # it runs, and does not wait yet
    held = held_of(row, last)
    if held:
        held -= {decision.index for decision in await store.decisions(session, last.id)}
    return pending_calls(session, last, [call for call in calls if call.index in held or call.name in by_caller], held)
