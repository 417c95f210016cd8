"""What the same requests would cost somebody who knows every gap beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from sessions.meter import Metered

FIVE_MINUTES, HOUR = 300.0, 3600.0


@dataclass(frozen=True, slots=True)
class Shares:
    """Input tokens by what they would be charged: relative prices are applied afterwards."""

    read: int = 0
    write_5m: int = 0
    write_1h: int = 0
    plain: int = 0

    def __add__(self, other: Shares) -> Shares:
        return Shares(
            self.read + other.read,
            self.write_5m + other.write_5m,
            self.write_1h + other.write_1h,
            self.plain + other.plain,
        )


def bound(requests: Sequence[Metered]) -> Shares:
    """Each request reads the whole prompt before it if at most an hour has passed, and pays for the rest what suits the
    next gap: 5m, 1h, or nothing but the plain price. It never pings, and shares nothing between sessions."""
    sent = [row for row in requests if not row.idle and not row.refused]
    total = Shares()
    for _, rows in groupby(sent, key=lambda row: row.session):
        total += _of_session([(row.started, row.total) for row in rows])
    return total


def _of_session(run: Sequence[tuple[float, int]]) -> Shares:
    total = Shares()
    for number, (at, size) in enumerate(run):
        ahead = run[number + 1][0] - at if number + 1 < len(run) else float("inf")
        known = min(run[number - 1][1], size) if number and at - run[number - 1][0] <= HOUR else 0
        fresh = size - known
        if ahead <= FIVE_MINUTES:
            total += Shares(read=known, write_5m=fresh)
        elif ahead <= HOUR:
            total += Shares(read=known, write_1h=fresh)
        else:
            total += Shares(read=known, plain=fresh)
    return total
