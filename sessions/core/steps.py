"""What a turn does next, decided from stored facts alone: the transcript and the journal of tool calls."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from sessions.core.cache import Block
from sessions.core.transcript import Entry, tool_calls

INTERRUPTED = "interrupted; it may or may not have taken effect"
NOT_RUN = "was not run"
NOT_RUN_IN_BRANCH = "not run in this branch"


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model asked for; `index` counts the message's tool calls from 0 (ids may repeat)."""

    index: int
    id: str
    name: str
    input: Any


@dataclass(frozen=True, slots=True)
class ToolRecord:
    """What the journal holds of one call: it was started; `result` is its `tool_result` block once it has finished."""

    index: int
    result: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class CallModel:
    """Ask the model."""


@dataclass(frozen=True, slots=True)
class RunTools:
    """Run these: `fresh` were never started, `in_doubt` were started and have no result."""

    fresh: tuple[ToolCall, ...]
    in_doubt: tuple[ToolCall, ...] = ()


@dataclass(frozen=True, slots=True)
class SubmitResults:
    """All calls have results: this is the user message to store, results in call order."""

    content: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Finished:
    """The turn has ended, or rests. `waiting_for`: calls that the caller runs, whose results the next user content
    brings, and calls that wait for an approval."""

    stop_reason: str | None
    waiting_for: tuple[ToolCall, ...] = ()


Step = CallModel | RunTools | SubmitResults | Finished


def calls_of(content: Sequence[Block]) -> list[ToolCall]:
    """The tool calls of an assistant message, numbered."""
    return [
        ToolCall(index, str(block.get("id")), str(block.get("name")), block.get("input"))
        for index, block in enumerate(tool_calls(content))
    ]


def call_id(session: str, entry: str, index: int) -> str:
    """The name of one tool call among all of all sessions; the same whoever runs it, and however often."""
    return blake2b(json.dumps([session, entry, index]).encode(), digest_size=16).hexdigest()


def result_block(call: ToolCall, content: Any, *, is_error: bool = False) -> dict[str, Any]:
    """A `tool_result` block for this call."""
    block: dict[str, Any] = {"type": "tool_result", "tool_use_id": call.id, "content": content}
    return {**block, "is_error": True} if is_error else block


def next_step(
    transcript: Sequence[Entry],
    journal: Mapping[int, ToolRecord],
    *,
    by_caller: Collection[str] = (),
    held: Collection[int] = (),
) -> Step:
    """Decides from the last entry and, where it holds tool calls, from their journal.

    `by_caller`: names of tools that the caller runs; every other call is ours, an unknown name included (its result
    says so to the model). `held`: indices of calls that need an approval which nobody has decided: they do not run. A
    message with tool calls needs results whatever its stop reason says.
    """
    if not transcript:
        return Finished(None)
    last = transcript[-1]
    if last.role != "assistant":
        return CallModel()
    calls = calls_of(last.content)
    if not calls:
        return CallModel() if last.stop_reason == "pause_turn" else Finished(last.stop_reason)
    ours = [call for call in calls if call.name not in by_caller]
    unfinished = [call for call in ours if call.index not in journal or journal[call.index].result is None]
    allowed = [call for call in unfinished if call.index not in held]
    if allowed:
        fresh = tuple(call for call in allowed if call.index not in journal)
        return RunTools(fresh, tuple(call for call in allowed if call.index in journal))
    waiting = tuple(call for call in calls if call.name in by_caller or call in unfinished)
    if waiting:
        return Finished("tool_use", waiting)
    return SubmitResults(tuple(result for call in calls if (result := journal[call.index].result) is not None))


def close_open_calls(
    last: Entry, journal: Mapping[int, ToolRecord], given: Mapping[str, dict[str, Any]], *, in_branch: bool = False
) -> list[dict[str, Any]]:
    """Results for every call of an assistant message that is left behind, in call order.

    `given`: results that the caller brings, by tool id. A finished call keeps its result; one in doubt is reported as
    such; one that never started says that it was not run.
    """
    closed = []
    for call in calls_of(last.content):
        record = journal.get(call.index)
        if record and record.result is not None:
            closed.append(record.result)
        elif call.id in given:
            closed.append(given[call.id])
        elif in_branch:
            closed.append(result_block(call, NOT_RUN_IN_BRANCH, is_error=True))
        else:
            closed.append(result_block(call, INTERRUPTED if record else NOT_RUN, is_error=True))
    return closed
