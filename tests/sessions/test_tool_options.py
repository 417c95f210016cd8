"""What `tool` may be told, of functions, methods, the SDK's objects and tools alike."""

from __future__ import annotations

import math
from typing import Any

import pytest
from anthropic import beta_async_tool, beta_tool

from sessions import ConfigurationError, Tool, tool
from sessions.results import MAX_RESULT
from tests.sessions.world import World, answers, call, create, results


@beta_tool
def plain(n: int) -> str:
    """Sync, the SDK's."""
    return f"plain {n}"


@beta_async_tool
async def other(n: int) -> str:
    """Async, the SDK's."""
    return f"other {n}"


@tool
def ours(n: int) -> str:
    """Ours."""
    return f"ours {n}"


@pytest.mark.parametrize("given", [plain, other, ours], ids=["sdk", "sdk_async", "tool"])
async def test_options_apply_to_whatever_is_given_and_leave_that_as_it_is(given: Any) -> None:
    before = dict(given.to_dict() if given is not ours else given.definition)
    made = tool(given, name="renamed", idempotent=True, timeout=7, max_result=4)
    assert (made.name, made.idempotent, made.timeout, made.max_result) == ("renamed", True, 7, 4)
    assert made.definition == {**before, "name": "renamed"}
    assert (given.to_dict() if given is not ours else given.definition) == before
    again = tool(made, idempotent=False, timeout=8)
    assert (again.name, again.idempotent, again.timeout, again.max_result) == ("renamed", False, 8, 4)
    assert (made.idempotent, made.timeout) == (True, 7)
    assert tool(made) is made
    world = World(answers([call("renamed", n=1)]))
    async with world.manager() as manager:
        session = await create(manager, tools=[made])
        await session.send("go")
        assert results(session.messages[2])[0]["content"].endswith("characters are missing]")
    world.check()


def test_what_is_not_given_is_the_default() -> None:
    assert (ours.idempotent, ours.timeout, ours.max_result) == (False, None, MAX_RESULT)
    assert tool(plain).definition == plain.to_dict()


def test_a_tool_that_the_api_names_keeps_its_name() -> None:
    class Memory:
        name = "memory"

        def to_dict(self) -> dict[str, Any]:
            return {"type": "memory_20250818", "name": "memory"}

        def call(self, given: object) -> str:
            return "remembered"

    assert tool(Memory(), name="memory", timeout=3).timeout == 3
    with pytest.raises(ConfigurationError, match="name"):
        tool(Memory(), name="diary")


BAD: list[tuple[str, Any]] = [
    ("timeout", "x"), ("timeout", math.nan), ("timeout", math.inf), ("timeout", 0), ("timeout", True),
    ("timeout", 10**400), ("idempotent", "yes"), ("idempotent", 1), ("max_result", 0), ("max_result", "a"),
    ("max_result", 1.5), ("max_result", True), ("name", ""), ("name", "two words"), ("name", 3),
]  # fmt: skip


@pytest.mark.parametrize(("option", "value"), BAD)
@pytest.mark.parametrize("given", [None, plain, ours, lambda: "x"], ids=["decorator", "sdk", "tool", "function"])
def test_an_option_that_makes_no_sense_is_refused_by_its_name(given: Any, option: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=option):
        tool(given, **{option: value})


class Agent:
    """Has tools of every kind of method."""

    def __init__(self, name: str) -> None:
        self.name = name

    @tool(idempotent=True)
    def sync(self, n: int) -> str:
        """Sync."""
        return f"{self.name} {n}"

    @tool
    async def later(self, n: int) -> str:
        """Async."""
        return f"{self.name} later {n}"

    @tool
    @classmethod
    def inner(cls, n: int) -> str:
        """Of the class."""
        return f"{cls.__name__} {n}"

    @classmethod
    @tool
    def outer(cls, n: int) -> str:
        """Of the class."""
        return f"{cls.__name__} {n}"

    @tool
    @staticmethod
    def still(n: int) -> str:
        """Of nobody."""
        return f"still {n}"

    @staticmethod
    @tool
    def apart(n: int) -> str:
        """Of nobody."""
        return f"apart {n}"

    def bare(self, n: int) -> str:
        """No tool yet."""
        return f"{self.name} bare {n}"


async def test_methods_are_tools_of_their_object() -> None:
    one, two = Agent("one"), Agent("two")
    tools = [one.sync, one.later, Agent.inner, one.outer, Agent.still, one.apart, one.bare, tool(two.sync, name="two")]
    world = World(answers([call("two" if index == 7 else each.__name__, n=index) for index, each in enumerate(tools)]))
    async with world.manager() as manager:
        session = await create(manager, tools=tools)
        await session.send("go")
        assert [result["content"] for result in results(session.messages[2])] == [
            "one 0", "one later 1", "Agent 2", "Agent 3", "still 4", "apart 5", "one bare 6", "two 7",
        ]  # fmt: skip
        sent = world.bodies[0]["tools"]
        assert all(list(each["input_schema"]["properties"]) == ["n"] for each in sent)
    world.check()
    assert isinstance(one.sync, Tool)
    assert one.sync.idempotent
    assert one.sync(3) == "one 3"
    assert Agent.sync(two, 3) == "two 3"  # type: ignore[call-arg, arg-type]


@pytest.mark.parametrize("given", [Agent.sync, Agent.later, Agent.bare, tool(Agent.sync, timeout=3)])
async def test_a_method_without_its_object_is_refused(given: Any) -> None:
    async with World().manager() as manager:
        with pytest.raises(ConfigurationError, match="object"):
            await create(manager, tools=[given])


def test_options_of_a_method_may_be_changed_before_it_has_an_object() -> None:
    made: Any = tool(Agent.sync, timeout=3)
    bound = made.__get__(Agent("one"), Agent)
    assert (bound.timeout, bound.idempotent) == (3, True)
