"""Whether clearing old tool results pays: the cache behind the first of them is written anew, once, beside what all
later requests are spared.

What was just decided is not decided again with each request: it waits until what later requests are spared pays for
writing the rest of the prompt, and the next one for as long again.
"""

from __future__ import annotations

from decimal import Decimal

from sessions.core.circumstances import Circumstances
from sessions.core.cleared import Clearing, Results
from sessions.core.plan import Plan, live_points
from sessions.core.prices import prices_for
from sessions.core.prompt import Prompt
from sessions.core.shortening import READ_AGAIN, later_price, later_requests
from sessions.core.ttl import Fixed
from sessions.core.usage import Usage
from sessions.core.warmth import Warmth

LEAST_CLEARED = 20_000
"""Tokens below which nothing is cleared for its price: little is saved, and what is cleared is lost to the model."""


def clearing(prompt: Prompt, plan: Plan, warmth: Warmth, at: Circumstances) -> Clearing | None:
    """What clearing all results that may be cleared would change, before the request of `plan` is sent.

    `None` where there is nothing to decide: too little is to be cleared, no price is published, or it is not known
    which tool uses the API counts.
    """
    results, prices = prompt.results, prices_for(prompt.profile, prompt.total)
    if results is None or prices is None or not results.is_countable:
        return None
    before, count = results.cleared.count, results.clearable
    tokens = round(results.weight(before, count) * prompt.tokens_per_weight) if count > before else 0
    if tokens < LEAST_CLEARED:
        return None
    after, again = prompt.total - tokens, min(READ_AGAIN, tokens // 4)
    # Some models charge less for all of a prompt that is short.
    lower = prices_for(prompt.profile, after) or prices
    read = min(after, _still_read(prompt, plan, warmth, at, results.message_of(before + 1)))
    price = lower.of(_written(at, read, after - read + again)) - prices.of(plan.expected)
    requests = later_requests(at, tokens / (2 * _growth(prompt, results)))
    spared = Decimal(requests) * (tokens - again) * later_price(prompt, at, lower)
    return Clearing(count - before, count, tokens, requests, price, spared - price)


def _still_read(prompt: Prompt, plan: Plan, warmth: Warmth, at: Circumstances, message: int) -> int:
    """Tokens of what the next request would read of the cache if the results from this message on were cleared."""
    first = prompt.start_of(message)
    live = max((index for index in live_points(prompt, warmth, at.now) if index < first), default=-1)
    return min(plan.expected.cache_read, prompt.tokens(live + 1))


def _written(at: Circumstances, read: int, written: int) -> Usage:
    """The request behind it, with what is read again. So much at a time is written for five minutes, unless the user
    says otherwise: an hour pays for what comes behind it."""
    if at.policy == Fixed("1h"):
        return Usage(cache_read=read, cache_write_1h=written)
    return Usage(cache_read=read, cache_write_5m=written)


def _growth(prompt: Prompt, results: Results) -> float:
    """Tokens of results that a request adds, on average until now.

    What a clearing must save is counted over half the requests until as much is to be cleared again: one that came
    later would save the other half.
    """
    replies: int = sum(message["role"] == "assistant" for message in prompt.messages)
    return max(1.0, results.weight(0, results.uses) * prompt.tokens_per_weight / max(1, replies))
