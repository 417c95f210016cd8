"""The simulator beneath the real SDK, on asyncio and on Trio."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest


@pytest.fixture(params=["asyncio", "trio"])
def run(request: pytest.FixtureRequest) -> Callable[[Callable[[], Awaitable[Any]]], Any]:
    """Runs a coroutine function on one of the two event loops."""
    return lambda function: anyio.run(function, backend=request.param)


class TurnedClock:
    """A clock on which waiting takes no time: it moves on at once and notes what was waited for."""

    def __init__(self, start: float = 1_000_000.0) -> None:
        self.time = start
        self.waits: list[float] = []

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        await anyio.lowlevel.checkpoint()
        self.waits.append(seconds)
        self.time += seconds


@pytest.fixture
def clock() -> TurnedClock:
    return TurnedClock()


@pytest.fixture
def ask() -> dict[str, Any]:
    """The arguments of the smallest request."""
    return {"model": "claude-sonnet-5-5", "max_tokens": 1000, "messages": [{"role": "user", "content": "Hello there"}]}
