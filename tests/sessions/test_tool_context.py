"""What a tool is told of its call, where its progress goes, and which calls need a human's approval."""

from __future__ import annotations

import asyncio
import functools
import threading
import typing
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Optional

import anyio
import anyio.lowlevel
import pytest
from anthropic import beta_tool

from sessions import ConfigurationError, ToolContext, tool
from sessions.clock import SystemClock
from sessions.core.steps import ToolCall, call_id
from sessions.tool_context import WAITING, listening
from sessions.tools import Toolbox
from storage import StoreUnavailable
from tests.crash.test_killed_anywhere import Dying
from tests.sessions.world import World, answers, call, create, everywhere, results

Other = ToolContext
told: list[tuple[str, ToolContext]] = []


@pytest.fixture(autouse=True)
def _nothing_told() -> None:
    told.clear()


def context(tell: Callable[[str], None] | None = None, **given: Any) -> ToolContext:
    """A context made by hand."""
    place = {"session_id": "s", "owner": "ada", "metadata": {"shop": 7}, "turn_id": "t", "call_id": "c", **given}
    return ToolContext(**place, tell=tell) if tell else ToolContext(**place)


async def run(given: Any, own: ToolContext | None = None, /, **values: Any) -> Any:
    """The content of the result of one call."""
    box = Toolbox([given])
    (name,) = box.functions
    return (await box.run(ToolCall(0, "id", name, values), SystemClock(), own or context()))["content"]


# what a context is filled into


def sync(n: int, ctx: ToolContext) -> str:
    """Does it.

    Args:
        n: How often.
        ctx: What is known of the call.
    """
    told.append(("sync", ctx))
    return f"sync {n}"


async def later(around: ToolContext, n: int) -> str:
    """Does it.

    Args:
        n: How often.
    """
    told.append(("later", around))
    return f"later {n}"


def perhaps(n: int, ctx: ToolContext | None = None) -> str:
    """Does it.

    Args:
        n: How often.
        ctx: Nothing, where it is called by hand.
    """
    if ctx is not None:
        told.append(("perhaps", ctx))
    return f"perhaps {n}"


def optional(n: int, *, ctx: Optional[Other] = None) -> str:  # noqa: UP045
    """Does it.

    Args:
        n: How often.
    """
    assert ctx is not None
    told.append(("optional", ctx))
    return f"optional {n}"


def annotated(ctx: Annotated[ToolContext, "of the call"], /, n: int) -> str:
    """Does it.

    Args:
        n: How often.
    """
    told.append(("annotated", ctx))
    return f"annotated {n}"


def twice(first: ToolContext, n: int, second: typing.Union[ToolContext, None]) -> str:  # noqa: UP007
    """Does it.

    Args:
        n: How often.
    """
    assert first is second
    told.append(("twice", first))
    return f"twice {n}"


def items(n: int, ctx: ToolContext) -> Iterator[str]:
    """Does it.

    Args:
        n: How often.
    """
    told.append(("items", ctx))
    yield f"items {n}"


async def later_items(n: int, ctx: ToolContext) -> AsyncIterator[str]:
    """Does it.

    Args:
        n: How often.
    """
    told.append(("later_items", ctx))
    yield f"later_items {n}"


