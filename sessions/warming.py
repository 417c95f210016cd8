"""Zero-token requests: they write or read a prefix without an answer."""

from __future__ import annotations

import uuid
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sessions.core.incoming import Incoming
from sessions.core.plan import Circumstances, Mark, Plan, make_plan, render
from sessions.core.prices import prices_for
from sessions.core.profiles import Profile
from sessions.core.settings import Settings
from sessions.core.steps import calls_of, result_block
from sessions.core.ttl import expect
from sessions.core.usage import Usage
from sessions.flight import Flight
from sessions.misses import judge
from sessions.replies import Call

if TYPE_CHECKING:
    from sessions.session import Session

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


async def prewarm(session: Session) -> Usage | None:
    """Writes the prefix of a session that the caller holds; see `Session.prewarm`."""
    manager, history = session._manager, session._history
    prompt = history.prompt
    if (reason := obstacle(history.settings, prompt.profile)) is not None:
        warnings.warn(f"prewarm() does nothing for this session: {reason}", stacklevel=4)
        return None
    now = manager.clock.now()
    at = Circumstances(
        now, manager.ttl, expect(None, tools=bool(prompt.settings.tools)), prices_for(prompt.profile, prompt.total)
    )
    plan = make_plan(prompt, history.warmth, at)
    marks = tuple(mark for mark in plan.marks if mark.slot != "tail" or not _ends_with_words(session))
    last = marks[-1] if marks else None
    if last is None or last.tokens < prompt.profile.minimum_tokens or history.warmth.is_alive(last.point, now):
        return None
    return await _send(session, plan, marks, now)


def _ends_with_words(session: Session) -> bool:
    last = session._history.last
    return last is not None and last.role != "assistant"


def _body(session: Session, marks: tuple[Mark, ...]) -> dict[str, Any]:
    history = session._history
    body = render(history.prompt, marks)
    last = history.last
    open_calls = calls_of(last.content) if last is not None and last.role == "assistant" else []
    words: list[dict[str, Any]] = [result_block(call, PLACEHOLDER) for call in open_calls]
    if not _ends_with_words(session):
        placeholder = {"role": "user", "content": words or [{"type": "text", "text": PLACEHOLDER}]}
        body["messages"] = [*body["messages"], placeholder]
    body["max_tokens"] = history.prompt.profile.prewarm_max_tokens
    return body


async def _send(session: Session, plan: Plan, marks: tuple[Mark, ...], now: float) -> Usage:
    manager, history = session._manager, session._history
    flight = Flight(uuid.uuid4().hex, _body(session, marks), replace(plan, marks=marks), now, session.head, 0)
    incoming = Incoming()
    try:
        flight.started = manager.clock.now()
        with manager._air.flying(flight):
            message, incoming.request_id = await manager._client.send(flight.body)
            ended = manager.clock.now()
            manager._air.begins(flight, ended)
    except BaseException as error:
        incoming.request_id = getattr(error, "request_id", None)
        await manager._record_failed(flight, history, "prewarm", incoming, error)
        raise
    incoming.feed({"type": "message_start", "message": message})
    miss = judge(history, flight, incoming)
    record = flight.record(session.id, "prewarm", "ok", incoming, history.prompt, ended=ended, miss=miss)
    await manager._store.record(record, history.settings_record)
    history.learn(Call.of(record))
    return incoming.usage
