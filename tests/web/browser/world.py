"""What tests of the page share: the back end in a thread, a model that speaks when told to, and a page that watches."""

from __future__ import annotations

import shutil
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import uvicorn
from anyio.from_thread import BlockingPortal

from sessions import SessionManager, ToolContext, simulator, tool
from sessions.simulator import Engine, Latency
from sessions.testing import ManualClock
from sessions.web import Agent, chat_app, tools_of

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, ConsoleMessage, Page, Request

MODEL = "claude-sonnet-5-5"
TOKEN = 0.01
"""Seconds of the model's clock for each token of its answers."""
ENOUGH = 60.0
"""Seconds that a busy machine may take for what takes hardly any."""
ROOT = Path(__file__).parents[3]
PICTURES = ROOT / "build" / "screenshots"
AXE = ROOT / "build" / "axe" / "node_modules" / "axe-core" / "axe.min.js"


def chromium() -> str | None:
    """The system's browser."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Tools:
    """What the model may call. `let_go`: the slow one does its next step, of two."""

    def __init__(self) -> None:
        self._steps = threading.Semaphore(0)
        self.paid: list[float] = []
        self.all = [
            tool(self._look_up, name="look_up", idempotent=True),
            tool(self._pay, name="pay", needs_approval=True),
            tool(self._fail, name="fail"),
        ]

    def let_go(self) -> None:
        self._steps.release()

    async def _step(self) -> None:
        await anyio.to_thread.run_sync(self._steps.acquire, True, ENOUGH, abandon_on_cancel=True)

    async def _look_up(self, city: str, context: ToolContext) -> str:
        """Looks up the weather of a city."""
        await self._step()
        context.progress(f"asking the station of {city}")
        context.progress("reading its answer")
        await self._step()
        return f"{city}: 7 °C, light rain"

    async def _pay(self, amount: float) -> str:
        """Pays an amount."""
        self.paid.append(amount)
        return f"paid {amount}"

    async def _fail(self, why: str) -> str:
        """Fails."""
        raise RuntimeError(why)


class Model:
    """A model on a clock that stands still until a test lets it speak. `portal`: the thread where it is."""

    def __init__(self, portal: BlockingPortal, script: Any = None) -> None:
        self.portal = portal
        self.engine, self.clock, self.latency = Engine(script), ManualClock(), Latency(per_output_token=TOKEN)

    def speak(self, tokens: float = 2000) -> None:
        """It says so many tokens more, or all that it has to say, as soon as it is asked."""
        end = time.monotonic() + ENOUGH
        while not self.engine.requests or self.engine.requests[-1].state != "open":
            assert time.monotonic() < end, "the model has not been asked"
            time.sleep(0.01)
        self.portal.call(self.clock.advance, tokens * TOKEN)

    @contextmanager
    def speaking(self) -> Iterator[None]:
        """Inside, it says whatever it has to say, at once."""

        async def speak() -> None:
            while True:
                await self.clock.advance(100 * TOKEN)  # less than the lifetime of a cache, over a whole test
                await anyio.sleep(0.02)

        running = self.portal.start_task_soon(speak)
        try:
            yield
        finally:
            running.cancel()


class Served(Model):
    """The back end under uvicorn, in that thread. `app`: arguments of `chat_app`; `agents`: makes them of the tools."""

    def __init__(self, portal: BlockingPortal, store: str, script: Any = None, **app: Any) -> None:
        super().__init__(portal, script)
        self.tools = Tools()
        client = simulator.client(engine=self.engine, clock=self.clock, latency=self.latency, max_retries=0)
        made = app.pop("agents", lambda tools: [Agent("helper", model=MODEL, tools=tools, max_tokens=4096)])
        agents = made(self.tools.all)
        wrap = app.pop("wrap", lambda app: app)
        self.manager = SessionManager(
            store, client=client, tend=False, warmup=False, recover=True, tools=tools_of(agents)
        )
        self._app = wrap(chat_app(self.manager, agents, **{"simulated": True, "drain": 1.0, **app}))
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/"

    def __enter__(self) -> Served:
        config = uvicorn.Config(self._app, log_level="warning", timeout_graceful_shutdown=2, ws="none")
        self._server = uvicorn.Server(config)
        self._serving = self.portal.start_task_soon(self._server.serve, [self._socket])
        return self  # the socket listens already: whoever connects waits until it serves

    def __exit__(self, *exc: object) -> None:
        for _ in range(10):
            self.tools.let_go()
        self._server.should_exit = True
        self._serving.result(ENOUGH)
        self._socket.close()

    def entries(self, session: str) -> list[Any]:
        """What is stored of a conversation."""

        async def read() -> list[Any]:
            return list((await self.manager.open(session)).entries)

        found: list[Any] = self.portal.call(read)
        return found


class Watched:
    """A page, and all that went wrong in it: errors, refusals of the policy, requests to elsewhere."""

    def __init__(self, context: BrowserContext, origin: str) -> None:
        self.page: Page = context.new_page()
        self._origin = origin
        self.wrong: list[str] = []
        self.expected: tuple[str, ...] = ()
        self.page.set_default_timeout(ENOUGH * 1000)
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        self.page.on("request", self._request)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.wrong.append(f"{message.type}: {message.text} ({message.location.get('url')})")

    def _request(self, request: Request) -> None:
        if not request.url.startswith((self._origin, "blob:" + self._origin, "data:")):
            self.wrong.append(f"a request left: {request.url}")

    def expect(self, *texts: str) -> None:
        """What the browser itself writes to its console while a test takes the server away."""
        self.expected += texts

    def check(self) -> None:
        """Nothing went wrong, and no script of anybody else's ran."""
        wrong = [one for one in self.wrong if not any(text in one for text in self.expected)]
        assert not wrong, wrong
        if not self.page.is_closed():
            assert self.page.evaluate("window.__pwned") is None


# What is seen of a conversation, and what is stored of it, to be compared.

SHOWN = """() => [...document.querySelectorAll('.turn')].flatMap((turn) => [
    ['user', ...[...turn.querySelectorAll('.words .bubble p.plain')].map((one) => one.textContent)],
    ['assistant', ...[...turn.querySelectorAll('.parts .prose')].map((one) => one.textContent.trim())]])"""


def shown(page: Page) -> list[list[str]]:
    """The words of each turn and the texts of its answer, as a page shows them."""
    found: list[list[str]] = page.evaluate(SHOWN)
    return found


def stored(entries: list[Any]) -> list[list[str]]:
    """The same of what is stored: its texts must be plain ones."""
    found: list[list[str]] = []
    for entry in entries:
        texts = [block["text"] for block in entry.content if block["type"] == "text"]
        if entry.role == "user" and texts:
            found += [["user", *texts], ["assistant"]]
        elif entry.role == "assistant":
            found[-1] += texts
    return found


def session_of(page: Page) -> str:
    """The id of the conversation that a page shows."""
    return page.url.partition("#/c/")[2]


def is_ready(page: Page) -> None:
    """Returns when the page has begun to listen."""
    page.locator("#title:not(:empty)").wait_for()


def say(page: Page, text: str, key: str = "Enter") -> None:
    """Types it, and sends it by that key."""
    is_ready(page)
    box = page.get_by_role("textbox", name="Message", exact=True)
    box.fill(text)
    box.press(key)


def answers(page: Page) -> Any:
    return page.locator(".turn .answer")


def png(width: int, height: int) -> bytes:
    """A picture of one colour."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = (b"\0" + b"\xb4\x51\x2d" * width) * height
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
