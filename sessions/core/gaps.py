"""When the next request will come: a survival function over the time since the start of the last request.

A prior fitted to recorded agent sessions is shifted by what this owner and this session have done before. Both shift
probability only: on the recordings the past predicts the next gap weakly. The length of the turn just finished makes
the forecast that decides worse (back within the hour, if not within 5 minutes), so it is left out;
`tests/benchmarks/fit_gaps.py` prints the scores.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Self

from sessions.core.gap_prior import EDGES, HUMAN_SHARES, LAST_OF_TURN, OWNER_WEIGHT, SESSION_WEIGHT, TOOL_SHARES

NEVER = math.inf
_HOUR = 3600.0
_ENCODE = json.JSONEncoder(separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class Forecast:
    """The chance that the next request has started after so many seconds, as a curve through `knots`.

    A knot is (seconds, chance), both rising; between two of them the chance grows with the logarithm of time. What the
    last knot lacks of 1.0 never comes. Seconds count from the start of one request to the start of the next.
    """

    knots: tuple[tuple[float, float], ...]

    @property
    def ever(self) -> float:
        """The chance that a next request comes at all."""
        return self.knots[-1][1]

    def within(self, seconds: float) -> float:
        """The chance that the next request starts at most so many seconds after the last one."""
        place = bisect_right(self.knots, seconds, key=lambda knot: knot[0])
        if place == len(self.knots):
            return self.ever
        if place == 0:
            return 0.0
        (low, before), (high, after) = self.knots[place - 1], self.knots[place]
        share = math.log1p(seconds - low) / math.log1p(high - low)
        return before + share * (after - before)

    def after(self, waited: float) -> Forecast:
        """The same, once it is known that none has come in the first `waited` seconds."""
        gone = self.within(waited)
        if gone <= 0.0:
            return self
        if gone >= 1.0 - 1e-9:
            return Forecast(((waited, 0.0),))  # it is late: nothing is known any more
        later = ((at, (chance - gone) / (1.0 - gone)) for at, chance in self.knots if at > waited)
        return Forecast(((waited, 0.0), *later))

    def mixed(self, other: Forecast, share: float) -> Forecast:
        """This forecast, and with the chance `share` the other one instead."""
        times = sorted({at for at, _ in (*self.knots, *other.knots)})
        found: list[tuple[float, float]] = []
        for at in times:
            below = (1.0 - share) * self._before(at) + share * other._before(at)
            reached = (1.0 - share) * self.within(at) + share * other.within(at)
            found += [(at, below), (at, reached)] if reached > below else [(at, reached)]
        return Forecast(tuple(found))

    def _before(self, seconds: float) -> float:
        """The chance of a request strictly before a moment: less than `within` where the curve jumps there."""
        place = bisect_left(self.knots, seconds, key=lambda knot: knot[0])
        if place < len(self.knots) and self.knots[place][0] == seconds:
            return self.knots[place][1]
        return self.within(seconds)


def known(seconds: float) -> Forecast:
    """The forecast of a caller who knows when the user returns (`inf`: never)."""
    return Forecast(((0.0, 0.0),)) if seconds == NEVER else Forecast(((seconds, 0.0), (seconds, 1.0)))


class Counted(Forecast):
    """The chances of gaps that were seen (seconds): each is as likely as it was often.

    As if one more had been seen, after which nobody came: who has waited longer than ever is sure of nothing. The curve
    is drawn for those who look at it: a plan asks for a few chances, of some hundred gaps.
    """

    __slots__ = ("_gaps",)
    _gaps: list[float]

    def __init__(self, gaps: Iterable[float]) -> None:
        object.__setattr__(self, "_gaps", sorted(gaps))

    @property
    def knots(self) -> tuple[tuple[float, float], ...]:
        """As of every forecast."""
        chances = [number / (len(self._gaps) + 1) for number in range(len(self._gaps) + 1)]
        before, after = zip(self._gaps, chances, strict=False), zip(self._gaps, chances[1:], strict=True)
        return tuple(chain.from_iterable(zip(before, after, strict=True)))

    def within(self, seconds: float) -> float:
        """The chance of one that is no longer."""
        return bisect_right(self._gaps, seconds) / (len(self._gaps) + 1)


def curve(shares: Sequence[float]) -> Forecast:
    """A forecast from the share of gaps that fall into each bin of `EDGES`; the last share is that of no return."""
    found, total = [(0.0, 0.0)], 0.0
    for edge, share in zip(EDGES, shares, strict=False):
        total += share
        found.append((float(edge), min(1.0, total)))
    return Forecast(tuple(found))


TOOLS = curve(TOOL_SHARES)
"""Within a turn: the session's own tools, from request to request."""


