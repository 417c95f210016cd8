"""Real sessions on the recordings, one manager for each user, with every lifetime policy."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import anyio

from sessions import ExpectedCost, Fixed
from sessions.core.usage import Usage
from sessions.replay import Series, replay_series
from tests.benchmarks.cost.bound import Shares, bound
from tests.benchmarks.cost.traces import recording

MODELS = {0.1: "claude-opus-5", 0.05: "claude-sonnet-5-5", 0.025: "claude-fable-5-2"}
"""The model of each read price (a share of the input price)."""


@dataclass(frozen=True, slots=True)
class Policy:
    """One way to run our sessions. `by_price`: it decides by the model's prices, so it is run at each of them."""

    name: str
    settings: dict[str, Any]
    by_price: bool = False


POLICIES = {
    one.name: one
    for one in (
        Policy('Fixed("5m")', {"ttl": Fixed("5m"), "tend": False}),
        Policy('Fixed("1h")', {"ttl": Fixed("1h"), "tend": False}),
        Policy("ExpectedCost(), tend=False", {"ttl": ExpectedCost(), "tend": False}, by_price=True),
        Policy("ExpectedCost()", {"ttl": ExpectedCost(), "tend": True}, by_price=True),
    )
}


@dataclass(frozen=True, slots=True)
class Row:
    """What some recordings of one user cost in one way, output left out. `idle`: the part spent while waiting."""

    usage: Usage = field(default_factory=Usage)
    idle: Usage = field(default_factory=Usage)
    idle_requests: int = 0
    requests: int = 0
    problems: tuple[str, ...] = ()
    top_level: Usage = field(default_factory=Usage)
    top_level_1h: Usage = field(default_factory=Usage)
    bound: Shares = field(default_factory=Shares)
    uncached: int = 0

    def __add__(self, other: Row) -> Row:
        return Row(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))


def run(policy: str, read: float, user: str, names: Sequence[str]) -> Row:
    """Plays one user's recordings. Raises `AssertionError` where the ledger is not the simulator's bill."""
    chosen = POLICIES[policy]

    async def main() -> Series:
        found = [recording(name) for name in names]
        return await replay_series(found, model=MODELS[read], owner=user, **chosen.settings)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        series = anyio.run(main)
    totals = series.totals
    if not series.billed == series.ledger == totals.usage:
        raise AssertionError(f"{user}, {policy}: billed {series.billed}, ledger {series.ledger}, sum {totals.usage}")
    return Row(
        totals.usage,
        totals.idle,
        totals.idle_requests,
        totals.requests,
        tuple(f"{one.id}: {problem}" for one in series.replays for problem in one.problems),
        totals.top_level,
        totals.top_level_1h,
        sum((bound(one.requests) for one in series.replays), start=Shares()),
        totals.sent,
    )
