"""Whether a summary in place of what was said pays: what it costs now, beside what all later requests are spared.

A request pays for the whole prompt, a read at least, so a long history costs with each request to come. What a summary
costs is the request for it, writing it, and what the model reads again because the summary has left it out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from sessions.core.cache import SECONDS
from sessions.core.circumstances import Circumstances
from sessions.core.plan import Plan, make_plan, predict
from sessions.core.prices import Prices, prices_for
from sessions.core.profiles import Ttl
from sessions.core.prompt import Prompt
from sessions.core.transcript import Entry, is_summary, tool_calls
from sessions.core.usage import Usage
from sessions.core.warmth import Slot, Warmth

LEAST = 100_000
"""Tokens of a prompt below which nothing is shortened for its price alone (half the window, where that is less): what
a summary leaves out is lost to the model, and below that little is saved."""
READ_AGAIN = 20_000
"""Tokens that are taken to be read again behind a summary: files, results, what it has left out."""
SUMMARY = 4_000
"""Tokens of a summary, where the conversation has had none yet. Recorded agents begin again with 11,000 tokens more
than they began with (median of 85 compactions, January to July 2026): summary, words and what is read at once."""
_MOST_REQUESTS = 200.0
"""However sure it is that another request follows: so many are counted on at most."""


@dataclass(frozen=True, slots=True)
class Shortening:
    """What a compaction before the next turn is expected to change.

    `tokens`: what the summary would stand for. `shorter`: by how many tokens each later prompt would be shorter.
    `requests`: how many are counted on. `price`: USD that the compaction adds to this turn: for the summary, for
    writing it, and for what is read again. `saves`: USD that it saves in all; less than 0 where carrying on is cheaper.
    """

    tokens: int
    shorter: int
    requests: float
    price: Decimal
    saves: Decimal


def closed_entries(entries: Sequence[Entry]) -> int:
    """How many leading entries end with a finished turn: what a summary can stand for."""
    return next((count for count in range(len(entries), 0, -1) if is_closed(entries[count - 1])), 0)


def is_closed(entry: Entry) -> bool:
    """Whether a turn can end here: with a reply that asks for nothing more."""
    return entry.role == "assistant" and not tool_calls(entry.content) and entry.stop_reason != "pause_turn"


def summary_plan(prompt: Prompt, warmth: Warmth, at: Circumstances) -> Plan:
    """The plan of the request that summarizes this prompt: it reads what is warm, and writes the head alone, which the
    requests behind the summary share. All else is sent this once."""
    plan = make_plan(prompt, warmth, at)
    if not prompt.profile.markers:
        return plan
    hit = prompt.index[plan.hit] if plan.hit is not None else -1
    slots: dict[int, Slot] = {}
    ttls: dict[int, Ttl] = {}
    for mark in plan.marks:
        index = prompt.index[mark.point]
        if index <= hit or mark.slot == "shared":
            slots[index], ttls[index] = mark.slot, mark.ttl
    if hit >= 0 and hit not in slots:
        # What stands before a mark of an hour has one too: the API wants these first.
        later = [ttl for index, ttl in ttls.items() if index > hit]
        slots[hit], ttls[hit] = "anchor", "1h" if "1h" in later else "5m"
    return predict(prompt, slots, ttls, None if hit < 0 else hit)


def shortening(prompt: Prompt, plan: Plan, closed: int, at: Circumstances) -> Shortening | None:
    """What a summary of the first `closed` messages would change, before the request of `plan` is sent.

    `None` where there is nothing to decide: the prompt is short, no price is published, a turn is under way behind
    these messages, or they hold the pinned context, which would be lost.
    """
    prices = prices_for(prompt.profile, prompt.total)
    if prices is None or prompt.total < min(LEAST, prompt.profile.window // 2) or not _may_go(prompt, closed):
        return None
    head, tokens = prompt.tokens(prompt.head_points), prompt.tokens_of(closed)
    summary, again = min(_summary_size(prompt), tokens // 4), min(READ_AGAIN, tokens // 4)
    after = prompt.total - tokens + summary + again
    # Some models charge less for all of a prompt that is short.
    lower = prices_for(prompt.profile, after) or prices
    read = min(plan.expected.cache_read, head + tokens)
    asking = Usage(input=head + tokens - read, cache_read=read, output=summary)
    # The request for the summary has read or written the head: it is there to be read.
    price = prices.of(asking) + lower.of(Usage(cache_read=head, cache_write_5m=after - head)) - prices.of(plan.expected)
    # Once the prompt is as long again, the same is decided anew.
    requests = later_requests(at, (prompt.total - after) / _growth(prompt, head))
    spared = Decimal(requests) * (
        prompt.total * later_price(prompt, at, prices) - after * later_price(prompt, at, lower)
    )
    return Shortening(tokens, prompt.total - after, requests, price, spared - price)


def _may_go(prompt: Prompt, closed: int) -> bool:
    under_way = any(message["role"] == "assistant" for message in prompt.messages[closed:])
    pinned = bool(prompt.settings.context) and not is_summary(prompt.messages[0])
    return closed > 0 and not under_way and not pinned


def _summary_size(prompt: Prompt) -> int:
    return prompt.tokens_of(1) if is_summary(prompt.messages[0]) else SUMMARY


def _growth(prompt: Prompt, head: int) -> float:
    """Tokens that a request adds to the prompt, on average until now."""
    begun = _summary_size(prompt) if is_summary(prompt.messages[0]) else 0
    replies: int = sum(message["role"] == "assistant" for message in prompt.messages) - bool(begun)
    return max(1.0, (prompt.total - head - begun) / max(1, replies))


def later_requests(at: Circumstances, most: float) -> float:
    """How many requests are expected to follow this one, each as likely as the next, if no more than `most` count."""
    ever, most = at.forecast.ever, min(_MOST_REQUESTS, most)
    return most if ever > 1.0 - 1e-9 else ever * (1.0 - math.pow(ever, most)) / (1.0 - ever)


def later_price(prompt: Prompt, at: Circumstances, prices: Prices) -> Decimal:
    """USD that a token of the prompt costs a later request: it is read, or written anew."""
    kept = at.forecast.within(SECONDS["1h" if "1h" in prompt.profile.ttls else "5m"])
    alive = Decimal(kept / at.forecast.ever if at.forecast.ever else 0.0)
    return (alive * prices.cache_read + (1 - alive) * prices.cache_write_5m) / 1_000_000