def _counted(function: Callable[..., Any]) -> Callable[..., Any]:
    """As decorators of retries, logs and metrics do."""

    @functools.wraps(function)
    def counting(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return counting


@_counted
def decorated(n: int, ctx: ToolContext) -> str:
    """Does it.

    Args:
        n: How often.
    """
    told.append(("decorated", ctx))
    return f"decorated {n}"


class Agent:
    """Has tools of its own."""

    @tool
    def method(self, n: int, ctx: ToolContext) -> str:
        """Does it.

        Args:
            n: How often.
        """
        told.append(("method", ctx))
        return f"method {n}"

    @tool
    @classmethod
    async def of_class(cls, ctx: ToolContext, n: int) -> str:
        """Does it.

        Args:
            n: How often.
        """
        told.append(("of_class", ctx))
        return f"of_class {n}"


def _more(prefix: str, n: int, ctx: ToolContext) -> str:
    told.append(("part", ctx))
    return f"{prefix} {n}"


part = functools.partial(_more, "part")
part.__doc__ = "Does it.\n\nArgs:\n    n: How often."
agent = Agent()
ALL: list[Any] = [
    sync, later, perhaps, optional, annotated, twice, items, later_items, decorated, agent.method, agent.of_class,
    tool(part, name="part"),
]  # fmt: skip


@everywhere
async def test_a_parameter_for_the_context_is_filled_in_and_in_no_schema() -> None:
    def plain(n: int) -> str:
        """Does it.

        Args:
            n: How often.
        """
        return ""

    names = [getattr(one, "name", None) or one.__name__ for one in ALL]
    world = World(answers([call(name, n=number) for number, name in enumerate(names)]))
    async with world.manager() as manager:
        session = await create(manager, tools=ALL, owner="ada", metadata={"shop": {"id": 7}})
        await session.send("go")
        assert [definition["name"] for definition in world.bodies[0]["tools"]] == names
        for definition in world.bodies[0]["tools"]:
            definition.pop("cache_control", None)
            assert definition == {**tool(plain).definition, "name": definition["name"]}
        texts = [one["content"] for one in results(session.messages[2])]
        assert [text.strip('["]') for text in texts] == [f"{name} {number}" for number, name in enumerate(names)]
        assert sorted(name for name, _ in told) == sorted(names)
        (turn,) = await manager.runtime.store.turns(session.id)
        for name, one in told:
            assert (one.session_id, one.owner, one.metadata) == (session.id, "ada", {"shop": {"id": 7}})
            assert one.turn_id == turn.id
            assert one.call_id == call_id(session.id, session.entries[1].id, names.index(name))
            one.metadata.clear()
        assert session.metadata == {"shop": {"id": 7}}
    world.check()


def test_called_by_hand_it_is_passed_what_the_caller_passes() -> None:
    assert tool(perhaps)(3) == "perhaps 3"
    assert told == []
    own = context()
    assert tool(sync)(3, own) == "sync 3"
    assert agent.method(3, ctx=own) == "method 3"
    assert [one for _, one in told] == [own, own]


def test_a_context_is_a_value() -> None:
    assert context() == context(print)
    assert hash(context()) == hash(context(print))
    assert context() != context(call_id="another")
    assert repr(context()) == (
        "ToolContext(session_id='s', owner='ada', metadata={'shop': 7}, turn_id='t', call_id='c')"
    )
    context().progress("nobody listens")


@pytest.mark.parametrize(
    "annotation",
    [
        "ToolContext", "nowhere.ToolContext", "None | nowhere.ToolContext", "nowhere.ToolContext | None",
        "nowhere.Optional[nowhere.ToolContext]", "'nowhere.ToolContext'", typing.ForwardRef("nowhere.ToolContext"),
        Optional[typing.ForwardRef("nowhere.ToolContext")],  # noqa: UP045
    ],
)  # fmt: skip
async def test_the_name_may_be_imported_for_the_type_checker_alone(annotation: Any) -> None:
    def plain(n: int, ctx: Any) -> str:
        """Does it."""
        return f"{ctx.call_id} {n}"

    plain.__annotations__["ctx"] = annotation
    assert list(tool(plain).definition["input_schema"]["properties"]) == ["n"]
    assert await run(plain, n=3) == "c 3"


@pytest.mark.parametrize("annotation", ["Nowhere", "nowhere.ToolContextual", "list[Nowhere]"])
def test_an_annotation_that_cannot_be_resolved_is_refused(annotation: str) -> None:
    def plain(other: Any, ctx: ToolContext) -> str:
        """Does it."""
        return ""

    plain.__annotations__["other"] = annotation
    with pytest.raises(ConfigurationError, match="cannot make a tool of"):
        tool(plain)


def _either(ctx: ToolContext | str) -> str:
    return ""


def _or_some(ctx: ToolContext | list[int]) -> str:
    return ""


def _several(*ctx: ToolContext) -> str:
    return ""


def _named(**ctx: ToolContext) -> str:
    return ""


def _inside(ctx: list[ToolContext]) -> str:
    return ""


@pytest.mark.parametrize("function", [_either, _or_some, _several, _named, _inside])
def test_what_cannot_be_filled_in_is_refused(function: Any) -> None:
    with pytest.raises(ConfigurationError, match="ToolContext"):
        tool(function)


def test_a_tool_object_of_the_sdk_takes_no_context() -> None:
    """It makes its schema itself: that fails at once, and says what to do."""
    with pytest.raises(TypeError, match=r"sessions\.tool"):
        beta_tool(sync)  # type: ignore[arg-type, unused-ignore]
    with pytest.raises(TypeError, match=r"sessions\.tool"):
        beta_tool(sync, input_schema={"type": "object"})


def _wide(ctx: ToolContext, **others: Any) -> str:
    """Takes anything."""
    return f"{ctx.call_id} {sorted(others)}"


def _wide_by_name(*, ctx: ToolContext | None = None, **others: Any) -> str:
    """Takes anything."""
    return f"{ctx and ctx.call_id} {sorted(others)}"


@pytest.mark.parametrize("function", [sync, perhaps, later, _wide, _wide_by_name])
async def test_what_the_model_sends_is_never_the_context(function: Any) -> None:
    forged = {"session_id": "x", "owner": "eve", "metadata": {}, "turn_id": "x", "call_id": "x"}
    name = "around" if function is later else "ctx"
    box = Toolbox([function])
    (own,) = box.functions
    values = {name: forged} if function in (_wide, _wide_by_name) else {name: forged, "n": 1}
    block = await box.run(ToolCall(0, "id", own, values), SystemClock(), context())
    assert block["is_error"]
    assert told == []
    if function in (_wide, _wide_by_name):
        assert "'ctx' is not the caller's to give" in block["content"]
        assert await run(function, a=1, b=2) == "c ['a', 'b']"


async def test_the_input_is_checked_as_without_a_context() -> None:
    assert "Invalid arguments" in await run(sync, n="many")
    assert "Invalid arguments" in await run(later, m=1)
    box = Toolbox([sync])
    assert (await box.run(ToolCall(0, "id", "sync", ["n"]), SystemClock(), context()))["is_error"]
    assert told == []
    assert await run(sync, n="3") == "sync 3"


# the same call after a restart


@everywhere
async def test_a_call_that_runs_again_after_a_crash_has_the_same_name(tmp_path: Path) -> None:
    seen: list[str] = []
    world = World(answers([call("act"), call("act")]), url=tmp_path / "a.db")

    def acting(store: Dying | None) -> Any:
        @tool(idempotent=True)
        def act(ctx: ToolContext) -> str:
            """Acts."""
            seen.append(ctx.call_id)
            if store is not None and len(seen) == 2:
                store.dead = True
            if store is not None:
                raise StoreUnavailable("the process died here")
            return "done"

        return act

    store = Dying(tmp_path / "a.db", 1000, after=False)
    async with world.manager(store=store) as manager:
        session = await create(manager, id="fixed", tools=[acting(store)])
        with pytest.raises(Exception, match="dead"):
            await session.send("go")
    assert len(set(seen)) == 2
    await world.clock.advance(11)
    async with world.manager(tools=[acting(None)]) as manager:
        assert list(await manager.recover()) == ["fixed"]
    assert len(seen) > 2
    assert len(set(seen)) == 2


# progress


@everywhere
async def test_progress_is_told_in_the_event_loop_from_whatever_thread() -> None:
    heard: list[tuple[str, bool]] = []
    own = threading.get_ident()

    def tell(text: str) -> None:
        heard.append((text, threading.get_ident() == own))

    @tool
    def slow(ctx: ToolContext) -> str:
        """In a thread."""
        for number in range(3):
            ctx.progress(f"thread {number}")
        started = threading.Thread(target=lambda: ctx.progress("its own thread"))
        started.start()
        started.join()
        return "done"

    @tool
    async def quick(ctx: ToolContext) -> str:
        """In the event loop."""
        ctx.progress("loop 0")
        await anyio.lowlevel.checkpoint()
        ctx.progress("loop 1")
        await anyio.to_thread.run_sync(ctx.progress, "a thread")
        return "done"

    @tool
    def items(ctx: ToolContext) -> Iterator[str]:
        """Item by item."""
        ctx.progress("one")
        yield "a"
        ctx.progress("two")
        yield "b"

    for given in (slow, quick, items):
        await run(given, context(tell))
    texts = ["thread 0", "thread 1", "thread 2", "its own thread", "loop 0", "loop 1", "a thread", "one", "two"]
    assert heard == [(text, True) for text in texts]


@everywhere
async def test_what_is_said_after_the_end_is_ignored() -> None:
    heard: list[str] = []
    kept: list[ToolContext] = []
    may_end = threading.Event()

    @tool
    async def done(ctx: ToolContext) -> str:
        """Ends."""
        kept.append(ctx)
        ctx.progress("in time")
        return "done"

    @tool(timeout=0.05)
    def stuck(ctx: ToolContext) -> str:
        """Is given up."""
        may_end.wait()
        ctx.progress("late")
        said.set()
        return "after all"

    said = threading.Event()
    assert await run(done, context(heard.append)) == "done"
    assert "timed out" in await run(stuck, context(heard.append))
    may_end.set()
    while not said.is_set():
        await anyio.sleep(0.001)
    kept[0].progress("late")
    await anyio.to_thread.run_sync(kept[0].progress, "late, from a thread")
    await anyio.lowlevel.checkpoint()
    assert heard == ["in time"]


@everywhere
async def test_progress_raises_nothing_and_text_is_what_can_be_stored(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[str] = []

    def tell(text: str) -> None:
        heard.append(text)
        if text == "break":
            raise ValueError("nobody can hear this")

    class Silent:
        def __str__(self) -> str:
            raise ValueError("no words")

    @tool
    def plain(ctx: ToolContext) -> str:
        """In a thread."""
        for text in ("break", 7, Silent(), "\ud800", "last"):
            ctx.progress(text)  # type: ignore[arg-type]
        return "done"

    @tool
    async def other(ctx: ToolContext) -> str:
        """In the event loop."""
        ctx.progress("break")
        ctx.progress("last")
        return "done"

    assert await run(plain, context(tell)) == "done"
    assert await run(other, context(tell)) == "done"
    assert heard == ["break", "7", "?", "last", "break", "last"]
    context(tell).progress("break")  # by hand
    assert caplog.text.count("progress of a tool could not be told") == 4


@everywhere
async def test_progress_is_told_while_the_tool_runs() -> None:
    heard: list[str] = []
    is_heard = threading.Semaphore(0)

    def tell(text: str) -> None:
        heard.append(text)
        is_heard.release()

    @tool
    def slow(ctx: ToolContext) -> str:
        """Goes on when it has been heard."""
        for number in range(3):
            ctx.progress(str(number))
            assert is_heard.acquire(timeout=10)
        return "done"

    assert await run(slow, context(tell)) == "done"
    assert heard == ["0", "1", "2"]


def _says(own: ToolContext, count: int) -> None:
    """In a thread of its own, while the event loop waits."""

    def say() -> None:
        for number in range(count):
            own.progress(str(number))

    thread = threading.Thread(target=say)
    thread.start()
    thread.join()


@everywhere
async def test_what_was_said_before_the_end_is_told_by_then() -> None:
    heard: list[str] = []
    with listening(context(heard.append)) as own:
        _says(own, 3)
        assert heard == []
    assert heard == ["0", "1", "2"]


@everywhere
async def test_more_progress_than_can_be_told_is_left_out_oldest_first() -> None:
    heard: list[str] = []
    with listening(context(heard.append)) as own:
        _says(own, 5 * WAITING)
    assert heard == [str(number) for number in range(4 * WAITING, 5 * WAITING)]


async def test_the_event_loop_is_woken_once_for_all_that_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tool that says something for every row that it reads would hold up everybody else."""
    loop, posted = asyncio.get_running_loop(), list[Any]()
    post = loop.call_soon_threadsafe
    monkeypatch.setattr(loop, "call_soon_threadsafe", lambda callback: posted.append(post(callback)))
    with listening(context()) as own:
        for round in range(1, 4):
            _says(own, 100)
            assert len(posted) == round
            await asyncio.sleep(0)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_thread_that_outlives_the_event_loop_is_not_disturbed(backend: str, caplog: pytest.LogCaptureFixture) -> None:
    raised: list[BaseException] = []
    begun, may_say, said = threading.Event(), threading.Event(), threading.Event()

    @tool
    def orphan(ctx: ToolContext) -> str:
        """Goes on."""
        begun.set()
        may_say.wait()
        try:
            ctx.progress("still here")
        except BaseException as error:
            raised.append(error)
        said.set()
        return "done"

    async def leave() -> None:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(functools.partial(run, orphan, context(print)))
                while not begun.is_set():
                    await anyio.sleep(0.001)
                scope.cancel()

    anyio.run(leave, backend=backend)
    may_say.set()
    assert said.wait(10)
    assert raised == []
    assert "progress" not in caplog.text


# approvals


class Payments:
    """Has a tool that needs an approval."""

    @tool(needs_approval=True)
    def pay(self, amount: int) -> str:
        """Pays."""
        return f"paid {amount}"


def _raises(given: dict[str, Any], context: ToolContext) -> bool:
    raise KeyError("amount")


async def _raises_later(given: dict[str, Any], context: ToolContext) -> bool:
    raise SystemExit


async def _above(given: dict[str, Any], context: ToolContext) -> bool:
    await anyio.lowlevel.checkpoint()
    return int(given["amount"]) > 10


def _of_shop(given: dict[str, Any], context: ToolContext) -> bool:
    return bool(context.metadata["shop"] == 7 and context.owner == "ada")


def _is_empty(given: dict[str, Any], context: ToolContext) -> bool:
    given.pop("amount")
    return not given


def pay(amount: int) -> str:
    """Pays."""
    return f"paid {amount}"


ASKED: list[tuple[Any, Any, bool]] = [
    (True, 1, True), (False, 1, False), (None, 1, False), (_above, 1, False), (_above, 11, True), (_above, "x", True),
    (_of_shop, 1, True), (_is_empty, 1, True), (_raises, 1, True), (_raises_later, 1, True),
    (lambda given, context: False, 1, False), (lambda given, context: 0, 1, True),
    (lambda given, context: None, 1, True), (lambda given: False, 1, True),
]  # fmt: skip


@pytest.mark.parametrize(("option", "amount", "asked"), ASKED)
@everywhere
async def test_a_switch_or_a_function_says_which_calls_need_an_approval(option: Any, amount: Any, asked: bool) -> None:
    box = Toolbox([tool(pay, needs_approval=option)])
    one = ToolCall(0, "id", "pay", {"amount": amount})
    assert await box.needs_approval(one, context()) is asked
    assert one.input == {"amount": amount}, "what runs is what was judged"
    assert box.may_need_approval is (option not in (None, False))
    assert await box.needs_approval(ToolCall(0, "id", "nobody", {}), context()) is False


async def test_a_function_that_cannot_say_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    for option, text in ((_raises, "failed"), (lambda given, context: "yes", "gave no bool")):
        caplog.clear()
        assert await tool(pay, needs_approval=option).needs_approval({}, context())
        assert [text in record.message and "'pay'" in record.message for record in caplog.records] == [True]


async def test_the_option_is_kept_and_overridden_like_the_others() -> None:
    @beta_tool
    def of_sdk(amount: int) -> str:
        """Pays."""
        return f"paid {amount}"

    for given in (pay, of_sdk, tool(pay), tool(pay, needs_approval=False), Payments().pay):
        switched = tool(given, needs_approval=True)
        kept = tool(switched, timeout=3, name="other")
        assert await kept.needs_approval({}, context())
        assert not await tool(kept, needs_approval=False).needs_approval({}, context())
        assert await tool(kept, needs_approval=_above).needs_approval({"amount": 11}, context())
    bound: Any = tool(Payments.pay, timeout=3)
    assert await bound.__get__(Payments(), Payments).needs_approval({}, context())


@pytest.mark.parametrize("value", ["yes", 1, 0, []])
def test_an_option_that_is_neither_is_refused(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="needs_approval"):
        tool(pay, needs_approval=value)
