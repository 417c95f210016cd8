"""What the ledger shows of when requests come: how long users stay away, and how often a shared prefix is used.

The shipped prior of `core/gaps` was fitted to coding agents. Here it gives way to what this deployment shows, of all
owners: first all its sessions together, then those with the same settings, then their turns with the same number. A
user who has not come back yet counts as well, for the time that has passed (Kaplan and Meier, 1958).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate, compress
from operator import sub
from typing import Any, TypeAlias, TypeVar

from sessions.core.cache import SECONDS
from sessions.core.gap_prior import EDGES
from sessions.core.gaps import FITTED, Counted, Forecast, Prior
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
NEARNESS = 0.7
"""By how much a bin of gaps tells less of each further one behind it."""
_DAY = 24 * 3600.0
STEPS = (1, 2, 4, 7)
"""Turn numbers from which on sessions are told apart."""
_GROUPS = 2 * REMEMBERED + 1
"""Groups that are remembered: those that the sessions which are remembered can be in."""
Kind: TypeAlias = tuple[str, int]
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


def foreseen(shares: Sequence[float], weight: float, ended: Sequence[float], exposed: Sequence[float]) -> list[float]:
    """The share of gaps to be expected in each bin of `EDGES`, by what was seen in the bins before it.

    Where fewer of those who were still away have come back than was to be expected, fewer of the rest will: nobody has
    to wait for hours to see that. The nearer a bin, the more it tells. What was known before weighs as much as `weight`
    users who are still away; the other arguments are those of `survived`.
    """
    left, alive, found = 1.0, 1.0, list[float]()
    came = due = 0.0
    for share, events, could in zip(shares, ended, exposed, strict=True):
        hazard = min(1.0, share / left) if left > 0.0 else 1.0
        found.append(alive * hazard * (came / due if due else 1.0))
        alive -= found[-1]
        left = max(0.0, left - share)
        due = NEARNESS * due + hazard * (could + weight)
        # Who comes back sooner than was expected tells nothing of those who are still away.
        came = min(due, NEARNESS * came + events + weight * hazard)
    return [*found[:-1], found[-1] + alive]


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
    """The gaps of some sessions: by bin, in the order they ended, and when those that have not ended began.

    `followed`: how many requests another one of the same turn has followed, as far as that is remembered.
    """

    followed: float = 0.0
    bins: deque[int] = field(default_factory=deque)
    counts: list[float] = field(default_factory=lambda: [0.0] * (len(EDGES) + 1))
    open: OrderedDict[str, float] = field(default_factory=OrderedDict)

    def ended(self, gap: float) -> None:
        place = bisect_left(EDGES, gap)
        self.bins.append(place)
        self.counts[place] += 1.0
        if len(self.bins) > REMEMBERED:
            self.counts[self.bins.popleft()] -= 1.0
            self.followed *= REMEMBERED / (REMEMBERED + 1)

    def waits(self, session: str, since: float) -> None:
        self.open[session] = since
        _put_last(self.open, session, REMEMBERED)

    def shares(self, before: Sequence[float], now: float) -> list[float]:
        ages = [now - since for since in self.open.values()]
        exposed = _exposure(self.counts, ages)
        expected = foreseen(before, WEIGHT, self.counts, exposed)
        return survived(expected, WEIGHT, self.counts, exposed)

    def last_of_turn(self, before: float, now: float) -> float:
        """The chance that a request is its turn's last. Whoever has waited for five minutes waits for the user."""
        last = sum(self.counts) + sum(now - since > SECONDS["5m"] for since in self.open.values())
        return (WEIGHT * before + last) / (WEIGHT + last + self.followed)


@dataclass(slots=True)
class _Session:
    """`started`: of its newest request. `kinds`: where its present gap counts."""

    turn: str
    number: int
    started: float
    kinds: tuple[Kind, ...]


@dataclass(slots=True)
class _Uses:
    """Who used a prefix, and when, in order of time: every plan looks at it."""

    starts: list[float] = field(default_factory=list)
    sessions: list[str] = field(default_factory=list)

    def add(self, started: float, session: str) -> None:
        place = bisect_right(self.starts, started)
        self.starts.insert(place, started)
        self.sessions.insert(place, session)
        if len(self.starts) > USES:
            del self.starts[0], self.sessions[0]

    def beside(self, session: str, now: float) -> Others:
        first = bisect_right(self.starts, now - _DAY)
        starts = tuple(self.starts[first:])
        return Others(tuple(compress(starts, map(session.__ne__, self.sessions[first:]))), starts, now)


