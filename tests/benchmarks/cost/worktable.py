"""The table of the workloads, as text for the terminal and as Markdown for docs/cost.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sessions.core.usage import Usage
from tests.benchmarks.cost import schemes
from tests.benchmarks.cost.spent import price
from tests.benchmarks.cost.theirs import TTLS

OURS = "warmline "
CHOSEN = ("5m", "1h", OURS + 'Fixed("5m")', OURS + 'Fixed("1h")')
"""The rows of one lifetime for everything."""


@dataclass(frozen=True, slots=True)
class Row:
    """One workload at one read price: what each way used, by name.

    `ours`: the name of the way that is compared. `bound`: plain input tokens. `idle`: requests of ours that asked no
    model, by kind, and `spent_idle` what they used. `apart`: it is compared with the better fixed lifetime only.
    """

    name: str
    read: float
    visits: int
    requests: int
    usages: Mapping[str, Usage]
    ours: str
    bound: float
    idle: Mapping[str, int]
    spent_idle: Usage
    seconds: float
    problems: tuple[str, ...] = ()
    apart: bool = False

    @property
    def fixed(self) -> list[str]:
        """What can be chosen once and for all."""
        ways = [name for name in self.usages if not name.startswith(OURS) or name in CHOSEN]
        return [name for name in ways if (name in CHOSEN if self.apart else name != schemes.UNCACHED)]

    @property
    def best(self) -> str:
        """The cheapest of them."""
        return min(self.fixed, key=self.cost)

    def cost(self, name: str) -> float:
        """What one way costs, in plain input tokens."""
        return price(self.usages[name], self.read)

    def over_best(self, name: str) -> float:
        """A way's cost by that of the best fixed choice."""
        return self.cost(name) / self.cost(self.best)

    def share(self, name: str) -> str:
        """A way's cost by that of sending everything uncached."""
        return f"{self.cost(name) / self.cost(schemes.UNCACHED):.3f}"


def text(rows: Sequence[Row]) -> Iterator[str]:
    """Lines for the terminal: every way's cost by that of the best fixed choice."""
    names = [name for name in rows[0].usages if name != rows[0].ours]
    yield (
        f"{'cost / best fixed choice':24}"
        + "".join(f"{_short(name):>17}" for name in names)
        + "     OURS  /bound  idle"
    )
    for one in rows:
        cells = "".join(f"{one.over_best(name):16.3f}{'*' if name == one.best else ' '}" for name in names)
        mine = one.cost(one.ours)
        idle = ", ".join(f"{count} {kind}" for kind, count in sorted(one.idle.items())) or "none"
        yield (
            f"{one.name:12} read {one.read:<6} {cells} {one.over_best(one.ours):8.3f} {mine / one.bound:7.3f}"
            f"  {idle} ({price(one.spent_idle, one.read) / mine:.1%} of ours)"
            f"; {one.visits} sessions, {one.requests} requests, {one.seconds:.1f} s"
        )
    yield summary(rows)


def summary(rows: Sequence[Row]) -> str:
    """How ours compares, over all rows."""
    ratios = [one.over_best(one.ours) for one in rows]
    under, over = sum(ratio <= 0.95 for ratio in ratios), sum(ratio > 1.05 for ratio in ratios)
    worst = f"above 1.05 in {over}, at most {max(ratios):.3f}"
    return f"ours / best fixed: at most .95 in {under} of {len(ratios)} rows, {worst}"


def buckets(one: Row) -> Iterator[str]:
    """What ours and the best fixed choice paid for, in thousands of plain input tokens."""
    yield f"{one.name} read {one.read}"
    for name in (one.ours, one.best):
        usage = one.usages[name]
        parts = {
            "plain": Usage(input=usage.input),
            "read": Usage(cache_read=usage.cache_read),
            "5m": Usage(cache_write_5m=usage.cache_write_5m),
            "1h": Usage(cache_write_1h=usage.cache_write_1h),
        }
        yield f"  {_short(name):18}" + "".join(
            f"{part:>7} {price(spent, one.read) / 1000:9.1f}" for part, spent in parts.items()
        )


def markdown(rows: Sequence[Row]) -> Iterator[str]:
    """Lines for docs/cost.md: shares of sending everything uncached, then ours by the best fixed choice."""
    ways = _columns(rows[0])
    columns = [*ways, "bound", "ours / best fixed", "while idle"]
    yield "| | reads at | uncached, tokens | " + " | ".join(columns) + " |"
    yield "|---|---:|---:|" + "---:|" * len(columns)
    for one in rows:
        shares = [_span([one.share(name) for name in names]) for names in ways.values()]
        bound = f"{one.bound / one.cost(schemes.UNCACHED):.3f}"
        idle = f"{price(one.spent_idle, one.read) / one.cost(one.ours):.1%}"
        cells = [one.name, str(one.read), f"{one.cost(schemes.UNCACHED) / 1e6:.2f} M", *shares, bound]
        yield f"| {' | '.join(cells)} | {one.over_best(one.ours):.3f} ({one.best}) | {idle} |"


def _columns(one: Row) -> dict[str, list[str]]:
    """Titles, and the ways that share each: libraries of one lifetime have one column."""
    plain = [name for name in schemes.FIXED if name in one.usages]
    mine = [name for name in one.usages if name.startswith(OURS)]
    others = [name for name in one.usages if name not in (schemes.UNCACHED, *plain, *mine)]
    groups = {f"four libraries, {ttl}": [name for name in others if name.endswith(f", {ttl}")] for ttl in TTLS}
    groups = {name: [name] for name in plain} | groups | {name: [name] for name in mine}
    return {f"**{title}**" if title == one.ours else title: names for title, names in groups.items() if names}


def _span(texts: Sequence[str]) -> str:
    """The least and the most of figures, or the one that all are."""
    found = sorted(set(texts))
    return f"{found[0]} to {found[-1]}" if len(found) > 1 else found[0]


def _short(name: str) -> str:
    bare = name.removeprefix(OURS)
    return bare if len(bare) <= 16 else f"{bare[:11]}…{bare[-4:]}"
