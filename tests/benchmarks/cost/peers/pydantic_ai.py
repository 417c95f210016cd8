"""pydantic-ai: its Anthropic model with the automatic breakpoint, and breakpoints on instructions and tools."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic_ai import ToolDefinition
from pydantic_ai.direct import model_request
from pydantic_ai.messages import (
    BinaryContent,
    ModelMessage,
    ModelRequest,
    ModelResponse,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.models.anthropic import AnthropicModel, AnthropicModelSettings
from pydantic_ai.providers.anthropic import AnthropicProvider

from sessions.core.profiles import Ttl
from tests.benchmarks.cost.conversations import Conversation, Message
from tests.benchmarks.cost.peers.door import Door
from tests.benchmarks.cost.peers.texts import image_bytes, said

PACKAGE = "pydantic-ai-slim"


class Peer:
    """One conversation's model and settings."""

    def __init__(self, conversation: Conversation, ttl: Ttl, door: Door) -> None:
        self._model = AnthropicModel(conversation.model, provider=AnthropicProvider(anthropic_client=door.client()))
        self._system = conversation.system or None
        self._settings = AnthropicModelSettings(
            max_tokens=4096,
            anthropic_cache=ttl,
            anthropic_cache_instructions=ttl,
            anthropic_cache_tool_definitions=ttl,
        )
        self._tools = ModelRequestParameters(
            function_tools=[
                ToolDefinition(
                    name=tool["name"],
                    description=tool.get("description"),
                    parameters_json_schema=tool["input_schema"],
                )
                for tool in conversation.tools
            ]
        )

    async def ask(self, messages: Sequence[Message]) -> None:
        """Sends one request for this history."""
        await model_request(
            self._model,
            history(messages, self._system),
            model_settings=self._settings,
            model_request_parameters=self._tools,
        )


def history(messages: Sequence[Message], system: str | None) -> list[ModelMessage]:
    """The history as this library keeps it."""
    names: dict[str, str] = {}
    found: list[ModelMessage] = []
    for message in messages:
        content = message["content"]
        if message["role"] == "assistant":
            names |= {block["id"]: block["name"] for block in content if block["type"] == "tool_use"}
            found.append(ModelResponse([_reply_part(block) for block in content], provider_name="anthropic"))
        else:
            found.append(ModelRequest(_request_parts(content, names), instructions=system))
    return found


def _reply_part(block: dict[str, Any]) -> Any:
    if block["type"] == "thinking":
        return ThinkingPart(block["thinking"], signature=block["signature"], provider_name="anthropic")
    if block["type"] == "tool_use":
        return ToolCallPart(block["name"], block["input"], block["id"])
    return TextPart(block["text"])


def _request_parts(content: Sequence[dict[str, Any]], names: dict[str, str]) -> list[Any]:
    parts: list[Any] = [
        ToolReturnPart(names[block["tool_use_id"]], said(block), block["tool_use_id"])
        for block in content
        if block["type"] == "tool_result"
    ]
    words: list[Any] = [
        BinaryContent(image_bytes(block), media_type=block["source"]["media_type"])
        if block["type"] == "image"
        else block["text"]
        for block in content
        if block["type"] != "tool_result"
    ]
    return [*parts, UserPromptPart(words)] if words else parts
