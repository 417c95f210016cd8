"""Recorded conversations as values: what was said and when, in a form the Messages API accepts.

A conversation is a list of turns, a turn is a user's words and the model calls (steps) that answered them. Whatever a
recording lacked or held twice has been put right by then: every tool call is answered, no text is blank, thinking
stands as it was recorded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from sessions.core.cache import THINKING
from sessions.core.usage import Usage

Block: TypeAlias = dict[str, Any]
"""One content block in the shape of the Messages API, without `cache_control`."""

Trigger: TypeAlias = Literal["human", "auto", "compact"]
"""Who began a turn: a person, the recording program itself (a hook, a notification), or a compaction's summary."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that could not be read and was skipped. `line` counts from 1; 0 is the file as a whole."""

    line: int
    message: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.message}" if self.line else self.message


@dataclass(frozen=True, slots=True)
class RecordedStep:
    """One model call and the tool calls it asked for.

    `at`: start of the request, epoch seconds. `seconds`: how long the model took. `blocks`: the assistant's content.
    `results`: one `tool_result` per `tool_use` of `blocks`, in call order; `durations`: seconds each of them took.
    `extra`: user blocks that went to the model together with the results (a skill's text, words typed meanwhile).
    `usage`: as recorded, None where the recording has none; its `output` is often a placeholder.
    """

    at: float
    blocks: tuple[Block, ...]
    model: str
    usage: Usage | None = None
    seconds: float = 0.0
    results: tuple[Block, ...] = ()
    durations: tuple[float, ...] = ()
    extra: tuple[Block, ...] = ()

    @property
    def calls(self) -> tuple[Block, ...]:
        """The client tool calls, in order."""
        return tuple(block for block in self.blocks if block["type"] == "tool_use")


@dataclass(frozen=True, slots=True)
class RecordedTurn:
    """A user's words and what answered them. `at`: epoch seconds of the words.

    Only the last turn of a conversation may have no step: words that nobody answered.
    """

    at: float
    content: tuple[Block, ...]
    trigger: Trigger = "human"
    steps: tuple[RecordedStep, ...] = ()


@dataclass(frozen=True, slots=True)
class RecordedConversation:
    """One chain of messages. A compaction ends it and begins the next `segment` of the same `session`.

    `source`: the format it was read from. `license`: of the recording, None where unknown. `system`, `tools`: None
    where the recording does not hold them. `filler`: True where only sizes were recorded and every text is made up.
    """

    id: str
    source: Literal["claude-code", "messages", "traces"]
    session: str
    turns: tuple[RecordedTurn, ...]
    model: str = ""
    segment: int = 1
    license: str | None = None
    system: str | tuple[Block, ...] | None = None
    tools: tuple[Block, ...] | None = None
    filler: bool = False

    @property
    def steps(self) -> tuple[RecordedStep, ...]:
        """Every model call, in order."""
        return tuple(step for turn in self.turns for step in turn.steps)

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The conversation as the Messages API takes it: roles alternate, each tool call is answered next."""
        messages: list[dict[str, Any]] = []
        for turn in self.turns:
            _say(messages, "user", turn.content)
            for step in turn.steps:
                _say(messages, "assistant", step.blocks)
                _say(messages, "user", (*step.results, *step.extra))
        return messages

    def without_thinking(self) -> RecordedConversation:
        """The same conversation as the API takes it where thinking is not signed by it."""
        return replace(self, turns=tuple(replace(turn, steps=_unthought(turn.steps)) for turn in self.turns))


@dataclass(frozen=True, slots=True)
class Imported:
    """What a file held. `notes` counts what was put right or left out by design; `problems` what was corrupt."""

    conversations: tuple[RecordedConversation, ...]
    problems: tuple[Problem, ...] = ()
    notes: Mapping[str, int] = field(default_factory=dict)


def _say(messages: list[dict[str, Any]], role: str, blocks: tuple[Block, ...]) -> None:
    if not blocks:
        return
    if messages and messages[-1]["role"] == role:
        messages[-1]["content"].extend(blocks)
    else:
        messages.append({"role": role, "content": list(blocks)})


def _unthought(steps: tuple[RecordedStep, ...]) -> tuple[RecordedStep, ...]:
    return tuple(
        replace(step, blocks=tuple(block for block in step.blocks if block["type"] not in THINKING)) for step in steps
    )
