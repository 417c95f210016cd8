"""For how long a request's entries were written: what the answer says, never what was asked for.

An endpoint may answer 5 minutes to a request for an hour (a quota is used up, a platform does not know the lifetime):
then its entries are known as ones of 5 minutes. Read from the billing rule of mixed lifetimes (prompt-caching page,
September 2026): what stands at the end of the prompt was written for 5 minutes, what stands before it for an hour.
"""

from __future__ import annotations

from collections.abc import Sequence

from sessions.core.profiles import Ttl
from sessions.core.usage import Usage

_AS_PLANNED = 0.2
"""Sizes within a prompt are estimates: this share of what was written may be amiss before the plan is doubted."""


def written_for(sizes: Sequence[int], asked: Sequence[Ttl], usage: Usage) -> list[Ttl]:
    """The lifetime of the entry at each mark, if it was written. `sizes`: planned tokens up to each mark; `asked`: the
    lifetimes that the marks asked for, those of an hour first.

    Where nothing was written, or nothing is counted, the marks say all there is.
    """
    if not usage.counters or not usage.cache_write:
        return list(asked)
    hours = _hours(sizes, asked, usage)
    return ["1h" if number < hours else "5m" for number in range(len(asked))]


def _hours(sizes: Sequence[int], asked: Sequence[Ttl], usage: Usage) -> int:
    """How many marks, from the first on, were written for an hour."""
    if not usage.cache_write_1h:
        return 0
    if not usage.cache_write_5m:
        return len(asked)
    # From the end: the last mark ends all that was read and written, and the 5-minute part is the last one.
    total = usage.cache_read + usage.cache_write
    off = [abs(size * total / (sizes[-1] or 1) - (total - usage.cache_write_5m)) for size in sizes]
    planned = asked.count("1h")
    if planned and off[planned - 1] <= _AS_PLANNED * usage.cache_write:
        return planned
    return 1 + min(range(len(sizes)), key=off.__getitem__, default=-1)
