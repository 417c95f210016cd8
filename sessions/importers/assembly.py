"""From what was said, in order, to turns that make a conversation the Messages API accepts.

The rules of alternation are kept here for every format: words follow words in one message, each tool call is answered
in the next, a reply without a question is dropped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from sessions.core.usage import Usage
from sessions.importers.blocks import distinct, from_claude, from_user
from sessions.importers.records import Block, RecordedStep, RecordedTurn, Trigger

NO_RESULT = "Interrupted: no result of this call was recorded."
_WEIGHT: dict[Trigger, int] = {"auto": 0, "compact": 1, "human": 2}


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply as recorded. `at`: start of its request where that was recorded; `first`, `ended`: its first and last
    sign of life; all in epoch seconds."""

    blocks: Sequence[Block]
    model: str
    first: float
    ended: float
    usage: Usage | None = None
    at: float | None = None


@dataclass(slots=True)
class _Step:
    """A step being built; `ids`: for each call id the one that was recorded."""

    at: float
    ended: float
    blocks: list[Block]
    ids: dict[str, str]
    model: str
    usage: Usage | None
    results: dict[str, tuple[Block, float]] = field(default_factory=dict)
    extra: list[Block] = field(default_factory=list)


@dataclass(slots=True)
class _Turn:
    at: float
    content: list[Block] = field(default_factory=list)
    trigger: Trigger = "auto"
    steps: list[_Step] = field(default_factory=list)


class Assembly:
    """Takes what happened, in order (`say`, `reply`, `answer`); gives `turns`. `notes` counts what was put right."""

    def __init__(self, notes: Counter[str]) -> None:
        self._notes = notes
        self._turns: list[_Turn] = []
        self._latest: _Step | None = None
        self._asked = float("-inf")

    @property
    def empty(self) -> bool:
        """Nothing has been said yet."""
        return not self._turns

    def say(self, at: float, blocks: Iterable[Block], trigger: Trigger = "human", *, aside: bool = False) -> None:
        """Words to the model. `aside`: they go with the results of calls that are open, not as a turn of their own."""
        words = from_user(blocks)
        if not words:
            return
        self._asked = max(self._asked, at)
        step = self._step()
        if aside and step and step.ids:
            step.extra.extend(words)
            return
        turn = self._unanswered() or self._new_turn()
        if not turn.content or _WEIGHT[trigger] > _WEIGHT[turn.trigger]:
            turn.trigger = trigger
        turn.content.extend(words)
        turn.at = self._asked

    def reply(self, reply: Reply) -> None:
        """One reply of the model, to the words or the results that came last."""
        blocks, ids = distinct(from_claude(reply.blocks))
        turn, step = self._unanswered(), self._step()
        if not blocks:
            self._notes["replies without words or calls left out"] += 1
        elif turn or (step and step.ids):
            self._add(turn or self._turns[-1], reply, blocks, ids)
        elif step:
            step.blocks, step.ids = distinct([*step.blocks, *blocks])
            step.ended = max(step.ended, reply.ended)
            self._notes["replies that went on joined"] += 1
        else:
            self._notes["replies before any words left out"] += 1

    def answer(self, at: float, result: Block, seconds: float) -> None:
        """The result of one call of the latest step, `seconds` after the call. One without a call is left out."""
        step = self._latest
        open_calls = [call for call in step.ids if call not in step.results] if step else []
        call = next((call for call in open_calls if step and step.ids[call] == result["tool_use_id"]), None)
        if step is None or call is None:
            self._notes["tool results without a call left out"] += 1
            return
        step.results[call] = ({**result, "tool_use_id": call}, max(0.0, seconds))
        self._asked = max(self._asked, at)

    def turns(self) -> tuple[RecordedTurn, ...]:
        """All turns; words that nobody answered are the last one."""
        return tuple(
            RecordedTurn(turn.at, tuple(turn.content), turn.trigger, tuple(self._done(step) for step in turn.steps))
            for turn in self._turns
        )

    def _add(self, turn: _Turn, reply: Reply, blocks: list[Block], ids: dict[str, str]) -> None:
        start = min(self._asked, reply.first) if reply.at is None else reply.at
        start = max(start, self._latest.at) if self._latest else start
        if not turn.steps:
            turn.at = min(turn.at, start)
        self._latest = _Step(start, max(start, reply.ended), blocks, ids, reply.model, reply.usage)
        turn.steps.append(self._latest)
        self._asked = max(start, reply.ended)

    def _new_turn(self) -> _Turn:
        self._turns.append(_Turn(self._asked))
        return self._turns[-1]

    def _unanswered(self) -> _Turn | None:
        return self._turns[-1] if self._turns and not self._turns[-1].steps else None

    def _step(self) -> _Step | None:
        return None if self._unanswered() else self._latest

    def _done(self, step: _Step) -> RecordedStep:
        results = [step.results.get(call) or self._missing(call) for call in step.ids]
        return RecordedStep(
            at=step.at,
            blocks=tuple(step.blocks),
            model=step.model,
            usage=step.usage,
            seconds=step.ended - step.at,
            results=tuple(block for block, _ in results),
            durations=tuple(seconds for _, seconds in results),
            extra=tuple(step.extra),
        )

    def _missing(self, call: str) -> tuple[Block, float]:
        self._notes["missing tool results supplied"] += 1
        return {"type": "tool_result", "tool_use_id": call, "content": NO_RESULT, "is_error": True}, 0.0
