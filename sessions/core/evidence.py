"""What tending has seen of its own work: whether parked entries live, and whether anybody came back for them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sessions.core.cache import SECONDS

IN_A_ROW = 3
"""Parks in a row that one owner did not return for, after which there are no more until one would have paid."""
ENOUGH = 0.8
"""The share of the expected tokens that a request must read for an entry to count as found (sizes are estimates)."""
START, MOST = 2, 4
"""Points of trust: at the start, and the most that successes can make of them."""
FORGOTTEN = 30 * 24 * 3600.0
"""Seconds after which what counts against an endpoint is forgotten: it may have changed, or had a bad moment."""


@dataclass(slots=True)
class Trust:
    """How far parking is trusted on one model and endpoint: two failures at the start end it, or four late ones."""

    points: int = START

    @property
    def is_gone(self) -> bool:
        """Whether to park no more."""
        return self.points <= 0

    def saw(self, *, alive: bool) -> None:
        """An entry that only a park had kept was found, or was not. What is gone does not come back."""
        if not self.is_gone:
            self.points = min(MOST, self.points + 1) if alive else self.points - 1


@dataclass(frozen=True, slots=True)
class Asked:
    """A request of one session, as the ledger has it. `idle`: a park or refresh."""

    session: str
    started: float
    idle: bool


def unreturned(requests: Iterable[Asked], now: float) -> int:
    """How many of an owner's newest idle periods in a row were kept warm for nothing.

    One was for nothing if no turn came within the hour, or if the owner has meanwhile asked in another session. A
    return that a park paid for ends the row, and one that it would have paid for.
    """
    ordered = sorted(requests, key=lambda one: one.started, reverse=True)
    count, counted = 0, set[str]()
    for number, one in enumerate(ordered):
        later = ordered[:number]
        if not one.idle:
            counted.discard(one.session)
            if _would_have_paid(one, ordered[number + 1 :]):
                return count
            continue
        if one.session in counted:
            continue
        if _returned(one, later):
            return count
        moved_on = any(other.session != one.session and not other.idle for other in later)
        if now - one.started > SECONDS["1h"] or moved_on:
            count += 1
            counted.add(one.session)
    return count


def _would_have_paid(turn: Asked, earlier: Sequence[Asked]) -> bool:
    before = next((one for one in earlier if one.session == turn.session), None)
    return before is not None and SECONDS["5m"] < turn.started - before.started <= SECONDS["1h"]


def _returned(park: Asked, later: Sequence[Asked]) -> bool:
    limit = park.started + SECONDS["1h"]
    return any(one.session == park.session and not one.idle and one.started <= limit for one in later)
