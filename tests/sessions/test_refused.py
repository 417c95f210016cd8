"""The API refuses a request after tools have run: what they did stays known to the model, and the session goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sessions import ContextFull, ModelError, Session, tool
from sessions.simulator import Fault, Request, Scripted, filler
from tests.sessions.world import World, answers, call, create, everywhere, results, words

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
APPROVE = {"name": "approve", "description": "Asks.", "input_schema": {"type": "object", "properties": {}}}


def image(data: str = PNG) -> list[dict[str, Any]]:
    """A tool's result with a picture in it."""
    return [{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}]


class Desk:
    """A booking desk: what it has booked cannot be booked again unnoticed."""

    def __init__(self, gives: Any = "booked") -> None:
        self.booked: list[str] = []
        self.gives = gives

    @property
    def tool(self) -> Any:
        """The tool, which is not idempotent."""

        def book(city: str) -> Any:
            """Books a room."""
            self.booked.append(city)
            return self.gives(city) if callable(self.gives) else self.gives

        return tool(book)


def once(request: Request) -> Any:
    """Books Rome unless it has a result of that; then it answers."""
    is_done = "tool_result" in str(request.messages)
    return "All done." if is_done else Scripted([call("book", city="Rome")], thinking="I book.")


def refuses(match: str, fault: Fault) -> Any:
    """A model whose API refuses every request in which these words stand."""

    def script(request: Request) -> Any:
        return fault if match in str(request.messages) else once(request)

    return script


async def outcomes(session: Session) -> list[tuple[str, bool]]:
    """Each tool result of the chain: its text, and whether it is an error."""
    found = [block for message in session.messages for block in results(message)]
    return [(str(block["content"]), bool(block.get("is_error"))) for block in found]


@everywhere
@pytest.mark.parametrize("status", [400, 413])
async def test_a_late_refusal_keeps_the_turn_and_books_once(status: int, tmp_path: Path) -> None:
    desk = Desk("a result that is refused")
    world = World(refuses("a result that is refused", Fault.http(status)), url=tmp_path / "a.db")
    async with world.manager() as manager:
        session = await create(manager, tools=[desk.tool])
        with pytest.raises(ModelError, match=rf"{status}.*resume\(\) or send\(\) goes on"):
            await session.send("Book Rome.")
        assert words(session) == ["Book Rome."]
        ((text, is_error),) = await outcomes(session)
        assert text.startswith("the tool has run; the result was refused by the API: ")
        assert is_error
    async with world.manager() as manager:
        session = await manager.open(session.id, tools=[desk.tool])
        reply = await session.resume()
        assert reply is not None
        assert reply.text == "All done."
        assert await session.resume() is None
        assert (await session.send("Go on.")).text == "All done."
    assert desk.booked == ["Rome"]


@everywhere
@pytest.mark.parametrize("way", ["send", "fork", "key"])
async def test_after_it_each_way_on_knows_of_the_booking(way: str) -> None:
    desk = Desk("refused result")
    world = World(refuses("refused result", Fault.http(400)))
    async with world.manager() as manager:
        session = await create(manager, tools=[desk.tool])
        with pytest.raises(ModelError):
            await session.send("Book Rome.", idempotency_key="k")
        match way:
            case "send":
                assert (await session.send("Go on.")).text == "All done."
            case "fork":
                assert (await (await session.fork()).send("Go on.")).text == "All done."
            case _:
                assert (await session.send("Book Rome.", idempotency_key="k")).text == "All done."
                assert words(session) == ["Book Rome."]
        assert "the tool has run" in str(world.bodies[-1]["messages"])
        assert desk.booked == ["Rome"]


@everywhere
async def test_of_parallel_results_the_one_that_is_named_is_replaced() -> None:
    desk = Desk(lambda city: image())
    calls = [call("book", city=city) for city in ("Rome", "Oslo", "Bonn")]
    fault = Fault.http(400, message="messages.2.content.1.tool_result.content.0.image: Could not process image")
    world = World(lambda request: "All done." if request.results else calls, faults={1: fault})
    async with world.manager() as manager:
        session = await create(manager, tools=[desk.tool])
        with pytest.raises(ModelError, match="Could not process"):
            await session.send("Book.")
        assert [is_error for _, is_error in await outcomes(session)] == [False, True, False]
        await session.resume()
        assert sorted(desk.booked) == ["Bonn", "Oslo", "Rome"]


async def test_the_largest_results_go_where_the_prompt_is_too_long() -> None:
    desk = Desk(lambda city: filler(3000) if city == "Oslo" else "booked")
    calls = [call("book", city=city) for city in ("Rome", "Oslo")]
    fault = Fault.http(400, message="prompt is too long: 1009749 tokens > 1000000 maximum")
    world = World(lambda request: "All done." if request.results else calls, faults={1: fault})
    async with world.manager() as manager:
        session = await create(manager, tools=[desk.tool])
        with pytest.raises(ContextFull, match=r"prompt is too long.*compact\(\)"):
            await session.send("Book.")
        (rome, _), (oslo, is_error) = await outcomes(session)
        assert rome == "booked"
        assert is_error
        assert "prompt is too long" in oslo
        reply = await session.resume()
        assert reply is not None
        assert reply.text == "All done."
    assert sorted(desk.booked) == ["Oslo", "Rome"]


