"""A second double that is not ours, and no Python: aimock's Messages endpoint, with each of its faults in turn.

`.ci/run` puts the package into `build/aimock`; `WARMLINE_AIMOCK` names another folder that holds its `node_modules`.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from anthropic import AsyncAnthropic

from sessions import ModelError, Session, SessionManager, profile_for, tool
from tests.sessions.world import words

NODE = shutil.which("node")
FOLDER = Path(os.environ.get("WARMLINE_AIMOCK", Path(__file__).parents[2] / "build" / "aimock"))
PROGRAM = FOLDER / "node_modules" / "@copilotkit" / "aimock" / "dist" / "cli.js"
pytestmark = [
    pytest.mark.skipif(NODE is None, reason="Node is not installed"),
    pytest.mark.skipif(not PROGRAM.exists(), reason="aimock is not installed: .ci/run says how"),
]

MODEL = "claude-sonnet-5-5"
PATIENCE = 60.0
"""Seconds to wait for the server on a busy machine."""
FAULTS = {"dropRate": True, "malformedRate": True, "disconnectRate": True, "rateLimitRate": True}
"""aimock's faults, and whether another try may help: 500, a stream that is no JSON, a connection that ends, 429."""
FIXTURES = [
    {"match": {"userMessage": "cut"}, "response": {"content": "one two three four five six"}, "truncateAfterChunks": 3},
    {
        "match": {"userMessage": "book", "hasToolResult": False},
        "response": {"toolCalls": [{"name": "book", "arguments": {"city": "Rome"}}]},
    },
    {"match": {"userMessage": "book", "hasToolResult": True}, "response": {"content": "Booked."}},
    {"match": {}, "response": {"content": "Well said."}},
]


class Aimock:
    """The server under way."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def break_with(self, **rates: float) -> None:
        """From now on every request fails with this probability; without any, none does."""
        self._call("POST", "/__aimock/chaos", json.dumps(rates).encode())

    def _call(self, method: str, path: str, body: bytes | None = None) -> bytes:
        headers = {"content-type": "application/json"}
        asked = urllib.request.Request(self.url + path, data=body, method=method, headers=headers)
        with urllib.request.urlopen(asked, timeout=PATIENCE) as answer:
            return bytes(answer.read())


@pytest.fixture(scope="module")
def aimock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aimock]:
    fixtures = tmp_path_factory.mktemp("aimock") / "fixtures.json"
    fixtures.write_text(json.dumps({"fixtures": FIXTURES}), encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(NODE), str(PROGRAM), "--port", str(port), "--fixtures", str(fixtures), "--log-level", "silent"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as server:
        try:
            anyio.run(_listens, port)
            yield Aimock(port)
        finally:
            server.terminate()


async def _listens(port: int) -> None:
    with anyio.fail_after(PATIENCE):
        while True:
            try:
                async with await anyio.connect_tcp("127.0.0.1", port):
                    return
            except OSError:
                await anyio.sleep(0.05)


@pytest.fixture(autouse=True)
def nothing_breaks(aimock: Aimock) -> None:
    aimock.break_with()


@asynccontextmanager
async def open_session(aimock: Aimock, path: Path, **given: Any) -> AsyncIterator[Session]:
    client = AsyncAnthropic(base_url=aimock.url, api_key="any", max_retries=0, timeout=PATIENCE)
    async with client, SessionManager(f"sqlite:///{path}", client=client, profile=profile_for(MODEL)) as manager:
        yield await manager.create(model=MODEL, max_tokens=1000, **given)


async def check_sendable(session: Session, said: list[str]) -> None:
    """These words are there once each, and another turn goes through."""
    assert words(session) == said
    assert (await session.send("and then?")).text == "Well said."
    assert words(session) == [*said, "and then?"]
    assert await session.resume() is None
    assert await session.verify() is None


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_turn_that_broke_is_resumed(fault: str, aimock: Aimock, tmp_path: Path) -> None:
    async with open_session(aimock, tmp_path / "a.db") as session:
        await session.send("hello")
        aimock.break_with(**{fault: 1.0})
        for attempt in (session.send("go"), session.resume()):
            with pytest.raises(ModelError) as caught:
                await attempt
            assert caught.value.retryable is FAULTS[fault]
        aimock.break_with()
        reply = await session.resume()
        assert reply is not None
        assert reply.text == "Well said."
        assert [call.status for call in reply.calls] == ["error", "error", "ok"]
        await check_sendable(session, ["hello", "go"])


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_tool_that_has_run_does_not_run_again(fault: str, aimock: Aimock, tmp_path: Path) -> None:
    booked: list[str] = []

    @tool
    def book(city: str) -> str:
        """Books a seat; the endpoint breaks before the result can be told."""
        booked.append(city)
        aimock.break_with(**{fault: 1.0})
        return "seat 4"

    async with open_session(aimock, tmp_path / "a.db", tools=[book]) as session:
        with pytest.raises(ModelError):
            await session.send("book Rome")
        aimock.break_with()
        reply = await session.resume()
        assert reply is not None
        assert (reply.text, booked) == ("Booked.", ["Rome"])
        await check_sendable(session, ["book Rome"])


async def test_a_stream_that_is_cut_leaves_nothing_half_said(aimock: Aimock, tmp_path: Path) -> None:
    async with open_session(aimock, tmp_path / "a.db") as session:
        for attempt in (session.send("cut"), session.resume()):
            with pytest.raises(ModelError) as caught:
                await attempt
            assert caught.value.retryable
        assert [entry.role for entry in session.entries] == ["user"]
        await check_sendable(session, ["cut"])


async def test_half_of_all_requests_fail_and_every_word_arrives(aimock: Aimock, tmp_path: Path) -> None:
    """What fails is chance; that each turn comes to its end once, and none is lost, is not."""
    async with open_session(aimock, tmp_path / "a.db") as session:
        aimock.break_with(dropRate=0.2, malformedRate=0.1, disconnectRate=0.2, rateLimitRate=0.1)
        said = [f"message {number}" for number in range(20)]
        for text in said:
            for _ in range(200):
                try:
                    reply = await session.send(text, idempotency_key=text)
                except ModelError as error:
                    assert error.retryable
                else:
                    break
            assert reply.text == "Well said."
        aimock.break_with()
        await check_sendable(session, said)
