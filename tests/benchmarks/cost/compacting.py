"""What `compact="cheapest"` saves on the longest recorded agents: `python -m tests.benchmarks.cost.compacting`; and
what `clear_tool_results=True` does: the same with `--clear`.

Each recording is played twice through real sessions, without and with it, at each read price. `--as recorded` keeps the
recorder's own compactions (near 155,000 tokens, for which it is charged nothing here): each begins a new session.
`--as whole` lets the conversation go on through them, as in a window of a million tokens.

Assumed: the first prompt of a recording but a thousand tokens is system prompt and tools; behind a summary, and behind
cleared tool results, 20,000 tokens are read again, in the next tool result; a summary has the simulator's size, 2,000
to 3,000 tokens, and its output is charged to it. The words that follow a recorder's compaction count as a thousand
tokens.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from typing import Any

from sessions.core.prices import Prices, prices_for
from sessions.core.profiles import profile_for
from sessions.core.shortening import READ_AGAIN
from sessions.importers import RecordedConversation
from sessions.importers.records import RecordedStep, RecordedTurn
from sessions.replay.player import output_tokens
from tests.benchmarks.cost import timeline
from tests.benchmarks.cost.ours import POLICIES
from tests.benchmarks.cost.spent import MODELS
from tests.benchmarks.cost.timeline import How, Played
from tests.benchmarks.cost.traces import recording, sample
from tests.benchmarks.cost.workloads import Step, Turn, Visit, Workload

_WORDS, _LEAST = 1000, 30
_OPTIONS: dict[bool, dict[str, Any]] = {False: {"compact": "cheapest"}, True: {"clears": True}}
"""What is compared with doing nothing, by whether tool results are cleared."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One recording, without and with it, in plain input tokens: all input, and what the summaries' output costs."""

    name: str
    requests: int
    without: float
    cheapest: float
    times: int


def longest(count: int) -> list[str]:
    """The recordings with the most requests whose sizes were recorded."""
    names = [name for mine in sample(None).values() for name in mine]
    sized = [name for name in names if all(_size(step) for segment in recording(name) for step in segment.steps)]
    return sorted(sized, key=lambda name: -sum(len(segment.steps) for segment in recording(name)))[:count]


def workload(name: str, whole: bool) -> Workload:
    """One recording: a visit, or one for each segment between its compactions."""
    segments = [segment for segment in recording(name) if segment.steps]
    start = segments[0].steps[0].at
    head = max(2000, min(_size(segment.steps[0]) for segment in segments) - _WORDS)
    turns = [tuple(_turns(segment, start)) for segment in segments]
    groups = [sum(turns, start=())] if whole else turns
    visits = tuple(Visit(f"v{number}", "one", mine) for number, mine in enumerate(groups))
    return Workload(name, "a recorded coding agent", head, visits)


def _turns(segment: RecordedConversation, start: float) -> Iterator[Turn]:
    size = _size(segment.steps[0]) - _WORDS
    for turn in segment.turns:
        if turn.steps:
            words = max(_LEAST, _size(turn.steps[0]) - size)
            steps = tuple(_steps(turn, size + words))
            size += words + sum(step.reply + step.result for step in steps)
            yield Turn(turn.steps[0].at - start, words, steps)


def _steps(turn: RecordedTurn, size: int) -> Iterator[Step]:
    for step, then in zip(turn.steps, [*turn.steps[1:], None], strict=True):
        reply = max(_LEAST, output_tokens(step))
        if then is None:
            yield Step(reply, step.seconds)
            return
        result = max(_LEAST, _size(then) - size - reply)
        size += reply + result
        yield Step(reply, step.seconds, result, max(0.0, then.at - step.at - step.seconds))


def _size(step: RecordedStep) -> int:
    return step.usage.total_input if step.usage else 0


def pair(name: str, read: float, whole: bool, clears: bool = False) -> Pair:
    """Plays one recording twice at that read price."""
    played = workload(name, whole)
    how = How({**POLICIES["ExpectedCost()"], "max_steps": 1000})
    without = timeline.play(played, read, how)
    cheapest = timeline.play(played, read, replace(how, **_OPTIONS[clears], read_again=READ_AGAIN))
    prices = prices_for(profile_for(MODELS[read]))
    if prices is None or without.problems or cheapest.problems:
        raise AssertionError(f"{name}: {without.problems} {cheapest.problems}")
    said = without.usage.output
    return Pair(
        name=name,
        requests=len(without.requests),
        without=_input(without, said, prices),
        cheapest=_input(cheapest, said, prices),
        times=cheapest.clearings if clears else cheapest.kinds.get("compact", 0),
    )


def _input(played: Played, said: int, prices: Prices) -> float:
    """In plain input tokens: all input, and the output that is more than the replies'."""
    usage = replace(played.usage, output=played.usage.output - said)
    return float(prices.of(usage) / prices.input) * 1_000_000


def table(rows: dict[float, Sequence[Pair]], what: str) -> str:
    """A line for each read price."""
    lines = [
        f"| reads at | requests | {what} | input cost, without | with it | saved |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    for read, pairs in rows.items():
        without, cheapest = sum(one.without for one in pairs), sum(one.cheapest for one in pairs)
        counts = f"{sum(one.requests for one in pairs):,} | {sum(one.times for one in pairs)}"
        lines.append(
            f"| {read} | {counts} | {without / 1e6:.2f} M | {cheapest / 1e6:.2f} M | {1 - cheapest / without:.1%} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Plays, and prints the table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--count", type=int, default=8, help="how many recordings")
    options.add_argument("--as", dest="kind", choices=("recorded", "whole"), default="whole")
    options.add_argument("--prices", default="0.1,0.05,0.025")
    options.add_argument("--clear", action="store_true", help="clear tool results instead")
    options.add_argument("--processes", type=int, default=2)
    given = options.parse_args()
    names = longest(given.count)
    with ProcessPoolExecutor(given.processes, get_context("spawn")) as pool:
        rows = {
            read: list(pool.map(partial(pair, read=read, whole=given.kind == "whole", clears=given.clear), names))
            for read in map(float, given.prices.split(","))
        }
    print(table(rows, "clearings" if given.clear else "compactions"))


if __name__ == "__main__":
    main()
