"""How much one owner may ask for. What a process counts is in its memory: each worker allows as much again."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields

from sessions import ConfigurationError

WINDOW = 60.0
"""Seconds in which an owner who has used up all requests may make as many again."""
_OWNERS = 10_000
"""Owners whose requests are counted; of more than these the one that asked least recently is forgotten."""


@dataclass(frozen=True, slots=True)
class Limits:
    """`body_bytes`: of one request. `body_seconds`: in which it must have come. `text_characters`: of one text.

    `files`: of one message. `running_turns`: conversations of one owner in which answers are under way, over all
    workers, and answers under way and queued in one of them. `streams`: of one owner, open at the same time, in each
    worker. `requests`: of one owner in a minute, in each worker.
    """

    body_bytes: int = 32 * 1024 * 1024
    body_seconds: float = 30.0
    text_characters: int = 1_000_000
    files: int = 20
    running_turns: int = 20
    streams: int = 100
    requests: int = 1200

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
                raise ConfigurationError(f"Limits: {field.name} must be a positive number, not {value!r:.80}")


class TooMany(Exception):
    """An owner has asked for more than the limits allow. `seconds`: when to try again."""

    def __init__(self, message: str, seconds: float = 1.0) -> None:
        super().__init__(message)
        self.seconds = seconds


class Counts:
    """What each owner is using, in this process."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._streams: Counter[str] = Counter()
        self._beginning: Counter[str] = Counter()
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def request(self, owner: str, now: float) -> None:
        """Counts a request at `now` (seconds, monotonic). Raises `TooMany`."""
        most = self.limits.requests
        left, since = self._left.get(owner, (float(most), now))
        left = min(float(most), left + (now - since) * most / WINDOW)
        if left < 1:
            raise TooMany(f"more than {most} requests in a minute", (1 - left) * WINDOW / most)
        self._left[owner] = left - 1, now
        self._left.move_to_end(owner)
        if len(self._left) > _OWNERS:
            self._left.popitem(last=False)

    @contextmanager
    def stream(self, owner: str) -> Iterator[None]:
        """While a stream of this owner is open. Raises `TooMany`."""
        if self._streams[owner] >= self.limits.streams:
            raise TooMany(f"more than {self.limits.streams} open streams: close some tabs")
        with _counted(self._streams, owner):
            yield

    @contextmanager
    def beginning(self, owner: str) -> Iterator[int]:
        """While a turn of this owner begins: how many others of theirs do, which no store knows of yet."""
        others = self._beginning[owner]
        with _counted(self._beginning, owner):
            yield others


@contextmanager
def _counted(counter: Counter[str], owner: str) -> Iterator[None]:
    counter[owner] += 1
    try:
        yield
    finally:
        counter[owner] -= 1
        if not counter[owner]:
            del counter[owner]
