"""On-demand compaction: the API's own signed summary becomes the start of a new chain; the old one stays readable.

Source: compaction page, September 2026 (beta `compact-2026-09-04`): one request returns one block, which then stands
first in `messages`; thinking behind it stays valid while `system` and `tools` are the same.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import anyio

from sessions.background import log
from sessions.conversation.conversation import Conversation
from sessions.conversation.entries import make_entry
from sessions.core.cache import SECONDS
from sessions.core.incoming import Incoming
from sessions.core.plan import make_plan, render
from sessions.core.profiles import Profile
from sessions.core.prompt import COMPACTION_BETA, reads_before_summary
from sessions.core.settings import Settings
from sessions.core.shortening import Shortening, closed_entries, is_closed, shortening, summary_plan
from sessions.core.transcript import Entry
from sessions.errors import BudgetExceeded, ConfigurationError, ModelError
from sessions.ledger import Call
from sessions.runtime import Runtime
from sessions.turns import states
from sessions.turns.writer import TurnWriter
from storage import CallRecord, Change, Lease, PromptRecord, TurnRecord

_KEPT = ("stop_reason", "output_tokens", "model", "message_id", "call")


def obstacle(settings: Settings, profile: Profile) -> str | None:
    """Why conversations with these settings cannot be compacted, or `None`."""
    if not profile.compaction:
        return f"the endpoint of {settings.model} has no on-demand compaction: fork an earlier entry or start anew"
    if "context_management" in (settings.params or {}):
        return "it cannot be combined with params['context_management']"
    if settings.clear_tool_results:
        return (
            "the API takes no summary together with clear_tool_results: update(clear_tool_results=False, rebase=True)"
        )
    return None


def _open_end(conversation: Conversation) -> str | None:
    """Why this conversation cannot be compacted as a whole just now, or `None`."""
    last = conversation.last
    if last is None or (len(conversation.entries) == 1 and last.stop_reason == "compaction"):
        return "there is nothing to summarize yet"
    return None if is_closed(last) else "the last turn is not finished: call resume() first"


def room_before(conversation: Conversation) -> int | None:
    """How many entries a compaction would replace so that the next reply fits into the window again.

    `None` where it fits already, or where that does not help: a turn under way stays as it is, so the summary can
    stand for what lies before it only. Sizes are tokens, measured where known.
    """
    prompt, entries = conversation.prompt, conversation.entries
    excess = prompt.total + conversation.settings.max_tokens - prompt.profile.window
    if excess <= 0:
        return None
    closed = closed_entries(entries)
    if closed == 0 or (closed == 1 and entries[0].stop_reason == "compaction"):
        return None
    # What it stands for must be more than what is too much: else the request for it is paid for nothing.
    return closed if prompt.tokens_of(closed) > excess else None


def cheaper(runtime: Runtime, conversation: Conversation, turns: int) -> tuple[int, Shortening] | None:
    """How many entries a summary would replace, and what that saves, where it is cheaper than carrying on.

    `None` inside a turn, where it does not pay, and for an hour after a request for a summary has failed. `turns`: with
    the one that begins.
    """
    now, failed, prompt = runtime.clock.now(), conversation.recent.unsummarized, conversation.prompt
    is_early = failed is not None and now < failed + SECONDS["1h"]
    if is_early or not reads_before_summary(conversation.settings, prompt.profile):
        return None
    closed = closed_entries(conversation.entries)
    at = runtime.forecaster.circumstances(conversation, now, turns=turns)
    found = shortening(prompt, make_plan(prompt, conversation.recent.warmth, at), closed, at)
    return (closed, found) if found is not None and found.saves > 0 else None


async def compact(runtime: Runtime, conversation: Conversation, lease: Lease) -> Call:
    """Asks for the summary and makes it the head, in one commit. The caller holds the session and has refreshed it."""
    reason = obstacle(conversation.settings, conversation.prompt.profile) or _open_end(conversation)
    if reason is not None:
        raise ConfigurationError(f"this conversation cannot be compacted: {reason}")
    row, incoming = await _summarize(runtime, conversation, len(conversation.entries))
    with anyio.CancelScope(shield=True):  # it is paid: whoever asked for it may leave just now
        summary = _made(conversation, lease, row, incoming)
        try:
            await runtime.store.commit(
                lease, replace(summary.change, turn=summary.turn, calls=(summary.call,), prompts=summary.prompts)
            )
        finally:
            conversation.roll_back()
        await conversation.catch_up()
    return Call.of(summary.call)


async def make_room(runtime: Runtime, writer: TurnWriter, count: int, saves: Decimal | None = None) -> bool:
    """The same within a turn: a summary takes the place of the first `count` entries, and the turn goes on behind it.

    What it cost is written down before the head moves: one commit moves the head and names the turn's entries anew.
    False where no summary came: then nothing has changed. `saves`: what it is expected to save (USD), if it is for
    that.
    """
    conversation = writer.conversation
    # What is staged is stored first: below, all that is not is dropped (`roll_back`), and the chain is read again.
    await writer.commit(turn=writer.row)
    try:
        row, incoming = await _summarize(runtime, conversation, count, saves)
    except (ModelError, BudgetExceeded) as error:  # the window, or the budget, may still hold the next request
        conversation.recent.unsummarized = runtime.clock.now()
        log.warning("session %s could not be compacted: %s", conversation.record.id, error)
        return False
    # The summary is paid for: no cancellation comes between it and the store any more.
    with anyio.CancelScope(shield=True):
        summary = _made(conversation, writer.hold.lease, row, incoming, conversation.entries[count:])
        lease = writer.hold.lease
        paid = Change(
            conversation.head,
            conversation.head,
            turn=summary.turn,
            calls=(summary.call,),
            prompts=summary.prompts,
            updated_at=summary.change.updated_at,
        )
        moved = states.renamed(writer.row, summary.renamed)
        try:
            # Two commits: each holds one turn's row, that of the summary and that of the turn under way.
            await runtime.store.commit(lease, paid)
            await runtime.store.commit(lease, replace(summary.change, turn=moved))
        finally:
            conversation.roll_back()
        await conversation.catch_up()
        writer.row = moved
    return True


async def _summarize(
    runtime: Runtime, conversation: Conversation, count: int, saves: Decimal | None = None
) -> tuple[CallRecord, Incoming]:
    """The request that summarizes the first `count` entries: its row of the ledger and its answer."""
    entries, requests = conversation.entries, runtime.requests
    prompt = (
        conversation.prompt
        if count == len(entries)
        else conversation.new_prompt(conversation.settings, entries[:count])
    )
    at = runtime.forecaster.circumstances(conversation, runtime.clock.now())
    plan = summary_plan(prompt, conversation.recent.warmth, at)
    plan = replace(plan, summarized=prompt.tokens_of(count), saves=saves)
    body = _body(conversation.settings, render(prompt, plan.marks))
    last = entries[count - 1].id
    async with requests.outside_of_turns(conversation, "compact", plan, body, asked_from=last) as request:
        async with requests.stream(request) as events:
            async for _ in events:
                if request.first_event is None:
                    requests.begun(request)
        # In here: an answer without a summary is a failed call of the ledger.
        _summary(request.incoming)
    record, _ = requests.end(request, conversation, "ok")
    return record, request.incoming


def _body(settings: Settings, body: dict[str, Any]) -> dict[str, Any]:
    """What may not stand beside `compaction` is left out of this one request."""
    body = {key: value for key, value in body.items() if key != "stop_sequences"}
    if (settings.tool_choice or {}).get("type") in ("any", "tool"):
        del body["tool_choice"]
    if "format" in (settings.output_config or {}):
        body["output_config"] = {key: value for key, value in body["output_config"].items() if key != "format"}
    betas = [*(beta for beta in body.get("betas", ()) if beta != COMPACTION_BETA), COMPACTION_BETA]
    return {**body, "compaction": {"type": "summarize"}, "betas": betas}


def _summary(incoming: Incoming) -> dict[str, Any]:
    blocks = [block for block in incoming.content if block.get("type") == "compaction"]
    if incoming.stop_reason != "compaction" or len(blocks) != 1 or not blocks[0].get("content"):
        text = f"the API gave no summary (stop reason {incoming.stop_reason!r}); the conversation is as it was"
        raise ModelError(text, retryable=True, request_id=incoming.request_id)
    return blocks[0]


@dataclass(frozen=True, slots=True)
class _Made:
    """What a summary changes: the entries and settings of the new chain, and the rows that say what it cost.

    `renamed`: the new ids of the entries that the summary ends with or that stand behind it, by their old ones.
    """

    change: Change
    turn: TurnRecord
    call: CallRecord
    prompts: tuple[PromptRecord, ...]
    renamed: dict[str | None, str]


def _made(
    conversation: Conversation, lease: Lease, row: CallRecord, incoming: Incoming, behind: Sequence[Entry] = ()
) -> _Made:
    """The new chain: the summary, and behind it, word for word, the entries that it does not stand for."""
    old, ended = conversation.settings, row.ended or row.started
    closed = len(conversation.entries) - len(behind)
    # A fork of an old entry still needs to know that its thinking may not fit.
    settings = replace(old, unbound=max(0, old.unbound - closed + 1), foreign=old.foreign or old.unbound > 0)
    root = make_entry(
        None, "assistant", [_summary(incoming)], ended,
        stop_reason="compaction", model=old.model, message_id=incoming.message_id, call=row.id,
    )  # fmt: skip
    written, renamed = [root], {row.entry: root.entry.id}
    for entry in behind:
        facts = {name: getattr(entry, name) for name in _KEPT}  # sizes were measured behind what is gone
        again = make_entry(written[-1].entry, entry.role, entry.content, entry.created_at, **facts)
        renamed[entry.id] = again.entry.id
        written.append(again)
    turn = states.summary(
        uuid.uuid4().hex,
        conversation.record.id,
        conversation.record.totals.turns + 1,
        started=row.started,
        ended=ended,
        token=lease.token,
        base=row.entry,
        reply=root.entry.id,
    )
    change = Change(
        conversation.head, written[-1].entry.id, entries=tuple(entry.record for entry in written),
        settings=settings.to_json(), updated_at=ended,
    )  # fmt: skip
    call = replace(row, entry=root.entry.id, turn=turn.id)
    return _Made(change, turn, call, (conversation.settings_record,), renamed)
