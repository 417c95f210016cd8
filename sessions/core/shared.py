"""Prefixes that many sessions use, the head and the pinned context: where they end, how long they should live, and how
much of them stays alive whatever becomes of one session."""

from __future__ import annotations

from dataclasses import replace

from sessions.core.circumstances import Circumstances, relative_prices
from sessions.core.experience import Others
from sessions.core.gaps import Forecast
from sessions.core.keeping import refreshes
from sessions.core.profiles import Ttl
from sessions.core.prompt import Prompt
from sessions.core.ttl import Option, Outlook, chosen
from sessions.core.warmth import Slot, Warmth

SHARED: tuple[Slot, ...] = ("shared", "context")
"""Slots of prefixes that other sessions may use too."""


def shared_ttl(prompt: Prompt, index: int, slot: Slot, at: Circumstances) -> Ttl | None:
    """The lifetime for a prefix that other sessions use, by their use of it alone; `None` where that is not known."""
    others = at.others(prompt.points[index].digest)
    if not others.tell:
        return None
    outlook = shared_outlook(prompt, index, others.forecast, at, options=prompt.profile.ttls)
    return "1h" if chosen(at.policy, replace(outlook, keeps=slot in at.keeps)) == "1h" else "5m"


def shared_outlook(
    prompt: Prompt, index: int, uses: Forecast, at: Circumstances, *, options: tuple[Option, ...]
) -> Outlook:
    """The outlook of a prefix that many sessions use. `uses`: when the next use comes, counted from the last one."""
    read, write_5m, write_1h = relative_prices(at)
    return Outlook(
        options=options,
        prefix=prompt.tokens(index + 1),
        new=prompt.tokens(index + 1),
        read=read,
        write_5m=write_5m,
        write_1h=write_1h,
        forecast=uses,
        recurs=True,
    )


def staying(prompt: Prompt, warmth: Warmth, at: Circumstances) -> tuple[int, int]:
    """How many leading tokens other sessions use too, and how many of them they are expected to keep alive."""
    end, stays = 0, 0.0
    for slot, index in shared_places(prompt):
        others = at.others(prompt.points[index].digest)
        if not others.tell:
            continue
        known = warmth.find(prompt.points[index].digest)
        ttl = shared_ttl(prompt, index, slot, at) if known is None else known.ttl
        tokens = prompt.tokens(index + 1)
        stays = others.alive(ttl or "5m", _refreshes(others, slot, at)) * (tokens - end) + stays
        end = tokens
    return end, round(stays)


def shared_places(prompt: Prompt) -> list[tuple[Slot, int]]:
    """The slots of prefixes that other sessions may use too, and the indexes of their points, in prompt order."""
    places = (prompt.last_markable(0, prompt.head_points), context_place(prompt))
    return [(slot, index) for slot, index in zip(SHARED, places, strict=True) if index is not None]


def _refreshes(others: Others, slot: Slot, at: Circumstances) -> int:
    """How often in a row the 1-hour entry of a prefix is refreshed for all that use it."""
    read, _, write = relative_prices(at)
    return refreshes(others.forecast, read, write) if slot in at.keeps else 0


def context_place(prompt: Prompt) -> int | None:
    """The index of the point that ends the pinned context; `None` where nothing is pinned."""
    pinned = len(prompt.settings.context)
    if not pinned or not prompt.messages:
        return None
    content = prompt.messages[0]["content"]
    if len(content) < pinned or list(content[:pinned]) != list(prompt.settings.context):
        return None
    return prompt.last_markable(prompt.head_points, prompt.head_points + pinned)
