"""`cache_control`: at most four, 1h before 5m, never on what cannot be cached; and the top-level, automatic one.

Sources: the types of the `anthropic` package 2.11, the prompt-caching page of August and September 2026,
and error texts from public logs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sessions.core.cache import Where, blocks, can_mark, can_mark_tool
from sessions.core.profiles import Profile, Ttl
from sessions.simulator.checks.refusal import Refusal

SLOTS = 4


def check(body: Mapping[str, Any], profile: Profile) -> list[tuple[Where, Ttl]]:
    """The marks that count, one per outer block, in processing order. Raises `Refusal`."""
    explicit = list(_explicit(body))
    if profile.automatic and not profile.markers:
        return []
    _times(explicit, body, profile)
    automatic = _automatic(body, [(where, ttl) for where, ttl, _ in explicit])
    marks = [*explicit, *automatic]
    if len(marks) > SLOTS:
        raise Refusal(f"A maximum of {SLOTS} blocks with cache_control may be provided. Found {len(marks)}.")
    _ordered(marks)
    last = {where: ttl for where, ttl, _ in marks}
    return sorted(last.items(), key=lambda mark: _rank(mark[0]))


def _explicit(body: Mapping[str, Any]) -> Iterator[tuple[Where, Ttl, str]]:
    """Every marker with its own path, inner ones of a tool result first (seen in public logs)."""
    for where, block in blocks(body):
        content = block.get("content")
        if isinstance(content, list) and block.get("type") == "tool_result":
            for at, inner in enumerate(content):
                if isinstance(inner, Mapping) and inner.get("cache_control"):
                    yield where, _ttl(inner), f"{_path(where)}.content.{at}"
        if block.get("cache_control"):
            if block.get("type") == "text" and not block["text"]:
                raise Refusal(f"{_path(where)}.text: cache_control cannot be set for empty text blocks")
            yield where, _ttl(block), _path(where)
    for at, message in enumerate(body["messages"]):
        if message.get("clear_at") == "next_user_message" and any(
            block.get("cache_control") for block in message.get("content") or () if isinstance(block, Mapping)
        ):
            raise Refusal(f"messages.{at}: cache_control cannot be set on a system message with clear_at")


def _times(explicit: Sequence[tuple[Where, Ttl, str]], body: Mapping[str, Any], profile: Profile) -> None:
    """An endpoint without long entries knows no `ttl` field."""
    if "1h" in profile.ttls:
        return
    for where, block in blocks(body):
        if (block.get("cache_control") or {}).get("ttl"):
            raise Refusal(f"{_path(where)}.cache_control.ephemeral.ttl: Extra inputs are not permitted")
    if (body.get("cache_control") or {}).get("ttl"):
        raise Refusal("cache_control.ephemeral.ttl: Extra inputs are not permitted")


def _automatic(body: Mapping[str, Any], explicit: Sequence[tuple[Where, Ttl]]) -> list[tuple[Where, Ttl, str]]:
    """The breakpoint that a top-level `cache_control` adds: at the last eligible block, walking back in silence."""
    top = body.get("cache_control")
    if not top:
        return []
    eligible = [where for where, block in blocks(body) if (can_mark_tool if where.tier == "tools" else can_mark)(block)]
    if not eligible:
        return []
    where, ttl = eligible[-1], _ttl(body)
    own = [time for place, time in explicit if place == where]
    if own:
        if own[-1] != ttl:
            raise Refusal(
                f"cache_control: the last block already has a cache_control with ttl='{own[-1]}', "
                f"which conflicts with the top-level ttl='{ttl}'."
            )
        return []
    return [(where, ttl, _path(where))]


def _ordered(marks: Sequence[tuple[Where, Ttl, str]]) -> None:
    short = False
    for _, ttl, path in marks:
        if ttl == "1h" and short:
            raise Refusal(
                f"{path}.cache_control.ttl: a ttl='1h' cache_control block must not come after a ttl='5m' "
                "cache_control block. Note that blocks are processed in the following order: "
                "`tools`, `system`, `messages`."
            )
        short = short or ttl == "5m"


def _ttl(holder: Mapping[str, Any]) -> Ttl:
    return "1h" if holder["cache_control"].get("ttl") == "1h" else "5m"


def _path(where: Where) -> str:
    return (
        f"messages.{where.message}.content.{where.block}" if where.tier == "messages" else f"{where.tier}.{where.block}"
    )


def _rank(where: Where) -> tuple[int, int, int]:
    return ("tools", "system", "messages").index(where.tier), where.message, where.block
