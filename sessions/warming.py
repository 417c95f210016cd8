"""Zero-token requests: they write or read a prefix without an answer."""

from __future__ import annotations

import uuid
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sessions.core.incoming import Incoming
from sessions.core.plan import Mark, Plan, make_plan, render
from sessions.core.profiles import Profile
from sessions.core.settings import Settings
from sessions.core.steps import calls_of, result_block
from sessions.core.usage import Usage
from sessions.flight import Flight
from sessions.history import History, make_entry
from sessions.misses import judge
from sessions.replies import Call
from sessions.telemetry import end_call, inside, start_call
from storage.records import CallKind

if TYPE_CHECKING:
    from sessions.manager import SessionManager

PLACEHOLDER = "."


def obstacle(settings: Settings, profile: Profile) -> str | None:
    """Why a zero-token request would be refused with these settings (August 2026), or `None`."""
    if not profile.prewarms:
        return "the endpoint has no zero-token requests"
    if (settings.thinking or {}).get("type") == "enabled":
        return 'thinking is "enabled"'
    if (settings.tool_choice or {}).get("type") in ("any", "tool"):
        return "tool_choice forces a tool"
    if (settings.output_config or {}).get("format"):
        return "output_config.format is set"
    return None


async def prewarm(manager: SessionManager, history: History) -> Usage | None:
    """Writes the prefix of a conversation that the caller holds; see `Session.prewarm`."""
    prompt = history.prompt
    if (reason := obstacle(history.settings, prompt.profile)) is not None:
        warnings.warn(f"prewarm() does nothing for this session: {reason}", stacklevel=4)
        return None
    if history.last is not None and history.last.stop_reason == "pause_turn":
        return None  # its server tools wait for their results: nothing may follow
    if not history.entries and history.settings.context:
        opened = await _opened(manager, history)
        usage = await prewarm(manager, opened)
        await history.recall()
        return usage
    async with await manager._gate.enter(lambda: _plan(manager, history), prompt.profile.minimum_tokens) as passage:
        now, last = manager.clock.now(), passage.plan.marks[-1] if passage.plan.marks else None
        if last is None or last.tokens < prompt.profile.minimum_tokens or history.warmth.is_alive(last.point, now):
            return None
        call = await ask_nothing(manager, history, "prewarm", passage.plan, waited=passage.waited)
        await passage.opened()
        return call.usage


async def _opened(manager: SessionManager, history: History) -> History:
    """The conversation with its first words still to come: the pinned context is part of their message."""
    opened = await manager._history_of(await manager._read(history.record.id))
    words = [*opened.settings.context, {"type": "text", "text": PLACEHOLDER}]
    opened.stage([make_entry(None, "user", words, manager.clock.now())])
    return opened


def _plan(manager: SessionManager, history: History) -> Plan:
    """The marks of a turn's request, without the one on words that wait for an answer."""
    at = manager._tending.circumstances(history, manager.clock.now())
    plan = make_plan(history.prompt, history.warmth, at)
    marks = tuple(mark for mark in plan.marks if mark.slot != "tail" or not _ends_with_words(history))
    return replace(plan, marks=marks)


def _ends_with_words(history: History) -> bool:
    return history.last is not None and history.last.role != "assistant"


def _body(history: History, marks: tuple[Mark, ...]) -> dict[str, Any]:
    body = render(history.prompt, marks)
    last = history.last
    open_calls = calls_of(last.content) if last is not None and last.role == "assistant" else []
    words: list[dict[str, Any]] = [result_block(call, PLACEHOLDER) for call in open_calls]
    if not _ends_with_words(history):
        placeholder = {"role": "user", "content": words or [{"type": "text", "text": PLACEHOLDER}]}
        body["messages"] = [*body["messages"], placeholder]
    body["max_tokens"] = history.prompt.profile.prewarm_max_tokens
    return body


async def ask_nothing(
    manager: SessionManager, history: History, kind: CallKind, plan: Plan, *, waited: float = 0.0
) -> Call:
    """Sends the prompt with the marks of a plan and no wish for an answer; gives the call, which is in the ledger.

    `waited`: seconds that were spent at the gate. Raises `ModelError`; a request that failed or was cancelled is a row
    of the ledger too.
    """
    now = manager.clock.now()
    flight = Flight(uuid.uuid4().hex, _body(history, plan.marks), plan, now, history.head, 0, waited=waited)
    incoming = Incoming()
    try:
        flight.started = manager.clock.now()
        flight.span = start_call(kind, history.record.id, flight.body, flight.started)
        with manager._air.flying(flight), inside(flight.span):
            message, incoming.request_id = await manager._client.send(flight.body)
            ended = manager.clock.now()
            manager._air.begins(flight, ended)
    except BaseException as error:
        await manager._record_failed(flight, history, kind, incoming, error)
        raise
    incoming.feed({"type": "message_start", "message": message})
    miss = judge(history, flight, incoming)
    record = flight.record(history.record.id, kind, "ok", incoming, history.prompt, ended=ended, miss=miss)
    await manager._store.record(record, history.settings_record)
    call = Call.of(record)
    end_call(flight.span, call)
    history.learn(call)
    return call
