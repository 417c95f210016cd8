"""Whether a prefix that many sessions use is kept alive while none of them asks: what a use costs with so many reads.

A 1-hour entry that is read again before it lapses lives another hour. The reads belong to no session: one for all.
"""

from __future__ import annotations

from sessions.core.cache import SECONDS
from sessions.core.gaps import NEVER, Forecast

REFRESH_BEFORE = 60.0
"""Seconds before a 1-hour entry lapses at which it is refreshed."""
MOST_REFRESHES = 23
"""In a row for one prefix: its uses are known for a day."""
_EACH = SECONDS["1h"] - REFRESH_BEFORE


def costs(forecast: Forecast, lapses: float, read: float, write: float) -> list[float]:
    """What the next use of a token of the prefix costs by how many refreshes it is kept alive for, none first.

    `forecast`: when the next use comes; `lapses`: when the entry does, in seconds counted likewise. `read`, `write`:
    prices. Where further refreshes can find no use, they are left out.
    """
    found, asked, ever = list[float](), 0.0, forecast.within(NEVER)
    for number in range(MOST_REFRESHES + 1):
        lives = lapses + number * _EACH
        within = forecast.within(lives)
        found.append((within + asked) * read + (ever - within) * write)
        if within >= ever:
            break
        asked += 1.0 - forecast.within(lives - REFRESH_BEFORE)
    return found


def refreshes(forecast: Forecast, read: float, write: float) -> int:
    """How many refreshes in a row a prefix is kept for that has just been used, if nobody asks: 0 to 23."""
    each = costs(forecast, SECONDS["1h"], read, write)
    return each.index(min(each))


def lives_for(number: int) -> float:
    """Seconds for which a 1-hour entry lives that is refreshed so many times."""
    return SECONDS["1h"] + number * _EACH
