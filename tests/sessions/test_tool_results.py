"""What tools give: bounded and checked before it is stored, whatever they raise is a result, and the server goes on."""

from __future__ import annotations

import asyncio
import base64
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import pytest
from anthropic import beta_tool
from anthropic.lib.tools import ToolError

from sessions import tool
from sessions.results import MAX_IMAGE, MAX_TOGETHER
from tests.sessions.world import World, answers, call, create, everywhere, results

PNG = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(b"picture").decode()}
PDF = {"type": "base64", "media_type": "application/pdf", "data": base64.b64encode(b"paper").decode()}


def image(**source: Any) -> dict[str, Any]:
    return {"type": "image", "source": {**PNG, **source}}


async def given_by(*functions: Any) -> list[dict[str, Any]]:
    """The tool results of a turn that calls each of these; the turn ends well, and so does the next."""
    tools = [tool(function) for function in functions]
    world = World(answers([call(one.name) for one in tools]))
    async with world.manager() as manager:
        session = await create(manager, tools=tools)
        assert (await session.send("go")).text == "fine"
        assert (await session.send("and on")).text == "fine"
        found = [block for message in session.messages if message["role"] == "user" for block in results(message)]
    world.check()
    return found


async def test_text_beyond_the_limit_is_cut_and_says_how_much_is_missing() -> None:
    @tool(max_result=100)
    def short() -> str:
        """Says much."""
        return "x" * 250

    @tool(max_result=100)
    def blocks() -> list[dict[str, Any]]:
        """Says much, in blocks."""
        return [{"type": "text", "text": "a" * 60}, image(), {"type": "text", "text": "b" * 60},
                {"type": "text", "text": "c" * 80}]  # fmt: skip

    def usual() -> str:
        """Says more than a megabyte."""
        return "y" * 1_500_000

    @tool(max_result=100)
    def data() -> list[int]:
        """Gives data."""
        return [1] * 200

    @tool(max_result=100)
    async def fails() -> str:
        """Fails at length."""
        raise ToolError("z" * 300)

    @tool(max_result=100)
    async def breaks() -> str:
        """Breaks at length."""
        raise ValueError("z" * 300)

    @tool(max_result=100)
    def fits() -> str:
        """Says what fits."""
        return "x" * 100

    found = await given_by(short, blocks, usual, data, fails, breaks, fits)
    assert found[0]["content"] == "x" * 100 + "\n[cut: 150 of 250 characters are missing]"
    assert found[1]["content"] == [
        {"type": "text", "text": "a" * 60}, image(), {"type": "text", "text": "b" * 40},
        {"type": "text", "text": "[cut: 100 of 200 characters are missing]"},
    ]  # fmt: skip
    assert found[2]["content"] == "y" * 1_000_000 + "\n[cut: 500,000 of 1,500,000 characters are missing]"
    assert found[3]["content"].endswith("[cut: 301 of 401 characters are missing]")
    assert found[4]["content"].endswith("[cut: 200 of 300 characters are missing]")
    assert found[5]["content"].endswith("[cut: 212 of 312 characters are missing]")
    assert found[6]["content"] == "x" * 100
    assert [bool(one.get("is_error")) for one in found] == [False, False, False, False, True, True, False]


