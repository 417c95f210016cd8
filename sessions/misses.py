"""Judging a call that has just ended: what it lost of the cache, by what this process knows of the calls before it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sessions.background import log
from sessions.core.diagnosis import Asked, Miss, Past, diagnose, reason_of, was_edited
from sessions.core.incoming import Incoming
from sessions.core.prompt import Prompt
from sessions.flight import Flight
from sessions.replies import Call

if TYPE_CHECKING:
    from sessions.history import History


def past_of(call: Call) -> Past:
    """What a call that reached the model left in the cache."""
    _, deepest, ttl, _ = call.points[-1]
    expected, usage = call.expected or call.usage, call.usage
    share = (expected.cache_read + expected.cache_write) / (expected.total_input or 1)
    return Past(
        call.id,
        call.kind,
        call.started,
        call.first_event or call.started,
        usage.cache_read + usage.cache_write,
        round(usage.total_input * share),
        deepest,
        ttl,  # type: ignore[arg-type]
        call.entry,
        call.turn,
        call.settings,
    )


def judge(history: History, flight: Flight, incoming: Incoming, *, turn: str | None = None) -> Miss | None:
    """The call's miss, or `None`; before its reply is added to the history, and before it is learnt.

    A reply that is paid for is never lost to its explanation: what cannot be judged is logged.
    """
    try:
        miss = _miss(history, flight, incoming, turn)
    except Exception:
        log.exception("call %s of session %s could not be judged", flight.id, history.record.id)
        return None
    if miss is not None:
        log.info("session %s: %s (%s)", history.record.id, miss.sentence, miss.cause)
    return miss


def _miss(history: History, flight: Flight, incoming: Incoming, turn: str | None) -> Miss | None:
    if flight.first_event is None or not incoming.started:
        return None
    prompt, started = history.prompt, flight.started or flight.planned
    asked = Asked(
        prompt,
        tuple(mark.point for mark in flight.plan.marks),
        incoming.usage,
        started,
        flight.first_event,
        turn,
        max([one.started for one in history.trail.calls], default=0.0),
        reason_of(incoming.message),
        was_edited(incoming.message),
        tuple(one.points for one in flight.beside if not one.has_failed),
    )
    past = history.trail.before(prompt, started, lambda entry: _is_on_chain(history, entry))
    return diagnose(asked, past, lambda call: _prompt_of(history, call))


def _is_on_chain(history: History, entry: str | None) -> bool:
    """Whether a call with this entry belongs to the present chain; `None`: one made before the first message."""
    if entry is None:
        return all(one.role != "assistant" for one in history.entries)
    return history.position(entry) > 0


def _prompt_of(history: History, past: Past) -> Prompt | None:
    """The prompt of an earlier call on this chain; `None` if its settings are not known."""
    settings = history.settings_of_calls.get(past.settings or "")
    if settings is None:
        return None
    count = max(0, history.position(past.entry))
    if count and history.entries[count - 1].call == past.id:
        count -= 1  # the entry is the reply that the call made
    return history.new_prompt(settings, history.entries[:count])
