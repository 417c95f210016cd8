"""agno: its Claude model with cached system prompt and tools, and top-level `cache_control` by `request_params`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from agno.media import Image
from agno.models.anthropic import Claude
from agno.models.message import Message as AgnoMessage

from sessions.core.profiles import Ttl
from tests.benchmarks.cost.conversations import Conversation, Message
from tests.benchmarks.cost.peers.door import Door
from tests.benchmarks.cost.peers.texts import image_bytes, said

PACKAGE = "agno"


class Peer:
    """One conversation's model. Its tools are marked for 5 minutes only, so with 1h they carry no mark of their own."""

    def __init__(self, conversation: Conversation, ttl: Ttl, door: Door) -> None:
        self._model = Claude(
            id=conversation.model,
            max_tokens=4096,
            cache_system_prompt=True,
            extended_cache_time=ttl == "1h",
            cache_tools=ttl == "5m",
            request_params={"cache_control": {"type": "ephemeral", "ttl": ttl}},
            retries=0,
        )
        self._model.async_client = door.client()
        self._system = [AgnoMessage(role="system", content=conversation.system)] if conversation.system else []
        self._tools: list[Any] = [
            {
                "type": "function",
                "function": {
                    "name": tool["name"],
                    "description": tool.get("description", ""),
                    "parameters": tool["input_schema"],
                },
            }
            for tool in conversation.tools
        ]

    async def ask(self, messages: Sequence[Message]) -> None:
        """Sends one request for this history."""
        await self._model.aresponse([*self._system, *history(messages)], tools=self._tools or None)


def history(messages: Sequence[Message]) -> list[AgnoMessage]:
    """The history as this library keeps it: Claude's blocks beside its own fields."""
    found: list[AgnoMessage] = []
    for message in messages:
        content = message["content"]
        if message["role"] == "assistant":
            found.append(_reply(content))
            continue
        found += [
            AgnoMessage(
                role="tool",
                tool_call_id=block["tool_use_id"],
                content=said(block),
                tool_call_error=bool(block.get("is_error")),
            )
            for block in content
            if block["type"] == "tool_result"
        ]
        if words := [block for block in content if block["type"] != "tool_result"]:
            texts = [block for block in words if block["type"] == "text"]
            images = [Image(content=image_bytes(block)) for block in words if block["type"] == "image"]
            found.append(AgnoMessage(role="user", content=texts, images=images or None))
    return found


def _reply(content: Sequence[dict[str, Any]]) -> AgnoMessage:
    calls = [
        {
            "id": block["id"],
            "type": "function",
            "function": {"name": block["name"], "arguments": json.dumps(block["input"])},
        }
        for block in content
        if block["type"] == "tool_use"
    ]
    text = "".join(block["text"] for block in content if block["type"] == "text")
    blocks = [dict(block) for block in content]
    return AgnoMessage(
        role="assistant", content=text, tool_calls=calls or None, provider_data={"content_blocks": blocks}
    )