REFUSED: dict[str, tuple[Any, str]] = {
    "svg": (image(media_type="image/svg+xml"), "image/svg"),
    "beside_text": ([{"type": "text", "text": "look"}, image(media_type="image/tiff")], "image/tiff"),
    "no_source": ({"type": "image"}, "source"),
    "no_data": (image(data=""), "data"),
    "no_base64": (image(data="abc"), "base64"),
    "large": (image(data="A" * (MAX_IMAGE + 4)), "too large"),
    "large_together": ([image(data="A" * 8_000_000)] * 3, "bytes"),
    "large_document": ({"type": "document", "source": {**PDF, "data": "A" * 40_000_000}}, "bytes"),
    "long_document": (
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "x" * 1_000_001}}, "long",
    ),
    "unknown_source": ({"type": "document", "source": {"type": "ftp", "url": "x"}}, "source"),
    "word": ({"type": "document", "source": {**PDF, "media_type": "application/msword"}}, "msword"),
    "no_content": ({"type": "document", "source": {"type": "content"}}, "content"),
    "no_text": ({"type": "text"}, "text"),
    "search": ({"type": "search_result", "title": "t", "source": "s", "content": "words"}, "content"),
    "long_search": (
        {"type": "search_result", "title": "t", "source": "s", "content": [{"type": "text", "text": "x" * 1_000_001}]},
        "long",
    ),
    "untitled": ({"type": "search_result", "source": "s", "content": []}, "title"),
    "no_json": ({"type": "text", "text": "x", "citations": object()}, "JSON"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
async def test_what_the_api_would_refuse_is_an_error_result(name: str) -> None:
    value, word = REFUSED[name]

    def give() -> Any:
        """Gives it."""
        return value

    async def fail() -> Any:
        """Raises it."""
        error = ToolError("no")
        error.content = value if isinstance(value, list) else [value]
        raise error

    def of_sdk() -> Any:
        """Gives it, from a tool object of the SDK."""
        return value

    for one in await given_by(give, fail, beta_tool(of_sdk)):
        assert one["is_error"]
        assert isinstance(one["content"], str)
        assert word in one["content"]


async def test_what_the_api_takes_is_left_as_it_is() -> None:
    blocks = [
        image(), {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}},
        {"type": "document", "source": PDF}, {"type": "document", "source": {"type": "content", "content": "words"}},
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "words"}},
        {"type": "search_result", "title": "t", "source": "s", "content": [{"type": "text", "text": "found"}]},
    ]  # fmt: skip

    def give() -> Any:
        """Gives them."""
        return blocks

    (found,) = await given_by(give)
    assert found["content"] == blocks
    assert "is_error" not in found


async def test_results_that_are_too_much_together_are_not_all_shown() -> None:
    async def give() -> Any:  # not in a thread: their results come in the order of their calls
        """Gives an image."""
        return image(data="A" * 8_000_000)

    world = World(answers([call("give"), call("give"), call("give")]))
    async with world.manager() as manager:
        session = await create(manager, tools=[give])
        assert (await session.send("go")).text == "fine"
        found = results(session.messages[2])
        assert [bool(one.get("is_error")) for one in found] == [False, False, True]
        assert f"{MAX_TOGETHER:,}" in found[2]["content"]
    world.check()


# -- what never ends --


async def test_an_iterator_that_never_ends_is_taken_as_far_as_the_limit_goes() -> None:
    @tool(max_result=50)
    def words() -> Iterator[str]:
        """Never ends."""
        while True:
            yield "word"

    @tool(max_result=50)
    async def numbers() -> Any:
        """Gives what never ends."""
        return itertools.count(100)

    @tool(max_result=50)
    async def late() -> AsyncIterator[str]:
        """Never ends, and waits for nothing."""
        while True:
            yield "late"

    @tool(max_result=50)
    def ends() -> Iterator[int]:
        """Ends."""
        yield from (1, 2, 3)

    @tool(max_result=50)
    async def ends_too() -> AsyncIterator[int]:
        """Ends."""
        yield 1

    def nested() -> Any:
        """Holds what never ends."""
        return {"items": [{"of": ("a", (n for n in itertools.count()))}]}

    found = await given_by(words, numbers, late, ends, ends_too, nested)
    for one, start in zip(found[:3], ('["word","word"', "[100,101", '["late","late"'), strict=True):
        assert one["content"].startswith(start)
        assert one["content"].endswith("\n[cut: this is not all, the tool had more to say]")
        assert len(one["content"]) < 120
    assert [one["content"] for one in found[3:5]] == ["[1,2,3]", "[1]"]
    assert found[5]["is_error"]
    assert "list" in found[5]["content"]


async def test_what_stays_open_behind_the_limit_is_closed() -> None:
    closed: list[str] = []

    @tool(max_result=5)
    def words() -> Iterator[str]:
        """Never ends."""
        try:
            while True:
                yield "word"
        finally:
            closed.append("words")

    @tool(max_result=5)
    async def late() -> AsyncIterator[str]:
        """Never ends."""
        try:
            while True:
                yield "late"
        finally:
            closed.append("late")

    await given_by(words, late)
    assert sorted(closed) == ["late", "words"]


@everywhere
async def test_an_asynchronous_iterator_that_waits_for_nothing_can_be_given_up() -> None:
    world = World(answers([call("late")]))

    @tool(max_result=10**9)
    async def late() -> AsyncIterator[str]:
        """Never says anything that counts, and never ends."""
        while True:
            yield ""

    async with world.manager() as manager:
        session = await create(manager, tools=[late])
        async with anyio.create_task_group() as group:
            group.start_soon(session.send, "go")
            while len(session.messages) < 2:
                await anyio.sleep(0.001)
            group.cancel_scope.cancel()
        assert (await session.send("and on")).text == "fine"
    world.check()


