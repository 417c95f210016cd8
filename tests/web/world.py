"""A chat back end on a real SQLite file above the simulator, and a client in the same process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
from starlette.applications import Starlette
from starlette.types import ASGIApp, Message

from sessions import SessionManager, ToolContext, tool
from sessions.simulator import Engine, Latency, client
from sessions.web import Agent, chat_app, tools_of

MODEL = "claude-sonnet-5-5"
LOCAL = ("127.0.0.1", 50_000)
Answer = Callable[..., Any]


@tool(needs_approval=True)
def pay(amount: int) -> str:
    """Pays."""
    return f"paid {amount}"


@tool
def look(context: ToolContext) -> str:
    """Looks."""
    context.progress("half")
    return "looked"


AGENT = Agent("helper", model=MODEL, max_tokens=2000, description="Helps.", tools=[pay, look])
PLAIN = Agent("plain", model=MODEL, max_tokens=2000)


class Place:
    """One service and who talks to it. `calls`: as `Client`'s methods."""

    def __init__(self, app: Starlette, manager: SessionManager, engine: Engine, http: httpx.AsyncClient) -> None:
        self.app, self.manager, self.engine, self.http = app, manager, engine, http

    async def get(self, path: str, status: int = 200, **given: Any) -> Any:
        return _checked(await self.http.get(path, **given), status)

    async def post(self, path: str, body: Any = None, status: int = 200, **given: Any) -> Any:
        return _checked(await self.http.post(path, json={} if body is None else body, **given), status)

    async def create(self, agent: str = "helper", **given: Any) -> str:
        """A new conversation; its id."""
        return str((await self.post("/api/sessions", {"agent": agent, **given}, 201))["id"])

    async def begin(self, id: str, text: str, key: str = "", **given: Any) -> dict[str, Any]:
        """Says something; what was begun."""
        body = {"id": key or f"id of {text}", "content": [{"type": "text", "text": text}], **given}
        return dict(await self.post(f"/api/sessions/{id}/turns", body, 202))

    async def say(self, id: str, text: str, key: str = "", **given: Any) -> list[dict[str, Any]]:
        """Says something, and waits for the end; the events."""
        return await self.events(await self.begin(id, text, key, **given))

    async def events(self, begun: Mapping[str, Any], **headers: str) -> list[dict[str, Any]]:
        """The events of a turn to its end."""
        response = await self.http.get("/" + begun["events"], headers=headers)
        assert response.status_code == 200, response.text
        assert response.headers["content-type"].startswith("text/event-stream")
        return events_in(response.text)

    async def show(self, id: str) -> dict[str, Any]:
        """The conversation."""
        return dict(await self.get(f"/api/sessions/{id}"))

    async def words(self, id: str) -> list[str]:
        """The texts of a conversation, in order."""
        entries = (await self.show(id))["entries"]
        return [block["text"] for entry in entries for block in entry["blocks"] if block["type"] == "text"]


def _checked(response: httpx.Response, status: int) -> Any:
    assert response.status_code == status, (response.status_code, response.text)
    assert response.headers["x-content-type-options"] == "nosniff"
    if status >= 400:
        assert response.headers["content-type"] == "application/problem+json"
        problem = response.json()
        assert (problem["status"], problem["type"]) == (status, "about:blank")
        assert problem["detail"]
        return problem
    if response.headers.get("content-type") == "application/json":
        assert response.headers["cache-control"] == "no-store"
        return response.json()
    return response


def events_in(text: str) -> list[dict[str, Any]]:
    """The events of a stream; each has its type and id twice, and they agree."""
    found = []
    for part in text.replace("\r\n", "\n").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in part.splitlines() if line and not line.startswith(":"))
        if fields:
            event = json.loads(fields["data"])
            assert (event["type"], event["id"]) == (fields["event"], fields["id"])
            found.append(event)
    return found


def types(events: list[dict[str, Any]]) -> list[str]:
    """Their types, without repetitions."""
    names = [event["type"] for event in events]
    return [name for place, name in enumerate(names) if not place or names[place - 1] != name]


@asynccontextmanager
async def service(
    where: Path | str,
    script: Any = None,
    *,
    agents: Any = (AGENT, PLAIN),
    latency: Latency | None = None,
    faults: Any = None,
    settings: Mapping[str, Any] | None = None,
    peer: tuple[str, int] = LOCAL,
    base_url: str = "http://localhost",
    headers: Mapping[str, str] | None = None,
    **given: Any,
) -> AsyncIterator[Place]:
    """`where`: a folder for an SQLite file, or a store's URL. `settings`: of the manager; `given`: of `chat_app`."""
    engine = Engine(script, faults=faults)
    model = client(engine=engine, latency=latency, max_retries=0)
    store = where if isinstance(where, str) else f"sqlite:///{where / 'chat.db'}"
    manager = SessionManager(store, client=model, tend=False, tools=tools_of(agents), **(settings or {}))
    app = chat_app(manager, agents, **given)
    transport = httpx.ASGITransport(app=app, client=peer, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url=base_url, headers=headers) as http,
    ):
        yield Place(app, manager, engine, http)


class Stream:
    """A response that is read while it comes, which the transport of the client cannot."""

    def __init__(self, app: ASGIApp, path: str, headers: Mapping[str, str] | None = None) -> None:
        self.status, self.text = 0, ""
        self.headers: dict[str, str] = {}
        self.changed = asyncio.Event()
        self._gone = asyncio.Event()
        given = {"host": "localhost", **(headers or {})}
        path, _, query = path.partition("?")
        scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": "GET",
            "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": query.encode(), "root_path": "",
            "headers": [(name.encode(), value.encode()) for name, value in given.items()],
            "client": LOCAL, "server": ("localhost", 80), "state": {},
        }  # fmt: skip
        self._first = True
        self.task = asyncio.create_task(app(scope, self._receive, self._send))  # type: ignore[arg-type]
        self.task.add_done_callback(lambda _: self.changed.set())

    async def _receive(self) -> Message:
        if self._first:
            self._first = False
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            self.text += message.get("body", b"").decode()
        self.changed.set()

    @property
    def events(self) -> list[dict[str, Any]]:
        """What has come so far, whole events only."""
        return events_in(self.text[: self.text.replace("\r\n\r\n", "\n\n\n\n").rfind("\n\n") + 2])

    async def until(self, condition: Callable[[Stream], Any]) -> None:
        """Waits until this holds."""
        async with asyncio.timeout(20):
            while not condition(self):
                self.changed.clear()
                await self.changed.wait()

    async def close(self) -> None:
        """The client goes."""
        self._gone.set()
        await asyncio.wait_for(self.task, 20)
