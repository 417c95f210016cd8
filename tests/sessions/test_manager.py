"""Creating, opening, listing, deleting; and bad input of every kind: a named error, nothing half-written."""

from __future__ import annotations

import sqlite3
import warnings
from pathlib import Path
from typing import Any

import pytest

from sessions import (
    ConfigurationError,
    Fixed,
    ModelError,
    SchemaOutOfDate,
    SessionManager,
    SessionNotFound,
    ToolsChanged,
    tool,
)
from tests.sessions.world import MODEL, World, create, everywhere


@tool
def search(query: str) -> str:
    """Searches."""
    return f"nothing about {query}"


@everywhere
async def test_a_session_is_opened_as_it_was_created(tmp_path: Path) -> None:
    world = World(url=tmp_path / "chat.db")
    async with world.manager() as manager:
        made = await create(manager, owner="user-42", title="Trip", metadata={"plan": "free", "ø": [1]}, tools=[search],
                            thinking={"type": "adaptive"}, id="my-id")  # fmt: skip
        await made.send("Hello")
    async with world.manager() as manager:
        found = await manager.open("my-id", owner="user-42", tools=[search])
        for name in ("id", "owner", "title", "metadata", "head", "settings", "created_at", "messages", "entries"):
            if name != "entries":
                assert getattr(found, name) == getattr(made, name), name
        assert [(e.id, e.role, e.content, e.created_at, e.stop_reason) for e in found.entries] == [
            (e.id, e.role, e.content, e.created_at, e.stop_reason) for e in made.entries
        ]
        assert (await found.send("And?")).stop_reason == "end_turn"
    world.check()


@everywhere
async def test_an_owner_sees_only_what_is_theirs() -> None:
    async with World().manager() as manager:
        mine, theirs = await create(manager, owner="me"), await create(manager, owner="you")
        nobodys = await create(manager)
        for id in (theirs.id, nobodys.id, "nowhere"):
            with pytest.raises(SessionNotFound, match="check the id"):
                await manager.open(id, owner="me")
            with pytest.raises(SessionNotFound):
                await manager.delete(id, owner="me")
        assert (await manager.open(theirs.id)).owner == "you"
        assert [one.id for one in await manager.list(owner="me")] == [mine.id]
        assert len(await manager.list()) == 3


@everywhere
async def test_nobody_is_no_owner_to_be_limited_to() -> None:
    async with World().manager() as manager:
        for nobody in (None, "", 7):
            with pytest.raises(ConfigurationError, match="owner"):
                manager.for_owner(nobody)  # type: ignore[arg-type]


@everywhere
async def test_the_list_is_newest_first_with_totals_and_pages() -> None:
    world = World()
    async with world.manager() as manager:
        made = []
        for number in range(5):
            made.append(await create(manager, title=f"session {number}", metadata={"n": number}))
            await world.clock.advance(10)
        reply = await made[1].send("about zebras")
        everyone = await manager.list()
        assert [one.title for one in everyone] == [f"session {n}" for n in (1, 4, 3, 2, 0)]
        first = everyone[0]
        assert (first.turns, first.calls, first.usage, first.cost) == (1, 1, reply.usage, reply.cost)
        assert first.model == MODEL
        assert first.metadata == {"n": 1}
        assert first.head == made[1].head
        page = await manager.list(limit=2)
        rest = await manager.list(limit=10, before=page[-1].id)
        assert [one.id for one in [*page, *rest]] == [one.id for one in everyone]
        assert [one.id for one in await manager.list(search="zebras")] == [made[1].id]
        assert await manager.list(search="no such words") == []
        with pytest.raises(SessionNotFound):
            await manager.list(before="nowhere")


@everywhere
async def test_delete_really_deletes_and_keeps_what_a_fork_reaches() -> None:
    async with World().manager() as manager:
        session = await create(manager)
        await session.send("Hello")
        branch = await session.fork()
        await session.delete()
        for use in (lambda: manager.open(session.id), lambda: session.send("again"), session.delete, session.resume):
            with pytest.raises(SessionNotFound):
                await use()
        reopened = await manager.open(branch.id)
        assert len(reopened.messages) == 2
        assert (await branch.send("still here?")).stop_reason == "end_turn"


