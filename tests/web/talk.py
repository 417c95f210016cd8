"""What tests of the protocols share: a service over a real store and the simulator, and pages that talk to it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx2 as httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.types import Message

from sessions import SessionManager, ToolContext, tool
from sessions.simulator import Engine, Scripted
from sessions.web import Agent, chat_app, tools_of
from tests.following.world import MODEL, Cluster

LONG = "word " * 60
SETTINGS = ("model", "system", "tools", "max_tokens", "messages")
HEADERS = {"host": "localhost", "content-type": "application/json", "x-owner": "ann"}


@tool(needs_approval=True)
def pay(amount: int) -> str:
    """Pays."""
    return f"paid {amount}"


@tool
def look(place: str, context: ToolContext) -> str:
    """Looks."""
    context.progress("half")
    if place == "nowhere":
        raise ValueError("there is no such place")
    return f"sunny in {place}"


def call(name: str, **input: Any) -> dict[str, Any]:
    return {"type": "tool_use", "name": name, "input": input}


def script(request: Any) -> Any:
    """A model that looks, pays, refuses, talks long, or says what it was told."""
    if request.results and "long" not in request.text:
        return Scripted("It is done.", thinking="So it is.")
    if "look" in request.text:
        place = request.text.split()[-1]
        return Scripted([{"type": "text", "text": "I look."}, call("look", place=place)], thinking="Where?")
    if "pay twice" in request.text:
        return [call("pay", amount=1), call("pay", amount=2)]
    if "pay" in request.text:
        return [{"type": "text", "text": "I pay."}, call("pay", amount=3)]
    if "decline" in request.text:
        return Scripted("I would rather", stop_reason="refusal")
    if "long" in request.text:
        return f"{LONG}{request.text}"
    return f"You said: {request.text}"


AGENT = Agent(
    "helper", model=MODEL, max_tokens=4000, tools=[pay, look], thinking={"type": "adaptive", "display": "summarized"}
)
PLAIN = Agent("plain", model=MODEL, max_tokens=100, system="You are plain.")


def owner_of(request: Request) -> str | None:
    return request.headers.get("x-owner")


@asynccontextmanager
async def serving(manager: SessionManager, **given: Any) -> AsyncIterator[Starlette]:
    """A service of that worker; its turns are left to others at once where it ends."""
    app = chat_app(manager, [AGENT, PLAIN], owner_of, **{"drain": 0.01, **given})
    async with app.router.lifespan_context(app):
        yield app


@asynccontextmanager
async def service(url: str, given: Any = script, **options: Any) -> AsyncIterator[tuple[Starlette, Cluster]]:
    """A service on the store at this URL, with its model, which answers when it is told to."""
    cluster = Cluster(url, given)
    async with serving(cluster.worker(tools=tools_of([AGENT, PLAIN])), **options) as app:
        yield app, cluster


def http(app: Starlette, owner: str = "ann") -> httpx.AsyncClient:
    """A client for one owner. It has a response when it is whole."""
    transport = httpx.ASGITransport(app=app, client=("127.0.0.1", 1))
    return httpx.AsyncClient(transport=transport, base_url="http://localhost", headers={"x-owner": owner})


class Live:
    """A request whose response is read while it comes. `chunks`: the JSON of its events so far."""

    def __init__(self, app: Starlette, method: str, path: str, body: Any = None, owner: str = "ann") -> None:
        self.status, self.text = 0, ""
        self._changed, self._gone = asyncio.Event(), asyncio.Event()
        headers = {**HEADERS, "x-owner": owner}
        scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1",
            "method": method, "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": b"",
            "root_path": "", "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            "client": ("127.0.0.1", 1), "server": ("localhost", 80), "state": {},
        }  # fmt: skip
        self._body: list[bytes] = [b"" if body is None else json.dumps(body).encode()]
        self.task = asyncio.create_task(app(scope, self._receive, self._send))  # type: ignore[arg-type]
        self.task.add_done_callback(lambda _: self._changed.set())

    async def _receive(self) -> Message:
        if self._body:
            return {"type": "http.request", "body": self._body.pop(), "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        else:
            self.text += message.get("body", b"").decode()
        self._changed.set()

    @property
    def chunks(self) -> list[dict[str, Any]]:
        return chunks_in(self.text[: self.text.rfind("\n\n") + 2])

    @property
    def said(self) -> str:
        """The words of the answer so far."""
        return "".join(chunk["delta"] for chunk in self.chunks if chunk["type"] == "text-delta")

    async def until(self, condition: Callable[[Live], Any]) -> None:
        async with asyncio.timeout(30):
            while not condition(self):
                assert not self.task.done(), self.text
                self._changed.clear()
                await self._changed.wait()

    async def end(self) -> list[dict[str, Any]]:
        """Its chunks, when it has ended."""
        await asyncio.wait_for(self.task, 30)
        return self.chunks

    async def leave(self) -> None:
        """The page goes."""
        self._gone.set()
        await asyncio.wait_for(self.task, 30)


def chunks_in(text: str) -> list[dict[str, Any]]:
    """The JSON of the events of a stream."""
    lines = [line for line in text.splitlines() if line.startswith("data: {")]
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def bodies(engine: Engine) -> list[Mapping[str, Any]]:
    """What the model was asked: model, system, tools, messages of each request."""
    return [
        {name: exchange.body[name] for name in SETTINGS if name in exchange.body}
        for exchange in engine.requests
        if exchange.body is not None
    ]


def said_to(engine: Engine, index: int = -1) -> list[str]:
    """The texts of a request's messages."""
    return texts(bodies(engine)[index]["messages"])


def texts(messages: Iterable[Mapping[str, Any]]) -> list[str]:
    found = []
    for message in messages:
        blocks = (
            [{"type": "text", "text": message["content"]}]
            if isinstance(message["content"], str)
            else message["content"]
        )
        found += [block["text"] for block in blocks if block["type"] == "text"]
    return found
