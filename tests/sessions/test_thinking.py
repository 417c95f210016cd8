"""Thinking is kept as it came, and a session whose prefix the user changed can still be sent."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sessions import ModelError, PrefixChange, PromptWarning, Session, SessionManager, tool
from sessions.core.profiles import profile_for
from sessions.core.prompt import BINDING_BETA
from sessions.core.transcript import encode
from sessions.simulator import Fault, Request, Scripted, filler
from tests.sessions.world import MODEL, SYSTEM, World, call, create, everywhere

THINKING = ("thinking", "redacted_thinking")
ADAPTIVE = {"type": "adaptive"}
SHOWN = {"type": "adaptive", "display": "summarized"}
NOT_BINDING = "claude-opus-4-8"


@tool(idempotent=True)
def look(where: str) -> str:
    """Looks somewhere."""
    return f"seen {where}"


@tool
def stare(where: str) -> str:
    """Stares somewhere."""
    return f"stared {where}"


def thinks(request: Request) -> Scripted:
    """Thinks before every answer; looks first where it is asked to."""
    if "look" in request.text and not request.results and "look" in request.tools:
        return Scripted([call("look", where="there")], thinking=f"I look. {request.index}")
    return Scripted(f"answer {request.index}", thinking=f"I think about {request.text} {request.index}. " * 3)


def mixed(request: Request) -> Sequence[Mapping[str, Any]]:
    """Every kind of thinking block there is, between text."""
    return [
        {"type": "thinking", "thinking": f"first {request.index}"},
        {"type": "redacted_thinking"},
        {"type": "thinking", "thinking": ""},
        {"type": "text", "text": f"answer {request.index}"},
    ]


def thoughts(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    """The exact text of every thinking block."""
    found = [block for message in messages for block in message["content"] if block["type"] in THINKING]
    return [encode([block]) for block in found]


def sent(world: World) -> list[str]:
    """The thinking blocks of the newest request."""
    return thoughts(world.bodies[-1]["messages"])


def refused(world: World) -> list[str]:
    """What was refused, request by request."""
    return [one.error["error"]["message"] for one in world.requests if one.state == "refused" and one.error]


async def reopened(world: World, session: Session, *tools: Any, **given: Any) -> str:
    """Another process opens the session and says something: this must not be refused. Gives the answer."""
    before = len(refused(world))
    async with world.manager(**given) as manager:
        found = await manager.open(session.id, tools=tools)
        reply = await found.send("said after a restart")
        assert reply.stop_reason == "end_turn"
        assert await found.verify() is None
    assert len(refused(world)) == before, "the decision was not stored"
    return reply.text


# -- kept as it came ---------------------------------------------------------------------------------------------------


@everywhere
@pytest.mark.parametrize("thinking", [ADAPTIVE, SHOWN], ids=["omitted", "shown"])
async def test_every_kind_of_block_is_kept_byte_for_byte(thinking: dict[str, Any], tmp_path: Path) -> None:
    world = World(mixed, url=tmp_path / "a.db")
    async with world.manager() as manager:
        session = await create(manager, thinking=thinking)
        for text in ("one", "two", "three"):
            await session.send(text)
        kept = thoughts(session.messages)
        received = thoughts([{"content": one.reply.content} for one in world.requests if one.reply])
        assert kept == received
        assert len(kept) == 9
        assert sent(world) == kept[:6]
        branch = await session.fork(at=session.entries[3].id)
        await branch.send("other three")
        assert sent(world) == kept[:6]
        await session.rewind(session.entries[1].id)
        await session.send("other two")
        assert sent(world) == kept[:3]
    async with world.manager() as manager:
        found = await manager.open(branch.id)
        assert thoughts(found.messages)[:6] == kept[:6]
        await found.send("four")
        assert sent(world)[:6] == kept[:6]
        copy = await create(manager, thinking=thinking)
        await copy.append(await found.export())
        assert thoughts(copy.messages) == thoughts(found.messages)
        await copy.send("five")
        assert sent(world) == thoughts(found.messages)
    world.check()


async def test_keys_and_fields_that_nobody_knows_stay_as_they_came(tmp_path: Path) -> None:
    world = World(thinks, url=tmp_path / "a.db")
    async with world.manager() as manager:
        session = await create(manager)
        await session.send("one")
        odd = {"signature": "s", "zeta": {"b": 1, "a": 2}, "thinking": "", "type": "thinking"}
        history = [
            {"role": "user", "content": "hello"},
            {"role": "assistant", "content": [odd, {"text": "é\u2028", "type": "text"}]},
        ]
        await session.append(history)
    async with world.manager() as manager:
        found = (await manager.open(session.id)).messages[-1]["content"]
        assert json.dumps(found) == json.dumps(history[1]["content"])


async def test_thinking_of_a_tool_round_survives_a_restart_in_its_middle(tmp_path: Path) -> None:
    approve = {"name": "look", "description": "Asks a human.", "input_schema": {"type": "object", "properties": {}}}
    world = World(thinks, url=tmp_path / "a.db")
    async with world.manager() as manager:
        session = await create(manager, tools=[approve], thinking=ADAPTIVE)
        reply = await session.send("please look")
        assert reply.stop_reason == "tool_use"
        (asked,) = (block for block in reply.content if block["type"] == "tool_use")
    async with world.manager() as manager:
        session = await manager.open(session.id)
        result = {"type": "tool_result", "tool_use_id": asked["id"], "content": "yes"}
        assert (await session.send([result])).text == "answer 1"
        assert sent(world) == thoughts(session.messages[:2])
    world.check()


# -- breaks that the user asked for ------------------------------------------------------------------------------------


async def _talked(manager: SessionManager, **given: Any) -> Session:
    session = await create(manager, **{"thinking": ADAPTIVE, **given})
    for text in ("one", "two", "please look"):
        await session.send(text)
    assert len(thoughts(session.messages)) >= 3
    return session


@everywhere
@pytest.mark.parametrize("what", ["system", "tools", "fewer tools"])
async def test_a_prefix_that_the_user_changes(what: str, tmp_path: Path) -> None:
    changes: dict[str, dict[str, Any]] = {
        "system": {"system": filler(700)},
        "tools": {"tools": [look, stare]},
        "fewer tools": {"tools": []},
    }
    world = World(thinks, url=tmp_path / "a.db")
    async with world.manager() as manager:
        session = await _talked(manager, tools=[look])
        with pytest.raises(PrefixChange, match=r"(?s)\d+ cached tokens.*thinking") as caught:
            await session.update(**changes[what])
        assert caught.value.tokens > 500
        before = await session.export()
        await session.update(**changes[what], rebase=True)
        assert await session.export() == before, "what is stored is never edited"
        assert (await session.send("go on")).text
        assert (await session.send("and on")).text
        tools = list(session.conversation.toolbox.functions.values())
    await reopened(world, session, *tools)
    world.check()
    body = world.bodies[-1]
    assert body["thinking"]["block_binding"] == {"prefix_mismatch_behavior": "drop_block"}
    assert BINDING_BETA in (world.requests[-1].betas)
    assert len([one for one in world.requests if one.error is None]) == len(world.requests)


async def test_reordered_tools_and_free_settings_do_not_touch_thinking() -> None:
    world = World(thinks)
    async with world.manager() as manager:
        session = await _talked(manager, tools=[look, stare])
        with pytest.raises(PrefixChange) as caught:
            await session.update(tools=[stare, look])
        assert "thinking" not in str(caught.value)
        with pytest.warns(PromptWarning, match="'stare' where 'look' was"):
            await session.update(tools=[stare, look], rebase=True)
        await session.update(output_config={"effort": "low"}, rebase=True)
        await session.update(max_tokens=3000)
        await session.send("go on")
        assert "block_binding" not in world.bodies[-1]["thinking"]
        assert sent(world) == thoughts(session.messages[:-1])
    world.check()


async def test_tools_bound_anew_on_open(tmp_path: Path) -> None:
    world = World(thinks, url=tmp_path / "a.db")
    async with world.manager() as manager:
        session = await _talked(manager, tools=[look])
    async with world.manager() as manager:
        session = await manager.open(session.id, tools=[look, stare], rebase=True)
        assert (await session.send("go on")).text
    await reopened(world, session, look, stare)
    world.check()


@everywhere
async def test_changed_again_and_back(tmp_path: Path) -> None:
    world = World(thinks, url=tmp_path / "a.db")
    async with world.manager() as manager:
        session = await _talked(manager, tools=[look])
        old = session.entries
        for system in (filler(700), SYSTEM, filler(710)):
            await session.update(system=system, rebase=True)
            await session.send("please look again")
        branch = await session.fork(at=old[1].id)
        assert (await branch.send("from the start")).text
        later = await session.fork(at=session.entries[-3].id)
        assert (await later.send("from later")).text
        await session.rewind(old[3].id)
        assert (await session.send("from the middle")).text
        await session.rewind(None)
        assert (await session.send("anew")).text
    for one in (session, branch, later):
        await reopened(world, one, look)
    world.check()


@everywhere
async def test_thinking_behind_the_change_is_kept() -> None:
    """Only what is bound to the old prefix is dropped; what came after it still reaches the model."""
    world = World(thinks)
    async with world.manager() as manager:
        session = await create(manager)
        await session.send("one")
        await session.update(system=filler(700), rebase=True)
        await session.send("two")
        await session.send("three")
        prompt = world.requests[-1].prompt
        assert prompt is not None
        assert len(thoughts(prompt.body["messages"])) == 1
        assert (await session.send("four")).usage.cache_read > 700
    world.check()


@pytest.mark.parametrize("system", [SYSTEM, filler(700)], ids=["same", "another"])
async def test_imported_thinking_of_another_prefix(system: str, tmp_path: Path) -> None:
    """What was written elsewhere may be bound to anything: asked to drop it, the API takes it."""
    world = World(thinks, url=tmp_path / "a.db")
    async with world.manager() as manager:
        other = await create(manager, system=system)
        for text in ("one", "two"):
            await other.send(text)
        history = await other.export()
        session = await create(manager)
        await session.append([{"role": "user", "content": "before"}, {"role": "assistant", "content": "ok"}])
        await session.append(history)
        assert (await session.send("go on")).text
        fresh = await create(manager)
        await fresh.append(history)
        assert (await fresh.send("go on")).text
    await reopened(world, session)
    await reopened(world, fresh)
    world.check()


@everywhere
async def test_imported_thinking_behind_a_fork_is_still_known(tmp_path: Path) -> None:
    world = World(thinks, url=tmp_path / "a.db")
    async with world.manager() as manager:
        other = await create(manager, system=filler(700))
        await other.send("one")
        session = await create(manager)
        await session.append(await other.export())
        branch = await session.fork()
        assert (await branch.send("go on")).text
    world.check()


# -- models that come and go -------------------------------------------------------------------------------------------


@everywhere
async def test_model_changes_back_and_forth(tmp_path: Path) -> None:
    """Blocks are kept; the API drops what a model cannot read. At most one request is refused: it is learnt from."""
    world = World(thinks, url=tmp_path / "a.db")
    async with world.manager() as manager:
        session = await create(manager, thinking=ADAPTIVE)
        await session.send("one")
        await session.update(model=NOT_BINDING, rebase=True)
        await session.send("two")
        await session.update(system=filler(800), rebase=True)
        await session.send("three")
        kept = thoughts(session.messages)
        assert sent(world) == kept[:2], "all blocks go back"
        await session.update(model=MODEL, rebase=True)
        await session.send("four")
        await session.send("five")
        assert thoughts(session.messages)[:3] == kept
    assert len(refused(world)) <= 1
    await reopened(world, session)


async def test_a_prefix_changed_while_another_model_answered(tmp_path: Path) -> None:
    """The other model binds nothing, so the change is free there; back again, it is learnt with one refused request."""
    world = World(thinks, url=tmp_path / "a.db")
    async with world.manager() as manager:
        session = await create(manager, model=NOT_BINDING, thinking=ADAPTIVE)
        await session.send("one")
        await session.update(system=filler(800), rebase=True)
        await session.update(model=MODEL, rebase=True)
        assert (await session.send("two")).text
        assert [one.status for one in await session.calls()][1:] in (["ok"], ["error", "ok"])
        assert (await session.cost()).total == world.engine.bill().cost
    assert len(refused(world)) <= 1
    await reopened(world, session)


@pytest.mark.parametrize("models", [
    ("claude-sonnet-5-5", "claude-haiku-5-5", "claude-sonnet-5-5"),
    ("claude-haiku-5-5", "claude-opus-5-5", "claude-haiku-5-5"),
    ("claude-fable-5-1", "claude-sonnet-5-5", "claude-fable-5-2"),
    ("claude-opus-4-6", "claude-sonnet-5-5", "claude-opus-4-6"),
    ("claude-haiku-4-5", "claude-opus-5-5", "claude-haiku-4-5"),
])  # fmt: skip
async def test_any_model_after_any_other_with_instructions_between(models: Sequence[str], tmp_path: Path) -> None:
    """An instruction is shown to some models as a system message and to others as words: that is another prefix."""
    world = World(thinks, url=tmp_path / "a.db")
    async with world.manager() as manager:
        session = await create(manager, model=models[0], system=filler(5000), tools=[look])
        for number, model in enumerate(models):
            await session.update(model=model, rebase=True)
            await session.send("please look")
            await session.instruct(f"be brief {number}")
            await session.send("more")
        assert await session.verify() is None
    assert len(refused(world)) <= 2
    await reopened(world, session, look)


async def test_thinking_that_is_switched_off_after_the_prefix_changed(tmp_path: Path) -> None:
    """`disabled` has no field for the decision to drop blocks: the request must be good all the same."""
    world = World(thinks, url=tmp_path / "a.db")
    async with world.manager() as manager:
        session = await create(manager, model="claude-haiku-5-5", tools=[look])
        await session.send("one")
        await session.send("please look")
        await session.update(system=filler(800), rebase=True)
        await session.send("two")
        await session.update(thinking={"type": "disabled"}, rebase=True)
        assert (await session.send("three")).text
        await session.update(thinking=ADAPTIVE, rebase=True)
        assert (await session.send("four")).text
    await reopened(world, session, look)
    world.check()


async def test_imported_thinking_with_thinking_switched_off(tmp_path: Path) -> None:
    world = World(thinks, url=tmp_path / "a.db")
    async with world.manager() as manager:
        other = await create(manager, model="claude-haiku-5-5", system=filler(700))
        await other.send("one")
        session = await create(manager, model="claude-haiku-5-5", thinking={"type": "disabled"})
        await session.append(await other.export())
        assert (await session.send("two")).text
    await reopened(world, session)
    assert len(refused(world)) <= 1


@pytest.mark.parametrize("break_it", ["update", "append", "learnt"])
async def test_where_the_api_cannot_be_asked_to_drop_blocks(break_it: str, tmp_path: Path) -> None:
    """Then all earlier thinking is left out, once; what comes after it goes back."""
    profile = replace(profile_for(MODEL), drops_bound_thinking=False)
    world = World(thinks, url=tmp_path / "a.db", profile=profile)
    async with world.manager(profile=profile) as manager:
        session = await create(manager)
        await session.send("one")
        if break_it == "update":
            await session.update(system=filler(700), rebase=True)
        elif break_it == "append":
            other = await create(manager, system=filler(700))
            await other.send("elsewhere")
            await session.append(await other.export())
        else:
            old = session.entries
            await session.compact()
            await session.update(system=filler(700), rebase=True)
            session = await session.fork(at=old[-1].id)
        assert (await session.send("two")).text
        assert (await session.send("three")).text
        assert all("block_binding" not in (body.get("thinking") or {}) for body in world.bodies)
        assert len(refused(world)) == (1 if break_it == "learnt" else 0)
    await reopened(world, session, profile=profile)


@everywhere
async def test_a_decision_that_can_only_be_learnt_is_learnt_once(tmp_path: Path) -> None:
    """A compaction forgets what older thinking is bound to; a fork of an old entry then finds out."""
    world = World(thinks, url=tmp_path / "a.db")
    async with world.manager() as manager:
        session = await _talked(manager, tools=[look])
        old = session.entries
        await session.compact()
        await session.send("after it")
        await session.update(system=filler(800), rebase=True)
        await session.send("with another prompt")
        branch = await session.fork(at=old[-1].id)
        assert (await branch.send("as if it had never been")).text
        assert len(refused(world)) <= 1
        assert (await branch.cost()).total > 0
        calls = [one.status for one in await branch.calls()]
        assert calls in (["ok"], ["error", "ok"])
        before = len(refused(world))
        assert (await branch.send("again")).text
        deeper = await branch.fork(at=branch.entries[1].id)
        assert (await deeper.send("deeper")).text
        assert len(refused(world)) == before
    await reopened(world, branch, look)
    await reopened(world, session, look)


async def test_a_healed_request_is_no_step(tmp_path: Path) -> None:
    """With one step allowed, the request that was refused does not use it up."""
    world = World(thinks, url=tmp_path / "a.db")
    async with world.manager(max_steps=1) as manager:
        session = await create(manager, model=NOT_BINDING, thinking=ADAPTIVE)
        await session.send("one")
        await session.update(system=filler(800), rebase=True)
        await session.update(model=MODEL, rebase=True)
        assert (await session.send("two")).text


async def test_prewarm_and_compact_learn_too(tmp_path: Path) -> None:
    world = World(thinks, url=tmp_path / "a.db")
    async with world.manager() as manager:
        for what in ("prewarm", "compact"):
            session = await create(manager, model=NOT_BINDING, thinking=ADAPTIVE)
            await session.send("one")
            await session.update(system=filler(800), rebase=True)
            await session.update(model=MODEL, rebase=True)
            try:
                await (session.prewarm() if what == "prewarm" else session.compact())
            except ModelError:
                pytest.fail(f"{what}() fails for ever where send() heals itself")
            assert (await session.send("two")).text


async def test_a_request_refused_for_another_reason_is_not_sent_again() -> None:
    world = World(thinks, faults={1: Fault.http(400, "messages: something else")})
    async with world.manager() as manager:
        session = await create(manager)
        await session.send("one")
        with pytest.raises(ModelError):
            await session.send("two")
        assert len(world.requests) == 2
        assert not session.settings.foreign
        assert (await session.send("three")).text


# -- models that strip old thinking ------------------------------------------------------------------------------------


@pytest.mark.parametrize("tools", [False, True], ids=["words", "tools"])
@pytest.mark.parametrize("model", ["claude-haiku-4-5", "claude-haiku-4-5-20251001"])
async def test_models_that_strip_old_thinking_are_planned_for(model: str, tools: bool) -> None:
    """Every call reads exactly what its plan expects, across plain words and tool rounds."""
    world = World(thinks)
    async with world.manager() as manager:
        session = await create(
            manager,
            model=model,
            system=filler(5000),
            thinking={"type": "enabled", "budget_tokens": 1024},
            tools=[look] if tools else [],
        )
        for number in range(5):
            await session.send(f"please look {number}. {filler(60)}")
        calls = await session.calls()
        assert len(calls) == (10 if tools else 5)
        for one in calls:
            assert one.expected is not None
            assert one.usage.cache_read == pytest.approx(one.expected.cache_read, abs=2), one
        assert all(one.usage.cache_read > 4500 for one in calls[1:])
        assert (await session.cost()).total == world.engine.bill().cost
    world.check()


@pytest.mark.parametrize("make", [thinks, mixed])
async def test_models_that_keep_thinking_read_what_is_expected(make: Callable[[Request], Any]) -> None:
    world = World(make)
    async with world.manager() as manager:
        session = await create(manager, tools=[look])
        for number in range(4):
            await session.send(f"please look {number}")
        for one in await session.calls():
            assert one.expected is not None
            assert one.usage.cache_read == pytest.approx(one.expected.cache_read, abs=2)
    world.check()