@everywhere
@pytest.mark.parametrize("field", ["tools.0.name: bad", "messages.0.content.0: Invalid `signature`"])
async def test_results_that_are_not_the_cause_stay_as_they_are(field: str) -> None:
    desk = Desk("booked")
    world = World(once, faults={1: Fault.http(400, message=field)})
    async with world.manager() as manager:
        session = await create(manager, tools=[desk.tool])
        with pytest.raises(ModelError, match="goes on"):
            await session.send("Book Rome.")
        assert await outcomes(session) == [("booked", False)]
        assert await session.resume() is not None
    assert desk.booked == ["Rome"]


@everywhere
async def test_a_result_left_open_by_a_crash_that_is_refused_with_the_next_words() -> None:
    """The words leave, since the API never took them; the result is told as refused, or it would be for ever."""
    desk = Desk(image())
    world = World(refuses("image/png", Fault.http(400)), faults={1: Fault.http(529)})
    async with world.manager() as manager:
        session = await create(manager, tools=[desk.tool])
        with pytest.raises(ModelError, match="529"):
            await session.send("Book Rome.")
        with pytest.raises(ModelError, match="400"):
            await session.send("Go on.")
        assert words(session) == ["Book Rome."]
        ((text, _),) = await outcomes(session)
        assert "refused by the API" in text
        assert (await session.send("Really, go on.")).text == "All done."
    assert desk.booked == ["Rome"]


async def test_results_that_the_caller_hands_in_may_be_handed_in_again() -> None:
    def script(request: Request) -> Any:
        last = str(request.messages[-1]["content"])
        if "image/png" in last:
            return Fault.http(400)
        return "fine" if request.results else [call("approve", "toolu_a")]

    world = World(script)
    async with world.manager() as manager:
        session = await create(manager, tools=[APPROVE])
        await session.send("may I?")
        before = session.messages
        with pytest.raises(ModelError, match="400"):
            await session.send([{"type": "tool_result", "tool_use_id": "toolu_a", "content": image()}])
        assert session.messages == before
        given = {"type": "tool_result", "tool_use_id": "toolu_a", "content": "yes"}
        assert (await session.send([given])).text == "fine"


@everywhere
async def test_instructions_stay_behind_the_results() -> None:
    desk = Desk("refused result")
    world = World(refuses("refused result", Fault.http(400)))
    async with world.manager() as manager:
        session = await create(manager, tools=[desk.tool])
        await session.instruct("Be brief.")
        with pytest.raises(ModelError):
            await session.send("Book Rome.")
        assert (await session.resume()) is not None
        assert str(world.bodies[-1]["messages"]).count("Be brief.") == 1
    assert desk.booked == ["Rome"]


@everywhere
@pytest.mark.parametrize(
    "last",
    [Scripted("", stop_reason="refusal"), Scripted("I was about", stop_reason="refusal"), Scripted(""),
     Scripted("", thinking="Hm.")],
    ids=["refusal", "partial refusal", "empty", "thinking alone"],
)  # fmt: skip
async def test_no_answer_after_tools_keeps_what_they_did(last: Scripted, tmp_path: Path) -> None:
    desk = Desk("booked")
    world = World(answers([call("book", city="Rome")], last, "fine"), url=tmp_path / "a.db")
    async with world.manager() as manager:
        session = await create(manager, tools=[desk.tool])
        reply = await session.send("Book Rome.", idempotency_key="k")
        assert reply.stop_reason == (last.stop_reason or "end_turn")
        assert await outcomes(session) == [("booked", False)]
    async with world.manager() as manager:
        session = await manager.open(session.id, tools=[desk.tool])
        assert await session.resume() is None
        assert (await session.send("Book Rome.", idempotency_key="k")).stop_reason == reply.stop_reason
        assert (await session.send("Go on.")).text == "fine"
        assert "booked" in str(world.bodies[-1]["messages"])
        assert words(session) == ["Book Rome.", "Go on."]
    assert desk.booked == ["Rome"]
    world.check()


@everywhere
async def test_words_that_are_declined_after_an_answer_without_words_leave_alone() -> None:
    desk = Desk("booked")
    empty, declined = Scripted(""), Scripted("", stop_reason="refusal")
    world = World(answers([call("book", city="Rome")], empty, declined, Fault.http(400), "fine"))
    async with world.manager() as manager:
        session = await create(manager, tools=[desk.tool])
        await session.send("Book Rome.")
        assert (await session.send("bad")).stop_reason == "refusal"
        assert await session.resume() is None
        with pytest.raises(ModelError):
            await session.send("worse")
        assert await session.resume() is None
        assert words(session) == ["Book Rome."]
        assert await outcomes(session) == [("booked", False)]
        assert (await session.send("good")).text == "fine"
    assert desk.booked == ["Rome"]


async def test_an_endpoint_that_fails_on_new_content_twice_is_answered_with_the_ways_out() -> None:
    """llama.cpp without a projector answers 500 to every image: the words can be taken back."""
    world = World(lambda request: Fault.http(500) if "image/png" in str(request.messages) else "fine")
    async with world.manager() as manager:
        session = await create(manager)
        await session.send("Hello")
        before = session.head
        with pytest.raises(ModelError) as first:
            await session.send(image())
        assert "rewind" not in str(first.value)
        with pytest.raises(ModelError, match=rf"rewind\('{before}'\) or fork\(at='{before}'\)"):
            await session.resume()
        await session.rewind(before)
        assert (await session.send("In words, then.")).text == "fine"
        assert words(session) == ["Hello", "In words, then."]
    other = World(faults={0: Fault.http(500), 1: Fault.http(529), 2: Fault.http(500)})
    async with other.manager() as manager:
        session = await create(manager)
        for hint in (False, False, True):
            with pytest.raises(ModelError) as caught:
                await (session.resume() if session.head else session.send("Hello"))
            assert ("rewind(None)" in str(caught.value)) is hint
