"""The recorded agent sessions as a workload: their sizes and times, with heads that nobody shares between users."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sessions.importers import RecordedConversation
from sessions.importers.records import RecordedStep, RecordedTurn
from sessions.replay.player import output_tokens
from sessions.replay.replaying import BETWEEN
from tests.benchmarks.cost.traces import recording, sample
from tests.benchmarks.cost.workloads import Step, Turn, Visit, Workload

RECORDED = "recorded"
COUNT = 48
"""Recordings at scale 1."""
_HEAD, _LEAST = 3000, 30


def recorded(scale: float) -> Workload:
    """A sample of the recordings: each user's one after the other, all users beginning at the same time."""
    visits: list[Visit] = []
    for user, names in sample(max(2, round(COUNT * scale))).items():
        start = 0.0
        for number, name in enumerate(names):
            mine = list(_visits(user, name, f"{user}x{number}", start))
            visits += mine
            start = BETWEEN + max((turn.at + turn.seconds for visit in mine for turn in visit.turns), default=start)
    return Workload(RECORDED, "recorded coding agents", _HEAD, tuple(visits))


def _visits(user: str, name: str, label: str, start: float) -> Iterator[Visit]:
    """The segments of one recording between compactions."""
    segments = [segment for segment in recording(name) if segment.steps]
    first = segments[0].steps[0].at
    for number, segment in enumerate(segments):
        turns = tuple(_turns(segment, start - first))
        yield Visit(f"{label}x{number}", user, turns)


def _turns(segment: RecordedConversation, moved: float) -> Iterator[Turn]:
    size = _HEAD
    for turn in segment.turns:
        if turn.steps:
            words = max(_LEAST, _total(turn.steps[0], size) - size)
            steps = list(_steps(turn, size + words))
            size += words + sum(step.reply + step.result for step in steps)
            yield Turn(turn.steps[0].at + moved, words, tuple(steps))


def _steps(turn: RecordedTurn, size: int) -> Iterator[Step]:
    """Each call of the turn; what its prompt grows by until the next one is the reply and the tool's result."""
    following: Sequence[RecordedStep | None] = [*turn.steps[1:], None]
    for step, then in zip(turn.steps, following, strict=True):
        reply = max(_LEAST, output_tokens(step))
        if then is None:
            yield Step(reply, step.seconds)
            return
        result = max(_LEAST, _total(then, size + reply) - size - reply)
        size += reply + result
        yield Step(reply, step.seconds, result, max(0.0, then.at - step.at - step.seconds))


def _total(step: RecordedStep, unknown: int) -> int:
    """Tokens of the prompt, where they were recorded."""
    return step.usage.total_input if step.usage and step.usage.total_input else unknown
