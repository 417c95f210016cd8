"""A reply as it arrives: raw stream events in, content by index, usage and stop reason out.

Acts by block index only: some servers interleave blocks. Usage fields are taken last-value-wins and never summed
(streaming page, 2026); the split of writes by lifetime exists only in `message_start`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sessions.core.transcript import fault_of, is_too_deep, sendable_reply
from sessions.core.usage import Usage

_TRUNCATED = ("max_tokens", "model_context_window_exceeded")
_SERVER_CALLS = ("server_tool_use", "mcp_tool_use")
_NO_USAGE = Usage(counters=False)
_TEXT_DELTAS = {"text_delta": "text", "thinking_delta": "thinking", "signature_delta": "signature"}


def _text(value: Any) -> str | None:
    """A short text of the reply's frame; one that cannot be stored was never said."""
    return None if value is None or fault_of(str(value)) else str(value)


def _is_readable(call: Mapping[str, Any]) -> bool:
    """Whether a tool call can be stored and run: an object as its input, not too deep, and names that are text."""
    given = call.get("input")
    frame = f"{call.get('id')}{call.get('name')}"
    return isinstance(given, Mapping) and not is_too_deep([call]) and fault_of(frame) is None


def _not_json(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


@dataclass(slots=True)
class Incoming:
    """The state of one reply. `started`: a `message_start` was seen; `ended`: a `message_stop` was seen.

    `has_output`: the API has said how much was put out (`message_start` holds a placeholder);
    `is_estimated`: the size of a cut answer is ours. `usage`: what is known so far, `usage_fields` as the API says it.
    `organization`: which one the API says that it has answered.
    """

    message: dict[str, Any] = field(default_factory=dict)
    blocks: dict[int, dict[str, Any]] = field(default_factory=dict)
    closed: set[int] = field(default_factory=set)
    usage_fields: dict[str, Any] = field(default_factory=dict)
    usage: Usage = _NO_USAGE
    started: bool = False
    ended: bool = False
    has_output: bool = False
    is_estimated: bool = False
    request_id: str | None = None
    organization: str | None = None
    broken_inputs: dict[int, str] = field(default_factory=dict)
    heard: Callable[[Mapping[str, Any]], None] | None = None
    """Told of each raw event, when it has been taken in."""
    _inputs: dict[int, list[str]] = field(default_factory=dict)

    def feed(self, event: Mapping[str, Any]) -> None:
        """Takes in one raw event; unknown events and deltas change nothing."""
        kind = event.get("type")
        if kind == "message_start":
            self.started = True
            self.message = dict(event["message"])
            self.merge_usage(self.message.get("usage") or {})
        elif kind == "content_block_start":
            self.blocks[int(event["index"])] = dict(event["content_block"])
        elif kind == "content_block_delta":
            self._delta(int(event["index"]), event["delta"])
        elif kind == "content_block_stop":
            self._close(int(event["index"]))
        elif kind == "message_delta":
            self.message.update({key: value for key, value in event["delta"].items() if value is not None})
            self.merge_usage(event.get("usage") or {})
            self.has_output = True
            if (edits := event.get("context_management")) is not None:
                self.message["context_management"] = edits
        elif kind == "message_stop":
            self.ended = True
        if self.heard is not None:
            self.heard(event)

    def take(self, message: Mapping[str, Any]) -> None:
        """Takes in a message that came whole."""
        self.feed({"type": "message_start", "message": message})
        self.blocks = {index: dict(block) for index, block in enumerate(message.get("content") or ())}
        self.closed, self.ended, self.has_output = set(self.blocks), True, True

    def merge_usage(self, usage: Mapping[str, Any]) -> None:
        """Last value of each field wins; null says nothing."""
        self.usage_fields.update({key: value for key, value in usage.items() if value is not None})
        self.usage = Usage.from_api(self.usage_fields)

    def _delta(self, index: int, delta: Mapping[str, Any]) -> None:
        block = self.blocks.setdefault(index, {"type": "text", "text": ""})
        kind = str(delta.get("type"))
        if name := _TEXT_DELTAS.get(kind):
            block[name] = str(block.get(name) or "") + str(delta.get(name) or "")
        elif kind == "input_json_delta":
            self._inputs.setdefault(index, []).append(str(delta.get("partial_json") or ""))
        elif kind == "citations_delta":
            block["citations"] = [*(block.get("citations") or []), delta.get("citation")]
        elif kind == "compaction_delta":
            block.update({key: value for key, value in delta.items() if key != "type"})

    def _close(self, index: int) -> None:
        self.closed.add(index)
        text = "".join(self._inputs.pop(index, ()))
        if not text or index not in self.blocks:
            return
        try:
            self.blocks[index]["input"] = json.loads(text, parse_constant=_not_json)
        except (ValueError, RecursionError):
            self.broken_inputs[index] = text

    @property
    def content(self) -> list[dict[str, Any]]:
        """The blocks in index order, as far as they have come."""
        return [self.blocks[index] for index in sorted(self.blocks)]

    def input_so_far(self, index: int) -> str:
        """The JSON text of a tool's input, of a block that is not whole; empty for any other."""
        return self.broken_inputs.get(index) or "".join(self._inputs.get(index, ()))

    def estimate_output(self, characters_per_token: float) -> None:
        """The answer ends here: where the API never said how long it is, its size is told from what has come.

        It counts text, thinking and the inputs of calls; `message_start` holds only a placeholder.
        """
        if not self.started or self.has_output:
            return
        waiting = {index: "".join(parts) for index, parts in self._inputs.items()} | self.broken_inputs
        texts = [str(block.get(name) or "") for block in self.blocks.values() for name in ("text", "thinking")]
        inputs = [json.dumps(block["input"]) for block in self.blocks.values() if block.get("input")]
        output = int(sum(map(len, (*texts, *inputs, *waiting.values()))) / characters_per_token)
        self.usage = replace(self.usage, output=max(self.usage.output, output))
        self.is_estimated = True

    @property
    def reply(self) -> list[dict[str, Any]]:
        """The content as it is stored and may be sent back."""
        return sendable_reply(self.content)

    @property
    def stop_reason(self) -> str | None:
        """Why the model stopped; `None` where the stream broke before it was said."""
        return _text(self.message.get("stop_reason"))

    @property
    def message_id(self) -> str | None:
        """The API's id of the reply."""
        return _text(self.message.get("id"))

    @property
    def prompt_tokens(self) -> int:
        """The size of the prompt behind this reply; with several iterations, that of the last one."""
        iterations = self.usage_fields.get("iterations")
        last = iterations[-1] if isinstance(iterations, list) and iterations else self.usage_fields
        if not isinstance(last, Mapping):
            return 0
        return Usage.from_api(last).total_input

    @property
    def unfinished_call(self) -> str | None:
        """The name of a tool call whose input never arrived whole, is no object or cannot be stored, or `None`.

        An empty input at the very end of a truncated reply never arrived (docs/provider.md, 17).
        """
        truncated = max(self.blocks, default=None) if self.stop_reason in _TRUNCATED else None
        for index, block in sorted(self.blocks.items()):
            if block.get("type") != "tool_use":
                continue
            if index == truncated and not block.get("input"):
                return str(block.get("name"))
            if index in self.broken_inputs or index not in self.closed or not _is_readable(block):
                return str(block.get("name"))
        return None

    def partial(self) -> list[dict[str, Any]]:
        """What may be kept of a reply that was stopped: finished blocks and the text so far.

        Thinking without a signature, tool calls, and server calls without a result are left out: none of
        them can be sent back (docs/provider.md, 12).
        """
        results = {self.blocks[index].get("tool_use_id") for index in self.closed & self.blocks.keys()}
        kept = []
        for index in sorted(self.blocks):
            block = self.blocks[index]
            kind = block.get("type")
            signed = kind != "thinking" or (index in self.closed and block.get("signature"))
            whole = index in self.closed or kind == "text"
            unanswered = kind in _SERVER_CALLS and block.get("id") not in results
            if signed and whole and not unanswered and kind != "tool_use":
                kept.append(block)
        return sendable_reply(kept)
