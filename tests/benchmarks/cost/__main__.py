"""What conversations cost with us and with others: `make bench-cost`, or `python -m tests.benchmarks.cost --help`."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tests.benchmarks.cost import chart, ours, small, theirs, work, worktable
from tests.benchmarks.cost.recorded import RECORDED
from tests.benchmarks.cost.spent import MODELS, Spent
from tests.benchmarks.cost.table import OURS, Results, markdown, text
from tests.benchmarks.cost.traces import sample
from tests.benchmarks.cost.workloads import KINDS

CHUNK = 4
"""Recordings of one user that a worker gives to every peer at a time."""

DOCUMENT = Path(__file__).parents[3] / "docs" / "cost.md"
CHART = DOCUMENT.with_name("cost.svg")

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


def workloads(asked: work.Asked, peers: bool, processes: int) -> list[worktable.Row]:
    """The workloads in every way, at every price."""
    calls: dict[tuple[str, float], Callable[[], Any]] = {}
    if peers:
        calls |= {(name, 0.0): partial(work.libraries, name, asked) for name in KINDS}
    calls |= {(name, read): partial(work.row, name, read, asked) for name in KINDS for read in MODELS}
    found = dict(everything(calls, processes))
    return work.with_libraries(
        [found[name, read] for read in MODELS for name in KINDS],
        {name: found[name, 0.0] for name in KINDS if peers},
    )


def alone(asked: work.Asked, names: Iterable[str], processes: int) -> list[worktable.Row]:
    """A process for each conversation, where the inference about parks is wrong."""
    calls = {(name, read): partial(work.row, name, read, asked) for read in MODELS for name in names}
    found = dict(everything(calls, processes))
    return [found[key] for key in calls]


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
    """The simulator's version, the last commit that changed it or the sessions, and the date."""
    commit = _git("log", "-1", "--format=%h") or "no repository"
    changed = " and changes" if _git("status", "--porcelain") else ""
    return f"simulator: warmline {version('warmline')} ({commit}{changed}), {datetime.now(UTC):%Y-%m-%d}"


def _git(*command: str) -> str:
    asked = ["git", "-C", str(DOCUMENT.parents[1]), *command, "--", "sessions", "storage"]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--traces", type=int, help="how many recordings, spread over all sizes (default: all)")
    parser.add_argument("--ours", action="store_true", help="without the libraries of others")
    parser.add_argument("--policy", action="append", choices=list(ours.POLICIES), help="only these of ours")
    parser.add_argument("--no-scenarios", action="store_true", help="without the small scenarios")
    parser.add_argument("--no-recordings", action="store_true", help="without the recordings")
    parser.add_argument("--no-workloads", action="store_true", help="without the drawn workloads")
    parser.add_argument("--scale", type=float, default=0.3, help="how much of the time of each workload is played")
    parser.add_argument("--seed", type=int, default=1, help="of the workloads: another draw of the same kind")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--output", type=Path, help="a folder for cost.json, cost.md and cost.svg")
    parser.add_argument("--docs", action="store_true", help="put tables and chart into docs/cost.md")
    return parser.parse_args()


def main() -> None:
    given, started = arguments(), time.perf_counter()
    policies, peers = given.policy or list(ours.POLICIES), not given.ours
    problems = list[str]()
    if not given.no_scenarios:
        found = scenarios(policies, peers, given.processes)
        print("\n".join(found.text()), end="\n\n")
        problems += found.problems
        _tell(given, "cost-scenarios", found.markdown(), which())
    if not given.no_workloads:
        problems += _workloads(given, policies, peers)
    if not given.no_recordings:
        results = recorded(sample(given.traces), policies, peers, given.processes)
        print("\n".join(text(results)))
        problems += results.problems()
        count, requests = sum(results.sessions.values()), results.total(ours.UNCACHED, 0.1).requests
        _tell(given, "cost", markdown(results), f"{count} of 272 recorded sessions, {requests:,} requests; {which()}")
        _draw(given, results)
    print(f"{time.perf_counter() - started:.0f} s")
    for problem in problems[:10]:
        print(f"problem: {problem}")
    if problems:
        raise SystemExit(f"{len(problems)} requests were refused or did not read what they should have")


def _workloads(given: argparse.Namespace, policies: list[str], peers: bool) -> Iterator[str]:
    """Plays and tells the workloads, then a process for each conversation; gives what went wrong."""
    asked = work.Asked(given.seed, given.scale, tuple(policies))
    yield from _told(given, "cost-workloads", workloads(asked, peers, given.processes))
    names = [*work.APART, *([] if given.no_recordings else [RECORDED])]
    asked = work.Asked(given.seed, given.scale, tuple(policies[-1:]), apart=True)
    yield from _told(given, "cost-apart", alone(asked, names, given.processes))


def _told(given: argparse.Namespace, name: str, rows: Sequence[worktable.Row]) -> Iterator[str]:
    print("\n".join(worktable.text(rows)), end="\n\n")
    sessions, requests = sum(row.visits for row in rows), sum(row.requests for row in rows)
    draw = f"{sessions} sessions, {requests:,} requests at all prices (seed {given.seed})"
    _tell(given, name, worktable.markdown(rows), f"{worktable.summary(rows)}; {draw}; {which()}")
    yield from (problem for row in rows for problem in row.problems)


def _tell(given: argparse.Namespace, name: str, table: Iterable[str], source: str) -> None:
    """Says where a table comes from, and puts it into the folder and between its marks in docs/cost.md."""
    print(source)
    lines = "\n".join([*table, "", f"{source}."])
    if given.output:
        given.output.mkdir(parents=True, exist_ok=True)
        (given.output / f"{name}.md").write_text(lines + "\n")
    if given.docs:
        begin, end = f"<!-- bench-{name} -->", f"<!-- /bench-{name} -->"
        before, _, rest = DOCUMENT.read_text().partition(begin)
        _, _, after = rest.partition(end)
        if not after:
            raise SystemExit(f"{DOCUMENT} has no {begin} … {end}")
        DOCUMENT.write_text(f"{before}{begin}\n\n{lines}\n\n{end}{after}")


def _draw(given: argparse.Namespace, results: Results) -> None:
    """The chart, and the figures that it is drawn from."""
    picture = chart.draw(results, which())
    if given.output:
        (given.output / "cost.json").write_text(json.dumps({"which": which(), **results.to_json()}, indent=1))
        (given.output / "cost.svg").write_text(picture)
    if given.docs:
        CHART.write_text(picture)


if __name__ == "__main__":
    main()
