"""What conversations cost with us and with others: `make bench-cost`, or `python -m tests.benchmarks.cost --help`."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tests.benchmarks.cost import chart, ours, small, theirs
from tests.benchmarks.cost.spent import MODELS, Spent
from tests.benchmarks.cost.table import OURS, Results, markdown, text
from tests.benchmarks.cost.traces import sample

CHUNK = 4
"""Recordings of one user that a worker gives to every peer at a time."""

README = Path(__file__).parents[3] / "README.md"
CHART = Path(__file__).parent / "cost.svg"
BEGIN, END = "<!-- bench-cost -->", "<!-- /bench-cost -->"

Job = tuple[Callable[..., dict[str, Spent]], tuple[Any, ...]]


def jobs(users: Mapping[str, list[str]], policies: list[str], peers: bool) -> Iterator[Job]:
    """Every run, the longest first: a policy on all recordings of a user, all peers on some of them."""
    for user, names in sorted(users.items(), key=lambda item: -len(item[1])):
        for policy in policies:
            for read in MODELS:
                yield ours.run, (policy, read, user, names)
    for user, names in users.items():
        for start in range(0, len(names) if peers else 0, CHUNK):
            yield theirs.run, (user, names[start : start + CHUNK])


def everything(calls: Mapping[Any, Callable[[], Any]], processes: int) -> Iterator[tuple[Any, Any]]:
    """Runs all calls in processes of their own; what each gave, as it comes. One that raises ends the run."""
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        waiting = {pool.submit(call): key for key, call in calls.items()}
        try:
            for done, future in enumerate(as_completed(waiting), 1):
                yield waiting[future], future.result()
                print(f"\r{done} of {len(waiting)} runs", end="", file=sys.stderr, flush=True)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    print(file=sys.stderr)


def recorded(users: Mapping[str, list[str]], policies: list[str], peers: bool, processes: int) -> Results:
    """The recordings in every way."""
    results = Results({user: len(names) for user, names in users.items()})
    todo = dict(enumerate(jobs(users, policies, peers)))
    calls = {number: partial(call, *args) for number, (call, args) in todo.items()}
    for number, rows in everything(calls, processes):
        _take(results, todo[number], rows, policies[0])
    return results


def scenarios(policies: list[str], peers: bool, processes: int) -> small.Small:
    """The scenarios in every way."""
    found = small.Small()
    calls = dict(enumerate(small.jobs(policies, peers)))
    for _, (cells, problems) in everything(calls, processes):
        found.cells |= cells
        found.problems += problems
    return found


def _take(results: Results, job: Job, rows: dict[str, Spent], first: str) -> None:
    call, args = job
    if call is theirs.run:
        for name, spent in rows.items():
            for read in MODELS:  # a peer does not look at prices
                results.add(name, read, args[0], spent)
        return
    policy, read, user = args[:3]
    for name, spent in rows.items():
        if name == policy:
            results.add(OURS + name, read, user, spent)
        elif policy == first:  # what follows from the requests is the same with every policy
            results.add(name, read, user, spent)


def which() -> str:
    """The simulator's version and the date."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    ).stdout.strip()
    return f"simulator: warmline {version('warmline')} ({commit or 'no repository'}), {datetime.now(UTC):%Y-%m-%d}"


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--traces", type=int, help="how many recordings, spread over all sizes (default: all)")
    parser.add_argument("--ours", action="store_true", help="without the libraries of others")
    parser.add_argument("--policy", action="append", choices=list(ours.POLICIES), help="only these of ours")
    parser.add_argument("--no-scenarios", action="store_true", help="only the recordings")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--output", type=Path, help="a folder for cost.json, cost.md and cost.svg")
    parser.add_argument("--readme", action="store_true", help="put tables and chart into the README")
    return parser.parse_args()


def main() -> None:
    given, started = arguments(), time.perf_counter()
    policies, peers = given.policy or list(ours.POLICIES), not given.ours
    chosen = sample(given.traces)
    problems, extra = list[str](), list[str]()
    if not given.no_scenarios:
        found = scenarios(policies, peers, given.processes)
        print("\n".join(found.text()), end="\n\n")
        problems, extra = found.problems, ["", *found.markdown()]
    results = recorded(chosen, policies, peers, given.processes)
    print("\n".join(text(results)))
    count, requests = sum(results.sessions.values()), results.total(ours.UNCACHED, 0.1).requests
    told = f"{count} of 272 recorded sessions, {requests:,} requests; {which()}"
    print(f"{told}; {time.perf_counter() - started:.0f} s")
    tables = "\n".join([*markdown(results), *extra, "", f"{told}."])
    if given.output:
        _write(given.output, results, tables)
    if given.readme:
        _publish(results, tables)
    problems += results.problems()
    for problem in problems[:10]:
        print(f"problem: {problem}")
    if problems:
        raise SystemExit(f"{len(problems)} requests were refused or did not read what they should have")


def _publish(results: Results, tables: str) -> None:
    """Puts the tables between their marks in the README, and the chart beside this file."""
    CHART.write_text(chart.draw(results, which()))
    before, _, rest = README.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    if not after:
        raise SystemExit(f"the README has no {BEGIN} … {END}")
    README.write_text(f"{before}{BEGIN}\n{tables}\n{END}{after}")


def _write(folder: Path, results: Results, tables: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cost.json").write_text(json.dumps({"which": which(), **results.to_json()}, indent=1))
    (folder / "cost.svg").write_text(chart.draw(results, which()))
    (folder / "cost.md").write_text(tables + "\n")


if __name__ == "__main__":
    main()
