"""The values a script reads and returns: what was asked of the simulated model, and what it shall answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from anthropic import AnthropicError

from sessions.simulator.faults import Fault

Block: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Scripted:
    """One reply of the simulated model.

    `content`: text or content blocks; a `tool_use` may leave out its `id`, a thinking block its `signature`.
    `thinking`: text of a thinking block put first (only where the request has thinking on). `output_tokens` overrides
    the count. `delay`: seconds between the first event and the first block. `fault`: how the response goes wrong.
    `stop_details` goes with `stop_reason="refusal"`.
    """

    content: str | Sequence[Block] = ""
    stop_reason: str | None = None
    thinking: str | None = None
    output_tokens: int | None = None
    delay: float = 0.0
    fault: Fault | None = None
    stop_details: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """What the simulated model is asked. `index` counts the engine's requests from 0, refused ones included."""

    body: Mapping[str, Any]
    index: int
    thinking: bool

    @property
    def model(self) -> str:
        return str(self.body["model"])

    @property
    def messages(self) -> Sequence[Mapping[str, Any]]:
        """The messages as sent."""
        messages: Sequence[Mapping[str, Any]] = self.body["messages"]
        return messages

    @property
    def system(self) -> str:
        """The text of the system prompt."""
        return texts(self.body.get("system") or "")

    @property
    def tools(self) -> dict[str, Mapping[str, Any]]:
        """The tools offered, by name."""
        return {tool["name"]: tool for tool in self.body.get("tools") or () if "name" in tool}

    @property
    def turn(self) -> int:
        """How many user messages with words of their own there are: 1 in the first turn."""
        return sum(1 for text in self.words if text)

    @property
    def words(self) -> list[str]:
        """The text of each user message, "" for one that holds only tool results."""
        return [texts(m["content"]) for m in self.messages if m["role"] == "user"]

    @property
    def text(self) -> str:
        """What the user said last."""
        return next((text for text in reversed(self.words) if text), "")

    @property
    def summary(self) -> str:
        """The text of the compaction block that the conversation starts with, "" without one."""
        content = self.messages[0]["content"]
        first = content[0] if not isinstance(content, str) and content else {}
        return str(first.get("content") or "") if first.get("type") == "compaction" else ""

    @property
    def results(self) -> list[Block]:
        """The tool results of the newest user message, in order."""
        last = next((m for m in reversed(self.messages) if m["role"] != "system"), None)
        if last is None or last["role"] != "user" or isinstance(last["content"], str):
            return []
        return [block for block in last["content"] if block["type"] == "tool_result"]

    @property
    def calls(self) -> dict[str, Block]:
        """Every tool call of the conversation, by id."""
        return {
            block["id"]: block
            for message in self.messages
            if message["role"] == "assistant" and not isinstance(message["content"], str)
            for block in message["content"]
            if block["type"] == "tool_use"
        }


class ScriptError(AnthropicError):
    """A script failed: `__cause__` is what it raised. The SDK takes it for no failed connection, and asks once."""

    is_of_script = True

    def __init__(self, cause: Exception) -> None:
        super().__init__(f"the simulator's script raised {type(cause).__name__}: {cause}")


Answer: TypeAlias = str | Sequence[Block] | Scripted | Fault
Script: TypeAlias = Callable[[Request], Answer | Awaitable[Answer]]
"""A simulated model. An `async def` may wait (on a clock, on another task) before it answers."""


def texts(content: str | Sequence[Block]) -> str:
    """The text blocks of `content`, joined by line breaks."""
    if isinstance(content, str):
        return content
    return "\n".join(block["text"] for block in content if block.get("type") == "text")
