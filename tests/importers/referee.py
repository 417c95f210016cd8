"""Whether the API would take an imported conversation: the simulator's own rules are the referee."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sessions.importers import RecordedConversation
from sessions.simulator import Engine

DATA = Path(__file__).parent.parent / "data"
HEADERS = {"x-api-key": "key", "anthropic-version": "2026-10-21"}


def refusal(conversation: RecordedConversation) -> str | None:
    """Why the conversation, sent with one more user message, would be refused; None if it would be taken."""
    messages = conversation.messages
    if messages[-1]["role"] == "assistant":
        messages.append({"role": "user", "content": "Go on."})
    names = sorted({call["name"] for step in conversation.steps for call in step.calls})
    body: dict[str, Any] = {
        "model": "claude-opus-4-6",
        "max_tokens": 1000,
        "messages": messages,
        "tools": [{"name": name, "input_schema": {"type": "object"}} for name in names],
    }
    kinds = {block["type"] for message in messages for block in message["content"] if isinstance(block, dict)}
    engine = Engine(keep=1, blocks=kinds)
    body["messages"] = engine.sign(body)
    error = engine.receive(body, HEADERS, 0.0).error
    return error["error"]["message"] if error else None
