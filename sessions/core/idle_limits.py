"""What may be spent on conversations while nobody talks to them: in an hour, and beyond what it has saved."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from sessions.core.cache import SECONDS

FREE_PER_HOUR = 4_000_000.0
"""Plain input tokens' worth that may be spent on idle conversations in any hour, whatever the turns cost."""
SHARE_PER_HOUR = 0.5
"""What may be spent beyond that, as a share of what the turns of this manager cost in the same hour."""
LOST_OF_ONE = 0.33
"""What may have been lost on idle requests that nobody came back for, whatever the turns cost: as a share of what the
next one would save."""
LOST_SHARE = 0.02
"""What may be lost beyond that, as a share of what the turns of this manager cost."""
_DAY = 24 * SECONDS["1h"]


@dataclass(slots=True)
class HourLimit:
    """What turns and idle requests cost in the last hour: when (seconds since the epoch), and plain input tokens."""

    earned: deque[tuple[float, float]] = field(default_factory=deque)
    spent: deque[tuple[float, float]] = field(default_factory=deque)

    def earn(self, started: float, cost: float) -> None:
        """A turn's request cost so much."""
        self.earned.append((started, cost))
        self._forget_before(started - SECONDS["1h"])

    def spend(self, now: float, price: float) -> None:
        """An idle request of this price is sent."""
        self.spent.append((now, price))
        self._forget_before(now - SECONDS["1h"])

    def has_room(self, now: float, price: float) -> bool:
        """Whether this hour's limit leaves room for a request of this price."""
        start = now - SECONDS["1h"]
        limit = FREE_PER_HOUR + SHARE_PER_HOUR * _total_since(start, self.earned)
        return _total_since(start, self.spent) + price <= limit

    def _forget_before(self, start: float) -> None:
        for costs in (self.earned, self.spent):
            while costs and costs[0][0] < start:
                costs.popleft()


def _total_since(start: float, costs: Iterable[tuple[float, float]]) -> float:
    return sum(amount for moment, amount in costs if moment >= start)


@dataclass(slots=True)
class Balance:
    """What idle requests of sessions have cost beyond what they saved, and what the turns cost, in plain input tokens.

    A forecast that does not fit those who really come shows here: whatever it says, idle requests that nobody came back
    for stay a small share of what the turns cost. Both sums halve each day.
    """

    lost: float = 0.0
    earned: float = 0.0
    at: float = 0.0

    def earn(self, started: float, cost: float) -> None:
        """A turn's request cost so much."""
        self._decay(started)
        self.earned += cost

    def spend(self, now: float, price: float) -> None:
        """An idle request of this price is sent."""
        self._decay(now)
        self.lost += price

    def save(self, started: float, amount: float) -> None:
        """A turn found what only idle requests had kept, and cost so much less; or such a request was not billed."""
        self._decay(started)
        self.lost -= amount

    def has_room(self, now: float, saves: float) -> bool:
        """Whether a request may be sent that `saves` so much if it is not for nothing."""
        self._decay(now)
        return self.lost <= LOST_OF_ONE * saves + LOST_SHARE * self.earned

    def _decay(self, now: float) -> None:
        # A clock may be set back.
        left: float = 0.5 ** (max(0.0, now - self.at) / _DAY)
        self.lost, self.earned, self.at = self.lost * left, self.earned * left, max(now, self.at)
