"""The tools that recovery may run: a list, or a function that is asked for those of each session."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest
from anthropic import beta_tool

from sessions import ConfigurationError, Reply, tool
from tests.crash.test_killed_anywhere import Dying
from tests.sessions.test_recovery import Acts, die, script
from tests.sessions.world import World, create, everywhere

SEARCH = {"type": "web_search_20250305", "name": "web_search"}


@everywhere
async def test_the_tools_may_be_a_function_of_owner_and_metadata(tmp_path: Path) -> None:
    world = World(script, url=tmp_path / "a.db")
    ada, bob = Acts(), Acts()
    for name, owner in (("one", "ada"), ("two", "bob"), ("three", None)):
        store = Dying(tmp_path / "a.db", 1000, after=False)
        async with world.manager(store=store) as manager:
            given = {"tools": [*Acts(store).tools, SEARCH], "owner": owner, "metadata": {"shop": name}}
            session = await create(manager, id=name, **given)
            with pytest.raises(Exception, match="dead"):
                await session.send("go")
    await world.clock.advance(11)
    asked: list[Any] = []

    def tools_of(owner: str | None, metadata: dict[str, Any]) -> list[Any]:
        asked.append((owner, metadata))
        return {"ada": [*ada.tools, SEARCH], "bob": bob.tools}.get(str(owner), [])

    async def later(owner: str | None, metadata: dict[str, Any]) -> list[Any]:
        await anyio.lowlevel.checkpoint()
        return [*Acts().tools, SEARCH] if metadata == {"shop": "three"} else []

    async with world.manager(tools=tools_of) as manager:
        assert sorted(await manager.recover(in_doubt="rerun")) == ["one", "two"]
        assert ("act" in ada.ran, "act" in bob.ran) == (True, True)
        assert sorted(asked, key=str) == [
            ("ada", {"shop": "one"}), ("bob", {"shop": "two"}), (None, {"shop": "three"}),
        ]  # fmt: skip
    async with world.manager(tools=later) as manager:
        assert isinstance((await manager.recover())["three"], Reply)
    world.check()


@everywhere
async def test_a_function_for_tools_that_fails_is_asked_again_ever_more_seldom(tmp_path: Path) -> None:
    path, tried = tmp_path / "a.db", list[float]()
    world = World(script, url=path)
    await die(world, path, "fixed")
    await world.clock.advance(11)
    started = world.clock.now()

    def tools_of(owner: str | None, metadata: dict[str, Any]) -> Any:
        tried.append(world.clock.now() - started)
        if len(tried) == 1:
            raise OSError("the directory is away")
        return None if len(tried) == 2 else Acts().tools

    async with world.manager(tools=tools_of, recover=True) as manager:
        await world.clock.advance(20)
        assert tried == [0, 5, 15]
        session = await manager.open("fixed")
        assert session.messages[-1]["content"][0]["text"] == "All done."
    await die(world, path, "other")
    await world.clock.advance(11)
    tried.clear()
    async with world.manager(tools=tools_of) as manager:
        assert "the directory is away" in str((await manager.recover())["other"])
        assert "tools must be a list" in str((await manager.recover())["other"])
        assert isinstance((await manager.recover())["other"], Reply)
    world.check()


async def test_who_has_no_functions_is_not_asked_for(tmp_path: Path) -> None:
    world = World(url=tmp_path / "a.db")
    store = Dying(tmp_path / "a.db", 1, after=True)
    async with world.manager(store=store) as manager:
        with pytest.raises(Exception, match="dead"):
            await (await create(manager, id="fixed", tools=[SEARCH])).send("go")
    await world.clock.advance(11)

    def tools_of(owner: str | None, metadata: dict[str, Any]) -> Any:
        raise AssertionError

    async with world.manager(tools=tools_of) as manager:
        assert isinstance((await manager.recover())["fixed"], Reply)
    world.check()


@tool
def alone(n: int) -> str:
    """Not in a list."""
    return ""


@beta_tool
def of_sdk(n: int, m: int) -> str:
    """Not in a list."""
    return ""


@pytest.mark.parametrize(
    "given", [alone, of_sdk, list, lambda owner: [], "tools", {"name": "tool"}, 3, None, [3], [[]]]
)
def test_what_is_neither_tools_nor_a_function_for_them_is_refused(given: Any) -> None:
    with pytest.raises(ConfigurationError, match="tool"):
        World().manager(tools=given)
