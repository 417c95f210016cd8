"""The application as it is really served: by uvicorn, below other applications, started and stopped."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
import uvicorn
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount, Route

from sessions import SessionManager
from sessions.simulator import Engine, Latency, client
from sessions.web import chat_app, tools_of
from tests.web.world import AGENT, events_in, types


def _manager(tmp_path: Path, latency: Latency | None = None, *, recover: bool = False) -> SessionManager:
    model = client(engine=Engine(), latency=latency, max_retries=0)
    return SessionManager(
        f"sqlite:///{tmp_path / 'chat.db'}", client=model, tend=False, tools=tools_of(AGENT), recover=recover
    )


@asynccontextmanager
async def _served(app: Any) -> AsyncIterator[tuple[httpx.AsyncClient, uvicorn.Server]]:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=20))
    with contextlib.suppress(AttributeError):
        server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        async with asyncio.timeout(20):
            while not server.started:
                await asyncio.sleep(0.01)
        base = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with httpx.AsyncClient(base_url=base, timeout=20) as http:
            yield http, server
    finally:
        server.should_exit = True
        await asyncio.wait_for(task, 30)
        listener.close()


async def _begun(http: httpx.AsyncClient, root: str, text: str = "Hello") -> Any:
    made = await http.post(f"{root}api/sessions", json={"agent": "helper"})
    assert made.status_code == 201, made.text
    body = {"id": "m", "content": [{"type": "text", "text": text}]}
    begun = await http.post(f"{root}api/sessions/{made.json()['id']}/turns", json=body)
    assert begun.status_code == 202, begun.text
    return begun.json()


async def test_an_answer_comes_while_it_is_made(tmp_path: Path) -> None:
    app = chat_app(_manager(tmp_path, Latency(0, 0, 0.01)), AGENT)
    async with _served(app) as (http, _):
        begun = await _begun(http, "/", "many words " * 100)
        async with http.stream("GET", "/" + begun["events"]) as response:
            assert response.headers["x-accel-buffering"] == "no"
            seen = [line[7:] async for line in response.aiter_lines() if line.startswith("event: ")]
        assert seen[0] == "snapshot"
        assert seen[-1] == "ended"
        assert seen.count("delta") > 3
        assert (await http.get("/health")).json() == {"status": "ok"}
        for headers in ({"content-length": "100000000"}, {}):
            chunks = [b"a" * 1_000_000] * 100
            try:
                response = await http.post(
                    "/api/sessions", content=_pieces(chunks), headers={"content-type": "application/json", **headers}
                )
            except (httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError):
                continue  # the answer came, and the line was cut, while it was still sending
            assert response.status_code == 413


async def _pieces(chunks: list[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


WORKER = """
import sys
import uvicorn
from sessions.simulator import Latency
from tests.web.test_serving import _manager
from tests.web.world import AGENT
from sessions.web import chat_app
from pathlib import Path
app = chat_app(_manager(Path(sys.argv[1]), Latency(0, 0, 0.5)), AGENT, drain=0.2)
uvicorn.run(app, port=int(sys.argv[2]), log_config=None)
"""


async def test_a_server_that_ends_cuts_its_streams_and_leaves_the_answer_to_others(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    worker = await asyncio.create_subprocess_exec(sys.executable, "-c", WORKER, str(tmp_path), str(port))
    text = ""
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as http, asyncio.timeout(60):
            while not await _is_ready(http):
                await asyncio.sleep(0.05)
            begun = await _begun(http, "/", "many words " * 100)
            async with http.stream("GET", "/" + begun["events"]) as response:
                with contextlib.suppress(httpx.RemoteProtocolError, httpx.ReadError):
                    async for part in response.aiter_text():
                        if not text:
                            worker.terminate()
                        text += part
            assert await worker.wait() in (0, -signal.SIGTERM)
    finally:
        with contextlib.suppress(ProcessLookupError):
            worker.kill()
    told = events_in(text)
    assert "snapshot" in types(told)
    assert "ended" not in types(told)
    async with _served(chat_app(_manager(tmp_path, recover=True), AGENT)) as (http, _):
        again = await http.get("/" + begun["events"], headers={"last-event-id": told[-1]["id"]})
        told = events_in(again.text)
        assert told[0]["type"] == "restarted"
        assert (told[-1]["type"], told[-1]["state"]) == ("ended", "finished")


async def _is_ready(http: httpx.AsyncClient) -> bool:
    try:
        return (await http.get("/ready")).status_code == 200
    except httpx.ConnectError:
        return False


@pytest.mark.parametrize("framework", [Starlette, FastAPI])
async def test_it_is_mounted_below_another_application(tmp_path: Path, framework: Any) -> None:
    manager = _manager(tmp_path)

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        async with manager:
            yield

    parent = framework(lifespan=lifespan)
    parent.mount("/deep/chat", chat_app(manager, AGENT))
    async with _served(parent) as (http, _):
        page = await http.get("/deep/chat/")
        assert page.headers["content-type"].startswith("text/html")
        assert (await http.get("/deep/chat/page/index.html")).content == page.content
        assert (await http.get("/deep/chat/health")).json() == {"status": "ok"}
        begun = await _begun(http, "/deep/chat/")
        assert begun["events"].startswith("api/")  # relative to where it is mounted
        told = events_in((await http.get(f"/deep/chat/{begun['events']}")).text)
        assert told[-1]["state"] == "finished"
        problem = await http.get("/deep/chat/nothing")
        assert (problem.status_code, problem.headers["content-type"]) == (404, "application/problem+json")
        assert json.loads(problem.text)["status"] == 404
        refused = await http.get("/deep/chat/api/config", headers={"host": "evil.example"})
        assert refused.status_code == 403
        assert (await http.get("/health")).status_code == 404


async def test_it_is_mounted_with_a_root_path_too(tmp_path: Path) -> None:
    manager = _manager(tmp_path)
    app = chat_app(manager, AGENT, authenticate=lambda request: None)
    async with manager:
        transport = httpx.ASGITransport(app=app, root_path="/proxy")
        async with httpx.AsyncClient(transport=transport, base_url="http://chat.example.com") as http:
            assert (await http.get("/proxy/health")).status_code == 200
            assert (await http.get("/health")).status_code == 200
            assert (await http.get("/proxy/api/config")).status_code == 401


async def test_two_applications_stand_beside_each_other(tmp_path: Path) -> None:
    one, other = _manager(tmp_path), _manager(tmp_path)

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        async with one, other:
            yield

    routes = [Mount("/one", chat_app(one, AGENT)), Mount("/other", chat_app(other, AGENT))]
    async with _served(Starlette(routes=[*routes, Route("/x", lambda request: None)], lifespan=lifespan)) as (http, _):
        begun = await _begun(http, "/one/")
        # The worker beside it follows the same turn.
        told = events_in((await http.get(f"/other/{begun['events']}")).text)
        assert told[-1]["state"] == "finished"
