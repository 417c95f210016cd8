"""New instructions of the operator go out behind the newest words, once, whatever happens to the turn."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from sessions import ConfigurationError, ModelError, Session, tool
from sessions.simulator import Fault, Request, Scripted
from tests.sessions.world import World, call, create, everywhere, words

WITH = "claude-sonnet-5-5"
WITHOUT = "claude-haiku-5-5"
MODELS = pytest.mark.parametrize("model", [WITH, WITHOUT])


@tool(idempotent=True)
def look(where: str) -> str:
    """Looks somewhere."""
    return f"seen {where}"


def asked(request: Request) -> str:
    """The user's own newest words."""
    return next((text for text in reversed(request.words) if text and "rule" not in text), "")


def script(request: Request) -> Scripted:
    """Looks where it is asked to, then answers."""
    answered = any(block["type"] == "tool_result" for one in request.messages[-2:] for block in one["content"])
    if "look" in asked(request) and not answered:
        return Scripted([call("look", where="there")], thinking="I look.")
    return Scripted(f"answer {request.index}", thinking="I think.")


def texts(message: Mapping[str, Any]) -> str:
    """All the text of a message."""
    return "\n".join(block["text"] for block in message["content"] if block["type"] == "text")


def told(world: World, at: int = -1) -> list[str]:
    """What a request holds of instructions, each with the role of its message and how far from the end it stands."""
    messages = world.bodies[at]["messages"]
    found = []
    for number, message in enumerate(messages):
        for block in message["content"]:
            text = block.get("text") or ""
            if "rule" in text:
                marked = "<system-instruction>" in text
                assert marked == (message["role"] == "user"), "an instruction looks like the user's own words"
                found.append(f"{message['role']} {number - len(messages)}: {text.strip()}")
    return found


def instructions(session: Session) -> list[str]:
    """Instructions on the chain, in order."""
    return [texts(entry.message) for entry in session.entries if entry.role == "system"]


@everywhere
@MODELS
async def test_it_goes_behind_the_newest_words(model: str) -> None:
    world = World(script)
    async with world.manager() as manager:
        session = await create(manager, model=model)
        await session.send("one")
        await session.instruct("rule 1")
        assert len(session.messages) == 2, "nothing is sent or written to the chain before the next call"
        reply = await session.send("two")
        assert reply.usage.cache_read > 0, "the cached prefix stays"
        (where,) = told(world)
        assert where.startswith("system -1" if model == WITH else "user -1")
        assert [message["role"] for message in session.messages] == ["user", "assistant", "user", "system", "assistant"]
        assert words(session) == ["one", "two"]
        await session.send("three")
        assert len(told(world)) == 1, "it is not said twice"
        assert session.settings.instructions == ()
    world.check()


@everywhere
@MODELS
async def test_several_before_one_turn_and_a_first_message(model: str) -> None:
    world = World(script)
    async with world.manager() as manager:
        session = await create(manager, model=model)
        await session.instruct("rule 1")
        await session.instruct("rule 2")
        await session.send("one")
        said = "\n".join(told(world))
        assert said.index("rule 1") < said.index("rule 2")
        await session.send("two")
    world.check()


async def test_blank_text_is_refused() -> None:
    world = World(script)
    async with world.manager() as manager:
        session = await create(manager)
        for wrong in ("", "  \n", None, 7):
            with pytest.raises(ConfigurationError):
                await session.instruct(wrong)  # type: ignore[arg-type]
        assert session.settings.instructions == ()


@everywhere
@MODELS
@pytest.mark.parametrize("failures", [1, 2, 3])
async def test_behind_all_words_that_failed_turns_left(model: str, failures: int, tmp_path: Path) -> None:
    faults = dict.fromkeys(range(1, 1 + failures), Fault.http(529))
    world = World(script, url=tmp_path / "a.db", faults=faults)
    async with world.manager() as manager:
        session = await create(manager, model=model)
        await session.send("zero")
        await session.instruct("rule 1")
        for number in range(failures):
            with pytest.raises(ModelError):
                await session.send(f"failed {number}")
            assert len(told(world)) == 1
        await session.instruct("rule 2")
    async with world.manager() as manager:
        session = await manager.open(session.id)
        await session.send("last")
        said = "\n".join(told(world))
        assert said.count("rule 1") == said.count("rule 2") == 1
        assert said.index("rule 1") < said.index("rule 2")
        last = [message["role"] for message in world.bodies[-1]["messages"]]
        if model == WITH:
            first = last.index("system")
            assert set(last[first:]) == {"system"}, "nothing of the user's stands behind an instruction"
        assert words(session) == ["zero", *(f"failed {number}" for number in range(failures)), "last"]
        assert await session.verify() is None
        await session.send("and on")
        assert "\n".join(told(world)).count("rule") == 2
    world.check()


