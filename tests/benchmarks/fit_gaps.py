"""Fits the prior of `sessions.core.gaps` to recorded sessions and prints how honest the forecast is.

Usage: python -m tests.benchmarks.fit_gaps [TRACES.jsonl.gz] [--write]. Scores are Brier scores (0 is perfect; the mean
squared difference between the chance given and what happened), each recorded user forecast from the others' sessions.
With `--write` the numbers go to `sessions/core/gap_prior.py`.
"""

from __future__ import annotations

import gzip
import itertools
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sessions.core import gaps
from sessions.core.gap_prior import EDGES
from sessions.core.gaps import NEVER, Gaps

DATA = Path(__file__).parents[2] / "sessions" / "core" / "gap_prior.py"
WEIGHTS = (10, 20, 30, 60, 100)
LEFT_OUT = 1e12
"""A weight so large that the feature changes nothing."""
LENGTHS = (15, 60, 300, 900)
"""Seconds at which the length of the turn just finished is divided into classes."""


@dataclass(frozen=True, slots=True)
class Gap:
    """`seconds` from a turn's last request to the next turn, `NEVER` after the last; `length`: seconds of the turn."""

    seconds: float
    length: float


@dataclass(frozen=True, slots=True)
class Recorded:
    """One session: its owner, the gaps between turns, and those between the requests within turns."""

    owner: str
    between: tuple[Gap, ...]
    within: tuple[float, ...]


def read(path: Path) -> list[Recorded]:
    """The sessions of a file of traces, in its order."""
    with gzip.open(path, "rt") as lines:
        return [_recorded(json.loads(line)) for line in lines]


def _recorded(trace: dict) -> Recorded:
    turns = [turn["steps"] for turn in trace["turns"] if turn["steps"]]
    starts = [*(steps[0]["at_s"] for steps in turns[1:]), NEVER]
    between = tuple(
        Gap(start - steps[-1]["at_s"], steps[-1]["at_s"] + (steps[-1].get("model_s") or 0) - steps[0]["at_s"])
        for steps, start in zip(turns, starts, strict=True)
    )
    within = tuple(later["at_s"] - step["at_s"] for steps in turns for step, later in itertools.pairwise(steps))
    return Recorded(str(trace["user"]), between, within)


def shares(seconds: Sequence[float]) -> list[float]:
    """The share of each bin; half a gap is added to every bin, so that none is impossible."""
    counts = [count + 0.5 for count in _counted(seconds).counts]
    found = [round(count / sum(counts), 4) for count in counts[:-1]]
    return [*found, round(1.0 - sum(found), 4)]


def _counted(seconds: Sequence[float]) -> Gaps:
    found = Gaps()
    for one in seconds:
        found = found.plus(one)
    return found


Rule = Callable[[Gap, Gaps, Gaps], gaps.Forecast]
"""A forecast from the turn just finished, the session's gaps and its owner's."""


def scores(sessions: Sequence[Recorded], make: Callable[[Sequence[Recorded]], Rule]) -> tuple[float, float, float]:
    """Brier scores of: back within 5 minutes; back within the hour; back within the hour if not within 5 minutes."""
    sums, numbers = [0.0, 0.0, 0.0], [0, 0, 0]
    for owner in sorted({session.owner for session in sessions}):
        rule = make([session for session in sessions if session.owner != owner])
        past = Gaps()
        for session in (session for session in sessions if session.owner == owner):
            own = Gaps()
            for gap in session.between:
                told = rule(gap, own, past)
                soon, later = told.within(300), told.within(3600)
                events = [(soon, gap.seconds <= 300), (later, gap.seconds <= 3600)]
                if gap.seconds > 300:
                    events.append((told.after(300).within(3600), gap.seconds <= 3600))
                for index, (chance, came) in enumerate(events):
                    sums[index] += (chance - came) ** 2
                    numbers[index] += 1
                own = own if gap.seconds == NEVER else own.plus(gap.seconds)
            past = past.together([own]).plus(NEVER)
    return tuple(total / number for total, number in zip(sums, numbers, strict=True))  # type: ignore[return-value]


def constant(train: Sequence[Recorded]) -> Rule:
    """The prior alone."""
    fixed = gaps.curve(shares([gap.seconds for session in train for gap in session.between]))
    return lambda gap, session, owner: fixed


