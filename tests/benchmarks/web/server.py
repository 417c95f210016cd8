"""One worker of a back end: ours on SQLite, another one with its messages in SQLite, or nothing but the bare SDK.

The bare SDK stands behind `sse-starlette`, and nothing is stored. All ask the same model.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from sessions import SessionManager
from sessions.simulator import Engine, Latency, client
from tests.benchmarks.send import MODEL

PROMPT = "You are a patient assistant who answers in full sentences. " * 40
HOLD = "hold"
"""Words that are not answered: whoever follows waits."""
MANY = 1_000_000


def model(pace: float, tokens: int) -> Any:
    """A client of a model that gives so many tokens, one each `pace` seconds."""
    text = "word " * tokens

    async def script(request: Any) -> str:
        if request.text.endswith(HOLD):
            await asyncio.sleep(3600)
        return text

    return client(engine=Engine(script), latency=Latency(0, 0.05, pace), max_retries=0)


def ours(folder: Path, sdk: Any) -> Any:
    from sessions.web import Agent, Limits, chat_app

    manager = SessionManager(f"sqlite:///{folder / 'chat.db'}", client=sdk, tend=False)
    limits = Limits(running_turns=MANY, streams=MANY, requests=MANY)
    agent = Agent("helper", model=MODEL, max_tokens=4000, system=PROMPT)
    return chat_app(manager, agent, lambda request: request.headers.get("x-owner"), limits=limits, drain=0.0)


def bare(folder: Path, sdk: Any) -> Any:
    from sse_starlette import EventSourceResponse, ServerSentEvent

    async def chat(request: Request) -> Any:
        words = (await request.json())["text"]

        async def events() -> AsyncIterator[ServerSentEvent]:
            messages = [{"role": "user", "content": words}]
            async with sdk.messages.stream(model=MODEL, max_tokens=4000, system=PROMPT, messages=messages) as stream:
                async for text in stream.text_stream:
                    yield ServerSentEvent(json.dumps({"type": "delta", "value": text}), event="delta")

        return EventSourceResponse(events())

    return _application(chat)


class Messages:
    """A chat's messages in SQLite, by one thread, as the chat example of pydantic-ai keeps them."""

    def __init__(self, path: Path) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._database = self._thread.submit(sqlite3.connect, path).result()
        table = "CREATE TABLE messages (id INTEGER PRIMARY KEY, chat TEXT NOT NULL, list TEXT NOT NULL)"
        for statement in (table, "CREATE INDEX of_chat ON messages (chat)"):
            self._thread.submit(self._database.execute, statement).result()

    async def of(self, chat: str) -> list[bytes]:
        """The lists of messages of a chat, as JSON."""
        return await self._run(self._of, chat)

    async def add(self, chat: str, messages: bytes) -> None:
        """Keeps what a run has added."""
        await self._run(self._add, chat, messages)

    def _of(self, chat: str) -> list[bytes]:
        found = self._database.execute("SELECT list FROM messages WHERE chat = ? ORDER BY id", (chat,))
        return [row[0] for row in found]

    def _add(self, chat: str, messages: bytes) -> None:
        self._database.execute("INSERT INTO messages (chat, list) VALUES (?, ?)", (chat, messages))
        self._database.commit()

    async def _run(self, work: Callable[..., Any], *given: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *given)


def pydantic_ai(folder: Path, sdk: Any) -> Any:
    from pydantic_ai import Agent
    from pydantic_ai.messages import ModelMessagesTypeAdapter
    from pydantic_ai.models.anthropic import AnthropicModel
    from pydantic_ai.providers.anthropic import AnthropicProvider
    from pydantic_ai.ui.vercel_ai import VercelAIAdapter

    agent = Agent(
        AnthropicModel(MODEL, provider=AnthropicProvider(anthropic_client=sdk)),
        instructions=PROMPT,
        model_settings={"max_tokens": 4000},
    )
    messages = Messages(folder / "chat.db")

    async def chat(request: Request) -> Any:
        adapter = await VercelAIAdapter.from_request(request, agent=agent)
        id = adapter.run_input.id
        history = [one for stored in await messages.of(id) for one in ModelMessagesTypeAdapter.validate_json(stored)]

        async def keep(result: Any) -> None:
            await messages.add(id, result.new_messages_json())

        return adapter.streaming_response(adapter.run_stream(message_history=history, on_complete=keep))

    return _application(chat)


def _application(chat: Any) -> Any:
    async def health(request: Request) -> Any:
        return JSONResponse({})

    return Starlette(routes=[Route("/chat", chat, methods=["POST"]), Route("/health", health)])


KINDS = {"ours": ours, "bare": bare, "pydantic-ai": pydantic_ai}


def main(kind: str, folder: str, port: str, pace: str, tokens: str) -> None:
    sdk = model(float(pace), int(tokens))
    uvicorn.run(
        KINDS[kind](Path(folder), sdk), port=int(port), log_level="error", timeout_graceful_shutdown=1, backlog=4096
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
