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
from functools import cached_property
from itertools import accumulate, chain, pairwise
from typing import Any, TypeAlias, TypeVar

from sessions.core.cache import SECONDS
from sessions.core.gap_prior import EDGES
from sessions.core.gaps import FITTED, Forecast, Prior
from sessions.core.keeping import lives_for
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
_GROUPS = 2 * REMEMBERED + 1
"""Groups that are remembered: those that the sessions which are remembered can be in."""
_Kind: TypeAlias = tuple[str, int]
"""Sessions that are looked at together: those with these settings ("": all), after so many turns (0: any number)."""
K = TypeVar("K")


@dataclass(frozen=True, slots=True)
class Seen:
    """One request of a turn. `settings`: the digest of its session's. `started`: seconds since the epoch.

    `shared`: the points of prefixes that other sessions may use too. `number`: which turn of its session it is;
    `since`: when the session's last request before it started. Both are counted here where they are not known.
    """

    session: str
    turn: str
    settings: str
    started: float
    shared: tuple[str, ...] = ()
    number: int | None = None
    since: float | None = None


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
    lasted, found = [0.0] * len(ended), [0.0] * len(ended)
    for age in waiting:
        last = bisect_left(EDGES, age)
        if last:
            lasted[last - 1] += 1.0
        if last < len(EDGES):
            begins = EDGES[last - 1] if last else 0
            # A clock that was set back makes ages of less than nothing.
            found[last] += max(0.0, age - begins) / (EDGES[last] - begins)
    beyond = accumulate(reversed([gone + on for gone, on in zip(ended, lasted, strict=True)]))
    return [part + whole for part, whole in zip(found, [*beyond][::-1], strict=True)]


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
        self.open[session] = since
        _put_last(self.open, session, REMEMBERED)

    def shares(self, before: Sequence[float], now: float) -> list[float]:
        exposed = _exposure(self.counts, (now - since for since in self.open.values()))
        return survived(before, WEIGHT, self.counts, exposed)


@dataclass(slots=True)
class _Session:
    """`started`: of its newest request. `kinds`: where its present gap counts."""

    turn: str
    number: int
    started: float
    kinds: tuple[_Kind, ...]


class Experience:
    """What requests have shown, of all sessions that share a store."""

    def __init__(self) -> None:
        self._groups: OrderedDict[_Kind, _Group] = OrderedDict()
        self._sessions: OrderedDict[str, _Session] = OrderedDict()
        self._uses: OrderedDict[str, deque[tuple[float, str]]] = OrderedDict()
        self._priors: OrderedDict[_Kind, tuple[float, Prior]] = OrderedDict()

    def take_in(self, requests: Iterable[Seen]) -> None:
        """Requests of turns, those of one session in the order in which they started."""
        for request in requests:
            self._use(request)
            self._turn(request)

    def prior(self, settings: str, turns: int, now: float) -> Prior:
        """What is known beforehand of a session with these settings that has had so many turns."""
        prior = FITTED
        for kind in _kinds(settings, turns):
            prior = self._prior_of(kind, prior, now)
        return prior

    def _prior_of(self, kind: _Kind, before: Prior, now: float) -> Prior:
        """What the sessions of one kind show, on top of what was known before."""
        worked_out = self._priors.get(kind)
        if worked_out is not None and 0.0 <= now - worked_out[0] < STALE:
            return worked_out[1]
        group = self._groups.get(kind)
        prior = before if group is None else Prior(tuple(group.shares(before.shares, now)))
        self._priors[kind] = now, prior
        _put_last(self._priors, kind, PREFIXES)
        return prior

    def others(self, point: str, session: str, now: float) -> Others:
        """How this prefix was used within the last day, beside this session."""
        oldest = now - _DAY
        uses = [use for use in self._uses.get(point, ()) if use[0] > oldest]
        uses.sort()
        return Others(tuple([at for at, who in uses if who != session]), tuple([at for at, _ in uses]), now)

    def users(self, point: str) -> list[str]:
        """The sessions that used this prefix, those that did so last first."""
        uses = sorted(self._uses.get(point, ()), reverse=True)
        return list(dict.fromkeys(who for _, who in uses))

    def _use(self, request: Seen) -> None:
        for point in request.shared:
            uses = self._uses.setdefault(point, deque(maxlen=USES))
            uses.append((request.started, request.session))
            _put_last(self._uses, point, PREFIXES)

    def _turn(self, request: Seen) -> None:
        before = self._sessions.get(request.session)
        if before is not None and request.started < before.started:
            return  # late news, from another worker: what has followed it is known
        number = 1 if before is None else before.number
        for kind in before.kinds if before is not None else ():
            self._groups[kind].open.pop(request.session, None)
        if before is not None and request.turn != before.turn:
            number += 1
            for kind in before.kinds:
                self._groups[kind].ended(request.started - max(before.started, request.since or before.started))
        number = request.number or number
        kinds = _kinds(request.settings, number)
        for kind in kinds:
            self._groups.setdefault(kind, _Group()).waits(request.session, request.started)
            _put_last(self._groups, kind, _GROUPS)
        self._sessions[request.session] = _Session(request.turn, number, request.started, kinds)
        _put_last(self._sessions, request.session, REMEMBERED)


