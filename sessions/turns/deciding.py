"""A user's decision on a tool call that waits for approval: checked, and written once."""

from __future__ import annotations

from dataclasses import replace

from sessions.conversation.conversation import Conversation
from sessions.conversation.pending import held_of, waiting_turn
from sessions.core.steps import ToolCall, call_id, calls_of
from sessions.core.transcript import Entry
from sessions.errors import ConfigurationError, Conflict
from storage import DecisionRecord, DecisionTaken, HeadMoved, Store, TurnMissing, TurnRecord

_LATE = "other words have come, or the turn was stopped"


async def decide(
    store: Store,
    conversation: Conversation,
    id: str,
    now: float,
    *,
    approved: bool,
    input: str | None = None,
    reason: str | None = None,
) -> TurnRecord | None:
    """Writes the decision; the turn, where this was the last one that it waited for.

    The conversation is as it is stored. Raises `Conflict` and `ConfigurationError`, see `Session.approve`.
    """
    session, last, row = conversation.record.id, conversation.last, await waiting_turn(store, conversation.record.id)
    call = await _call(store, conversation, id, row)
    assert last is not None
    held = held_of(row, last)
    decision = DecisionRecord(
        session=session, entry=last.id, index=call.index, approved=approved, input=input, reason=reason, decided=now
    )
    assert row is not None
    try:
        # Counted under the session's lock: of two processes that decide the last two calls, one is told that none is
        # left, and goes on with the turn. Its row is `running` by then: if that process dies, recovery finds it.
        left = await store.decide(decision, turn=row.id, of=len(held))
    except DecisionTaken:
        raise Conflict(f"call {id} has been decided already: refresh() shows what is open") from None
    except (HeadMoved, TurnMissing):
        raise Conflict(f"call {id} does not wait any more ({_LATE}): refresh() shows what is open") from None
    conversation.pending = tuple(call for call in conversation.pending if call.call_id != id)
    return replace(row, state="running", ended=None) if left == 0 else None


async def _call(store: Store, conversation: Conversation, id: str, row: TurnRecord | None) -> ToolCall:
    """The call of the last entry with this id, which a turn waits for."""
    last = conversation.last
    calls = {} if last is None else _named(conversation.record.id, last)
    call = calls.get(id)
    if call is not None and last is not None and row is not None and call.index in held_of(row, last):
        return call
    for entry in reversed(conversation.entries):
        if id in (named := _named(conversation.record.id, entry)):
            rows = await store.decisions(conversation.record.id, entry.id)
            if any(decision.index == named[id].index for decision in rows):
                raise Conflict(f"call {id} has been decided already: refresh() shows what is open")
            raise ConfigurationError(f"call {id} does not wait for approval ({_LATE}): {_open(conversation)}")
    raise ConfigurationError(f"there is no call {id} in this session: {_open(conversation)}")


def _named(session: str, entry: Entry) -> dict[str, ToolCall]:
    calls = calls_of(entry.content) if entry.role == "assistant" else []
    return {call_id(session, entry.id, call.index): call for call in calls}


def _open(conversation: Conversation) -> str:
    """What is open, in words."""
    waiting = [f"{call.call_id} ({call.name})" for call in conversation.pending if not call.by_caller]
    return f"open: {', '.join(waiting)}" if waiting else "nothing waits"
