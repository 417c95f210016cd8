"""The rules of the API, asked of the simulator's engine directly: no client, no event loop, time as an argument."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from sessions.core.usage import Usage
from sessions.simulator import Engine, Exchange, filler

MODEL = "claude-sonnet-5-5"
HEADERS = {"x-api-key": "simulated", "anthropic-version": "2026-10-21"}


class Api:
    """One engine, and requests to it that run from start to end."""

    def __init__(self, **options: Any) -> None:
        self.engine = Engine(**{"script": lambda request: "Fine.", **options})

    def receive(self, messages: Any, *, now: float = 0.0, headers: Mapping[str, str] = {}, **fields: Any) -> Exchange:
        """A request that has been read, and not answered yet."""
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        body = {"model": MODEL, "max_tokens": 100, "messages": messages, **fields}
        body = {name: value for name, value in body.items() if value is not ...}
        return self.engine.receive(body, {**HEADERS, **headers}, now)

    def finish(self, exchange: Exchange, now: float = 0.0) -> Exchange:
        """The rest of an accepted request."""
        if exchange.state == "open" and self.engine.answer(exchange, self.engine.ask(exchange)):  # type: ignore[arg-type]
            self.engine.begin(exchange, now)
            self.engine.end(exchange, now)
        return exchange

    def post(self, messages: Any, *, now: float = 0.0, headers: Mapping[str, str] = {}, **fields: Any) -> Exchange:
        """A whole request."""
        return self.finish(self.receive(messages, now=now, headers=headers, **fields), now)

    def usage(self, messages: Any, **fields: Any) -> Usage:
        """What a request that must be accepted is billed for its prompt."""
        exchange = self.post(messages, **fields)
        assert exchange.error is None, exchange.error
        assert exchange.usage is not None
        return exchange.usage

    def error(self, messages: Any, **fields: Any) -> str:
        """The text with which a request that must be refused is refused."""
        exchange = self.post(messages, **fields)
        assert exchange.error is not None, "accepted"
        return str(exchange.error["error"]["message"])


def text(tokens: int = 100, ttl: str | None = None, word: str = "lorem") -> dict[str, Any]:
    """A text block of exactly that many tokens, marked if `ttl` is given ("" for a marker without ttl)."""
    block: dict[str, Any] = {"type": "text", "text": filler(tokens, word)}
    if ttl is not None:
        block["cache_control"] = {"type": "ephemeral", **({"ttl": ttl} if ttl else {})}
    return block


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.fixture
def make_api() -> Callable[..., Api]:
    return Api


@pytest.fixture
def block() -> Callable[..., dict[str, Any]]:
    return text