@dataclass(frozen=True, slots=True)
class Gaps:
    """Past gaps between a user's turns, counted by the bins of `EDGES`; the last bin: more than that, or no return.

    `told`: the `expected_gap` (seconds) that the caller gave with the newest turn.
    """

    counts: tuple[float, ...] = (0.0,) * (len(EDGES) + 1)
    told: float | None = None

    @classmethod
    def read(cls, text: str) -> Self:
        """From the stored form; one of another version, or none, counts as nothing known."""
        stored = json.loads(text)
        counts, told = stored.get("counts", ()), stored.get("told")
        told = NEVER if told == "never" else told
        return cls(tuple(counts), told) if len(counts) == len(EDGES) + 1 else cls(told=told)

    @property
    def text(self) -> str:
        """The stored form, JSON."""
        told = "never" if self.told == NEVER else self.told
        return _ENCODE({"counts": self.counts, "told": told})

    def plus(self, gap: float) -> Self:
        """With one more gap, in seconds (`NEVER`: the user did not come back)."""
        place = bisect_left(EDGES, gap)
        return replace(self, counts=(*self.counts[:place], self.counts[place] + 1.0, *self.counts[place + 1 :]))

    def together(self, others: Iterable[Gaps]) -> Gaps:
        """These and others."""
        return Gaps(tuple(map(sum, zip(self.counts, *(other.counts for other in others), strict=True))))


NONE = Gaps()


@dataclass(frozen=True, slots=True)
class Prior:
    """What is known beforehand: the share of gaps in each bin, and how many gaps seen weigh as much as all of it.

    `last_of_turn`: the chance that a request of a session with tools is its turn's last.
    """

    shares: tuple[float, ...] = HUMAN_SHARES
    session_weight: float = SESSION_WEIGHT
    owner_weight: float = OWNER_WEIGHT
    last_of_turn: float = LAST_OF_TURN


FITTED = Prior()


def human(session: Gaps = NONE, owner: Gaps = NONE, prior: Prior = FITTED) -> Forecast:
    """When the user will write again, from the prior, the owner's other sessions and this session's own gaps.

    The owner's gaps shift every bin; the session's own shift when the user returns, not whether: a session that has
    gone on says nothing of how it ends.
    """
    *returning, never = _shifted(prior.shares, owner.counts, prior.owner_weight)
    back = 1.0 - never
    own = _shifted([share / back for share in returning], session.counts[:-1], prior.session_weight)
    return curve([share * back for share in own])


def _shifted(prior: Sequence[float], counts: Sequence[float], weight: float) -> list[float]:
    """The prior counts as `weight` gaps that were seen."""
    total = weight + sum(counts)
    return [(weight * share + count) / total for share, count in zip(prior, counts, strict=True)]


def forecast(session: Gaps, owner: Gaps, *, expected_gap: float | None, tools: bool, prior: Prior = FITTED) -> Forecast:
    """From a request's start to the next one's. `expected_gap` (seconds) is the caller's knowledge of the user.

    `tools`: the session has tools, so that most requests are followed by one of the same turn.
    """
    if expected_gap is None:
        user = human(session, owner, prior)
    elif (user := known(expected_gap)).within(_HOUR):
        return user  # the tools will be faster still
    return TOOLS.mixed(user, prior.last_of_turn) if tools else user