async def test_tools_are_bound_again_on_open() -> None:
    @tool(name="search")
    def other(query: str, limit: int) -> str:
        """Searches otherwise."""
        return f"{limit} about {query}"

    async with World(lambda request: "fine").manager() as manager:
        session = await create(manager, tools=[search])
        await session.send("Hello")
        bare = await manager.open(session.id)
        assert len(bare.messages) == 2
        assert (await bare.cost()).calls == 1
        await bare.fork()
        for use in (lambda: bare.send("x"), bare.resume, lambda: bare.map(["x"])):
            with pytest.raises(ToolsChanged, match="search"):
                await use()
        with pytest.raises(ToolsChanged, match="search"):
            bare.stream("x")
        with pytest.raises(ToolsChanged, match="rebase=True"):
            await manager.open(session.id, tools=[other])
        with pytest.raises(ToolsChanged):
            await manager.open(session.id, tools=[search, {"type": "web_search_20250305", "name": "web_search"}])
        rebased = await manager.open(session.id, tools=[other], rebase=True)
        assert (await rebased.send("search for Cats 3")).stop_reason == "end_turn"
        with pytest.raises(ToolsChanged):
            await manager.open(session.id, tools=[search])


async def test_rebase_takes_any_iterable_of_tools() -> None:
    @tool
    def two() -> str:
        """Two."""
        return "2"

    async with World().manager() as manager:
        session = await create(manager, tools=[search])
        rebased = await manager.open(session.id, tools=(one for one in [two]), rebase=True)
        assert rebased.settings.local_tools == ("two",)


async def test_an_unknown_model_warns_once_and_is_refused_by_the_api() -> None:
    world = World()
    async with world.manager() as manager:
        with pytest.warns(UserWarning, match=r"claude-unheard-of.*profile="):
            session = await create(manager, model="claude-unheard-of")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            await create(manager, model="claude-unheard-of")
        with pytest.raises(ModelError, match="404"):
            await session.send("Hello")
        assert len(session.messages) == 1


