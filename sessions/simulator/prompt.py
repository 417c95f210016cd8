"""A valid request as the simulator bills it: token sums at every point, marks as indexes, and the reported `usage`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sessions.core.cache import Point, Where, bill, find
from sessions.core.profiles import Profile, Ttl
from sessions.core.usage import Usage
from sessions.simulator.prompt_cache import PromptCache
from sessions.simulator.tokens import TOOLS_PROMPT, count


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What a valid request is: its effective body (dropped thinking gone), its cache plan, and the message's head.

    `writes`: the prefixes that it writes, and for how long; `read` the one that it reads, `renewed` shorter ones within
    it that live on for that. `edits`: what was cleared from it, where its body asks for that.
    """

    body: Mapping[str, Any]
    profile: Profile
    usage: Usage
    writes: Sequence[tuple[str, Ttl]]
    renewed: Sequence[str]
    read: str | None
    head: dict[str, Any]
    thinking: bool
    omitted: bool
    total: int
    binding: str = ""
    thought: str = ""
    edits: Sequence[Mapping[str, Any]] | None = None


def usage_of(prompt: Prompt) -> dict[str, Any]:
    """The `usage` of `message_start`: input and cache counters, and a first output token."""
    usage, first = prompt.usage, min(1, prompt.body.get("max_tokens", 0))
    if not prompt.profile.counters:
        return {"input_tokens": usage.total_input, "output_tokens": first}
    return {
        "input_tokens": usage.input,
        "cache_creation_input_tokens": usage.cache_write,
        "cache_read_input_tokens": usage.cache_read,
        "cache_creation": {
            "ephemeral_5m_input_tokens": usage.cache_write_5m,
            "ephemeral_1h_input_tokens": usage.cache_write_1h,
        },
        "output_tokens": first,
        "service_tier": "standard",
    }


def cumulative(body: Mapping[str, Any], points: Sequence[Point]) -> list[int]:
    """Tokens of the prompt up to and with each point."""
    system, messages, tools = body.get("system") or (), body["messages"], body.get("tools") or ()
    sizes, total = [], TOOLS_PROMPT if tools else 0
    for point in points:
        tier, i, j = point.where
        holder = tools if tier == "tools" else system if tier == "system" else messages[i]["content"]
        total += count(holder if isinstance(holder, str) else holder[j])
        sizes.append(total)
    return sizes


def charge(
    points: Sequence[Point],
    sizes: Sequence[int],
    marks: Sequence[tuple[int, Ttl]],
    known: PromptCache,
    now: float,
    profile: Profile,
) -> tuple[int | None, Usage]:
    """The index of the point that is read (None without a hit), and what the prompt is charged at these marks."""
    hit = find(points, [at for at, _ in marks], lambda name: known.alive(name, now), profile.lookback)
    charged = bill(sizes, sizes[-1] if sizes else 0, marks, hit, profile.minimum_tokens)
    return hit, Usage(charged.input, charged.read, charged.write_5m, charged.write_1h, counters=profile.counters)


def indexes(points: Sequence[Point], marks: Sequence[tuple[Where, Ttl]], profile: Profile) -> list[tuple[int, Ttl]]:
    """The marks as indexes of points; every point is one where the endpoint caches by itself."""
    if profile.automatic and not profile.markers:
        return [(at, "5m") for at in range(len(points))]
    if not marks:
        return []
    at = {point.where: i for i, point in enumerate(points)}
    return [(at[where], ttl) for where, ttl in marks if where in at]
