"""What becomes of a turn whose request the API refuses for its content: nothing that was done leaves the chain."""

from __future__ import annotations

from typing import Any

from sessions.core.refusals import refused_results, without_results
from sessions.core.transcript import tool_calls
from sessions.errors import ContextFull, ModelError, named
from sessions.model.failures import reason_of, status_of
from sessions.turns import states
from sessions.turns.writer import TurnWriter
from storage import Store

_LOOK = 20
"""Newest calls among which an earlier failure is looked for."""


async def step_back(writer: TurnWriter, error: ModelError) -> None:
    """Ends the turn at what the API has accepted: what lay before it, and its replies since.

    The user's words leave the chain with the first request of their turn only. Results that can be the cause are told
    as errors in their place: then the chain can be sent again, and the model knows that the tools have run.
    """
    conversation, is_first = writer.conversation, writer.row.reply is None
    accepted = _accepted(writer)
    results = [
        block
        for entry in conversation.entries[accepted:]
        for block in entry.content
        if block.get("type") == "tool_result"
    ]
    refused = _refused(writer, results, error, is_first=is_first)
    calls = writer.failed_call(error)
    why, now = named(error), writer.now()
    row = writer.row = (
        states.refused(writer.row, why, now)
        if is_first
        else states.broken(writer.row, why, now, orphaned=False, recovering=False)
    )
    if refused:
        instructions = writer.instructions_behind(accepted)
        while len(conversation.entries) > accepted:
            conversation.withdraw_last()
        writer.stage("user", without_results(results, refused, reason_of(error)))
        writer.stage_instructions(instructions)
        await writer.commit(turn=row, calls=calls)
    elif is_first:
        await writer.withdraw(calls)
    else:
        await writer.commit(turn=row, calls=calls)
    if not is_first:
        error.args = (f"{error}; what the tools have done is kept: resume() or send() goes on",)


async def advise(writer: TurnWriter, store: Store, error: ModelError) -> None:
    """Names the ways out where an endpoint fails on new content again: some answer 500 to what they cannot read.

    Called before the failed call is written down.
    """
    if status_of(error) != 500:
        return
    entries, accepted = writer.conversation.entries, _accepted(writer)
    new = {entry.id for entry in entries[accepted:]}
    recent = await store.calls(writer.conversation.record.id, limit=_LOOK, newest_first=True)
    # A call's entry is the head that it was asked from: one of these was sent and failed before.
    if any(call.status == "error" and call.first_event is None and call.entry in new for call in recent):
        last = repr(entries[accepted - 1].id) if accepted else None
        why = "it has failed on this content before; if that is the cause (a picture that the endpoint cannot read)"
        error.args = (f"{error}; {why}, take it back with rewind({last}) or fork(at={last}) and send other words",)


def _accepted(writer: TurnWriter) -> int:
    """How many entries the API has accepted: those before the turn, and up to its newest reply."""
    return max(writer.conversation.position(writer.row.base), writer.conversation.answered)


def _refused(writer: TurnWriter, results: list[dict[str, Any]], error: ModelError, *, is_first: bool) -> list[str]:
    """The ids of the results that the API can have refused and that are not the caller's to hand in again."""
    if writer.request is None or not writer.is_asking or not results:
        return []
    too_large = isinstance(error, ContextFull) or status_of(error) == 413
    messages = writer.request.body["messages"]
    suspects = refused_results(messages, results, reason_of(error), too_large=too_large, with_words=is_first)
    if not is_first:
        return suspects
    by_caller = writer.conversation.by_caller
    asked = tool_calls(writer.conversation.entries[writer.conversation.answered - 1].content)  # what the results answer
    theirs = {block["id"] for block in asked if block["name"] in by_caller}
    return [id for id in suspects if id not in theirs]
