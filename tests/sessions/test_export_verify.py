"""What is exported is taken back with nothing changed; what is not as it was written is named."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sessions import InvalidHistory, ModelError, Session, SessionsError, tool
from sessions.simulator import Fault, Request, Scripted
from tests.sessions.world import World, call, create, everywhere, words


@tool
def look(where: str) -> str:
    """Looks somewhere."""
    return f"seen {where}"


def script(request: Request) -> Any:
    """Every kind of reply there is."""
    if "look" in request.text and not request.results:
        return Scripted([{"type": "text", "text": "I look."}, call("look", where="ü\u2028"), call("look", where="b")],
                        thinking="hm")  # fmt: skip
    return Scripted(f"answer {request.index}", thinking="hm")


def contents(session: Session) -> list[tuple[str, list[dict[str, Any]]]]:
    return [(entry.role, entry.content) for entry in session.entries]


def text(history: Any) -> str:
    """The exact JSON text, key order included."""
    return json.dumps(history, ensure_ascii=False)


async def _lived(manager: Any) -> Session:
    """A session that has seen everything but a summary."""
    session: Session = await create(manager, tools=[look])
    await session.send("one")
    await session.instruct("be brief")
    await session.send("please look")
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
    await session.send([{"type": "text", "text": "see"}, image])
    with pytest.raises(ModelError):
        await session.send("failed")
    await session.send("two")
    return session


PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


@everywhere
async def test_round_trip(tmp_path: Path) -> None:
    world = World(script, url=tmp_path / "a.db", faults={4: Fault.http(529)})
    async with world.manager() as manager:
        session = await _lived(manager)
        history = await session.export()
        assert history == session.messages
        assert all(set(message) == {"role", "content"} for message in history)
        copy = await create(manager, tools=[look])
        await copy.append(await session.export())
        assert contents(copy) == contents(session)
        assert text(await copy.export()) == text(history)
        assert [entry.id for entry in copy.entries] == [entry.id for entry in session.entries]
        assert await copy.verify() is None
        assert (await copy.send("on")).text
    async with world.manager() as manager:
        other = await create(manager, tools=[look])
        await other.append({"messages": json.loads(text(history))})
        assert text(await other.export()) == text(history)
        assert (await other.send("please look")).text
    world.check()


async def test_an_open_tool_round_is_taken_back_too(tmp_path: Path) -> None:
    asks = {"name": "look", "description": "Asks.", "input_schema": {"type": "object", "properties": {}}}
    world = World(script, url=tmp_path / "a.db")
    async with world.manager() as manager:
        session = await create(manager, tools=[asks])
        await session.send("please look")
        copy = await create(manager, tools=[asks])
        await copy.append(await session.export())
        ids = [block["id"] for block in copy.messages[-1]["content"] if block["type"] == "tool_use"]
        await copy.send([{"type": "tool_result", "tool_use_id": one, "content": "yes"} for one in ids])
    world.check()


@everywhere
@pytest.mark.parametrize("model", ["claude-sonnet-5-5", "claude-opus-5"])
async def test_a_compacted_history_is_taken_back(model: str, tmp_path: Path) -> None:
    """It starts with the summary, an assistant message, and needs the beta of it."""
    world = World(script, url=tmp_path / "a.db")
    async with world.manager() as manager:
        session = await create(manager, model=model)
        await session.send("one")
        await session.compact()
        await session.send("two")
        history = await session.export()
        copy = await create(manager, model=model)
        await copy.append(history)
        assert text(await copy.export()) == text(history)
        assert (await copy.send("three")).text
    async with world.manager() as manager:
        found = await manager.open(copy.id)
        assert (await found.send("four")).text
        assert await found.verify() is None
    world.check()


@everywhere
async def test_pinned_context_is_not_there_twice() -> None:
    world = World(script)
    pinned = {"type": "text", "text": "pinned"}
    async with world.manager() as manager:
        session = await create(manager, context=[pinned])
        await session.send("one")
        history = await session.export()
        copy = await create(manager, context=[pinned])
        await copy.append(history)
        assert text(await copy.export()) == text(history)
    world.check()


async def test_an_empty_session_and_a_summary_alone() -> None:
    world = World(script)
    async with world.manager() as manager:
        session = await create(manager)
        assert await session.export() == []
        assert await session.verify() is None
        await session.append([])
        assert session.head is None


_BLOCKS = st.one_of(
    st.fixed_dictionaries({"type": st.just("text"), "text": st.text(min_size=1).filter(str.strip)}),
    st.fixed_dictionaries(
        {"zz": st.integers(), "type": st.just("future_block"), "a": st.lists(st.none() | st.booleans() | st.floats(
            allow_nan=False, allow_infinity=False))}
    ),
)  # fmt: skip


def _encodable(blocks: Sequence[Mapping[str, Any]]) -> bool:
    try:
        json.dumps(blocks, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    turns=st.lists(st.tuples(st.lists(_BLOCKS, min_size=1).filter(_encodable), st.text(min_size=1).filter(str.strip)))
)
def test_any_history_comes_back_as_it_was(turns: list[tuple[list[dict[str, Any]], str]]) -> None:
    import anyio

    history: list[dict[str, Any]] = []
    for content, answer in turns:
        if _encodable([{"text": answer}]):
            history.append({"role": "user", "content": content})
            history.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})

    async def everything() -> None:
        world = World(script)
        async with world.manager() as manager:
            one, two = await create(manager), await create(manager)
            await one.append(history)
            await two.append(await one.export())
            assert text(await two.export()) == text(history)
            assert await two.verify() is None

    anyio.run(everything)


# -- what append refuses -----------------------------------------------------------------------------------------------

USE = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "seen"}
ASK, SAY = {"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}
CALL, GIVE = {"role": "assistant", "content": [USE]}, {"role": "user", "content": [RESULT]}
SYSTEM = {"role": "system", "content": "be brief"}
THOUGHT = {"type": "thinking", "thinking": "", "signature": "s"}

WRONG: list[tuple[str, Any, str]] = [
    ("assistant first", [SAY], r"messages\[0\].*role user"),
    ("system first", [SYSTEM], r"messages\[0\].*role user"),
    ("no role", [{"content": "x"}], r"messages\[0\].*role"),
    ("unknown role", [ASK, {"role": "tool", "content": "x"}], r"messages\[1\].*role"),
    ("no content", [ASK, {"role": "assistant"}], r"messages\[1\]\.content"),
    ("null content", [{"role": "user", "content": None}], r"messages\[0\]\.content"),
    ("a number", [ASK, 7], r"messages\[1\]"),
    ("a string", ["hello"], r"messages\[0\]"),
    ("empty text", [{"role": "user", "content": ""}], r"messages\[0\]\.content.*blank"),
    ("blank block", [{"role": "user", "content": [{"type": "text", "text": " "}]}], r"messages\[0\]\.content\[0\]"),
    ("no blocks", [ASK, {"role": "assistant", "content": []}], r"messages\[1\]\.content"),
    ("no type", [{"role": "user", "content": [{"text": "x"}]}], r"messages\[0\]\.content\[0\].*type"),
    ("text is no str", [{"role": "user", "content": [{"type": "text", "text": 1}]}], r"messages\[0\]\.content\[0\]"),
    ("thinking alone", [ASK, {"role": "assistant", "content": [THOUGHT]}], r"messages\[1\].*thinking"),
    ("user thinks", [{"role": "user", "content": [THOUGHT]}], r"messages\[0\]\.content\[0\].*assistant"),
    ("user calls", [{"role": "user", "content": [USE]}], r"messages\[0\]\.content\[0\].*assistant"),
    ("assistant answers", [ASK, {"role": "assistant", "content": [RESULT]}], r"messages\[1\]\.content\[0\].*user"),
    ("call without result", [ASK, CALL, ASK], r"messages\[2\].*toolu_1"),
    ("call, then assistant", [ASK, CALL, SAY], r"messages\[2\].*toolu_1"),
    ("call, then system", [ASK, CALL, SYSTEM], r"messages\[2\]"),
    ("result without call", [ASK, SAY, GIVE], r"messages\[2\].*toolu_1"),
    ("result first of all", [GIVE], r"messages\[0\].*toolu_1"),
    ("result twice", [ASK, CALL, {"role": "user", "content": [RESULT, RESULT]}], r"messages\[2\].*same tool_use"),
    ("result too late", [ASK, CALL, {"role": "user", "content": [{"type": "text", "text": "x"}, RESULT]}],
     r"messages\[2\].*first"),
    ("id twice", [ASK, {"role": "assistant", "content": [USE, USE]}], r"toolu_1.*unique"),
    ("id twice in two rounds", [ASK, CALL, GIVE, CALL], r"messages\[3\].*toolu_1.*unique"),
    ("bad id", [ASK, {"role": "assistant", "content": [{**USE, "id": "a b!"}]}], r"messages\[1\]\.content\[0\].*id"),
    ("no name", [ASK, {"role": "assistant", "content": [{**USE, "name": ""}]}], r"messages\[1\]\.content\[0\]\.name"),
    ("input is a list", [ASK, {"role": "assistant", "content": [{**USE, "input": []}]}],
     r"messages\[1\]\.content\[0\]\.input"),
    ("system behind assistant", [ASK, SAY, SYSTEM], r"messages\[2\].*system"),
    ("user behind system", [ASK, SYSTEM, ASK], r"messages\[2\].*system"),
    ("image in system", [ASK, {"role": "system", "content": [{"type": "image", "source": {}}]}],
     r"messages\[1\]\.content\[0\].*text only"),
    ("document in assistant", [ASK, {"role": "assistant", "content": [{"type": "document", "source": {}}]}],
     r"messages\[1\]\.content\[0\].*document"),
    ("clear_at", [ASK, {**SYSTEM, "clear_at": "next_user_message"}], r"messages\[1\].*clear_at"),
    ("not JSON", [{"role": "user", "content": [{"type": "text", "text": "x", "y": {1, 2}}]}], r"JSON"),
    ("a lone surrogate", [{"role": "user", "content": "\ud800"}], r"JSON"),
    ("not a number", [{"role": "user", "content": [{"type": "text", "text": "x", "y": float("nan")}]}], r"JSON"),
]  # fmt: skip


@pytest.mark.parametrize(("messages", "said"), [pytest.param(*one[1:], id=one[0]) for one in WRONG])
async def test_what_append_refuses(messages: Any, said: str, tmp_path: Path) -> None:
    """Which message and which rule; nothing is written, alone or behind good messages."""
    world = World(script, url=tmp_path / "a.db")
    async with world.manager() as manager:
        session = await create(manager)
        with pytest.raises(InvalidHistory, match=said):
            await session.append(messages)
        assert session.messages == []
        good = [{"role": "user", "content": "good"}, {"role": "assistant", "content": "good"}]
        await session.append(good)
        before = session.head
        if messages != [SAY]:  # that is only wrong as the first message of all
            with pytest.raises(InvalidHistory, match=r"messages|JSON|toolu_1"):
                await session.append(messages)
        assert session.head == before
        assert (await manager.open(session.id)).head == before
        assert (await session.send("on")).text
    world.check()


@pytest.mark.parametrize("kind", ["what is no iterable", "a str", "None", "a mapping without messages"])
async def test_append_of_what_is_no_history(kind: str) -> None:
    wrong: dict[str, Any] = {
        "what is no iterable": 7, "a str": "hello", "None": None, "a mapping without messages": {"x": 1},
    }  # fmt: skip
    world = World(script)
    async with world.manager() as manager:
        session = await create(manager)
        with pytest.raises(SessionsError):
            await session.append(wrong[kind])
        assert session.messages == []


# -- verify ------------------------------------------------------------------------------------------------------------


def _sql(path: Path, *statements: tuple[str, Sequence[Any]]) -> None:
    database = sqlite3.connect(path)
    with database:
        for statement, values in statements:
            assert database.execute(statement, values).rowcount == 1, statement
    database.close()


async def _three_turns(path: Path) -> tuple[World, Session]:
    world = World(script, url=path)
    async with world.manager() as manager:
        session = await create(manager)
        for one in ("one", "two", "three"):
            await session.send(one)
        assert await session.verify() is None
    return world, session


DAMAGE: list[tuple[str, str, list[Any], int]] = [
    ("another word", "UPDATE entries SET content = replace(content, 'two', 'owt') WHERE id = ?", [], 2),
    ("a blank more", "UPDATE entries SET content = replace(content, ',', ', ') WHERE id = ?", [], 3),
    ("another role", "UPDATE entries SET role = 'assistant' WHERE id = ?", [], 2),
    ("another depth", "UPDATE entries SET depth = depth + 7 WHERE id = ?", [], 2),
    ("the first one", "UPDATE entries SET content = replace(content, 'one', 'eno') WHERE id = ?", [], 0),
    ("the last one", "UPDATE entries SET content = replace(content, 'answer', 'anwser') WHERE id = ?", [], 5),
]


@pytest.mark.parametrize(("statement", "at"), [pytest.param(one[1], one[3], id=one[0]) for one in DAMAGE])
async def test_the_first_damaged_entry_is_named(statement: str, at: int, tmp_path: Path) -> None:
    world, session = await _three_turns(tmp_path / "a.db")
    _sql(tmp_path / "a.db", (statement, [session.entries[at].id]))
    async with world.manager() as manager:
        damage = await (await manager.open(session.id)).verify()
        assert damage is not None
        assert damage.entry == session.entries[at].id or "depth" in statement
        assert damage.entry in damage.sentence


async def test_several_damaged_entries_name_the_first(tmp_path: Path) -> None:
    world, session = await _three_turns(tmp_path / "a.db")
    for at in (4, 1, 3):
        _sql(tmp_path / "a.db", ("UPDATE entries SET content = replace(content, 'e', 'E') WHERE id = ?",
                                 [session.entries[at].id]))  # fmt: skip
    async with world.manager() as manager:
        damage = await (await manager.open(session.id)).verify()
        assert damage is not None
        assert damage.entry == session.entries[1].id


@pytest.mark.parametrize("how", ["a row is gone", "the first row is gone", "the head is gone", "a parent is skipped",
                                 "a parent is unknown", "no JSON", "a loop"])  # fmt: skip
async def test_a_chain_that_is_broken_is_told_clearly(how: str, tmp_path: Path) -> None:
    """Either named by `verify`, or an error of ours that names the entry; never something else, never a hang."""
    world, session = await _three_turns(tmp_path / "a.db")
    ids = [entry.id for entry in session.entries]
    statements: dict[str, tuple[str, list[Any], str]] = {
        "a row is gone": ("DELETE FROM entries WHERE id = ?", [ids[2]], ids[2]),
        "the first row is gone": ("DELETE FROM entries WHERE id = ?", [ids[0]], ids[0]),
        "the head is gone": ("DELETE FROM entries WHERE id = ?", [ids[5]], ids[5]),
        "a parent is skipped": ("UPDATE entries SET parent = ? WHERE id = ?", [ids[0], ids[4]], ids[4]),
        "a parent is unknown": ("UPDATE entries SET parent = ? WHERE id = ?", ["0" * 32, ids[4]], "0" * 32),
        "no JSON": ("UPDATE entries SET content = substr(content, 2) WHERE id = ?", [ids[2]], ids[2]),
        "a loop": ("UPDATE entries SET parent = ? WHERE id = ?", [ids[4], ids[1]], "loop"),
    }
    statement, values, named = statements[how]
    _sql(tmp_path / "a.db", (statement, values))
    async with world.manager() as manager:
        try:
            found = await manager.open(session.id)
            damage = await found.verify()
            said = damage.sentence if damage is not None else "no damage"
        except SessionsError as error:
            said = str(error)
        assert named in said


@pytest.mark.parametrize("how", ["DELETE FROM entries WHERE id = ?",
                                 "UPDATE entries SET content = substr(content, 2) WHERE id = ?"])  # fmt: skip
async def test_a_session_that_is_open_when_it_is_damaged(how: str, tmp_path: Path) -> None:
    world = World(script, url=tmp_path / "a.db")
    async with world.manager() as manager:
        session = await create(manager)
        for one in ("one", "two"):
            await session.send(one)
        _sql(tmp_path / "a.db", (how, [session.entries[1].id]))
        try:
            damage = await session.verify()
            said = damage.sentence if damage is not None else "no damage"
        except SessionsError as error:
            said = str(error)
        assert session.entries[1].id in said
        assert words(session) == ["one", "two"]


async def test_content_that_is_no_json_is_named_wherever_it_is_read(tmp_path: Path) -> None:
    world, session = await _three_turns(tmp_path / "a.db")
    damaged = session.entries[3].id
    _sql(tmp_path / "a.db", ("UPDATE entries SET content = substr(content, 2) WHERE id = ?", [damaged]))
    async with world.manager() as manager:
        found = await manager.open(session.id)
        with pytest.raises(SessionsError, match=f"entry {damaged} is damaged .*: restore the database from a copy"):
            await found.export()
        for read in (lambda: found.messages, lambda: found.entries):
            with pytest.raises(SessionsError, match=f"entry {damaged} is damaged .*: restore the database from a copy"):
                read()


async def test_entries_that_a_summary_replaced_are_verified_too(tmp_path: Path) -> None:
    world = World(script, url=tmp_path / "a.db")
    async with world.manager() as manager:
        session = await create(manager)
        await session.send("one")
        old = session.entries
        await session.compact()
        await session.send("two")
        assert await session.verify() is None
        _sql(tmp_path / "a.db", ("UPDATE entries SET content = replace(content, 'one', 'eno') WHERE id = ?",
                                 [old[0].id]))  # fmt: skip
        damage = await session.verify()
        assert damage is not None, "entries_before() shows an entry that is not what was stored"
        assert damage.entry == old[0].id