async def test_a_coroutine_that_a_plain_function_returns_is_awaited() -> None:
    async def later() -> str:
        await anyio.lowlevel.checkpoint()
        return "later"

    def lazy() -> Any:
        """Forgets to await."""
        return later()

    (found,) = await given_by(lazy)
    assert found["content"] == "later"


@everywhere
async def test_a_plain_function_may_call_back_into_the_event_loop_and_start_its_own() -> None:
    async def later() -> str:
        await anyio.lowlevel.checkpoint()
        return "later"

    def back() -> str:
        """Calls back."""
        anyio.from_thread.check_cancelled()
        return anyio.from_thread.run(later)

    def own() -> str:
        """Runs a loop of its own."""
        return anyio.run(later)

    assert [one["content"] for one in await given_by(back, own)] == ["later", "later"]


# -- whatever they raise --

RAISED = [
    SystemExit(2), KeyboardInterrupt(), GeneratorExit(), asyncio.CancelledError(), BaseException("bare"),
    ExceptionGroup("several", [ValueError("one"), TypeError("two")]),
    BaseExceptionGroup("several", [SystemExit(3), ValueError("one")]), StopIteration("stop"),
]  # fmt: skip


@everywhere
@pytest.mark.parametrize("number", range(len(RAISED)), ids=[type(one).__name__ for one in RAISED])
async def test_whatever_a_tool_raises_is_a_result(number: int) -> None:
    def plain() -> str:
        """Raises it in a thread."""
        raise RAISED[number]

    async def other() -> str:
        """Raises it on the event loop."""
        await anyio.lowlevel.checkpoint()
        raise RAISED[number]

    @tool
    async def well() -> str:
        """Is the neighbour."""
        return "well"

    found = await given_by(plain, other, well)
    assert [bool(one.get("is_error")) for one in found] == [True, True, False]
    if isinstance(RAISED[number], BaseExceptionGroup):
        assert "ValueError: one" in found[0]["content"]


async def test_an_error_that_cannot_say_what_it_is_is_a_result_too() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    async def mute() -> str:
        """Raises it."""
        raise Mute

    (found,) = await given_by(mute)
    assert (found["content"], found["is_error"]) == ("Mute", True)


INTERRUPTED = """
import asyncio, os, signal, sys, time
from sessions import tool
from sessions.testing import simulated_manager

script = iter([[{"type": "tool_use", "name": "work", "input": {}}], "fine"])

@tool
async def work() -> str:
    "Works, and somebody presses Ctrl-C."
    os.kill(os.getpid(), signal.SIGINT)
    while True:
        time.sleep(0.01)

@tool(name="work")
def in_thread() -> str:
    "Works in a thread, and somebody presses Ctrl-C."
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(3600)

async def main():
    async with simulated_manager(script=lambda request: next(script)) as manager:
        session = await manager.create(model="claude-sonnet-5-5", max_tokens=100, tools=[TOOL])
        await session.send("go")
        print("went on")

RUN
"""


@pytest.mark.parametrize(
    ("function", "run"),
    [
        ("work", "asyncio.new_event_loop().run_until_complete(main())"),
        ("in_thread", "asyncio.new_event_loop().run_until_complete(main())"),
        ("in_thread", "asyncio.run(main())"),
        ("in_thread", "import anyio; anyio.run(main, backend='trio')"),
    ],
)
def test_ctrl_c_while_a_tool_runs_ends_the_process(function: str, run: str) -> None:
    program = INTERRUPTED.replace("TOOL", function).replace("RUN", run)
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, env=os.environ)
    assert "went on" not in ended.stdout
    assert "KeyboardInterrupt" in ended.stderr
    assert ended.returncode in (1, -signal.SIGINT)


async def test_a_result_nested_too_deep_is_an_error_result() -> None:
    nested: Any = "x"
    for _ in range(97):
        nested = [nested]

    @tool
    def dig() -> Any:
        """Digs deep."""
        return [{"type": "text", "text": "seen", "extra": nested}]

    world = World(answers([call("dig")], "fine"))
    async with world.manager() as manager:
        session = await create(manager, tools=[dig])
        assert (await session.send("dig")).text == "fine"
        (result,) = results(session.messages[2])
        assert result["is_error"]
        assert "nested deeper" in str(result["content"])
    world.check()
