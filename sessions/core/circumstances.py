"""What a plan is made under, beside the prompt: the time, the policy, the prices, and what others are known to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sessions.core.cache import Where
from sessions.core.experience import Others, nobody
from sessions.core.gaps import Forecast
from sessions.core.prices import Prices
from sessions.core.ttl import Policy
from sessions.core.warmth import Slot

_USUAL = (0.1, 1.25, 2.0)


@dataclass(frozen=True, slots=True)
class Circumstances:
    """All that a plan needs beside the prompt. `now`: seconds since the epoch at which the request starts.

    `forecast`: when the next request will come. `told`: the caller gave `expected_gap`. `own_marks`: places where the
    user's content carried `cache_control`. `parks`: what is written for 5 minutes can be parked later.
    `lasting`: a 1-hour entry outlives the 5-minute prefix that it was written behind (`None`: that is being found out).
    `tended`: the conversation is looked after while nobody talks to it. `others`: how other sessions use a prefix, by
    its point. `keeps`: slots whose 1-hour entry is refreshed for all while nobody asks, where that pays.
    """

    now: float
    policy: Policy
    forecast: Forecast
    prices: Prices | None = None
    told: bool = False
    own_marks: tuple[Where, ...] = ()
    parks: bool = False
    lasting: bool | None = True
    tended: bool = True
    others: Callable[[str], Others] = nobody
    keeps: tuple[Slot, ...] = ()


def relative_prices(at: Circumstances) -> tuple[float, float, float]:
    """What reading, writing for 5 minutes and for an hour cost, by the plain input price."""
    return (at.prices.read, at.prices.write_5m, at.prices.write_1h) if at.prices else _USUAL
