"""Workloads that are not agents, ours beside what can be chosen once and for all:
`python -m tests.benchmarks.cost.work --only slack,support-5 --prices 0.1 --seed 2 --scale 0.3`."""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import repeat
from multiprocessing import get_context

from sessions.core.usage import Usage
from tests.benchmarks.cost import schemes, timeline
from tests.benchmarks.cost.ours import POLICIES
from tests.benchmarks.cost.spent import MODELS, price
from tests.benchmarks.cost.workloads import KINDS, workload

OURS, BOUND = "ours", "bound"


@dataclass(frozen=True, slots=True)
class Row:
    """One workload at one price: `costs` by scheme in plain input tokens, `idle` requests of ours by kind."""

    name: str
    read: float
    visits: int
    requests: int
    costs: dict[str, float]
    usages: dict[str, Usage]
    idle: dict[str, int]
    spent_idle: float
    seconds: float
    problems: tuple[str, ...] = ()

    @property
    def best(self) -> str:
        """The cheapest of what can be chosen once and for all."""
        return min(schemes.FIXED, key=lambda name: self.costs[name])

    def over_best(self, name: str) -> float:
        """A scheme's cost by that of the best fixed choice."""
        return self.costs[name] / self.costs[self.best]


def row(name: str, read: float, seed: int, scale: float, policy: str = "ExpectedCost()") -> Row:
    """Plays one workload at one price in every way."""
    started, drawn = time.perf_counter(), workload(name, seed, scale)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        played = timeline.play(drawn, read, POLICIES[policy])
    requests, profile = played.requests, played.profile
    usages = {schemes.UNCACHED: schemes.uncached(requests), OURS: replace(played.usage, output=0)}
    for scheme, one in schemes.FIXED.items():
        usages[scheme] = schemes.play(one, requests, profile, refreshes_shorter=played.refreshes_shorter)
    return Row(
        name=name,
        read=read,
        visits=len(drawn.visits),
        requests=len(requests),
        costs={scheme: price(usage, read) for scheme, usage in usages.items()}
        | {BOUND: schemes.bound(requests, profile)},
        usages=usages,
        idle={kind: count for kind, count in played.kinds.items() if kind != "turn"},
        spent_idle=price(played.idle, read),
        seconds=time.perf_counter() - started,
        problems=played.problems,
    )


def text(rows: list[Row]) -> Iterator[str]:
    """Lines for the terminal: every scheme's cost by that of the best fixed choice."""
    names = [schemes.UNCACHED, *schemes.FIXED]
    yield f"{'cost / best fixed choice':24}" + "".join(f"{name:>17}" for name in names) + "     OURS  /bound  idle"
    for one in rows:
        cells = "".join(f"{one.over_best(name):16.3f}{'*' if name == one.best else ' '}" for name in names)
        idle = ", ".join(f"{count} {kind}" for kind, count in sorted(one.idle.items())) or "none"
        share = one.spent_idle / one.costs[OURS]
        over_bound = one.costs[OURS] / one.costs[BOUND]
        yield (
            f"{one.name:12} read {one.read:<6} {cells} {one.over_best(OURS):8.3f} {over_bound:7.3f}"
            f"  {idle} ({share:.1%} of ours); {one.visits} sessions, {one.requests} requests, {one.seconds:.1f} s"
        )
    ratios = [one.over_best(OURS) for one in rows]
    worst, under, over = max(ratios), sum(ratio <= 0.95 for ratio in ratios), sum(ratio > 1.05 for ratio in ratios)
    yield f"of {len(ratios)}: at most .95 {under}, above 1.05 {over}, the worst {worst:.3f}"


def buckets(one: Row) -> Iterator[str]:
    """What ours and the best fixed choice paid for, in thousands of plain input tokens."""
    yield f"{one.name} read {one.read}"
    for name in (OURS, one.best):
        usage = one.usages[name]
        parts = {
            "plain": Usage(input=usage.input),
            "read": Usage(cache_read=usage.cache_read),
            "5m": Usage(cache_write_5m=usage.cache_write_5m),
            "1h": Usage(cache_write_1h=usage.cache_write_1h),
        }
        yield f"  {name:18}" + "".join(
            f"{part:>7} {price(spent, one.read) / 1000:9.1f}" for part, spent in parts.items()
        )


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(KINDS), help=f"some of {','.join(KINDS)}")
    parser.add_argument("--prices", default=",".join(map(str, MODELS)), help="read prices")
    parser.add_argument("--seed", type=int, default=1, help="another draw of the same kind")
    parser.add_argument("--scale", type=float, default=1.0, help="how much of the time is played")
    parser.add_argument("--policy", default="ExpectedCost()", choices=list(POLICIES))
    parser.add_argument("--buckets", action="store_true", help="what ours and the best fixed choice paid for")
    parser.add_argument("--processes", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    given = arguments()
    todo = [(name, float(read)) for read in given.prices.split(",") for name in given.only.split(",")]
    fixed = [repeat(value) for value in (given.seed, given.scale, given.policy)]
    if given.processes == 1:
        rows = list(map(row, *zip(*todo, strict=True), *fixed))
    else:
        with ProcessPoolExecutor(given.processes, mp_context=get_context("spawn")) as pool:
            rows = list(pool.map(row, *zip(*todo, strict=True), *fixed))
    print("\n".join(text(rows)))
    for one in rows if given.buckets else ():
        print("\n".join(buckets(one)))
    for problem in [problem for one in rows for problem in one.problems][:10]:
        print(f"problem: {problem}")


if __name__ == "__main__":
    main()
