"""What the simulated model answers, finished as the API finishes it: ids, signatures, limits and the stop reason."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sessions.simulator.answers.script import Answer, Scripted
from sessions.simulator.signing import THINKING
from sessions.simulator.tokens import BYTES_PER_TOKEN, OVERHEAD, count, text_tokens

Seal = Callable[[Mapping[str, Any], int], str]
"""Signs a thinking block: the block as the model wrote it, and the tokens it cost."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds a reply: `max_tokens`, the tokens `room` left in the window, the stop sequences."""

    max_tokens: int
    room: int
    stops: Sequence[str] = ()

    @property
    def tokens(self) -> int:
        return min(self.max_tokens, self.room)

    @property
    def reason(self) -> str:
        return "max_tokens" if self.max_tokens <= self.room else "model_context_window_exceeded"


@dataclass(frozen=True, slots=True)
class Reply:
    """A finished reply. `sizes`: output tokens of each block; `partial`: the JSON of an unfinished last call."""

    content: Sequence[dict[str, Any]] = ()
    sizes: Sequence[int] = ()
    stop_reason: str = "end_turn"
    stop_sequence: str | None = None
    stop_details: Mapping[str, Any] | None = None
    partial: str | None = None
    delay: float = 0.0
    thinking_tokens: int = 0
    output_tokens: int = 0


@dataclass(slots=True)
class Composer:
    """Turns a script's answer into a `Reply`. `thinking`: whether the request has it on; `omitted`: its display."""

    next_id: Callable[[str], str]
    seal: Seal
    limits: Limits
    thinking: bool
    omitted: bool
    _blocks: list[dict[str, Any]] = field(default_factory=list)
    _sizes: list[int] = field(default_factory=list)

    def compose(self, answer: Answer) -> Reply:
        """The reply that goes out for `answer`."""
        scripted = answer if isinstance(answer, Scripted) else Scripted(answer)  # type: ignore[arg-type]
        left, stopped, partial, thought = self.limits.tokens, None, None, 0
        for given in self._given(scripted):
            block = dict(given)
            size = self._size(block)
            if block["type"] == "text" and (stopped := self._stop(block)):
                size = count(block)
            cut = size > left
            if cut:
                partial, size = self._cut(block, left), left
            left -= size
            thought += size if block["type"] in THINKING else 0
            self._add(block, size, partial)
            if cut or stopped:
                break
        else:
            cut = False
        output = scripted.output_tokens if scripted.output_tokens is not None else sum(self._sizes)
        return Reply(
            content=self._blocks,
            sizes=self._sizes,
            stop_reason=self.limits.reason if cut else self._reason(scripted, stopped),
            stop_sequence=stopped,
            stop_details=scripted.stop_details,
            partial=partial,
            delay=scripted.delay,
            thinking_tokens=thought,
            output_tokens=max(1, output),
        )

    def _given(self, scripted: Scripted) -> list[Mapping[str, Any]]:
        content = scripted.content
        blocks: list[Mapping[str, Any]] = (
            [{"type": "text", "text": content}] if isinstance(content, str) else list(content)
        )
        if isinstance(content, str) and not content:
            blocks = []
        if scripted.thinking is not None:
            blocks.insert(0, {"type": "thinking", "thinking": scripted.thinking})
        return blocks if self.thinking else [block for block in blocks if block["type"] not in THINKING]

    def _size(self, block: dict[str, Any]) -> int:
        if block["type"] in THINKING:
            return text_tokens(block.get("thinking") or block.get("data") or "") + OVERHEAD["thinking"]
        return count(block) if block["type"] != "tool_use" else count({**block, "input": block.get("input", {})})

    def _stop(self, block: dict[str, Any]) -> str | None:
        places = [(block["text"].find(stop), stop) for stop in self.limits.stops if stop in block["text"]]
        if not places:
            return None
        at, stop = min(places)
        block["text"] = block["text"][:at]
        return stop

    def _cut(self, block: dict[str, Any], left: int) -> str | None:
        """Shortens a block that does not fit into `left` tokens; the JSON so far of a tool call."""
        size = max(0, left - OVERHEAD.get(block["type"], 0)) * BYTES_PER_TOKEN
        if block["type"] in ("text", "thinking"):
            block[block["type"]] = block[block["type"]].encode()[:size].decode(errors="ignore")
        elif block["type"] == "tool_use":
            text = json.dumps(block.get("input", {}), ensure_ascii=False)
            block["input"] = {}
            return text[: max(1, min(size, len(text) - 1))]
        return None

    def _add(self, block: dict[str, Any], size: int, partial: str | None) -> None:
        kind = block["type"]
        if kind == "text" and not block["text"]:
            return
        if kind == "tool_use":
            block = {
                "type": kind,
                "id": block.get("id") or self.next_id("toolu"),
                "name": block["name"],
                "input": block.get("input", {}),
                "caller": {"type": "direct"},
                **block,
            }
        elif kind == "thinking":
            signature = self.seal(block, size)
            block = {"type": kind, "thinking": "" if self.omitted else block["thinking"], "signature": signature}
        elif kind == "redacted_thinking":
            block = {"type": kind, "data": self.seal(block, size)}
        self._blocks.append(block)
        self._sizes.append(size)

    def _reason(self, scripted: Scripted, stopped: str | None) -> str:
        if scripted.stop_reason:
            return scripted.stop_reason
        if stopped:
            return "stop_sequence"
        return "tool_use" if any(block["type"] == "tool_use" for block in self._blocks) else "end_turn"
