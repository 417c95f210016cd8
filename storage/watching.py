"""News of a session or of a point of the model's cache, for those who wait for it in another process."""

from __future__ import annotations

import functools
import hashlib
from types import TracebackType
from typing import Protocol, Self

import anyio

CHANNEL = "warmline"
"""Where a server tells news of the tables that it finds by itself."""


@functools.cache
def channel(schema: str | None) -> str:
    """Where it tells news of the tables in that schema: a channel belongs to a whole database."""
    return CHANNEL if schema is None else f"{CHANNEL}_{hashlib.blake2b(schema.encode(), digest_size=8).hexdigest()}"


def topic(name: str) -> str:
    """A name as it is told: short, whatever the name, and nothing to read for others on the channel."""
    return hashlib.blake2b(name.encode(), digest_size=12).hexdigest()


class Watch(Protocol):
    """One waiter's ear for the news of one name; a context manager, to be left when the wait is over."""

    @property
    def is_live(self) -> bool:
        """Whether news comes by itself. It says so before the waiter looks, or news from in between is missed."""

    @property
    def pause(self) -> float:
        """Seconds after which it is worth looking again, also without news."""

    async def news(self) -> None:
        """Returns when there may be news, told since it was last called; where none comes by itself, never."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Deaf:
    """The watch of a store that tells nothing: its waiters look again and again."""

    is_live = False

    def __init__(self, pause: float) -> None:
        self.pause = pause

    async def news(self) -> None:
        await anyio.sleep_forever()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass
