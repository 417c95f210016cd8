"""langchain: an agent of `create_agent` with the caching middleware of langchain-anthropic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain.agents import create_agent
from langchain_anthropic import ChatAnthropic
from langchain_anthropic.middleware import AnthropicPromptCachingMiddleware
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage
from langchain_core.tools import StructuredTool

from sessions.core.profiles import Ttl
from tests.benchmarks.cost.conversations import Conversation, Message
from tests.benchmarks.cost.peers.door import Door

PACKAGE = "langchain-anthropic"


class Peer:
    """One conversation's agent."""

    def __init__(self, conversation: Conversation, ttl: Ttl, door: Door) -> None:
        model = ChatAnthropic(model_name=conversation.model, max_tokens_to_sample=4096, api_key="simulated")
        model.__dict__["_async_client"] = door.client()  # where the class keeps the client it would make itself
        self._agent: Any = create_agent(
            model,
            [_tool(tool) for tool in conversation.tools],
            system_prompt=conversation.system or None,
            middleware=[AnthropicPromptCachingMiddleware(ttl=ttl)],
        )

    async def ask(self, messages: Sequence[Message]) -> None:
        """Sends one request for this history."""
        await self._agent.ainvoke({"messages": history(messages)})


def history(messages: Sequence[Message]) -> list[AnyMessage]:
    """The history as this library keeps it: Claude's replies as lists of Claude's own blocks."""
    found: list[AnyMessage] = []
    for message in messages:
        content = message["content"]
        if message["role"] == "assistant":
            calls = [
                {"type": "tool_call", "id": block["id"], "name": block["name"], "args": block["input"]}
                for block in content
                if block["type"] == "tool_use"
            ]
            found.append(AIMessage(content=content, tool_calls=calls))
            continue
        for block in content:
            if block["type"] == "tool_result":
                status = "error" if block.get("is_error") else "success"
                found.append(ToolMessage(block.get("content") or "", tool_call_id=block["tool_use_id"], status=status))
        if words := [block for block in content if block["type"] != "tool_result"]:
            found.append(HumanMessage(content=words))
    return found


def _tool(tool: dict[str, Any]) -> StructuredTool:
    async def run(**given: Any) -> str:
        raise AssertionError(f"{tool['name']} was called")

    return StructuredTool(
        name=tool["name"], description=tool.get("description", ""), args_schema=tool["input_schema"], coroutine=run
    )
