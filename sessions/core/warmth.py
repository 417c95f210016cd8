"""What is believed readable in the cache, learnt from the calls that were made."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from sessions.core.cache import SECONDS, Where
from sessions.core.lifetimes import written_for
from sessions.core.profiles import Ttl
from sessions.core.usage import Usage

Slot = Literal["shared", "context", "anchor", "assistant", "tail", "user"]
RECENT = 64
"""Points that a conversation remembers of its own: what at least its last sixteen calls marked."""
_ROUGHLY = 0.8
"""A point counts as read where at least this share of its estimated size was."""


@dataclass(frozen=True, slots=True)
class Mark:
    """One breakpoint: its slot, place, lifetime, point, and the size of the prefix that it ends (tokens)."""

    slot: Slot
    where: Where
    ttl: Ttl
    point: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Alive:
    """A cache entry believed readable: its lifetime class and when it lapses (seconds since the epoch)."""

    ttl: Ttl
    until: float

    @property
    def since(self) -> float:
        """The start of the request that wrote it or last read it."""
        return self.until - SECONDS[self.ttl]

    def used(self, starts: Iterable[float]) -> Alive:
        """The same after requests that read it, if it was alive when they started (seconds since the epoch)."""
        until = self.until
        for start in sorted(starts):
            if start < until:
                until = max(until, start + SECONDS[self.ttl])
        return Alive(self.ttl, until)


@dataclass(slots=True)
class Warmth:
    """Which points are believed readable, learnt from past calls of a conversation and of others that share theirs.

    A point stands for endpoint, model and content, so what one conversation has learnt holds for all. `limit`: points
    that are kept, those learnt last.
    """

    points: dict[str, Alive] = field(default_factory=dict)
    shared: Warmth | None = None
    limit: int = RECENT

    def find(self, point: str) -> Alive | None:
        """What was last learnt about this point, alive or lapsed; `None` where it is not known."""
        found = self.shared.find(point) if self.shared is not None else None
        return found or self.points.get(point)

    def is_alive(self, point: str, now: float) -> bool:
        """Whether this point can be read by a request that starts now."""
        found = self.find(point)
        return found is not None and now < found.until

    def know(self, point: str, alive: Alive) -> None:
        """Takes in one point. What a later request has shown about it stands."""
        known = self.points.pop(point, None)
        self.points[point] = known if known is not None and known.since > alive.since else alive
        while len(self.points) > self.limit:
            del self.points[next(iter(self.points))]
        if self.shared is not None:
            self.shared.know(point, alive)

    def forget(self, point: str, started: float) -> None:
        """A request that started then could not read this point. What later ones have shown stands."""
        if (known := self.points.get(point)) is not None and known.since < started:
            self.points[point] = Alive(known.ttl, min(known.until, started))  # known to be gone: for others too
        if self.shared is not None:
            self.shared.forget(point, started)

    def learn(
        self,
        marks: Sequence[Mark],
        hit: str | None,
        usage: Usage,
        started: float,
        expected_read: int = 0,
        *,
        unasked: bool = False,
    ) -> None:
        """Takes in a finished call: what it wrote lives from the call's start, what it read is refreshed.

        Reading a long prefix renews the marked ones within it (docs/provider.md, 18), in their own lifetime. A point
        that should have been read (`expected_read` tokens) and was not is dead. How long a written one lives the usage
        says. `unasked`: the endpoint caches by itself, so that what was not read is cached now.
        """
        if unasked and usage.counters:
            usage = replace(usage, input=0, cache_write_5m=usage.cache_write_5m + usage.input)
        if hit and usage.counters and usage.cache_read < expected_read * _ROUGHLY:
            self.forget(hit, started)
        if usage.counters and not usage.cache_read and not usage.cache_write:
            return
        read = usage.cache_read if usage.counters else -1
        scale = _scale(marks, usage)
        lifetimes = written_for([mark.tokens for mark in marks], [mark.ttl for mark in marks], usage)
        for mark, ttl in zip(marks, lifetimes, strict=True):
            known = self.find(mark.point)
            if mark.point == hit and known and read > 0 and mark.tokens * scale * _ROUGHLY <= read:
                self.know(mark.point, Alive(known.ttl, started + SECONDS[known.ttl]))
            elif mark.tokens * scale > read or read < 0:
                self.know(mark.point, Alive(ttl, started + SECONDS[ttl]))
            elif known and started < known.until:
                self.know(mark.point, Alive(known.ttl, started + SECONDS[known.ttl]))
        if hit and read > 0 and (known := self.find(hit)):
            self.know(hit, Alive(known.ttl, max(known.until, started + SECONDS[known.ttl])))


def _scale(marks: Sequence[Mark], usage: Usage) -> float:
    """Real tokens per planned token: the last mark ends exactly what was read and written, whatever was estimated."""
    last = marks[-1].tokens if marks else 0
    covered = usage.cache_read + usage.cache_write
    return 1.0 if not last or not covered or last == covered else covered / last
