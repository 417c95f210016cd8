"""The order of messages: who speaks first and last, what may be empty, and that every tool call has its result.

Sources: the Messages reference and tool-use pages of 2026, error texts from public logs.
Consecutive messages of one role are one *run*, as the API merges them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sessions.core.profiles import Profile
from sessions.simulator.checks.context import NEW_VERSION, Context
from sessions.simulator.checks.refusal import Refusal
from sessions.simulator.checks.shapes import refuse
from sessions.simulator.signing import digest, unmarked

NON_EMPTY = "all messages must have non-empty content except for the optional final assistant message"


@dataclass(slots=True)
class Run:
    """Consecutive messages of one role: the index of the first and last, and their blocks with places."""

    role: str
    first: int
    last: int
    blocks: list[tuple[int, int, Mapping[str, Any]]] = field(default_factory=list)


def check(body: Mapping[str, Any], profile: Profile, context: Context) -> None:
    """Raises `Refusal` for the first broken rule."""
    messages = body["messages"]
    _first(messages[0])
    _contents(messages, context)
    runs = list(_runs(messages))
    _controls(messages, context)
    _system(runs, profile)
    spoken = [run for run in runs if run.role != "system"]
    _pairs(spoken, body)
    _unique(spoken)
    _last(spoken[-1], messages, body, profile, context)


def paused_digest(content: str | Sequence[Mapping[str, Any]]) -> str:
    """How a `pause_turn` reply is recognised when it comes back."""
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
    return digest(json.dumps([unmarked(block) for block in blocks], sort_keys=True))


def _first(message: Mapping[str, Any]) -> None:
    content = message.get("content")
    compacted = isinstance(content, list) and bool(content) and content[0].get("type") == "compaction"
    if message["role"] != "user" and not compacted:
        refuse("messages", 'first message must use the "user" role')


def _contents(messages: Sequence[Mapping[str, Any]], context: Context) -> None:
    last = len(messages) - 1
    for i, message in enumerate(messages):
        content, role = message.get("content"), message["role"]
        if not content:
            if not (role == "assistant" and i == last) and not (role == "system" and message.get("output_config")):
                refuse(f"messages.{i}", NON_EMPTY)
        elif isinstance(content, str):
            _text(content)
        else:
            for j, block in enumerate(content):
                if block["type"] == "text":
                    _text(block["text"])
                if context.version >= NEW_VERSION:
                    _new_version(f"messages.{i}.content.{j}", block, role)


def _text(text: str) -> None:
    if not text:
        refuse("messages", "text content blocks must be non-empty")
    if text.isspace():
        refuse("messages", "text content blocks must contain non-whitespace text")


def _new_version(path: str, block: Mapping[str, Any], role: str) -> None:
    if block["type"] == "document" and role == "assistant":
        refuse(path, "`document` blocks are not allowed in `assistant` messages")
    if block["type"] == "text" and role == "user" and block.get("citations"):
        refuse(f"{path}.text.citations", "citations are not allowed in `user` messages")


def _runs(messages: Sequence[Mapping[str, Any]]) -> Iterator[Run]:
    run: Run | None = None
    for i, message in enumerate(messages):
        if run is None or run.role != message["role"]:
            if run is not None:
                yield run
            run = Run(message["role"], i, i)
        run.last = i
        content = message.get("content") or ()
        if isinstance(content, str):
            run.blocks.append((i, 0, {"type": "text", "text": content}))
        else:
            run.blocks.extend((i, j, block) for j, block in enumerate(content))
    if run is not None:
        yield run


_CONTROLS = {
    "output_config": "mid-conversation-output-config-",
    "clear_at": "mid-conversation-system-clear-at-",
}
"""Fields of `system` messages and the beta that each needs."""


def _controls(messages: Sequence[Mapping[str, Any]], context: Context) -> None:
    for i, message in enumerate(messages):
        if len(message) > 2:
            for name, beta in _CONTROLS.items():
                if name in message and not context.beta(beta):
                    refuse(f"messages.{i}.{name}", "Extra inputs are not permitted")


def _system(runs: Sequence[Run], profile: Profile) -> None:
    for at, run in enumerate(runs):
        if run.role != "system" or not run.blocks:
            continue
        if not profile.system_messages:
            refuse(f"messages.{run.first}", "role 'system' is not supported on this model")
        before, after = runs[at - 1] if at else None, runs[at + 1] if at + 1 < len(runs) else None
        if before is None or (before.role == "assistant" and not _server_result(before)):
            refuse(f"messages.{run.first}", "`system` messages must follow a `user` message")
        if after is not None and after.role != "assistant":
            refuse(f"messages.{run.first}", "`system` messages must be last or be followed by an `assistant` message")


def _server_result(run: Run) -> bool:
    return bool(run.blocks) and str(run.blocks[-1][2]["type"]).endswith("_tool_result")


def _pairs(runs: Sequence[Run], body: Mapping[str, Any]) -> None:
    """Every `tool_use` of a run is answered first thing in the next; nothing else is answered."""
    open_calls: list[str] = []
    for at, run in enumerate(runs):
        if run.role == "user":
            _results(run, open_calls)
            open_calls = []
            continue
        open_calls = [block["id"] for _, _, block in run.blocks if block["type"] == "tool_use"]
        after = runs[at + 1] if at + 1 < len(runs) else None
        if open_calls:
            _answered(run, after, open_calls)
        _server_calls(run, after, body)


def _answered(run: Run, after: Run | None, calls: Sequence[str]) -> None:
    given: set[str] = set()
    for _, _, block in after.blocks if after else ():
        if block["type"] != "tool_result":
            break
        given.add(block["tool_use_id"])
    missing = [call for call in calls if call not in given]
    if missing:
        refuse(
            f"messages.{run.last}",
            f"`tool_use` ids were found without `tool_result` blocks immediately after: {', '.join(missing)}. "
            "Each `tool_use` block must have a corresponding `tool_result` block in the next message.",
        )


def _results(run: Run, calls: Sequence[str]) -> None:
    seen: set[str] = set()
    for i, j, block in run.blocks:
        if block["type"] != "tool_result":
            continue
        name = block["tool_use_id"]
        if name not in calls:
            refuse(
                f"messages.{i}.content.{j}",
                f"unexpected `tool_use_id` found in `tool_result` blocks: {name}. "
                "Each `tool_result` block must have a corresponding `tool_use` block in the previous message.",
            )
        if name in seen:
            refuse(
                f"messages.{i}.content.{j}",
                f"each tool_use must have a single result. Found multiple `tool_result` blocks with id: {name}",
            )
        seen.add(name)


def _server_calls(run: Run, after: Run | None, body: Mapping[str, Any]) -> None:
    """An unanswered server call may only be followed by client results alone, with its tool still there."""
    calls = [block for _, _, block in run.blocks if block["type"] == "server_tool_use"]
    if not calls:
        return
    answered = {block.get("tool_use_id") for _, _, block in run.blocks}
    for call in calls:
        if call["id"] in answered:
            continue
        name = call["name"]
        known = (
            str(name).split("_code_execution")[0].removeprefix("bash").removeprefix("text_editor") or "code_execution"
        )
        types = [str(tool.get("type") or "") for tool in body.get("tools") or ()]
        if not any(kind.startswith((name, known)) for kind in types):
            raise Refusal(f"`{name}` tool use with id `{call['id']}` was found but no `{name}` tool was provided")
        if after is not None and any(block["type"] != "tool_result" for _, _, block in after.blocks):
            raise Refusal(
                f"`{name}` tool use with id `{call['id']}` was found without a corresponding `{name}_tool_result` block"
            )


def _unique(runs: Sequence[Run]) -> None:
    seen: set[str] = set()
    for run in runs:
        if run.role != "assistant":
            continue
        for i, j, block in run.blocks:
            if block["type"] == "tool_use":
                if block["id"] in seen:
                    refuse(f"messages.{i}.content.{j}", "`tool_use` ids must be unique")
                seen.add(block["id"])


def _last(
    run: Run, messages: Sequence[Mapping[str, Any]], body: Mapping[str, Any], profile: Profile, context: Context
) -> None:
    """A final assistant turn is a prefill, allowed on old models, or a paused turn that is to go on."""
    if run.role != "assistant" or body.get("compaction") or _resumes(run, messages, context):
        return
    if not profile.prefill:
        raise Refusal(
            "This model does not support assistant message prefill. The conversation must end with a user message."
        )
    if (body.get("thinking") or {}).get("type") == "enabled":
        kind = run.blocks[0][2]["type"] if run.blocks else "text"
        refuse(
            f"messages.{run.last}.content.0.type", f"Expected `thinking` or `redacted_thinking`, but found `{kind}`."
        )
    tail = run.blocks[-1][2] if run.blocks else {}
    if tail.get("type") == "text" and tail["text"] != tail["text"].rstrip():
        refuse("messages", "final assistant content cannot end with trailing whitespace")


def _resumes(run: Run, messages: Sequence[Mapping[str, Any]], context: Context) -> bool:
    tail = str(run.blocks[-1][2]["type"]) if run.blocks else ""
    if tail == "server_tool_use" or tail.endswith("_tool_result"):
        return True
    return paused_digest(messages[run.last].get("content") or ()) in context.paused
