"""What a request that has ended lost of the cache, and why: judged by what this process knows of its conversation."""

from __future__ import annotations

from dataclasses import replace

from sessions.background import log
from sessions.calls.request import Request
from sessions.conversation.conversation import Conversation
from sessions.core.diagnosis import Asked, Miss, Past, diagnose, reason_of, was_edited
from sessions.core.prompt import Prompt


def judge(conversation: Conversation, request: Request, *, turn: str | None = None) -> Miss | None:
    """What it lost of the cache, or `None`; before its reply is added to the history, and before it is learnt.

    An error in the diagnosis is logged; it never fails the turn.
    """
    try:
        miss = _miss(conversation, request, turn)
    except Exception:
        log.exception("call %s of session %s could not be judged", request.id, conversation.record.id)
        return None
    if miss is not None:
        log.info("session %s: %s (%s)", conversation.record.id, miss.sentence, miss.cause)
    return miss


def _miss(conversation: Conversation, request: Request, turn: str | None) -> Miss | None:
    incoming = request.incoming
    # Before the answer begins nothing is said of the cache (docs/provider.md, 12).
    if request.first_event is None or not incoming.started:
        return None
    prompt, started = conversation.prompt, request.started or request.planned
    asked = Asked(
        prompt=prompt,
        points=tuple(mark.point for mark in request.plan.marks),
        usage=incoming.usage,
        started=started,
        first_event=request.first_event,
        turn=turn,
        latest=max([call.started for call in conversation.recent.trail.calls], default=0.0),
        reason=reason_of(incoming.message),
        # What is cleared here stays the same until more is: it explains nothing.
        edited=was_edited(incoming.message) and not prompt.cleared,
        beside=tuple(other.points for other in request.others_unanswered if not other.has_failed),
    )
    past = conversation.recent.trail.before(prompt, started, lambda entry: _is_on_chain(conversation, entry))
    if past is not None and _cleared_since(conversation, past):
        past = replace(past, covered=min(past.covered, request.plan.expected.cache_read))
    return diagnose(asked, past, lambda call: _prompt_of(conversation, call))


def _cleared_since(conversation: Conversation, past: Past) -> bool:
    """Whether more tool results are cleared now than when that call was made: then what stands behind the first of them
    is written anew, as planned."""
    settings, prompt = conversation.recent.settings.get(past.settings or ""), conversation.prompt
    return (
        bool(prompt.cleared)
        and past.settings != prompt.settings_digest
        and (settings is None or settings.cleared != conversation.settings.cleared)
    )


def _is_on_chain(conversation: Conversation, entry: str | None) -> bool:
    """Whether a call with this entry belongs to the present chain; `None`: one made before the first message."""
    if entry is None:
        return all(entry.role != "assistant" for entry in conversation.entries)
    return conversation.position(entry) > 0


def _prompt_of(conversation: Conversation, past: Past) -> Prompt | None:
    """The prompt of an earlier call on this chain; `None` if its settings are not known."""
    settings = conversation.recent.settings.get(past.settings or "")
    if settings is None:
        return None
    count = max(0, conversation.position(past.entry))
    if count and conversation.entries[count - 1].call == past.id:
        count -= 1  # the entry is the reply that the call made
    return conversation.new_prompt(settings, conversation.entries[:count])
