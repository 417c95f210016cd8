"""What the same requests would cost somebody who knows every gap beforehand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from sessions.core.usage import Usage
from sessions.replay.meter import Metered

FIVE_MINUTES, HOUR = 300.0, 3600.0


def bound(requests: Iterable[Metered]) -> Usage:
    """Each request reads the whole prompt before it if at most an hour has passed, and pays for the rest what suits the
    next gap: 5m, 1h, or nothing but the plain price. It never pings, and shares nothing between sessions.

    No lifetime policy is below it, as long as the prompt is cached at all: two requests within the hour and no third
    would cost less plain (2 against 2 + the read)."""
    sent = [row for row in requests if not row.idle and not row.refused]
    sessions = groupby(sent, key=lambda row: row.session)
    return sum((_of_session([(row.started, row.total) for row in rows]) for _, rows in sessions), start=Usage())


def _of_session(run: Sequence[tuple[float, int]]) -> Usage:
    total = Usage()
    for number, (at, size) in enumerate(run):
        ahead = run[number + 1][0] - at if number + 1 < len(run) else float("inf")
        known = min(run[number - 1][1], size) if number and at - run[number - 1][0] <= HOUR else 0
        fresh = size - known
        if ahead <= FIVE_MINUTES:
            total += Usage(cache_read=known, cache_write_5m=fresh)
        elif ahead <= HOUR:
            total += Usage(cache_read=known, cache_write_1h=fresh)
        else:
            total += Usage(cache_read=known, input=fresh)
    return total
