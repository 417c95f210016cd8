"""The scenarios in every way: ours with each policy, the API's automatic caching, the peers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from sessions.core.usage import Usage
from tests.benchmarks.cost import ours, theirs, together
from tests.benchmarks.cost.scenarios import SCENARIOS, Scenario, second_session
from tests.benchmarks.cost.spent import price

READ = 0.1
SECOND, TOGETHER = "second session: tokens read", "6 first calls at once: prefixes written"
OURS = "warmline "

Cells = dict[tuple[str, str], str]
"""Texts by row and column."""


@dataclass(slots=True)
class Small:
    """The table of the scenarios; `problems`: sentences."""

    cells: Cells = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def columns(self) -> list[str]:
        """Scenarios."""
        return [*(one.name for one in SCENARIOS), SECOND, TOGETHER]

    @property
    def names(self) -> list[str]:
        """Ways: the API's own first, ours last."""
        found = list(dict.fromkeys(name for name, _ in self.cells))
        first = [name for name in (ours.TOP_5M, ours.TOP_1H) if name in found]
        last = [OURS + name for name in ours.POLICIES if OURS + name in found]
        return [*first, *sorted(set(found) - set(first) - set(last)), *last]

    def text(self) -> Iterator[str]:
        """Lines for the terminal, a block for each scenario."""
        for column in self.columns:
            yield column
            for name in self.names:
                if (name, column) in self.cells:
                    yield f"  {name:38} {self.cells[name, column]}"

    def markdown(self) -> Iterator[str]:
        """Lines for docs/cost.md: the peers of one lifetime share a column, from the least to the most."""
        own = [name for name in self.names if name.startswith(OURS)]
        groups = {name: [name] for name in self.names if name in (ours.TOP_5M, ours.TOP_1H)}
        for ttl in theirs.TTLS:
            groups[f"four libraries, {ttl}"] = [name for name in self.names if name.endswith(f", {ttl}")]
        groups[f"**{own[-1]}**"] = own[-1:]
        groups = {title: names for title, names in groups.items() if names}
        yield "| | " + " | ".join(groups) + " |"
        yield "|---|" + "---:|" * len(groups)
        for column in self.columns:
            texts = (_span([self.cells.get((name, column), "") for name in names]) for names in groups.values())
            yield f"| {column} | " + " | ".join(texts) + " |"


def _span(texts: list[str]) -> str:
    """The least and the most of figures, or the one that all are."""
    found = sorted({text for text in texts if text}, key=lambda text: float(text.split()[0].replace(",", "")))
    return f"{found[0]} to {found[-1]}" if len(found) > 1 else "".join(found)


def jobs(policies: list[str], peers: bool) -> list[Callable[[], tuple[Cells, list[str]]]]:
    """Every scenario, each for one worker."""
    found: list[Callable[[], tuple[Cells, list[str]]]] = [
        partial(_scenario, number, policies, peers) for number in range(len(SCENARIOS))
    ]
    return [*found, partial(_second, policies, peers), partial(_together, policies, peers)]


def _scenario(number: int, policies: list[str], peers: bool) -> tuple[Cells, list[str]]:
    scenario = SCENARIOS[number]
    cells: Cells = {}
    problems: list[str] = []
    plain = 1
    for policy in policies:
        series = _play(scenario, policy)
        rows = ours.rows(series, policy)
        plain = rows[policy].sent
        for name in (ours.TOP_5M, ours.TOP_1H):
            cells[name, scenario.name] = f"{rows[name].price(READ) / plain:.3f}"
        early = sum((ours.until_the_last_request(one.requests) for one in series.replays), start=Usage())
        whole = f"{rows[policy].price(READ) / plain:.3f}"
        before = f"{price(early, READ) / plain:.3f}"
        cells[OURS + policy, scenario.name] = whole if whole == before else f"{whole} ({before} by the last request)"
        problems += rows[policy].problems
    for name, one in _peers(scenario, peers).items():
        cells[name, scenario.name] = f"{price(one.spent.usage, READ) / plain:.3f}"
        problems += one.problems
    return cells, problems


def _play(scenario: Scenario, policy: str) -> Any:
    more = {"profile": scenario.profile} if scenario.profile else {}
    return ours.play(scenario.recordings(), READ, "somebody", **ours.POLICIES[policy], **more)


def _peers(scenario: Scenario, peers: bool) -> dict[str, theirs.Answered]:
    return theirs.on_recordings(scenario.recordings(), "somebody", scenario.profile) if peers else {}


def _second(policies: list[str], peers: bool) -> tuple[Cells, list[str]]:
    """What the first request of the second session reads."""
    cells: Cells = {}
    scenario = Scenario(SECOND, second_session)
    for policy in policies:
        (played,) = _play(scenario, policy).replays
        row = next(row for row in played.requests if row.session == 1 and not row.idle)
        cells[OURS + policy, SECOND] = f"{row.usage.cache_read:,}"
        for name, ttl in ((ours.TOP_5M, "5m"), (ours.TOP_1H, "1h")):
            cells[name, SECOND] = f"{row.automatic[ttl].cache_read:,}"
    answered = _peers(scenario, peers)
    cells |= {(name, SECOND): f"{one.usages[1].cache_read:,}" for name, one in answered.items()}
    return cells, [problem for one in answered.values() for problem in one.problems]


def _together(policies: list[str], peers: bool) -> tuple[Cells, list[str]]:
    cells: Cells = {(OURS + policy, TOGETHER): str(together.ours(policy)) for policy in policies}
    for peer in theirs.PEERS if peers else ():
        for ttl in theirs.TTLS:
            cells[theirs.label(peer, ttl), TOGETHER] = str(together.theirs(peer, ttl))
    return cells, []