class Experience:
    """What requests have shown, of all sessions that share a store.

    `given`: what is known beforehand of some kinds of sessions, in the place of what is shipped or seen of all others.
    """

    def __init__(self, given: Mapping[Kind, Prior] | None = None) -> None:
        self._given = given or {}
        self._groups: OrderedDict[Kind, _Group] = OrderedDict()
        self._sessions: OrderedDict[str, _Session] = OrderedDict()
        self._uses: OrderedDict[str, _Uses] = OrderedDict()
        self._priors: OrderedDict[Kind, tuple[float, Prior]] = OrderedDict()

    def take_in(self, requests: Iterable[Seen]) -> None:
        """Requests of turns, those of one session in the order in which they started."""
        for request in requests:
            self._use(request)
            self._turn(request)

    def prior(self, settings: str | None, turns: int | None, now: float) -> Prior:
        """What is known beforehand of a session with these settings (`None`: any) that has had so many turns."""
        prior = FITTED
        for kind in kinds(settings, turns):
            prior = self._prior_of(kind, self._given.get(kind, prior), now)
        return prior

    def _prior_of(self, kind: Kind, before: Prior, now: float) -> Prior:
        """What the sessions of one kind show, on top of what was known before."""
        worked_out = self._priors.get(kind)
        if worked_out is not None and 0.0 <= now - worked_out[0] < STALE:
            return worked_out[1]
        group = self._groups.get(kind)
        prior = before
        if group is not None:
            last = group.last_of_turn(before.last_of_turn, now)
            prior = replace(before, shares=tuple(group.shares(before.shares, now)), last_of_turn=last)
        self._priors[kind] = now, prior
        _put_last(self._priors, kind, PREFIXES)
        return prior

    def others(self, point: str, session: str, now: float) -> Others:
        """How this prefix was used within the last day, beside this session."""
        uses = self._uses.get(point)
        return Others(now=now) if uses is None else uses.beside(session, now)

    def users(self, point: str) -> list[str]:
        """The sessions that used this prefix, those that did so last first."""
        uses = self._uses.get(point)
        return [] if uses is None else list(dict.fromkeys(reversed(uses.sessions)))

    def _use(self, request: Seen) -> None:
        for point in request.shared:
            self._uses.setdefault(point, _Uses()).add(request.started, request.session)
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
        elif before is not None:
            for kind in before.kinds:
                self._groups[kind].followed += 1.0
        number = request.number or number
        present = kinds(request.settings, number)
        for kind in present:
            self._groups.setdefault(kind, _Group()).waits(request.session, request.started)
            _put_last(self._groups, kind, _GROUPS)
        self._sessions[request.session] = _Session(request.turn, number, request.started, present)
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
        """How long after one use the next one comes, as it has been; the last one has waited until now."""
        return Counted(_gaps(self.all, self.now))


def _gaps(starts: Sequence[float], now: float) -> list[float]:
    """Those between a start and the next, the last one until now. A clock may be set back: then that is none."""
    gaps = map(sub, starts[1:], starts)
    return [*gaps, max(0.0, now - starts[-1])] if starts else []


def nobody(point: str) -> Others:
    """Where no other session is known."""
    return Others()


def kinds(settings: str | None, turns: int | None) -> tuple[Kind, ...]:
    """The kinds that a session is of after so many turns: each is told of by fewer sessions than the one before.

    `None`: whatever its settings are, or however many turns it has had.
    """
    if settings is None:
        return (("", 0),)
    if turns is None:
        return ("", 0), (settings, 0)
    return ("", 0), (settings, 0), (settings, max(step for step in STEPS if step <= max(1, turns)))


def _put_last(kept: OrderedDict[K, Any], key: K, most: int) -> None:
    """Among those to be forgotten last; what is more than so many is forgotten."""
    kept.move_to_end(key)
    while len(kept) > most:
        kept.popitem(last=False)
