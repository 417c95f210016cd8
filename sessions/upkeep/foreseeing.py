"""What the next turn of a conversation will cost, with what will have been done for it while it was idle."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sessions.calls.forecaster import Forecaster
from sessions.conversation.entries import make_entry
from sessions.core.cache import SECONDS
from sessions.core.idle import Ask, waits_for_server_tools, wish
from sessions.core.keeping import REFRESH_BEFORE
from sessions.core.next_turn import MOMENTS, CostForecast, alike, forecast_costs, next_words, usual_answer
from sessions.core.plan import Plan, deepest_live, live_entry
from sessions.core.prompt import summary_leaves_out
from sessions.core.shortening import closed_entries
from sessions.core.ttl import PARK_AFTER
from sessions.ledger import total_cost
from sessions.turns.compaction import obstacle
from sessions.upkeep.tending import facts_of

if TYPE_CHECKING:
    from sessions.conversation.conversation import Conversation


def foreseen(conversation: Conversation, forecaster: Forecaster, now: float) -> CostForecast:
    """From what is known here; nothing is read or sent. `now`: seconds since the epoch."""
    entries, recent, prompt = conversation.entries, conversation.recent, conversation.prompt
    words = next_words(entries, conversation.settings.context)
    if words:
        following = make_entry(conversation.last, "user", words, now).entry
        prompt = conversation.new_prompt(conversation.settings, [*entries, following])
    since = recent.asked or 0.0
    return forecast_costs(
        prompt,
        recent.warmth,
        forecaster.circumstances(conversation, now),
        answer=usual_answer(entries),
        idle=_next_idle(conversation, forecaster, now),
        waited=total_cost(call for call in recent.idle if call.started > since),
        models=alike(prompt.profile, prompt.total, now),
        closed=closed_entries(entries) if _may_compact(conversation) else 0,
    )


def _may_compact(conversation: Conversation) -> bool:
    settings = conversation.settings
    return obstacle(settings, conversation.prompt.profile) is None and not summary_leaves_out(settings)


def _next_idle(conversation: Conversation, forecaster: Forecaster, now: float) -> tuple[float, Plan] | None:
    """The park or refresh that the policy will wish for next, within the hour that is looked at, and when.

    Whether it is allowed then (this hour's limit, owners who do not come back) is not looked at.
    """
    asked, warmth, prompt = conversation.recent.asked, conversation.recent.warmth, conversation.prompt
    deepest = deepest_live(prompt, warmth, now)
    if asked is None or deepest is None or not forecaster.tends(conversation):
        return None
    if waits_for_server_tools(conversation.last):
        return None
    entry = live_entry(prompt, warmth, deepest)
    moment = max(now, asked + PARK_AFTER if entry.ttl == "5m" else entry.until - REFRESH_BEFORE)
    if moment >= min(entry.until, now + MOMENTS[-1]) or (entry.ttl == "5m" and moment >= asked + SECONDS["5m"]):
        return None
    wished = wish(facts_of(conversation, forecaster, moment, asked))
    return (moment, wished.plan) if isinstance(wished, Ask) else None
