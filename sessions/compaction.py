"""On-demand compaction: the API's own signed summary becomes the start of a new chain; the old one stays readable.

Source: compaction page, September 2026 (beta `compact-2026-09-04`): one request returns one block, which then stands
first in `messages`; thinking behind it stays valid while `system` and `tools` are the same.
"""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sessions.core.incoming import Incoming
from sessions.core.plan import make_plan, render
from sessions.core.prompt import COMPACTION_BETA, estimate
from sessions.core.settings import Settings
from sessions.core.transcript import tool_calls
from sessions.errors import ConfigurationError, ModelError
from sessions.flight import Flight
from sessions.history import History, make_entry
from sessions.replies import Call
from sessions.telemetry import end_call, inside, start_call
from storage import CallRecord, Change, EntryRecord, Lease, SessionMissing, TurnRecord

if TYPE_CHECKING:
    from sessions.manager import SessionManager
    from storage import Store


def obstacle(history: History) -> str | None:
    """Why this conversation cannot be compacted now, or `None`."""
    settings, last = history.settings, history.last
    if not history.prompt.profile.compaction:
        return f"the endpoint of {settings.model} has no on-demand compaction: fork an earlier entry or start anew"
    if last is None or (len(history.entries) == 1 and last.stop_reason == "compaction"):
        return "there is nothing to summarize yet"
    if last.role != "assistant" or tool_calls(last.content) or last.stop_reason == "pause_turn":
        return "the last turn is not finished: call resume() first"
    if "context_management" in (settings.params or {}):
        return "it cannot be combined with params['context_management']"
    return None


def is_due(history: History, words: list[dict[str, Any]]) -> bool:
    """Whether the next reply may not fit into the model's context window any more (tokens, measured where known)."""
    profile, settings = history.prompt.profile, history.settings
    new = sum(estimate(block, profile.characters_per_token) for block in words)
    return history.prompt.total + new + settings.max_tokens > profile.window


async def compact(manager: SessionManager, history: History, lease: Lease) -> Call:
    """Asks for the summary and makes it the head, in one commit. The caller holds the session and has refreshed it."""
    if (reason := obstacle(history)) is not None:
        raise ConfigurationError(f"this conversation cannot be compacted: {reason}")
    prompt, now = history.prompt, manager.clock.now()
    plan = make_plan(prompt, history.warmth, manager._tending.circumstances(history, now))
    body = _body(history.settings, render(prompt, plan.marks))
    flight = Flight(uuid.uuid4().hex, body, plan, now, history.head, prompt.total)
    flight.span = start_call("compact", history.record.id, body, now)
    incoming = Incoming()
    try:
        with inside(flight.span):
            async with manager._client.stream(body, incoming) as events:
                async for _ in events:
                    flight.first_event = flight.first_event or manager.clock.now()
        block = _summary(incoming)
    except BaseException as error:
        await manager._record_failed(flight, history, "compact", incoming, error)
        raise
    row = flight.record(history.record.id, "compact", "ok", incoming, prompt, ended=manager.clock.now())
    end_call(flight.span, Call.of(row))
    return Call.of(await _commit(manager, history, lease, row, block, incoming))


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


async def _commit(
    manager: SessionManager, history: History, lease: Lease, row: CallRecord, block: dict[str, Any], incoming: Incoming
) -> CallRecord:
    now = manager.clock.now()
    old = history.settings  # a fork of an old entry still needs to know that its thinking may not fit
    settings = replace(old, unbound=0, foreign=old.foreign or old.unbound > 0)
    written = make_entry(
        None, "assistant", [block], now,
        stop_reason="compaction", model=settings.model, message_id=incoming.message_id, call=row.id,
    )  # fmt: skip
    turn = TurnRecord(
        uuid.uuid4().hex, history.record.id, history.record.totals.turns + 1, "finished", started=row.started,
        ended=now, base=history.head, reply=written.entry.id, stop_reason="compaction", token=lease.token,
    )  # fmt: skip
    row = replace(row, entry=written.entry.id, turn=turn.id)
    change = Change(
        history.head, written.entry.id, entries=(written.record,), turn=turn, settings=settings.to_json(),
        calls=(row,), prompts=(history.settings_record,), updated_at=now,
    )  # fmt: skip
    try:
        await manager._store.commit(lease, change)
    finally:
        history.discard()
    await history.refresh()
    return row


async def summarized(store: Store, session: str, root: str) -> str | None:
    """The entry at which the chain ended that the summary `root` stands for; forks look at where they come from."""
    asked: str | None = session
    while asked is not None:
        for turn in await store.turns(asked):
            if turn.reply == root and turn.stop_reason == "compaction":
                return turn.base
        try:
            asked = (await store.load(asked)).forked_from
        except SessionMissing:
            return None
    return None


async def earlier_chains(store: Store, session: str, root: str | None) -> list[list[EntryRecord]]:
    """The chains that summaries stand for, oldest first, starting from the first entry of the present one."""
    chains: list[list[EntryRecord]] = []
    while root is not None and (head := await summarized(store, session, root)) is not None:
        chains.insert(0, await store.chain(session, head))
        root = chains[0][0].id
    return chains
