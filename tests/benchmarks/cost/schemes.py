"""What other schemes pay for the very same requests, on one time line and in one cache: all visits share it."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import ceil

from sessions.core.cache import SECONDS
from sessions.core.prices import prices_for
from sessions.core.profiles import Profile, Ttl
from sessions.core.usage import Usage
from sessions.simulator.prompt import charge
from sessions.simulator.prompt_cache import PromptCache
from tests.benchmarks.cost.timeline import FIRST_EVENT, Measured

PING = 285.0
"""Seconds after a request at which a 5-minute prefix is read again: just before it lapses."""

Marks = list[tuple[int, Ttl]]


def _top_level(ttl: Ttl) -> Callable[[Measured], Marks]:
    return lambda sent: [(len(sent.points) - 1, ttl)]


def _slots(head: Ttl, rest: Ttl) -> Callable[[Measured], Marks]:
    """The end of tools and system, of what is pinned, of the latest reply, and of the newest words or results."""

    def marks(sent: Measured) -> Marks:
        ends = sum(point.where.tier != "messages" for point in sent.points)
        own = {ends - 1 + sent.documents, len(sent.points) - 1}
        if sent.latest_reply is not None:
            own.add(sent.latest_reply)
        return [(ends - 1, head), *((at, rest) for at in sorted(own - {ends - 1}))]

    return marks


@dataclass(frozen=True, slots=True)
class Scheme:
    """Where the marks stand, and how many times a prefix is read again while nobody asks."""

    marks: Callable[[Measured], Marks]
    pings: int = 0


UNCACHED = "uncached"
FIXED = {
    "top-level 5m": Scheme(_top_level("5m")),
    "top-level 1h": Scheme(_top_level("1h")),
    "5m": Scheme(_slots("5m", "5m")),
    "1h": Scheme(_slots("1h", "1h")),
    "head 1h, tail 5m": Scheme(_slots("1h", "5m")),
    "5m, 2 pings": Scheme(_slots("5m", "5m"), pings=2),
    "5m, 3 pings": Scheme(_slots("5m", "5m"), pings=3),
}
"""What somebody can choose once and for all, by name."""


def uncached(requests: Iterable[Measured]) -> Usage:
    """Everything at the plain price."""
    return Usage(input=sum(sent.total for sent in requests))


def play(scheme: Scheme, requests: Sequence[Measured], profile: Profile, *, refreshes_shorter: bool = False) -> Usage:
    """What a scheme is charged. `refreshes_shorter`: as the simulator's own."""
    return _Playing(scheme, profile, refreshes_shorter).play(requests)


@dataclass(slots=True)
class _Playing:
    """One scheme on its way: what happens next stands in a heap, by its time."""

    scheme: Scheme
    profile: Profile
    refreshes_shorter: bool
    cache: PromptCache = field(default_factory=PromptCache)
    used: Usage = field(default_factory=Usage)
    _due: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _count: int = 0
    _latest: dict[int, float] = field(default_factory=dict)

    def play(self, requests: Sequence[Measured]) -> Usage:
        for sent in requests:
            self._happen(sent.started)
            self._latest[sent.session] = sent.started
            self._ask(sent, sent.started, self.scheme.pings)
        self._happen(float("inf"))
        return self.used

    def _happen(self, until: float) -> None:
        while self._due and self._due[0][0] <= until:
            heapq.heappop(self._due)[2]()

    def _later(self, at: float, act: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._due, (at, self._count, act))

    def _ask(self, sent: Measured, now: float, pings: int) -> None:
        marks = [(at, ttl) for at, ttl in self.scheme.marks(sent) if sent.sizes[at] >= self.profile.minimum_tokens]
        hit, usage = charge(sent.points, sent.sizes, marks, self.cache, now, self.profile)
        self.used += usage
        self._later(now + FIRST_EVENT, lambda: self._begin(sent, marks, hit, now))
        if pings and marks:
            self._later(now + PING, lambda: self._ping(sent, now + PING, pings))

    def _ping(self, sent: Measured, now: float, pings: int) -> None:
        if self._latest[sent.session] == sent.started:
            self._ask(sent, now, pings - 1)

    def _begin(self, sent: Measured, marks: Marks, hit: int | None, started: float) -> None:
        """The answer begins: what was written can be read."""
        if hit is not None:
            self.cache.refresh(sent.points[hit].digest, "5m", started)
        for at, ttl in marks:
            name = sent.points[at].digest
            if hit is None or at > hit:
                self.cache.write(name, ttl, started)
            elif at < hit and self.refreshes_shorter and self.cache.alive(name, started):
                self.cache.refresh(name, ttl, started)


def bound(requests: Sequence[Measured], profile: Profile) -> float:
    """What nobody can be below, in plain input tokens: every gap is known beforehand, and idle requests are allowed.

    Each block of a prompt is looked at by itself, over all visits that have the same prompt up to it. At each use it is
    read where it lives, and otherwise paid plain, or written for 5 minutes or an hour. Until the next use it costs a
    read at the end of each lifetime, or is let go; what has been read lives for an hour, since the mark behind it or a
    park decides that.
    """
    prices = prices_for(profile)
    if prices is None:
        raise AssertionError(f"no price is known for {profile.name}")
    uses: dict[str, list[float]] = {}
    sizes: dict[str, int] = {}
    for sent in requests:
        for point, (before, size) in zip(sent.points, pairwise([0, *sent.sizes]), strict=True):
            uses.setdefault(point.digest, []).append(sent.started)
            sizes[point.digest] = size - before
    each = (prices.read, prices.write_5m, prices.write_1h)
    return sum(size * _least(uses[name], *each) for name, size in sizes.items())


def _least(uses: Sequence[float], read: float, write_5m: float, write_1h: float) -> float:
    """For one token used at these moments."""
    live, lapsed = float("inf"), 0.0
    for at, following in pairwise([*uses, float("inf")]):
        ahead = following - at
        short, long = (read * _lifetimes(ahead - SECONDS[ttl]) for ttl in ("5m", "1h"))
        kept = min(live + read + long, lapsed + write_5m + short, lapsed + write_1h + long)
        live, lapsed = kept, min(live + read, lapsed + 1.0)
    return min(live, lapsed)


def _lifetimes(left: float) -> float:
    """How many idle requests bridge the seconds that are left of a gap: each gives an hour."""
    return left if left == float("inf") else max(0, ceil(left / SECONDS["1h"]))
