"""Workloads that are not agents, ours beside what can be chosen once and for all:
`python -m tests.benchmarks.cost.work --only slack,support-5 --prices 0.1 --seed 2 --scale 0.3`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context

from sessions.core.usage import Usage
from tests.benchmarks.cost import schemes, theirs, timeline, worktable
from tests.benchmarks.cost.conversations import Listener
from tests.benchmarks.cost.ours import POLICIES
from tests.benchmarks.cost.recorded import RECORDED, recorded
from tests.benchmarks.cost.spent import MODELS
from tests.benchmarks.cost.timeline import How, Played
from tests.benchmarks.cost.workloads import KINDS, Workload, workload
from tests.benchmarks.cost.worktable import OURS, Row

DEFAULT = "ExpectedCost()"
APART = ("support-5", "direct", "nightly", "person")
"""What a process for each conversation is played with, beside the recordings: conversations that pause."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Which draw is played, with which of our policies. `apart`: one process for each conversation, and a simulator
    that does not keep a 1h entry behind a 5m one."""

    seed: int = 1
    scale: float = 1.0
    policies: tuple[str, ...] = (DEFAULT,)
    apart: bool = False

    def drawn(self, name: str) -> Workload:
        """The workload of that name."""
        return recorded(self.scale) if name == RECORDED else workload(name, self.seed, self.scale)

    def how(self, policy: str) -> How:
        """How it is played with that policy. What becomes of parked entries is found out first, as at the API."""
        given = POLICIES[policy] | ({"trust": "probe"} if policy == DEFAULT else {})
        return How(given, apart=self.apart, parks_survive=not self.apart)


def row(name: str, read: float, asked: Asked) -> Row:
    """Plays one workload at one price in every way but the libraries."""
    started, drawn = time.perf_counter(), asked.drawn(name)
    played = {policy: timeline.play(drawn, read, asked.how(policy)) for policy in asked.policies}
    first, last = played[asked.policies[0]], played[asked.policies[-1]]
    mine = {OURS + policy: replace(one.usage, output=0) for policy, one in played.items()}
    return Row(
        name=name,
        read=read,
        visits=len(drawn.visits),
        requests=len(first.requests),
        usages=_others(first, asked.policies) | mine,
        ours=OURS + asked.policies[-1],
        bound=schemes.bound(first.requests, first.profile),
        idle={kind: count for kind, count in last.kinds.items() if kind != "turn"},
        spent_idle=last.idle,
        seconds=time.perf_counter() - started,
        problems=tuple(problem for one in played.values() for problem in one.problems),
        apart=asked.apart,
    )


def _others(played: Played, policies: Sequence[str]) -> dict[str, Usage]:
    """What follows from the requests. A fixed lifetime of ours that is played as well stands for the same scheme."""
    found = {schemes.UNCACHED: schemes.uncached(played.requests)}
    for name, scheme in schemes.FIXED.items():
        if f'Fixed("{name}")' not in policies:
            found[name] = schemes.play(
                scheme, played.requests, played.profile, refreshes_shorter=played.refreshes_shorter
            )
    return found


def libraries(name: str, asked: Asked) -> dict[str, theirs.Answered]:
    """What libraries of others are charged for the same requests, whatever a token costs."""
    listener = Listener()
    timeline.play(asked.drawn(name), 0.1, How(POLICIES['Fixed("5m")'], sent=listener))
    return theirs.on_requests(listener.asked)


def with_libraries(rows: Sequence[Row], answered: Mapping[str, Mapping[str, theirs.Answered]]) -> list[Row]:
    """The rows with what the libraries used, by workload."""
    return [_with(one, answered.get(one.name, {})) for one in rows]


def _with(one: Row, answered: Mapping[str, theirs.Answered]) -> Row:
    used = {label: replace(answer.spent.usage, output=0) for label, answer in answered.items()}
    told = tuple(f"{one.name}, {label}: {text}" for label, answer in answered.items() for text in answer.problems)
    return replace(one, usages={**one.usages, **used}, problems=(*one.problems, *told))


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(KINDS), help=f"some of {','.join([*KINDS, RECORDED])}")
    parser.add_argument("--prices", default=",".join(map(str, MODELS)), help="read prices")
    parser.add_argument("--seed", type=int, default=1, help="another draw of the same kind")
    parser.add_argument("--scale", type=float, default=1.0, help="how much of the time is played")
    parser.add_argument("--policy", default=DEFAULT, choices=list(POLICIES))
    parser.add_argument(
        "--apart", action="store_true", help="a process for each conversation, and parks do not survive"
    )
    parser.add_argument("--buckets", action="store_true", help="what ours and the best fixed choice paid for")
    parser.add_argument("--processes", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    given = arguments()
    todo = [(name, float(read)) for read in given.prices.split(",") for name in given.only.split(",")]
    names, reads = zip(*todo, strict=True)
    play = partial(row, asked=Asked(given.seed, given.scale, (given.policy,), given.apart))
    if given.processes == 1:
        rows = list(map(play, names, reads))
    else:
        with ProcessPoolExecutor(given.processes, mp_context=get_context("spawn")) as pool:
            rows = list(pool.map(play, names, reads))
    print("\n".join(worktable.text(rows)))
    for one in rows if given.buckets else ():
        print("\n".join(worktable.buckets(one)))
    for problem in [problem for one in rows for problem in one.problems][:10]:
        print(f"problem: {problem}")


if __name__ == "__main__":
    main()
