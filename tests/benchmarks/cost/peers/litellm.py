"""litellm: `acompletion` with injection points on the system prompt and on the last message."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # it would fetch its price table from the network

import litellm
from litellm.llms.custom_httpx.http_handler import AsyncHTTPHandler

from sessions.core.profiles import Ttl
from tests.benchmarks.cost.conversations import Conversation, Message
from tests.benchmarks.cost.peers.door import Door
from tests.benchmarks.cost.peers.texts import said

PACKAGE = "litellm"


class Peer:
    """One conversation's arguments."""

    def __init__(self, conversation: Conversation, ttl: Ttl, door: Door) -> None:
        control = {"type": "ephemeral", "ttl": ttl}
        self._handler = AsyncHTTPHandler()
        self._handler.client = door.http()
        self._system = [{"role": "system", "content": conversation.system}] if conversation.system else []
        self._fixed: dict[str, Any] = {
            "model": f"anthropic/{conversation.model}",
            "api_key": "simulated",
            "max_tokens": 4096,
            "client": self._handler,
            "num_retries": 0,
            "cache_control_injection_points": [
                {"location": "message", "role": "system", "control": control},
                {"location": "message", "index": -1, "control": control},
            ],
        }
        if conversation.tools:
            self._fixed["tools"] = [_tool(tool) for tool in conversation.tools]

    async def ask(self, messages: Sequence[Message]) -> None:
        """Sends one request for this history."""
        await litellm.acompletion(messages=[*self._system, *history(messages)], **self._fixed)


def history(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The history as this library keeps it: in the shape of another provider, with Claude's thinking beside it."""
    found: list[dict[str, Any]] = []
    for message in messages:
        content = message["content"]
        if message["role"] == "assistant":
            found.append(_reply(content))
            continue
        found += [
            {"role": "tool", "tool_call_id": block["tool_use_id"], "content": said(block)}
            for block in content
            if block["type"] == "tool_result"
        ]
        if words := [_words(block) for block in content if block["type"] != "tool_result"]:
            found.append({"role": "user", "content": words})
    return found


def _reply(content: Sequence[dict[str, Any]]) -> dict[str, Any]:
    reply: dict[str, Any] = {"role": "assistant"}
    reply["content"] = "".join(block["text"] for block in content if block["type"] == "text") or None
    if thinking := [block for block in content if block["type"] in ("thinking", "redacted_thinking")]:
        reply["thinking_blocks"] = thinking
    if calls := [block for block in content if block["type"] == "tool_use"]:
        reply["tool_calls"] = [
            {
                "id": block["id"],
                "type": "function",
                "function": {"name": block["name"], "arguments": json.dumps(block["input"])},
            }
            for block in calls
        ]
    return reply


def _words(block: dict[str, Any]) -> dict[str, Any]:
    if block["type"] != "image":
        return block
    source = block["source"]
    return {"type": "image_url", "image_url": {"url": f"data:{source['media_type']};base64,{source['data']}"}}


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    described = {"name": tool["name"], "description": tool.get("description", ""), "parameters": tool["input_schema"]}
    return {"type": "function", "function": described}
