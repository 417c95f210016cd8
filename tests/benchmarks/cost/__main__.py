"""What the recorded sessions cost: `make bench-cost`, or `python -m tests.benchmarks.cost --traces 40 --ours`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from decimal import Decimal
from multiprocessing import get_context

from sessions.core.prices import prices_for
from sessions.core.profiles import profile_for
from sessions.core.usage import Usage
from tests.benchmarks.cost.bound import Shares
from tests.benchmarks.cost.ours import MODELS, POLICIES, Row, run
from tests.benchmarks.cost.traces import sample

Table = dict[str, dict[float, Row]]


def price(usage: Usage, read: float) -> float:
    """The input side of a bill in plain input tokens, at the prices of the model of that read price."""
    prices = prices_for(profile_for(MODELS[read]), 0)
    assert prices is not None
    spent = prices.of(Usage(usage.input, usage.cache_read, usage.cache_write_5m, usage.cache_write_1h))
    return float(spent / prices.input * Decimal(1_000_000))


def price_bound(shares: Shares, read: float) -> float:
    """The bound at the same prices."""
    return price(Usage(shares.plain, shares.read, shares.write_5m, shares.write_1h), read)


def jobs(users: Mapping[str, list[str]], names: list[str]) -> Iterator[tuple[str, float, str, list[str]]]:
    """Every run: policy, read price, user, recordings. The longest first."""
    for user, mine in sorted(users.items(), key=lambda item: -len(item[1])):
        for name in names:
            for read in MODELS if POLICIES[name].by_price else list(MODELS)[:1]:
                yield name, read, user, mine


def play(users: Mapping[str, list[str]], names: list[str], processes: int) -> dict[str, Table]:
    """Runs everything; rows by user, policy and read price."""
    found: dict[str, Table] = {user: {} for user in users}
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        waiting: dict[tuple[str, float, str], Future[Row]] = {
            (name, read, user): pool.submit(run, name, read, user, mine)
            for name, read, user, mine in jobs(users, names)
        }
        for (name, read, user), future in waiting.items():
            reads = [read] if POLICIES[name].by_price else list(MODELS)
            found[user].setdefault(name, {}).update(dict.fromkeys(reads, future.result()))
    return found


def total(found: Mapping[str, Table], name: str, read: float) -> Row:
    """One policy over all users."""
    return sum((table[name][read] for table in found.values()), start=Row())


def show(found: Mapping[str, Table], names: list[str]) -> None:
    """The table: shares of uncached, and how many times the bound."""
    print(f"{'cost / uncached cost, at read price':34}" + "".join(f"{read:>10}{'':>9}" for read in MODELS))
    first = {read: total(found, names[0], read) for read in MODELS}

    def line(label: str, spent: dict[float, float]) -> None:
        cells = ""
        for read, row in first.items():
            best = price_bound(row.bound, read)
            cells += f"{spent[read] / row.uncached:10.4f}{f' ×{spent[read] / best:.3f}':>9}"
        print(f"{label:34}{cells}")

    line("uncached", {read: row.uncached for read, row in first.items()})
    line("top-level cache_control 5m", {read: price(row.top_level, read) for read, row in first.items()})
    line("top-level cache_control 1h", {read: price(row.top_level_1h, read) for read, row in first.items()})
    for name in names:
        line(f"warmline {name}", {read: price(total(found, name, read).usage, read) for read in MODELS})
    line("bound", {read: price_bound(row.bound, read) for read, row in first.items()})
    for name in names:
        rows = {read: total(found, name, read) for read in MODELS}
        idle = ", ".join(
            f"{row.idle_requests} ({price(row.idle, read) / row.uncached:.4f})" for read, row in rows.items()
        )
        if any(row.idle_requests for row in rows.values()):
            print(f"requests while idle (their share of uncached), {name}: {idle}")
        for problem in next(iter(rows.values())).problems[:5]:
            print(f"  problem with {name}: {problem}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--traces", type=int, help="how many recordings, spread over all sizes (default: all)")
    parser.add_argument("--ours", action="store_true", help="only our own rows, the API's automatic caching, the bound")
    parser.add_argument("--policy", action="append", choices=list(POLICIES), help="only these of ours")
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    users, names = sample(given.traces), given.policy or list(POLICIES)
    started = time.perf_counter()
    found = play(users, names, given.processes)
    show(found, names)
    count = sum(map(len, users.values()))
    print(f"{count} recordings, {total(found, names[0], 0.1).requests} requests, {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