@everywhere
@MODELS
async def test_a_failed_turn_is_resumed_with_its_instruction(model: str, tmp_path: Path) -> None:
    world = World(script, url=tmp_path / "a.db", faults={0: Fault.cut(3)})
    async with world.manager() as manager:
        session = await create(manager, model=model)
        await session.instruct("rule 1")
        with pytest.raises(ModelError):
            await session.send("one")
        await session.instruct("rule 2")
    async with world.manager() as manager:
        session = await manager.open(session.id)
        reply = await session.resume()
        assert reply is not None
        said = "\n".join(told(world))
        assert said.count("rule 1") == said.count("rule 2") == 1
        assert words(session) == ["one"]
    world.check()


@everywhere
@MODELS
@pytest.mark.parametrize("how", ["400", "413", "refusal"])
async def test_a_refused_turn_gives_it_back(model: str, how: str, tmp_path: Path) -> None:
    answers: dict[str, Any] = {
        "400": Fault.http(400), "413": Fault.http(413), "refusal": Scripted("no", stop_reason="refusal"),
    }  # fmt: skip

    def picky(request: Request) -> Any:
        return answers[how] if "bad" in asked(request) else script(request)

    world = World(picky, url=tmp_path / "a.db")
    async with world.manager() as manager:
        session = await create(manager, model=model, tools=[look])
        await session.send("one")
        await session.instruct("rule 1")
        await session.instruct("rule 2")
        for _ in range(2):
            if how in ("400", "413"):
                with pytest.raises(ModelError):
                    await session.send("bad")
            else:
                await session.send("bad")
            assert session.settings.instructions == ("rule 1", "rule 2")
            assert words(session) == ["one"]
        await session.instruct("rule 3")
    async with world.manager() as manager:
        session = await manager.open(session.id, tools=[look])
        await session.send("good")
        said = "\n".join(told(world))
        assert [said.count(f"rule {number}") for number in (1, 2, 3)] == [1, 1, 1]
        assert said.index("rule 1") < said.index("rule 2") < said.index("rule 3")
        assert session.settings.instructions == ()
    world.check()


@everywhere
@MODELS
async def test_an_instruction_that_got_no_answer_stands_behind_the_next_words(model: str, tmp_path: Path) -> None:
    world = World(lambda request: [] if "hush" in asked(request) else script(request), url=tmp_path / "a.db")
    async with world.manager() as manager:
        session = await create(manager, model=model, tools=[look])
        await session.instruct("rule 1")
        for _ in range(2):
            await session.send("hush")
        await session.instruct("rule 2")
    async with world.manager() as manager:
        session = await manager.open(session.id, tools=[look])
        assert await session.resume() is None
        await session.send("good")
        said = "\n".join(told(world))
        assert [said.count(f"rule {number}") for number in (1, 2)] == [1, 1]
    world.check()


@everywhere
@MODELS
async def test_refused_behind_words_that_had_failed_before(model: str) -> None:
    """The instruction of the first words comes back too when both leave the chain."""

    def picky(request: Request) -> Any:
        if request.index == 1:
            return Fault.http(529)
        return Fault.http(400) if "bad" in asked(request) else script(request)

    world = World(picky)
    async with world.manager() as manager:
        session = await create(manager, model=model)
        await session.send("zero")
        await session.instruct("rule 1")
        with pytest.raises(ModelError):
            await session.send("failed")
        await session.instruct("rule 2")
        with pytest.raises(ModelError):
            await session.send("bad")
        assert words(session) == ["zero"]
        assert session.settings.instructions == ("rule 1", "rule 2")
        await session.send("good")
        said = "\n".join(told(world))
        assert said.count("rule 1") == said.count("rule 2") == 1
    world.check()


@everywhere
@MODELS
async def test_with_tool_rounds(model: str) -> None:
    world = World(script)
    async with world.manager() as manager:
        session = await create(manager, model=model, tools=[look])
        await session.instruct("rule 1")
        await session.send("please look")
        assert [len(told(world, at)) for at in (0, 1)] == [1, 1]
        await session.instruct("rule 2")
        await session.send("look again")
        assert len(told(world)) == 2
        reads = [(await session.calls())[at].usage.cache_read for at in (1, 2, 3)]
        assert reads == sorted(reads)
        assert reads[0] > 0
    world.check()


@everywhere
@MODELS
async def test_given_in_the_middle_of_a_tool_round(model: str, tmp_path: Path) -> None:
    """The caller runs the tool; the instruction goes behind its results, never between call and result."""
    asks = {"name": "look", "description": "Asks.", "input_schema": {"type": "object", "properties": {}}}
    world = World(script, url=tmp_path / "a.db")
    async with world.manager() as manager:
        session = await create(manager, model=model, tools=[asks])
        reply = await session.send("please look")
        (block,) = (one for one in reply.content if one["type"] == "tool_use")
        await session.instruct("rule 1")
    async with world.manager() as manager:
        session = await manager.open(session.id)
        await session.send([{"type": "tool_result", "tool_use_id": block["id"], "content": "seen"}])
        assert len(told(world)) == 1
        await session.instruct("rule 2")
        await session.send("please look")
        await session.send("never mind")
        assert len(told(world)) == 2
        assert words(session) == ["please look", "please look", "never mind"]
    world.check()


