"""What some recordings cost in one way: input tokens by bucket, priced afterwards at any model's prices."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from decimal import Decimal
from typing import Any

from sessions.core.prices import prices_for
from sessions.core.profiles import profile_for
from sessions.core.usage import Usage

MODELS = {0.1: "claude-opus-5", 0.05: "claude-sonnet-5-5", 0.025: "claude-fable-5-2"}
"""The model of each read price (a share of the input price)."""


@dataclass(frozen=True, slots=True)
class Spent:
    """`usage` is everything, `idle` the part of it that was spent while waiting. `sent`: prompt tokens of the requests
    that were not idle. `problems`: sentences; none is right."""

    usage: Usage = field(default_factory=Usage)
    sent: int = 0
    requests: int = 0
    idle: Usage = field(default_factory=Usage)
    idle_requests: int = 0
    problems: tuple[str, ...] = ()

    def __add__(self, other: Spent) -> Spent:
        return Spent(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))

    def price(self, read: float) -> float:
        """All input at the prices of the model of that read price, in plain input tokens."""
        return price(self.usage, read)

    def to_json(self) -> dict[str, Any]:
        """The figures."""
        buckets = ("input", "cache_read", "cache_write_5m", "cache_write_1h")
        return {
            **{name: getattr(self.usage, name) for name in buckets},
            "sent": self.sent,
            "requests": self.requests,
            "idle_requests": self.idle_requests,
        }


def price(usage: Usage, read: float) -> float:
    """The input side of a bill in plain input tokens, at the prices of the model of that read price."""
    prices = prices_for(profile_for(MODELS[read]))
    if prices is None:
        raise AssertionError(f"no price is known for {MODELS[read]}")
    spent = prices.of(Usage(usage.input, usage.cache_read, usage.cache_write_5m, usage.cache_write_1h))
    return float(spent / prices.input * Decimal(1_000_000))
