"""What a manager warns of when a prompt is made or changed: once per place, and before anything is stored."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

from sessions import PromptWarning, SystemClock, profile_for, tool
from sessions.conversation.linting import Linter
from sessions.testing import simulated_manager
from tests.sessions.world import MODEL, SYSTEM, World, create

STAMPED = f"Today is 2026-11-25. {SYSTEM}"


@tool
def look(at: str) -> str:
    """Looks at something."""
    return at


@tool
def find(what: str) -> str:
    """Finds something."""
    return what


async def told(manager: Any, **given: Any) -> list[str]:
    """What creating a session warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        await create(manager, **given)
    assert all(one.category is PromptWarning and one.filename == __file__ for one in caught)
    return [str(one.message) for one in caught]


async def test_a_place_is_told_once() -> None:
    async with World().manager() as manager:
        assert await told(manager) == []
        [message] = await told(manager, system=STAMPED)
        assert message.startswith("system[0], characters 9 to 19: '2026-11-25'")
        assert "session.instruct(…)" in message
        assert await told(manager, system=STAMPED) == []
        assert await told(manager, system=STAMPED.replace("25", "26")) == []
        [message] = await told(manager, system=[{"type": "text", "text": SYSTEM}, {"type": "text", "text": STAMPED}])
        assert message.startswith("system[1], ")
    async with World().manager() as manager:
        assert len(await told(manager, system=STAMPED)) == 1


async def test_the_owner_is_looked_for_in_a_prefix_that_is_known() -> None:
    async with World().manager() as manager:
        system = f"You help Ada and Grace. {SYSTEM}"
        assert await told(manager, system=system) == []
        [message] = await told(manager, system=system, owner="grace")
        assert "'Grace' is this session's owner" in message
        assert "context=" in message


async def test_tools_in_another_order_than_those_of_the_session_before() -> None:
    async with World().manager() as manager:
        assert await told(manager, tools=[look, find]) == []
        assert await told(manager, tools=[look]) == []
        [message] = await told(manager, tools=[find, look])
        assert message.startswith("tools[0]: the same tools stand in another order than before ('find' where 'look'")


async def test_a_rebase_is_looked_at_and_a_free_change_is_not() -> None:
    async with World().manager() as manager:
        session = await create(manager, tools=[look, find])
        await session.send("Hello")
        await session.update(max_tokens=900)
        with pytest.warns(PromptWarning, match=r"system\[0\], characters 9 to 19") as caught:
            await session.update(system=STAMPED, rebase=True)
        assert caught[0].filename == __file__
        await session.update(title="Fine", metadata={"name": "lorem"})


async def test_tools_bound_anew_in_another_order() -> None:
    world = World()
    async with world.manager() as manager:
        session = await create(manager, tools=[look, find])
        await manager.open(session.id, tools=[find, look])  # the stored order is sent
        with pytest.warns(PromptWarning, match="another order"):
            await manager.open(session.id, tools=[find, look], rebase=True)


async def test_where_warnings_are_errors_nothing_is_stored() -> None:
    async with World().manager() as manager:
        with pytest.raises(PromptWarning):
            await create(manager, system=STAMPED)
        assert await manager.list() == []


async def test_the_simulator_is_measured_in_its_own_tokens() -> None:
    async with simulated_manager() as manager:
        with pytest.warns(PromptWarning, match="about 500 tokens long, 12 below the 512 that .* 1000 opening turns"):
            await manager.create(model=MODEL, max_tokens=100, system="x" * (4 * 496))


async def test_what_is_remembered_is_bounded() -> None:
    linter = Linter(SystemClock(), profile_for, None)
    for number in range(600):
        linter.check(_settings(number), owner=None, metadata="{}")
    assert 0 < linter.remembered <= 256


def _settings(number: int) -> Any:
    from sessions.core.settings import make_settings

    tools = [{"name": f"{name}{number}", "input_schema": {}} for name in "ab"]
    return make_settings(model=MODEL, max_tokens=100, system=SYSTEM, tools=tools)
