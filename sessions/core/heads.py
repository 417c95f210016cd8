"""A prefix that many sessions use, by itself: what a request for it alone sends, and whether it is sent now.

Such a request belongs to no session: it is sent once for all of them, when the entry is about to lapse, and only where
the uses that are to be expected pay for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sessions.core.cache import SECONDS
from sessions.core.circumstances import Circumstances, relative_prices
from sessions.core.experience import Others
from sessions.core.idle import Ask, Rest, why_no_zero_token
from sessions.core.keeping import REFRESH_BEFORE
from sessions.core.plan import predict, readable_point
from sessions.core.profiles import Profile
from sessions.core.prompt import Prompt
from sessions.core.settings import Settings
from sessions.core.shared import shared_outlook, shared_places
from sessions.core.ttl import chosen
from sessions.core.warmth import Slot, Warmth

_SOONER = 5.0
"""Seconds by which the longer of two prefixes is looked after first: with it the shorter one is read."""


def due(until: float, slot: Slot) -> float:
    """When an entry that lapses then is to be refreshed."""
    return until - REFRESH_BEFORE - (_SOONER if slot == "context" else 0.0)


def kept_slots(settings: Settings, profile: Profile) -> tuple[Slot, ...]:
    """The slots that a zero-token request can read again by themselves.

    Of the head nothing depends on the settings that such a request may not have, so it goes without them.
    """
    if not (profile.markers and profile.prewarms and "1h" in profile.ttls):
        return ()
    return ("shared",) if why_no_zero_token(settings, profile) else ("shared", "context")


def settings_of(settings: Settings, slot: Slot) -> Settings:
    """The settings of a session as far as the prefix of this slot depends on them."""
    bare = replace(settings, compact=None, local_tools=(), instructions=(), unbound=0, foreign=False)
    if slot == "context":
        return bare
    output = _without_format(settings.output_config)
    marks = tuple(mark for mark in settings.marks if mark[0] != "context")
    return replace(bare, context=(), thinking=None, tool_choice=None, output_config=output, marks=marks)


def ends_with(prompt: Prompt, slot: Slot, point: str) -> bool:
    """Whether that is the point at which the prefix of this slot ends."""
    return (slot, prompt.index.get(point)) in shared_places(prompt)


def _without_format(output: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return {name: value for name, value in output.items() if name != "format"} or None if output else None


def is_worth_keeping(prompt: Prompt, index: int, uses: Others, at: Circumstances) -> bool:
    """Whether the prefix that ends at this point is to be read again in an hour, if nobody has used it by then."""
    outlook = shared_outlook(prompt, index, uses.forecast, at, options=("lapse", "refresh"))
    return chosen(at.policy, replace(outlook, kept_until=float(SECONDS["1h"]))) == "refresh"


def wish_for_all(prompt: Prompt, point: str, warmth: Warmth, uses: Others, at: Circumstances) -> Rest | Ask:
    """What is to be done now for a prefix, by all that is known of its uses. `prompt`: one that ends with it."""
    index, entry = prompt.index[point], warmth.find(point)
    if entry is None or entry.ttl != "1h" or entry.until <= at.now or not uses.all:
        return Rest()
    slots = {place: slot for slot, place in shared_places(prompt)}
    if (left := due(entry.until, slots[index]) - at.now) > 0:
        return Rest(left)
    last = uses.all[-1]
    outlook = shared_outlook(prompt, index, uses.forecast, at, options=("lapse", "refresh"))
    outlook = replace(outlook, waited=max(0.0, at.now - last), kept_until=entry.until - last)
    plan = predict(prompt, slots, dict.fromkeys(slots, "1h"), readable_point(prompt, slots, warmth, at.now))
    if plan.hit != point or chosen(at.policy, outlook) != "refresh":
        return Rest()
    # What lies behind the last mark is not sent.
    plan = replace(plan, expected=replace(plan.expected, input=0))
    return Ask("refresh", plan, plan.expected.cache_read * relative_prices(at)[0], Rest())
