"""What the tests of the shell share: a simulated Claude that outlives managers, and a test that runs on both loops."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import pytest

from sessions import Session, SessionManager, Usage, simulator
from sessions.simulator import Engine, Exchange, Latency, Request
from sessions.testing import ManualClock

MODEL = "claude-sonnet-5-5"
SYSTEM = simulator.filler(600)


def everywhere(test: Callable[..., Any]) -> Callable[..., Any]:
    """Runs an async test on asyncio and on Trio."""

    def both(backend: str, **given: Any) -> None:
        anyio.run(functools.partial(test, **given), backend=backend)

    own = inspect.Parameter("backend", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    both.__signature__ = inspect.Signature([own, *inspect.signature(test).parameters.values()])  # type: ignore[attr-defined]
    both.__name__, both.__doc__, both.__module__ = test.__name__, test.__doc__, test.__module__
    both.pytestmark = list(getattr(test, "pytestmark", []))  # type: ignore[attr-defined]
    return pytest.mark.parametrize("backend", ["asyncio", "trio"])(both)


class World:
    """One engine, one clock and one database; managers come and go. The client does not retry unless told to."""

    def __init__(
        self,
        script: Any = None,
        *,
        url: str | Path = "sqlite://",
        faults: Any = None,
        latency: Latency | None = None,
        **options: Any,
    ) -> None:
        self.url = f"sqlite:///{url}" if isinstance(url, Path) else url
        self.clock = ManualClock()
        self.engine = Engine(script, faults=faults, **options)
        self.latency = latency

    def manager(self, *, max_retries: int = 0, clock: ManualClock | None = None, **given: Any) -> SessionManager:
        """A new manager, as a new process would make it."""
        clock = clock or self.clock
        client = simulator.client(engine=self.engine, clock=clock, latency=self.latency, max_retries=max_retries)
        return SessionManager(given.pop("store", self.url), client=client, clock=clock, **given)

    @property
    def requests(self) -> list[Exchange]:
        """Every request, oldest first."""
        return list(self.engine.requests)

    @property
    def bodies(self) -> list[dict[str, Any]]:
        """The body of every request, oldest first."""
        return [dict(one.body or {}) for one in self.engine.requests]

    def check(self) -> None:
        """Nothing was refused."""
        refused = [one.error for one in self.engine.requests if one.state == "refused"]
        assert not refused, refused


def create(manager: SessionManager, **given: Any) -> Any:
    """A session with a prompt long enough to be cached."""
    return manager.create(**{"model": MODEL, "max_tokens": 4000, "system": SYSTEM, **given})


def answers(*given: Any) -> Callable[[Request], Any]:
    """A model that gives these answers one after the other, whoever asks; then it says "fine"."""
    left = list(given)

    def script(_: Request) -> Any:
        return left.pop(0) if left else "fine"

    return script


def call(name: str, id: str | None = None, **given: Any) -> dict[str, Any]:
    """A tool call for a script."""
    block = {"type": "tool_use", "name": name, "input": given}
    return {**block, "id": id} if id else block


def words(session: Session) -> list[str]:
    """The user's own text, message by message, tool results left out."""
    found = []
    for message in session.messages:
        texts = [block["text"] for block in message["content"] if block["type"] == "text"]
        if message["role"] == "user" and texts:
            found.append("\n".join(texts))
    return found


def results(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The tool results of a message."""
    return [block for block in message["content"] if block["type"] == "tool_result"]


def buckets(usage: Usage) -> tuple[int, int, int, int, int]:
    """The five numbers that are billed."""
    return usage.input, usage.cache_read, usage.cache_write_5m, usage.cache_write_1h, usage.output


def marks(body: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(place, lifetime) of every marker of a request, in order."""
    found = []
    for place in ("tools", "system"):
        found += [(place, block) for block in body.get(place) or ()]
    found += [("messages", block) for message in body["messages"] for block in message["content"]]
    return [(place, block["cache_control"].get("ttl", "5m")) for place, block in found if "cache_control" in block]


def chain_of_reads(usages: Sequence[Usage]) -> None:
    """Each request reads what the one before read and wrote."""
    for before, after in pairwise(usages):
        assert after.cache_read == before.cache_read + before.cache_write, (before, after)
