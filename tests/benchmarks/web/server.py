"""One worker: `chat_app` on SQLite, or the bare SDK behind `sse-starlette` with nothing stored; the same model."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import uvicorn
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from sessions import SessionManager
from sessions.simulator import Engine, Latency, client
from sessions.web import Agent, Limits, chat_app
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
    manager = SessionManager(f"sqlite:///{folder / 'chat.db'}", client=sdk, tend=False)
    limits = Limits(running_turns=MANY, streams=MANY, requests=MANY)
    agent = Agent("helper", model=MODEL, max_tokens=4000, system=PROMPT)
    return chat_app(manager, agent, lambda request: request.headers.get("x-owner"), limits=limits, drain=0.0)


def bare(sdk: Any) -> Any:
    async def chat(request: Request) -> Any:
        words = (await request.json())["text"]

        async def events() -> AsyncIterator[ServerSentEvent]:
            messages = [{"role": "user", "content": words}]
            async with sdk.messages.stream(model=MODEL, max_tokens=4000, system=PROMPT, messages=messages) as stream:
                async for text in stream.text_stream:
                    yield ServerSentEvent(json.dumps({"type": "delta", "value": text}), event="delta")

        return EventSourceResponse(events())

    async def health(request: Request) -> Any:
        return JSONResponse({})

    return Starlette(routes=[Route("/chat", chat, methods=["POST"]), Route("/health", health)])


def main(kind: str, folder: str, port: str, pace: str, tokens: str) -> None:
    sdk = model(float(pace), int(tokens))
    app = ours(Path(folder), sdk) if kind == "ours" else bare(sdk)
    uvicorn.run(app, port=int(port), log_level="error", timeout_graceful_shutdown=1, backlog=4096)


if __name__ == "__main__":
    main(*sys.argv[1:])