@dataclass(frozen=True)  # without slots: a plan asks for the forecast several times, and it is kept
class Others:
    """When other sessions used a prefix, and when all did: starts of requests in order, seconds since the epoch."""

    others: tuple[float, ...] = ()
    all: tuple[float, ...] = ()
    now: float = 0.0

    @property
    def tell(self) -> bool:
        """Whether there are enough of them to tell something."""
        return len(self.others) >= ENOUGH

    def alive(self, ttl: Ttl, refreshes: int = 0) -> float:
        """The share of the time in which the others alone keep an entry of this lifetime alive.

        `refreshes`: how often in a row a 1-hour entry is read while none of them asks.
        """
        if not self.tell:
            return 0.0
        gaps, lives = _gaps(self.others, self.now), lives_for(refreshes) if ttl == "1h" else SECONDS[ttl]
        looked_at = sum(gaps)
        lapsed = sum([gap - lives for gap in gaps if gap > lives])
        # As if one lifetime more had been looked at, in which nobody came: a burst alone is no habit.
        return (looked_at - lapsed) / (looked_at + SECONDS[ttl])

    @cached_property
    def forecast(self) -> Forecast:
        """How long after one use the next one comes, as it has been; the last one has waited until now.

        As if one more had been seen, after which nobody came: who has waited longer than ever is sure of nothing.
        """
        gaps = sorted(_gaps(self.all, self.now))
        chances = [number / (len(gaps) + 1) for number in range(len(gaps) + 1)]
        before, after = zip(gaps, chances, strict=False), zip(gaps, chances[1:], strict=True)
        return Forecast(tuple(chain.from_iterable(zip(before, after, strict=True))))


def _gaps(starts: Sequence[float], now: float) -> list[float]:
    """Those between a start and the next, the last one until now. A clock may be set back: then that is none."""
    gaps = [after - before for before, after in pairwise(starts)]
    return [*gaps, max(0.0, now - starts[-1])] if starts else []


def nobody(point: str) -> Others:
    """Where no other session is known."""
    return Others()


def _kinds(settings: str, turns: int) -> tuple[_Kind, ...]:
    """The kinds that a session is of after so many turns: each is told of by fewer sessions than the one before."""
    return ("", 0), (settings, 0), (settings, max(step for step in _STEPS if step <= max(1, turns)))


def _put_last(kept: OrderedDict[K, Any], key: K, most: int) -> None:
    """Among those to be forgotten last; what is more than so many is forgotten."""
    kept.move_to_end(key)
    while len(kept) > most:
        kept.popitem(last=False)