def shifted(session_weight: float, owner_weight: float) -> Callable[[Sequence[Recorded]], Rule]:
    """The rule of `sessions.core.gaps` with other weights (`LEFT_OUT`: without a feature)."""

    def make(train: Sequence[Recorded]) -> Rule:
        human = shares([gap.seconds for session in train for gap in session.between])
        prior = gaps.Prior(tuple(human), session_weight, owner_weight)

        def rule(gap: Gap, session: Gaps, owner: Gaps) -> gaps.Forecast:
            return gaps.human(session, owner, prior)

        return rule

    return make


def by_length(train: Sequence[Recorded]) -> Rule:
    """The prior by the length of the turn just finished."""
    classes = [
        gaps.curve(shares([g.seconds for session in train for g in session.between if _length_class(g) == number]))
        for number in range(len(LENGTHS) + 1)
    ]
    return lambda gap, session, owner: classes[_length_class(gap)]


def _length_class(gap: Gap) -> int:
    return sum(gap.length > limit for limit in LENGTHS)


def report(sessions: Sequence[Recorded]) -> tuple[float, float]:
    """Prints the scores; gives the weights (session, owner) that score best."""
    print(f"{'':34}{'in 5 min':>10}{'in 1 h':>10}{'5 min to 1 h':>14}")
    _line("constant", scores(sessions, constant))
    _line("by length of the turn", scores(sessions, by_length))
    _line("by owner (30)", scores(sessions, shifted(LEFT_OUT, 30)))
    _line("by session (30)", scores(sessions, shifted(30, LEFT_OUT)))
    found: dict[tuple[float, float], float] = {}
    for owner in WEIGHTS:
        for session in WEIGHTS:
            brier = scores(sessions, shifted(session, owner))
            found[session, owner] = sum(brier)
            _line(f"by session ({session}) and owner ({owner})", brier)
    return min(found, key=found.__getitem__)


def _line(name: str, brier: Sequence[float]) -> None:
    print(f"{name:34}{brier[0]:10.4f}{brier[1]:10.4f}{brier[2]:14.4f}", flush=True)


def write(sessions: Sequence[Recorded], weights: tuple[float, float], path: Path = DATA) -> None:
    """Writes the numbers as a module."""
    turns = sum(len(session.between) for session in sessions)
    requests = turns + sum(len(session.within) for session in sessions)
    human = shares([gap.seconds for session in sessions for gap in session.between])
    tools = shares([seconds for session in sessions for seconds in session.within])
    path.write_text(
        f'''"""The gap forecast's prior: written by `python -m tests.benchmarks.fit_gaps --write`, not by hand.

Fitted to {len(sessions)} recorded agent sessions of 2026 (entireio/cli, MIT): {turns} gaps after a turn,
{requests - turns} within turns.
"""

EDGES = {EDGES!r}
"""Seconds at which the bins end; one more bin holds what is later or never comes."""

HUMAN_SHARES = {_tuple(human)}
"""The share of gaps after a turn's last request that falls into each bin."""

TOOL_SHARES = {_tuple(tools)}
"""The share of gaps between two requests of one turn."""

LAST_OF_TURN = {turns / requests:.3f}
"""The chance that a request of a session with tools is its turn's last."""

SESSION_WEIGHT = {weights[0]}
"""How many gaps of a session weigh as much as what was known before it."""

OWNER_WEIGHT = {weights[1]}
"""How many gaps of an owner's other sessions weigh as much as the prior."""
''',
        encoding="utf-8",
    )


def _tuple(values: Sequence[float]) -> str:
    return "(\n" + "".join(f"    {value!r},\n" for value in values) + ")"


def main(arguments: Sequence[str]) -> None:
    """Prints the scores, and writes the numbers if asked to."""
    folder = Path(os.environ.get("WARMLINE_DATA", "."))
    given = [Path(one) for one in arguments if not one.startswith("-")]
    path = given[0] if given else folder / "traces" / "agent_sessions.jsonl.gz"
    if not path.exists():
        sys.exit(f"there are no traces at {path}: give a file, or set WARMLINE_DATA")
    sessions = read(path)
    weights = report(sessions)
    print(f"taken: session {weights[0]}, owner {weights[1]}")
    if "--write" in arguments:
        write(sessions, weights)


if __name__ == "__main__":
    main(sys.argv[1:])
