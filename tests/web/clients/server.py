"""The service that the stock clients talk to, mounted under an application with their pages. Prints its port.

Arguments: the URL of a store, and the folder with the pages' scripts.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.routing import Mount, Route

from sessions import SessionManager, SystemClock
from sessions.simulator import Latency, client
from sessions.web import chat_app, tools_of
from tests.web.talk import AGENT, PLAIN, script

PER_TOKEN = 0.02
"""Seconds for each token of an answer, where the model is slow."""


class Pace(SystemClock):
    """The model's clock: it says all at once, or, while it is slow, a word now and then."""

    def __init__(self) -> None:
        self.fast = asyncio.Event()
        self.fast.set()

    async def sleep(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self.fast.wait()
        except TimeoutError:
            pass  # it is slow


def answer(request: Any) -> Any:
    """As `talk.script`; a long answer takes half a minute of a slow model, and so never ends before it shall."""
    return "word " * 1200 + request.text if "long" in request.text else script(request)


def application(url: str, scripts: Path) -> Starlette:
    """The pages at `/page/NAME`, the service at `/chat`; `POST /model/slow` and `/model/fast` set the model's pace."""
    agents, pace = [AGENT, PLAIN], Pace()
    model = client(answer, latency=Latency(per_output_token=PER_TOKEN), clock=pace)
    manager = SessionManager(url, client=model, tools=tools_of(agents))

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with manager:
            yield

    async def page(request: Request) -> Response:
        name = request.path_params["name"]
        return HTMLResponse(
            f'<!doctype html><title>{name}</title><link rel="icon" href="data:,"><div id="root"></div>'
            f'<script type="module" src="/script/{name}.js"></script>'
        )

    async def code(request: Request) -> Response:
        return FileResponse(scripts / f"{request.path_params['name']}.js", media_type="text/javascript")

    async def model_pace(request: Request) -> Response:
        if request.path_params["pace"] == "slow":
            pace.fast.clear()
        else:
            pace.fast.set()
        return Response(status_code=204)

    routes = [
        Route("/page/{name}", page),
        Route("/script/{name}.js", code),
        Route("/model/{pace}", model_pace, methods=["POST"]),
    ]
    return Starlette(routes=[*routes, Mount("/chat", chat_app(manager, agents))], lifespan=lifespan)


async def main(url: str, scripts: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        config = uvicorn.Config(application(url, Path(scripts)), log_level="warning")
        sys.stdout.write(f"{bound.getsockname()[1]}\n")
        sys.stdout.flush()
        await uvicorn.Server(config).serve([bound])


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
