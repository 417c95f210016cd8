"""Real sessions on the recordings, one manager for each user, with every lifetime policy."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import anyio

from sessions import ExpectedCost, Fixed
from sessions.core.usage import Usage
from sessions.importers import RecordedConversation
from sessions.replay import Series, replay_series
from sessions.replay.meter import Metered, Sent
from tests.benchmarks.cost.bound import bound
from tests.benchmarks.cost.spent import MODELS, Spent
from tests.benchmarks.cost.traces import recording

POLICIES: dict[str, dict[str, Any]] = {
    'Fixed("5m")': {"ttl": Fixed("5m"), "tend": False},
    'Fixed("1h")': {"ttl": Fixed("1h"), "tend": False},
    "ExpectedCost(), tend=False": {"ttl": ExpectedCost(), "tend": False},
    "ExpectedCost()": {"ttl": ExpectedCost(), "tend": True},
}
"""What a manager is given, by the name of the row."""

UNCACHED, TOP_5M, TOP_1H, BOUND = "uncached", "top-level cache_control 5m", "top-level cache_control 1h", "bound"


def play(
    recorded: Sequence[Sequence[RecordedConversation]],
    read: float,
    user: str,
    sent: Sent | None = None,
    **settings: Any,
) -> Series:
    """Plays recordings in a series. Raises `AssertionError` where the ledgers are not the simulator's bill."""

    async def main() -> Series:
        return await replay_series(recorded, model=MODELS[read], owner=user, sent=sent, **settings)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        series = anyio.run(main)
    summed = series.totals.usage
    if not series.billed == series.ledger == summed:
        raise AssertionError(f"{user}, {settings}: billed {series.billed}, ledger {series.ledger}, rows {summed}")
    return series


def run(policy: str, read: float, user: str, names: Sequence[str]) -> dict[str, Spent]:
    """One user's recordings with one policy: our row, and the rows that follow from the same requests."""
    series = play([recording(name) for name in names], read, user, **POLICIES[policy])
    return rows(series, policy)


def rows(series: Series, name: str) -> dict[str, Spent]:
    """Our row under that name, and what the very same requests cost in other ways."""
    requests = [row for one in series.replays for row in one.requests]
    problems = tuple(f"{one.id}: {problem}" for one in series.replays for problem in one.problems)
    mine = Spent(
        series.totals.usage,
        series.totals.sent,
        series.totals.requests,
        series.totals.idle,
        series.totals.idle_requests,
        problems,
    )
    return {
        name: mine,
        UNCACHED: _of(Usage(input=mine.sent), mine),
        TOP_5M: _of(series.totals.top_level, mine),
        TOP_1H: _of(series.totals.top_level_1h, mine),
        BOUND: _of(bound(requests), mine),
    }


def until_the_last_request(requests: Sequence[Metered]) -> Usage:
    """What was used up to a session's last request, without what was spent on waiting afterwards."""
    last = max(row.started for row in requests if not row.idle)
    return sum((row.usage for row in requests if row.started <= last), start=Usage())


def _of(usage: Usage, mine: Spent) -> Spent:
    return Spent(usage, mine.sent, mine.requests)
