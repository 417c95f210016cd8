"""What becomes of a turn whose request the API refuses for its content: nothing that was done leaves the chain."""

from __future__ import annotations

from typing import Any

from sessions.core.refusals import refused_results, without_results
from sessions.core.transcript import tool_calls
from sessions.errors import ContextFull, ModelError, named
from sessions.model.failures import reason_of, status_of
from sessions.turns import states
from sessions.turns.writer import Books
from storage import Store

_LOOK = 20
"""Newest calls among which an earlier failure is looked for."""


async def step_back(books: Books, error: ModelError) -> None:
    """Ends the turn at what the API has accepted: what lay before it, and its replies since.

    The user's words leave the chain with the first request of their turn only. Results that can be the cause are told
    as errors in their place: then the chain can be sent again, and the model knows that the tools have run.
    """
    history, is_first = books.history, books.row.reply is None
    accepted = _accepted(books)
    results = [
        block for entry in history.entries[accepted:] for block in entry.content if block.get("type") == "tool_result"
    ]
    refused = _refused(books, results, error, is_first=is_first)
    calls = books.failed_call(error)
    why, now = named(error), books.now()
    row = books.row = (
        states.refused(books.row, why, now)
        if is_first
        else states.broken(books.row, why, now, orphaned=False, recovering=False)
    )
    if refused:
        instructions = books.instructions_behind(accepted)
        while len(history.entries) > accepted:
            history.drop_last()
        books.stage("user", without_results(results, refused, reason_of(error)))
        books.stage_instructions(instructions)
        await books.commit(turn=row, calls=calls)
    elif is_first:
        await books.withdraw(calls)
    else:
        await books.commit(turn=row, calls=calls)
    if not is_first:
        error.args = (f"{error}; what the tools have done is kept: resume() or send() goes on",)


async def advise(books: Books, store: Store, error: ModelError) -> None:
    """Names the ways out where an endpoint fails on new content again: some answer 500 to what they cannot read.

    Called before the failed call is written down.
    """
    if status_of(error) != 500:
        return
    entries, accepted = books.history.entries, _accepted(books)
    new = {entry.id for entry in entries[accepted:]}
    recent = await store.calls(books.history.record.id, limit=_LOOK, newest_first=True)
    if any(call.status == "error" and call.first_event is None and call.entry in new for call in recent):
        last = repr(entries[accepted - 1].id) if accepted else None
        why = "it has failed on this content before; if that is the cause (a picture that the endpoint cannot read)"
        error.args = (f"{error}; {why}, take it back with rewind({last}) or fork(at={last}) and send other words",)


def _accepted(books: Books) -> int:
    """How many entries the API has accepted: those before the turn, and up to its newest reply."""
    return max(books.history.position(books.row.base), books.history.answered)


def _refused(books: Books, results: list[dict[str, Any]], error: ModelError, *, is_first: bool) -> list[str]:
    """The ids of the results that the API can have refused and that are not the caller's to hand in again."""
    if books.request is None or not books.is_asking or not results:
        return []
    too_large = isinstance(error, ContextFull) or status_of(error) == 413
    messages = books.request.body["messages"]
    found = refused_results(messages, results, reason_of(error), too_large=too_large, with_words=is_first)
    if not is_first:
        return found
    by_caller = books.history.by_caller
    asked = tool_calls(books.history.entries[books.history.answered - 1].content)  # what the results answer
    theirs = {block["id"] for block in asked if block["name"] in by_caller}
    return [id for id in found if id not in theirs]
