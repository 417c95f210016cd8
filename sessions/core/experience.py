"""What the ledger shows of when requests come: how long users stay away, and how often a shared prefix is used.

The shipped prior of `core/gaps` was fitted to coding agents. Here it gives way to what this deployment shows, of all
owners: first all its sessions together, then those with the same settings, then their turns with the same number. A
user who has not come back yet counts as well, for the time that has passed (Kaplan and Meier, 1958).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from sessions.core.cache import SECONDS
from sessions.core.gap_prior import EDGES, HUMAN_SHARES
from sessions.core.gaps import Forecast, Prior
from sessions.core.profiles import Ttl

WEIGHT = 10.0
"""How many gaps seen weigh as much as what was known before them, at each of the three steps."""
REMEMBERED = 2_000
"""Gaps, and sessions that have not come back, that count: older ones are forgotten."""
USES = 256
"""Uses of a shared prefix that count, the newest."""
PREFIXES = 4_096
"""Shared prefixes that are remembered, those used last."""
ENOUGH = 3
"""Uses by other sessions from which on they tell something."""
STALE = 60.0
"""Seconds for which what was worked out is good enough."""
_DAY = 24 * 3600.0
_STEPS = (1, 2, 4, 7)
"""Turn numbers from which on sessions are told apart."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One request of a turn. `settings`: the digest of its session's. `started`: seconds since the epoch.

    `shared`: the points of prefixes that other sessions may use too.
    """

    session: str
    turn: str
    settings: str
    started: float
    shared: tuple[str, ...] = ()


def survived(shares: Sequence[float], weight: float, ended: Sequence[float], exposed: Sequence[float]) -> list[float]:
    """The share of gaps in each bin of `EDGES`, from what was known before and from what was seen.

    `shares` weigh as much as `weight` gaps. `ended`: gaps that ended in each bin; `exposed`: those that could have, as
    far as they lasted.
    """
    left, alive, found = 1.0, 1.0, list[float]()
    for share, events, could in zip(shares, ended, exposed, strict=True):
        could += weight * left
        hazard = min(1.0, (weight * share + events) / could) if could > 0.0 else 1.0
        found.append(alive * hazard)
        alive -= found[-1]
        left = max(0.0, left - share)
    found[-1] += alive  # what is left comes later than all bins, or never
    return found


def _exposure(ended: Sequence[float], waiting: Iterable[float]) -> list[float]:
    """How many gaps each bin of `EDGES` could have ended: those that ended then or later, and those that go on."""
    found = list(accumulate(reversed(ended)))[::-1]
    for age in waiting:
        last = bisect_left(EDGES, age)
        for place in range(last):
            found[place] += 1.0
        if last < len(EDGES):
            begins = EDGES[last - 1] if last else 0
            found[last] += (age - begins) / (EDGES[last] - begins)
    return found


@dataclass(slots=True)
class _Group:
    """The gaps of some sessions: by bin, in the order they ended, and when those that have not ended began."""

    bins: deque[int] = field(default_factory=deque)
    counts: list[float] = field(default_factory=lambda: [0.0] * (len(EDGES) + 1))
    open: OrderedDict[str, float] = field(default_factory=OrderedDict)

    def ended(self, gap: float) -> None:
        place = bisect_left(EDGES, gap)
        self.bins.append(place)
        self.counts[place] += 1.0
        if len(self.bins) > REMEMBERED:
            self.counts[self.bins.popleft()] -= 1.0

    def waits(self, session: str, since: float) -> None:
        self.open.pop(session, None)
        self.open[session] = since
        while len(self.open) > REMEMBERED:
            self.open.popitem(last=False)

    def shares(self, before: Sequence[float], now: float) -> list[float]:
        exposed = _exposure(self.counts, (now - since for since in self.open.values()))
        return survived(before, WEIGHT, self.counts, exposed)


@dataclass(slots=True)
class _Session:
    """`started`: of its newest request. `groups`: where its present gap counts."""

    turn: str
    number: int
    started: float
    groups: tuple[tuple[str, int], ...]


class Experience:
    """What requests have shown, of all sessions that share a store."""

    def __init__(self) -> None:
        self._groups: dict[tuple[str, int], _Group] = {}
        self._sessions: OrderedDict[str, _Session] = OrderedDict()
        self._uses: OrderedDict[str, deque[tuple[float, str]]] = OrderedDict()
        self._priors: dict[tuple[str, int], tuple[float, Prior]] = {}

    def take_in(self, requests: Iterable[Seen]) -> None:
        """Requests of turns, those of one session in the order in which they started."""
        for request in requests:
            self._use(request)
            self._turn(request)

    def prior(self, settings: str, turns: int, now: float) -> Prior:
        """What is known beforehand of a session with these settings that has had so many turns."""
        key = (settings, _step(turns))
        found = self._priors.get(key)
        if found is not None and now - found[0] < STALE:
            return found[1]
        shares: Sequence[float] = HUMAN_SHARES
        for name in (("", 0), (settings, 0), key):
            if (group := self._groups.get(name)) is not None:
                shares = group.shares(shares, now)
        prior = Prior(tuple(shares))
        if len(self._priors) > PREFIXES:
            self._priors.clear()
        self._priors[key] = (now, prior)
        return prior

    def others(self, point: str, session: str, now: float) -> Others:
        """How this prefix was used within the last day, beside this session."""
        uses = sorted(use for use in self._uses.get(point, ()) if now - use[0] < _DAY)
        return Others(tuple(at for at, who in uses if who != session), tuple(at for at, _ in uses), now)

    def _use(self, request: Seen) -> None:
        for point in request.shared:
            uses = self._uses.setdefault(point, deque(maxlen=USES))
            uses.append((request.started, request.session))
            self._uses.move_to_end(point)
        while len(self._uses) > PREFIXES:
            self._uses.popitem(last=False)

    def _turn(self, request: Seen) -> None:
        before = self._sessions.pop(request.session, None)
        if before is None:
            number = 1
        elif request.turn == before.turn:
            number = before.number
        else:
            number = before.number + 1
            for name in before.groups:
                self._groups[name].ended(request.started - before.started)
        for name in before.groups if before is not None else ():
            self._groups[name].open.pop(request.session, None)
        groups = (("", 0), (request.settings, 0), (request.settings, _step(number)))
        for name in groups:
            self._groups.setdefault(name, _Group()).waits(request.session, request.started)
        self._sessions[request.session] = _Session(request.turn, number, request.started, groups)
        while len(self._sessions) > REMEMBERED:
            self._sessions.popitem(last=False)


@dataclass(frozen=True, slots=True)
class Others:
    """When other sessions used a prefix, and when all did: starts of requests in order, seconds since the epoch."""

    others: tuple[float, ...] = ()
    all: tuple[float, ...] = ()
    now: float = 0.0

    @property
    def tell(self) -> bool:
        """Whether there are enough of them to tell something."""
        return len(self.others) >= ENOUGH

    def alive(self, ttl: Ttl) -> float:
        """The share of the time in which the others alone keep an entry of this lifetime alive."""
        if not self.tell:
            return 0.0
        gaps, seconds = _gaps(self.others, self.now), SECONDS[ttl]
        # As if one lifetime more had been looked at, in which nobody came: a burst alone is no habit.
        return sum(min(gap, seconds) for gap in gaps) / (sum(gaps) + seconds)

    @property
    def forecast(self) -> Forecast:
        """How long after one use the next one comes, as it has been; the last one has waited until now."""
        gaps = sorted(_gaps(self.all, self.now))
        return Forecast(
            tuple((gap, chance / len(gaps)) for number, gap in enumerate(gaps) for chance in (number, number + 1))
        )


def _gaps(starts: Sequence[float], now: float) -> list[float]:
    return [after - before for before, after in zip(starts, (*starts[1:], now), strict=True)]


def nobody(point: str) -> Others:
    """Where no other session is known."""
    return Others()


def _step(turns: int) -> int:
    """The number from which on a turn with this number belongs to its kind."""
    return max(step for step in _STEPS if step <= max(1, turns))