_BAD: list[tuple[dict[str, Any], str]] = [
    ({"model": ""}, "model"),
    ({"model": None}, "model"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": "100"}, "max_tokens"),
    ({"max_tokens": True}, "max_tokens"),
    ({"system": [{"text": "no type"}]}, r"system\[0\]"),
    ({"system": [{"type": "text", "text": " "}]}, r"system\[0\]"),
    ({"system": 7}, "system"),
    ({"tools": [{"name": "x"}]}, r"tools\[0\].*(type|input_schema)"),
    ({"tools": [{"input_schema": {"type": "object"}}]}, r"tools\[0\].*name"),
    ({"tools": [7]}, "tool"),
    ({"tools": [search, search]}, "two tools"),
    ({"context": [{"text": "no type"}]}, r"context\[0\]"),
    ({"context": "  "}, "context"),
    ({"thinking": "adaptive"}, "thinking"),
    ({"thinking": {}}, "thinking"),
    ({"tool_choice": {"name": "x"}}, "tool_choice"),
    ({"output_config": 3}, "output_config"),
    ({"params": {"messages": []}}, "params"),
    ({"params": {"no_such_field": 1}}, "no_such_field"),
    ({"params": {"metadata": {"user_id": object()}}}, "JSON"),
    ({"metadata": {"x": object()}}, "metadata"),
    ({"metadata": "text"}, "metadata"),
    ({"compact": "always"}, "compact"),
    ({"system": "lone surrogate \ud800"}, "JSON"),
    ({"owner": 5}, "owner must be a str or None, not 5"),
    ({"title": ["Trip"]}, "title must be a str or None"),
    ({"id": 5}, "id must be a str or None, not 5"),
]


@pytest.mark.parametrize(("given", "said"), _BAD, ids=lambda one: str(one)[:40])
async def test_bad_settings_are_named_and_nothing_is_stored(given: dict[str, Any], said: str) -> None:
    async with World().manager() as manager:
        with pytest.raises(ConfigurationError, match=said):
            await create(manager, **given)
        assert await manager.list() == []


def names_in(folder: Path) -> list[str]:
    """The names of the files there."""
    return sorted(path.name for path in folder.iterdir())


_BAD_CONTENT: list[Any] = [
    "", "  \n", [], None, 7, {"type": "text", "text": "not in a list"}, ["text"], [{"text": "no type"}], [{"type": ""}],
    [{"type": "text"}], [{"type": "text", "text": ""}], [{"type": "text", "text": 7}],
    [{"type": "text", "text": "\ud800"}],
    [{"type": "text", "text": "x", "at": float("nan")}], [{"type": "tool_result", "content": "no id"}], b"bytes",
]  # fmt: skip


@pytest.mark.parametrize("content", _BAD_CONTENT, ids=repr)
async def test_bad_content_is_refused_before_anything_is_stored(content: Any) -> None:
    world = World()
    async with world.manager() as manager:
        session = await create(manager)
        with pytest.raises(ConfigurationError):
            await session.send(content)
        with pytest.raises(ConfigurationError):
            await session.map(["fine", content])
        assert session.head is None
        assert await session.calls() == []
        assert world.requests == []
        assert len(await manager.list()) == 1
        assert (await session.send("Hello")).text


@pytest.mark.parametrize("url", ["", "chat.db", "sqlite", "sqlit:///x.db", "http://example.org/x", "sqlite:/x", "://"])
async def test_a_malformed_url_is_refused(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError):
        async with World().manager(store=url):
            pass
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("where", ["missing/chat.db", "file/chat.db", "."])
async def test_a_path_that_cannot_be_written_is_refused(where: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigurationError, match=r"."):
        async with World(url=tmp_path / where).manager():
            pass
    assert names_in(tmp_path) == ["file"]


async def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("These are my notes, not a database.\n" * 100)
    before = path.read_bytes()
    with pytest.raises(ConfigurationError):
        async with World(url=path).manager():
            pass
    assert path.read_bytes() == before


async def test_a_database_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    world = World(url=tmp_path / "chat.db")
    async with world.manager() as manager:
        await create(manager)
    with sqlite3.connect(tmp_path / "chat.db") as connection:
        connection.execute("update warmline_version set version_num = '9999_future'")
    connection.close()
    with pytest.raises(SchemaOutOfDate, match="newer"):
        async with world.manager():
            pass


async def test_without_a_key_the_first_call_names_both_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/nonexistent")
    async with SessionManager("sqlite://") as manager:
        session = await create(manager)
        with pytest.raises(ConfigurationError, match=r"ANTHROPIC_API_KEY[\s\S]*simulator"):
            await session.send("Hello")
        with pytest.raises(ConfigurationError, match=r"ANTHROPIC_API_KEY[\s\S]*simulator"):
            await session.resume()


@pytest.mark.parametrize(
    "given",
    [
        {"max_steps": 0},
        {"max_steps": "5"},
        {"ttl": "1h"},
        {"client": object()},
        {"client": "sk-key"},
        {"tend": "x"},
        {"warmup": 1},
        {"warmup_timeout": "x"},
        {"busy_timeout": None},
    ],
    ids=lambda one: str(one)[:30],
)
def test_wrong_arguments_of_the_manager_are_named(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=f"^{next(iter(given))} must be"):
        SessionManager("sqlite://", **given)


async def test_a_manager_that_is_not_open_says_how_to_use_it() -> None:
    manager = World().manager()
    said = r"`async with SessionManager\(\.\.\.\) as manager:`"
    for use in (lambda: create(manager), lambda: manager.open("one"), manager.list, lambda: manager.costs("day")):
        with pytest.raises(ConfigurationError, match=said):
            await use()
    async with manager:
        session = await create(manager)
    for use in (lambda: session.send("Hello"), session.resume, session.fork, session.calls):
        with pytest.raises(ConfigurationError, match=said):
            await use()


def test_a_synchronous_client_is_refused() -> None:
    import anthropic

    with pytest.raises(ConfigurationError, match="AsyncAnthropic"):
        SessionManager("sqlite://", client=anthropic.Anthropic(api_key="x"))


async def test_an_id_that_is_taken_is_refused() -> None:
    async with World().manager(ttl=Fixed("5m")) as manager:
        await create(manager, id="one", title="first")
        with pytest.raises(ConfigurationError, match="one"):
            await create(manager, id="one", title="second")
        assert [one.title for one in await manager.list()] == ["first"]


async def test_a_manager_may_be_entered_in_one_task_and_left_in_another() -> None:
    import asyncio

    manager = World().manager()
    await asyncio.create_task(manager.__aenter__())
    session = await asyncio.create_task(create(manager))
    await asyncio.create_task(session.send("Hello"))
    await asyncio.create_task(manager.__aexit__(None, None, None))


async def test_settings_that_claude_refuses_for_certain_are_refused_on_create_and_update() -> None:
    async with World().manager() as manager:
        session = await create(manager)
        for wrong in (
            {"max_tokens": 10**6},
            {"thinking": {"type": "enabled"}},
            {"output_config": {"effort": "utmost"}},
        ):
            with pytest.raises(ConfigurationError, match=next(iter(wrong))):
                await create(manager, **wrong)
            with pytest.raises(ConfigurationError, match=next(iter(wrong))):
                await session.update(**wrong)
        assert (await session.send("Hello")).stop_reason == "end_turn"
