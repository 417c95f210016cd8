"""The simulated prompt cache: entries by the digest of their whole prefix, alive for a lifetime from a request's start.

Rules of the prompt-caching page, September 2026: a lifetime counts from the start of the request that wrote or last
read an entry; a read refreshes at no charge and keeps the entry's own class; an entry can be read only once the
response that writes it has begun.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from sessions.core.cache import SECONDS
from sessions.core.profiles import Ttl


@dataclass(slots=True)
class Entry:
    """One written prefix. `base`: for a parked entry where parks do not survive, the end of the entry it stands on."""

    ttl: Ttl
    expires: float
    base: float | None = None

    def alive(self, now: float) -> bool:
        return now < self.expires and (self.base is None or now < self.base)


@dataclass(slots=True)
class PromptCache:
    """All entries of one simulator; digests already tell workspaces and models apart.

    `parks_survive`: False makes a 1h entry that was written on top of a 5m entry end with it.
    """

    parks_survive: bool = True
    entries: dict[str, Entry] = field(default_factory=dict)
    _sweep_at: int = 4096

    def alive(self, digest: str, now: float) -> bool:
        """Whether a request that starts at `now` can read this prefix."""
        entry = self.entries.get(digest)
        return entry is not None and entry.alive(now)

    def refresh(self, digest: str, ttl: Ttl, started: float) -> None:
        """A read: the entry lives its own class's lifetime from the reading request's start."""
        entry = self.entries.setdefault(digest, Entry(ttl, 0.0))
        entry.expires = max(entry.expires, started + SECONDS[entry.ttl])

    def write(self, digest: str, ttl: Ttl, started: float, *, base: str | None = None) -> None:
        """A write. Two requests that write one prefix at the same time leave the longer of both lives."""
        expires = started + SECONDS[ttl]
        known = self.entries.get(digest)
        if known is not None and known.alive(started) and known.expires >= expires:
            return
        under = self.entries.get(base) if base is not None else None
        parked = not self.parks_survive and ttl == "1h" and under is not None and under.ttl == "5m"
        self.entries[digest] = Entry(ttl, expires, under.expires if parked and under else None)
        self._sweep(started)

    def evict(self, digests: Iterable[str] | None = None) -> int:
        """Drops entries before their time, all of them by default, and tells how many were dropped."""
        names = list(self.entries) if digests is None else [name for name in digests if name in self.entries]
        for name in names:
            del self.entries[name]
        return len(names)

    def _sweep(self, now: float) -> None:
        if len(self.entries) >= self._sweep_at:
            self.entries = {name: entry for name, entry in self.entries.items() if entry.alive(now)}
            self._sweep_at = max(4096, 2 * len(self.entries))