@everywhere
async def test_results_of_a_failed_round_and_instructions() -> None:
    """A turn breaks behind its tool results: new words stand behind them, the instruction behind those."""
    world = World(script, faults={1: Fault.http(529)})
    async with world.manager() as manager:
        session = await create(manager, tools=[look])
        await session.instruct("rule 1")
        with pytest.raises(ModelError):
            await session.send("please look")
        await session.instruct("rule 2")
        await session.send("now")
        said = "\n".join(told(world))
        assert said.count("rule 1") == said.count("rule 2") == 1
        assert (await session.send("and on")).text
    world.check()


@everywhere
@MODELS
async def test_prewarm_with_an_instruction_at_the_end(model: str) -> None:
    world = World(script, faults={1: Fault.http(529)})
    async with world.manager() as manager:
        session = await create(manager, model=model)
        await session.send("one")
        await session.instruct("rule 1")
        with pytest.raises(ModelError):
            await session.send("failed")
        await world.clock.advance(4000)
        usage = await session.prewarm()
        assert usage is not None
        assert usage.cache_write > 500
        reply = await session.send("go on")
        assert reply.usage.cache_read > 500
    world.check()


@everywhere
@MODELS
async def test_prewarm_with_an_instruction_that_waits(model: str) -> None:
    world = World(script)
    async with world.manager() as manager:
        session = await create(manager, model=model)
        await session.send("one")
        await world.clock.advance(4000)
        await session.instruct("rule 1")
        assert await session.prewarm() is not None
        assert told(world) == []
        await session.send("two")
        assert len(told(world)) == 1
    world.check()


@everywhere
async def test_branches_and_instructions() -> None:
    world = World(script)
    async with world.manager() as manager:
        session = await create(manager)
        await session.send("one")
        await session.instruct("rule 1")
        branch = await session.fork()
        await branch.send("two")
        await session.send("other two")
        assert [len(told(world, at)) for at in (-1, -2)] == [1, 1], "it waits in both"
        await session.rewind(session.entries[1].id)
        await session.send("anew")
        assert told(world) == []
        again = await branch.fork(at=branch.entries[3].id)
        assert await again.resume() is not None
        assert len(told(world)) == 1
        await again.rewind(again.entries[2].id)
        assert await again.resume() is not None
        assert told(world) == []
    world.check()


@everywhere
async def test_the_model_changes_and_instructions_keep_their_place() -> None:
    world = World(script)
    async with world.manager() as manager:
        session = await create(manager, model=WITH)
        await session.instruct("rule 1")
        await session.send("one")
        await session.update(model=WITHOUT, rebase=True)
        await session.send("two")
        assert told(world)[0].startswith("user")
        await session.update(model="claude-opus-4-8", rebase=True)
        await session.send("three")
        assert told(world)[0].startswith("system")
    world.check()


async def test_an_unknown_result_behind_an_instruction_changes_nothing() -> None:
    """The words are refused before anything is stored: what was there is still there."""
    world = World(script, faults={1: Fault.http(529)})
    async with world.manager() as manager:
        session = await create(manager)
        await session.send("one")
        await session.instruct("rule 1")
        with pytest.raises(ModelError):
            await session.send("failed")
        before = session.messages
        with pytest.raises(ConfigurationError):
            await session.send([{"type": "tool_result", "tool_use_id": "toolu_nobody", "content": "x"}])
        assert session.messages == before
        assert (await manager.open(session.id)).messages == before
        await session.send("go on")
        assert len(told(world)) == 1
    world.check()


async def test_cancelled_words_with_an_instruction_are_there_once(tmp_path: Path) -> None:
    """Cancelled at each await: the instruction is never lost and never there twice."""
    import asyncio

    from tests.crash.stepping import at_step

    for step in range(1, 200):
        world = World(script, url=tmp_path / f"{step}.db")
        async with world.manager() as manager:
            session = await create(manager, tools=[look])
            await session.instruct("rule 1")
            task = asyncio.create_task(at_step(session.send("please look"), step).run())
            await asyncio.wait([task])
            await session.send("next")
            said = "\n".join(told(world))
            assert said.count("rule 1") == 1, step
            assert [len(one) for one in instructions(session)] == [len("rule 1")], step
        world.check()
        if not task.cancelled():
            return
    raise AssertionError("the turn never came through")
