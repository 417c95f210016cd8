"""Calls that need a human's approval: decided once, from anywhere, and no such call ever runs without it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from sessions import ConfigurationError, Conflict, Session, SessionsError, ToolContext, ToolsChanged, tool
from sessions.core.steps import INTERRUPTED
from sessions.simulator import Fault, Request
from storage import StoreUnavailable
from tests.crash.test_killed_anywhere import Dying
from tests.servers import lease_lapses, short_leases, without_gate
from tests.sessions.world import World, answers, call, create, everywhere, results, words
from tests.turns.acts import Acts, real


def pays(*amounts: int, also: Any = ()) -> Callable[[Request], Any]:
    """A model that pays these amounts, and does what else is given, all at once; then it is done."""

    def script(request: Request) -> Any:
        if request.results:
            return "done"
        return [*(call("pay", amount=amount) for amount in amounts), *also] if request.turn == 1 else "fine"

    return script


async def ended(manager: Any, session: Session) -> Any:
    """The reply of the newest turn, when it has ended."""
    turn = await manager.turn(session.id)
    return await turn.reply()


def told(session: Session) -> list[str]:
    """What the model was told of its calls, in order."""
    return [str(block["content"]) for message in session.messages for block in results(message)]


@everywhere
async def test_a_call_waits_until_it_is_approved_and_the_turn_goes_on(tmp_path: Path) -> None:
    world, acts = World(pays(5), url=tmp_path / "a.db"), Acts()
    async with world.manager() as manager:
        session = await create(manager, tools=acts.tools)
        reply = await session.send("go")
        assert acts.ran == []
        assert reply.stop_reason == "tool_use"
        (pending,) = reply.pending
        assert (pending.name, pending.input, pending.by_caller) == ("pay", {"amount": 5}, False)
        assert session.pending == reply.pending
        assert session.state == "waiting"
        assert [info.id for info in await manager.list(state="waiting")] == [session.id]
        turn = await manager.turn(session.id)
        assert turn is not None
        assert turn.state == "waiting"
        assert (await turn.reply()).pending == reply.pending
        assert await session.resume() is None
        assert acts.ran == []
        await session.approve(pending.call_id)
        assert session.pending == ()
        assert (await turn.reply()).text == "done"
        assert (turn.state, session.state) == ("finished", "idle")
        assert acts.ran == [5]
        assert told(session) == ["paid 5"]
        assert [info.id for info in await manager.list(state="idle")] == [session.id]
        assert len(await session.turns()) == 1
        assert len((await turn.reply()).calls) == 2
    world.check()


@everywhere
async def test_several_are_decided_one_by_one_in_either_order() -> None:
    for order in itertools.permutations(range(3)):
        world, acts = World(pays(1, 2, 3)), Acts()
        async with world.manager() as manager:
            session = await create(manager, tools=acts.tools)
            pending = (await session.send("go")).pending
            for count, place in enumerate(order):
                assert acts.ran == []
                assert len(session.pending) == 3 - count
                if place == 1:
                    await session.deny(pending[place].call_id, "too much")
                else:
                    await session.approve(pending[place].call_id)
            assert (await ended(manager, session)).text == "done"
            assert sorted(acts.ran) == [1, 3]
            assert told(session) == ["paid 1", "not run: the user denied it: too much", "paid 3"]
        world.check()


@everywhere
async def test_two_tasks_decide_at_the_same_time() -> None:
    world, acts = World(pays(1, 2, 3, 4)), Acts()
    async with world.manager() as manager:
        session = await create(manager, tools=acts.tools)
        pending = (await session.send("go")).pending
        outcomes: list[str] = []

        async def decide(id: str) -> None:
            try:
                await session.approve(id)
                outcomes.append("ok")
            except Conflict:
                outcomes.append("conflict")

        async with anyio.create_task_group() as group:
            for each in pending:
                group.start_soon(decide, each.call_id)
                group.start_soon(decide, each.call_id)
        assert sorted(outcomes) == ["conflict"] * 4 + ["ok"] * 4
        assert (await ended(manager, session)).text == "done"
        assert sorted(acts.ran) == [1, 2, 3, 4]
    world.check()


async def test_another_worker_decides(new_place: Callable[[], str]) -> None:
    url, acts = new_place(), Acts()
    world = World(pays(1, 2), url=url)
    async with world.manager() as one, world.manager() as two:
        session = await create(one, tools=acts.tools)
        first, second = (await session.send("go")).pending
        other = await two.open(session.id, tools=acts.tools)
        assert other.pending == (first, second)
        assert other.state == "waiting"
        await other.approve(first.call_id)
        assert acts.ran == []
        with pytest.raises(Conflict, match="decided already"):
            await session.approve(first.call_id)
        with pytest.raises(Conflict, match="decided already"):
            await session.deny(first.call_id)
        assert session.pending == (second,)
        await session.deny(second.call_id)
        assert (await ended(one, session)).text == "done"
        assert acts.ran == [1]
        with pytest.raises(Conflict, match="decided already"):
            await other.approve(second.call_id)
        await other.refresh()
        assert (other.pending, other.state) == ((), "idle")
        assert told(other) == ["paid 1", "not run: the user denied it"]
    world.check()


async def test_two_workers_decide_at_the_same_time_and_one_of_them_is_heard(new_place: Callable[[], str]) -> None:
    url, acts = new_place(), Acts()
    world = World(pays(1, 2, 3), url=url)
    async with world.manager() as one, world.manager() as two:
        session = await create(one, tools=acts.tools)
        pending = (await session.send("go")).pending
        other = await two.open(session.id, tools=acts.tools)
        outcomes: list[str] = []

        async def decide(how: Any, id: str) -> None:
            try:
                await how(id)
                outcomes.append("ok")
            except Conflict:
                outcomes.append("conflict")

        async with anyio.create_task_group() as group:
            for each in pending:
                group.start_soon(decide, session.approve, each.call_id)
                group.start_soon(decide, other.approve, each.call_id)
                group.start_soon(decide, other.deny, each.call_id)
        assert sorted(outcomes) == ["conflict"] * 6 + ["ok"] * 3
        while (await session.turns())[0].state != "finished":
            await anyio.sleep(0.01)
        opened = await one.open(session.id)
        heard = told(opened)
        assert len(heard) == 3
        assert sorted(acts.ran) == [int(text[-1]) for text in heard if text.startswith("paid")]
        assert [turn.state for turn in await session.turns()] == ["finished"]
    world.check()


@everywhere
async def test_a_decision_while_the_session_is_held_for_something_else_is_kept_and_the_turn_goes_on(
    tmp_path: Path,
) -> None:
    world, acts = real(pays(1), url=tmp_path / "a.db"), Acts()
    async with world.manager() as one, world.manager() as two:
        session = await create(one, tools=acts.tools)
        (pending,) = (await session.send("go")).pending
        async with two.runtime.leases.hold(session.id):
            with anyio.fail_after(5):
                await session.approve(pending.call_id)
            turn = await one.turn(session.id)
            assert turn is not None
            assert turn.state == "running"
            assert acts.ran == []
        with anyio.fail_after(5):
            assert (await turn.reply()).text == "done"
        assert acts.ran == [1]


@everywhere
async def test_with_another_input_the_tool_runs_with_that_and_the_model_is_told() -> None:
    world, acts = World(pays(5)), Acts()
    async with world.manager() as manager:
        session = await create(manager, tools=acts.tools)
        (pending,) = (await session.send("go")).pending
        for bad in ([1], "x", 3, {"amount": float("nan")}):
            with pytest.raises(ConfigurationError):
                await session.approve(pending.call_id, bad)
        await session.approve(pending.call_id, {"amount": 4})
        assert (await ended(manager, session)).text == "done"
        assert acts.ran == [4]
        assert "paid 4" in told(session)[0]
        assert "another input" in told(session)[0]
        assert '{"amount":4}' in told(session)[0]
        assert session.messages[1]["content"][0]["input"] == {"amount": 5}  # what the model said stays
    world.check()


@everywhere
async def test_what_does_not_wait_here_cannot_be_decided() -> None:
    world, acts = World(pays(5)), Acts()
    async with world.manager() as manager:
        one, two = await create(manager, tools=acts.tools), await create(manager, tools=acts.tools)
        (mine,) = (await one.send("go")).pending
        (other,) = (await two.send("go")).pending
        for id in (other.call_id, "nonsense", mine.tool_use_id, ""):
            for decide in (one.approve, one.deny):
                with pytest.raises(ConfigurationError, match=f"{mine.call_id} \\(pay\\)|blank|empty"):
                    await decide(id)
        with pytest.raises(ConfigurationError):
            await one.approve(3)  # type: ignore[arg-type]
        fresh = await create(manager, tools=acts.tools)
        with pytest.raises(ConfigurationError, match="nothing waits"):
            await fresh.approve(mine.call_id)
        assert acts.ran == []


@everywhere
async def test_new_words_in_place_of_decisions_close_the_calls() -> None:
    world, acts = World(pays(1, 2)), Acts()
    async with world.manager() as manager:
        session = await create(manager, tools=acts.tools)
        first, second = (await session.send("go")).pending
        await session.approve(first.call_id)
        assert (await session.send("never mind")).text == "done"
        assert acts.ran == []
        assert told(session) == ["was not run", "was not run"]
        assert session.pending == ()
        for id in (first.call_id, second.call_id):
            with pytest.raises((Conflict, ConfigurationError), match=r"decided already|does not wait"):
                await session.approve(id)
        assert [turn.state for turn in await session.turns()] == ["finished", "finished"]
        assert acts.ran == []
    world.check()


@everywhere
async def test_a_waiting_turn_that_is_stopped_runs_nothing_any_more() -> None:
    world, acts = World(pays(1, 2)), Acts()
    async with world.manager(tools=acts.tools) as manager:
        session = await create(manager, tools=acts.tools)
        first, second = (await session.send("go")).pending
        await session.approve(first.call_id)
        turn = await manager.turn(session.id)
        assert turn is not None
        await turn.stop()
        assert turn.state == "cancelled"
        await turn.stop()
        for decide in (session.approve, session.deny):
            with pytest.raises((Conflict, ConfigurationError), match=r"stopped|decided already"):
                await decide(first.call_id)
            with pytest.raises((Conflict, ConfigurationError), match="stopped"):
                await decide(second.call_id)
        assert await session.resume() is None
        assert await manager.recover() == {}
        assert acts.ran == []
        assert session.state == "idle"
        assert session.pending == ()
        assert (await turn.reply()).stop_reason == "cancelled"
        assert (await session.send("and now?")).text == "done"
        assert acts.ran == []
    world.check()


@everywhere
async def test_stop_while_the_model_asks_for_approval_does_not_leave_it_waiting() -> None:
    asked, go = anyio.Event(), anyio.Event()

    async def slow(_: Any, __: ToolContext) -> bool:
        asked.set()
        await go.wait()
        return True

    world, acts = World(pays(1)), Acts(slow)
    async with world.manager() as manager:
        session = await create(manager, tools=acts.tools)
        turn = await session.begin("go")
        await asked.wait()
        async with anyio.create_task_group() as group:
            group.start_soon(turn.stop)
            await anyio.lowlevel.checkpoint()
            go.set()
        assert turn.state == "cancelled"
        assert session.pending == ()
        assert acts.ran == []


# predicates


@everywhere
async def test_a_predicate_says_which_calls_wait() -> None:
    asked: list[Any] = []

    def dear(given: dict[str, Any], context: ToolContext) -> bool:
        asked.append((given, context.session_id, context.owner, context.call_id))
        return bool(given["amount"] > 10)

    world, acts = World(pays(5, 50, also=[call("look")])), Acts(dear)
    async with world.manager() as manager:
        session = await create(manager, tools=acts.tools, owner="ada")
        (pending,) = (await session.send("go")).pending
        assert pending.input == {"amount": 50}
        assert sorted(map(str, acts.ran)) == ["5", "look"]
        assert ({"amount": 50}, session.id, "ada", pending.call_id) in asked
        await session.approve(pending.call_id)
        assert (await ended(manager, session)).text == "done"
        assert sorted(map(str, acts.ran)) == ["5", "50", "look"]
        assert told(session) == ["paid 5", "paid 50", "looked"]
    world.check()


async def _async(_: Any, __: ToolContext) -> bool:
    await anyio.lowlevel.checkpoint()
    return True


def _raises(_: Any, __: ToolContext) -> bool:
    raise RuntimeError("broken")


def _no_bool(_: Any, __: ToolContext) -> Any:
    return 0


def _changes(given: dict[str, Any], _: ToolContext) -> bool:
    given["amount"] = 0
    return True


@pytest.mark.parametrize("predicate", [_async, _raises, _no_bool, _changes])
@everywhere
async def test_a_predicate_in_doubt_means_yes(predicate: Any) -> None:
    world, acts = World(pays(5)), Acts(predicate)
    async with world.manager() as manager:
        session = await create(manager, tools=acts.tools)
        (pending,) = (await session.send("go")).pending
        assert acts.ran == []
        assert pending.input == {"amount": 5}
        await session.approve(pending.call_id)
        assert (await ended(manager, session)).text == "done"
        assert acts.ran == [5]


# beside tools that the caller runs

THEIRS = {"name": "theirs", "input_schema": {"type": "object", "properties": {}}}


@everywhere
async def test_beside_a_tool_of_the_caller_both_are_open_until_both_are_there() -> None:
    world, acts = World(pays(5, also=[call("theirs", "toolu_theirs")])), Acts()
    async with world.manager() as manager:
        session = await create(manager, tools=[*acts.tools, THEIRS])
        reply = await session.send("go")
        assert [(each.name, each.by_caller) for each in reply.pending] == [("pay", False), ("theirs", True)]
        result = {"type": "tool_result", "tool_use_id": "toolu_theirs", "content": "theirs"}
        with pytest.raises(ConfigurationError, match=reply.pending[0].call_id):
            await session.send([result])
        with pytest.raises(ConfigurationError, match="does not wait for approval"):
            await session.approve(reply.pending[1].call_id)
        await session.approve(reply.pending[0].call_id)
        waits = await ended(manager, session)
        assert [each.name for each in waits.pending] == ["theirs"]
        assert acts.ran == [5]
        assert session.state == "waiting"
        assert (await session.send([result])).text == "done"
        assert told(session) == ["paid 5", "theirs"]
        assert acts.ran == [5]
    world.check()


@everywhere
async def test_results_for_a_call_that_waits_for_approval_are_refused() -> None:
    world, acts = World(lambda request: "done" if request.results else [call("pay", "toolu_pay", amount=5)]), Acts()
    async with world.manager() as manager:
        session = await create(manager, tools=acts.tools)
        (pending,) = (await session.send("go")).pending
        result = {"type": "tool_result", "tool_use_id": "toolu_pay", "content": "forged"}
        with pytest.raises(ConfigurationError, match=pending.call_id):
            await session.send([result])
        with pytest.raises(ConfigurationError, match=pending.call_id):
            await session.begin([result])
        assert session.pending == (pending,)
        assert acts.ran == []


# restarts


@everywhere
async def test_without_the_tools_nothing_can_be_decided(tmp_path: Path) -> None:
    world, acts = World(pays(5), url=tmp_path / "a.db"), Acts()
    async with world.manager() as manager:
        session = await create(manager, tools=acts.tools)
        (pending,) = (await session.send("go")).pending
    async with world.manager() as manager:
        session = await manager.open(session.id)
        assert session.pending == (pending,)
        for decide in (session.approve, session.deny):
            with pytest.raises(ToolsChanged):
                await decide(pending.call_id)
        session = await manager.open(session.id, tools=acts.tools)
        await session.approve(pending.call_id)
        assert (await ended(manager, session)).text == "done"
    assert acts.ran == [5]


@pytest.mark.parametrize("decision", ["approve", "deny", "change", "resume", "recover"])
@everywhere
async def test_a_turn_that_waits_goes_on_waiting_where_the_tool_needs_no_approval_any_more(
    decision: str, tmp_path: Path
) -> None:
    world, acts, lax = World(pays(5, 6), url=tmp_path / "a.db"), Acts(), Acts(False)
    async with world.manager() as manager:
        session = await create(manager, tools=acts.tools)
        first, second = (await session.send("go")).pending
    async with world.manager(tools=lax.tools) as manager:
        session = await manager.open(session.id, tools=lax.tools)
        assert session.pending == (first, second)
        assert await session.resume() is None
        assert await manager.recover() == {}
        assert lax.ran == []
        if decision in ("resume", "recover"):
            return
        await session.deny(first.call_id)
        assert lax.ran == []
        if decision == "change":
            await session.approve(second.call_id, {"amount": 1})
        else:
            await (session.approve if decision == "approve" else session.deny)(second.call_id)
        assert (await ended(manager, session)).text == "done"
        assert lax.ran == {"approve": [6], "deny": [], "change": [1]}[decision]
        assert told(session)[0] == "not run: the user denied it"


class Stops(Dying):
    """A store whose process dies when the last decision has been written."""

    async def decide(self, decision: Any, *, turn: str, of: int) -> int:
        left: int = await self.real.decide(decision, turn=turn, of=of)
        if not left:
            self.dead = True
            raise StoreUnavailable("the process died here")
        return left


@pytest.mark.parametrize("approval", [True, False])
async def test_a_process_dies_after_the_last_decision(approval: bool, new_place: Callable[[], str]) -> None:
    url, acts, others = new_place(), Acts(), Acts(approval)
    world, store = World(pays(5, 6, 7), url=url), Stops(url, 1000, after=False)
    async with world.manager(store=store, **without_gate(url)) as manager:
        short_leases(manager, url)
        session = await create(manager, tools=acts.tools)
        first, second, third = (await session.send("go")).pending
        await session.deny(first.call_id)
        await session.approve(second.call_id, {"amount": 60})
        with pytest.raises(Exception, match="died"):
            await session.approve(third.call_id)
    await world.clock.advance(11)
    await lease_lapses(manager)
    async with world.manager(tools=others.tools, **without_gate(url)) as manager:
        recovered = await manager.recover()
        assert recovered[session.id].text == "done"  # type: ignore[union-attr]
        opened = await manager.open(session.id)
        assert sorted(others.ran) == [7, 60]
        assert told(opened)[0] == "not run: the user denied it"
        assert opened.state == "idle"
    assert acts.ran == []
    world.check()


@pytest.mark.parametrize("approval", [True, False])
@everywhere
async def test_a_session_that_was_open_all_the_time_goes_on_with_what_another_worker_decided(
    approval: bool, tmp_path: Path
) -> None:
    """Decisions need no lease: that nobody else had it since does not say that nothing has changed."""
    path, acts = tmp_path / "a.db", Acts(lambda given, _: approval or bool(given["amount"] < 10))
    world, store = World(pays(5, 6), url=path), Stops(path, 1000, after=False)
    async with world.manager() as manager, world.manager(store=store) as other:
        session = await create(manager, tools=acts.tools)
        first, second = (await session.send("go")).pending
        there = await other.open(session.id, tools=acts.tools)
        await there.deny(first.call_id)
        with pytest.raises(Exception, match="died"):
            await there.approve(second.call_id)
        reply = await session.resume()
        assert reply is not None
        assert reply.text == "done"
        assert acts.ran == [6]
        turns = await session.turns()
        assert [turn.state for turn in turns] == ["finished"]
        assert await manager.recover() == {}
    world.check()


class Killed:
    """`pay` takes effect and then, in the worker that dies, never returns."""

    def __init__(self, store: Dying | None, approval: Any, *, idempotent: bool) -> None:
        self.ran: list[int] = []
        self._store = store
        self.tools = [tool(self._pay, name="pay", needs_approval=approval, idempotent=idempotent)]

    async def _pay(self, amount: int) -> str:
        """Pays."""
        self.ran.append(amount)
        if self._store is not None:
            self._store.dead = True
            raise StoreUnavailable("the process died here")
        return f"paid {amount}"


@pytest.mark.parametrize("idempotent", [False, True])
@pytest.mark.parametrize("approval", [True, False])
@everywhere
async def test_a_process_dies_while_the_approved_call_runs(approval: bool, idempotent: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    store = Dying(path, 1000, after=False)
    world, dying = World(pays(5, 6), url=path), Killed(store, True, idempotent=idempotent)
    async with world.manager(store=store) as manager:
        session = await create(manager, tools=dying.tools)
        first, second = (await session.send("go")).pending
        await session.deny(second.call_id, "not that one")
        await session.approve(first.call_id, {"amount": 4})
        with anyio.move_on_after(1):
            while not store.dead:
                await anyio.sleep(0.01)
            await anyio.sleep(0.05)
    assert dying.ran == [4]
    await world.clock.advance(11)
    living = Killed(None, approval, idempotent=idempotent)
    async with world.manager(tools=living.tools) as manager:
        recovered = await manager.recover()
        assert recovered[session.id].text == "done"  # type: ignore[union-attr]
        opened = await manager.open(session.id)
        one, two = told(opened)
        assert two == "not run: the user denied it: not that one"
        if idempotent:
            assert living.ran == [4]
            assert "paid 4" in one
            assert "another input" in one
        else:
            assert living.ran == []
            assert one == INTERRUPTED
    world.check()


@everywhere
async def test_a_model_that_fails_after_the_approved_call_is_asked_again_and_the_call_ran_once() -> None:
    world, acts = World(answers([call("pay", amount=5)], Fault.http(529), "done")), Acts()
    async with world.manager() as manager:
        session = await create(manager, tools=acts.tools)
        (pending,) = (await session.send("go", idempotency_key="k")).pending
        again = await session.send("go", idempotency_key="k")
        assert again.pending == (pending,)
        await session.approve(pending.call_id)
        with pytest.raises(SessionsError, match="529"):
            await ended(manager, session)
        assert session.state == "interrupted"
        assert (await session.send("go", idempotency_key="k")).text == "done"
        assert acts.ran == [5]
        assert words(session) == ["go"]


# other things that happen to a session that waits


@everywhere
async def test_a_fork_of_a_session_that_waits_decides_nothing_of_it() -> None:
    world, acts = World(pays(5)), Acts()
    async with world.manager() as manager:
        session = await create(manager, tools=acts.tools)
        (pending,) = (await session.send("go")).pending
        branch = await session.fork()
        assert branch.pending == ()
        assert branch.state == "idle"
        with pytest.raises(ConfigurationError):
            await branch.approve(pending.call_id)
        assert (await branch.send("go on")).text == "done"
        assert told(branch) == ["not run in this branch"]
        assert acts.ran == []
        await session.approve(pending.call_id)
        assert (await ended(manager, session)).text == "done"
        assert acts.ran == [5]
    world.check()


@everywhere
async def test_rewind_takes_the_calls_away() -> None:
    world, acts = World(pays(5)), Acts()
    async with world.manager(tools=acts.tools) as manager:
        session = await create(manager, tools=acts.tools)
        (pending,) = (await session.send("go")).pending
        await session.rewind(None)
        with pytest.raises((Conflict, ConfigurationError)):
            await session.approve(pending.call_id)
        await session.refresh()
        assert session.pending == ()
        assert await session.resume() is None
        await manager.recover()
        assert acts.ran == []
        opened = await manager.open(session.id, tools=acts.tools)
        assert opened.pending == ()
        turn = await manager.turn(session.id)
        assert turn is not None
        assert (await turn.reply()).pending == ()
        await session.send("other words")
        assert acts.ran == []


@everywhere
async def test_compaction_and_edits_of_a_session_that_waits() -> None:
    world, acts = World(pays(5)), Acts()
    async with world.manager() as manager:
        session = await create(manager, tools=acts.tools)
        (pending,) = (await session.send("go")).pending
        with pytest.raises(ConfigurationError, match="not finished"):
            await session.compact()
        await session.update(title="still waits")
        await session.instruct("Be brief.")
        assert await session.verify() is None
        exported = await session.export()
        assert [message["role"] for message in exported] == ["user", "assistant"]
        await session.refresh()
        assert session.pending == (pending,)
        assert session.state == "waiting"
        await session.approve(pending.call_id)
        assert (await ended(manager, session)).text == "done"
        assert acts.ran == [5]
        assert await session.verify() is None
    world.check()


@everywhere
async def test_a_second_round_waits_again() -> None:
    world = World(answers([call("pay", amount=1)], [call("pay", amount=2)], "done"))
    acts = Acts()
    async with world.manager() as manager:
        session = await create(manager, tools=acts.tools)
        (first,) = (await session.send("go")).pending
        await session.approve(first.call_id)
        reply = await ended(manager, session)
        assert acts.ran == [1]
        (second,) = reply.pending
        assert second.call_id != first.call_id
        with pytest.raises(Conflict, match="decided already"):
            await session.approve(first.call_id)
        assert session.pending == (second,)
        await session.deny(second.call_id)
        assert (await ended(manager, session)).text == "done"
        assert acts.ran == [1]
        assert len(await session.turns()) == 1
    world.check()


@everywhere
async def test_branches_of_map_wait_each_for_itself() -> None:
    world, acts = World(lambda request: "done" if request.results else [call("pay", amount=5)]), Acts()
    async with world.manager() as manager:
        session = await create(manager, tools=acts.tools)
        one, two = await session.map(["a", "b"])
        assert acts.ran == []
        assert (one.session.state, two.session.state) == ("waiting", "waiting")
        waiting = await manager.list(state="waiting", parent=session.id)
        assert {info.id for info in waiting} == {one.session.id, two.session.id}
        await one.session.approve(one.pending[0].call_id)
        assert (await ended(manager, one.session)).text == "done"
        assert acts.ran == [5]
        assert two.session.pending == two.pending


@everywhere
async def test_other_tools_that_ask_for_nothing_do_not_let_a_waiting_turn_go_on() -> None:
    world, acts, lax = World(pays(5, 6)), Acts(), Acts(False)
    async with world.manager() as manager:
        session = await create(manager, tools=acts.tools)
        first, second = (await session.send("go")).pending
        await session.update(tools=lax.tools, rebase=True)
        assert await session.resume() is None
        assert lax.ran == []
        await session.deny(first.call_id)
        await session.deny(second.call_id)
        assert (await ended(manager, session)).text == "done"
        assert lax.ran == acts.ran == []
    world.check()


@everywhere
async def test_results_that_are_imported_take_the_place_of_a_decision() -> None:
    world, acts = World(pays(5)), Acts()
    async with world.manager(tools=acts.tools) as manager:
        session = await create(manager, tools=acts.tools)
        (pending,) = (await session.send("go")).pending
        result = {"type": "tool_result", "tool_use_id": pending.tool_use_id, "content": "by hand"}
        await session.append([{"role": "user", "content": [result]}, {"role": "assistant", "content": "ok"}])
        assert session.pending == ()
        with pytest.raises((Conflict, ConfigurationError), match="other words have come"):
            await session.approve(pending.call_id)
        assert await session.resume() is None
        assert (await session.send("more")).text == "fine"
        assert acts.ran == []
    world.check()


@everywhere
async def test_a_turn_that_breaks_off_before_it_waits_waits_when_it_is_resumed() -> None:
    async def slow(_: Any, __: ToolContext) -> bool:
        await world.clock.sleep(100)
        return True

    world, acts = World(pays(1)), Acts(slow)
    async with world.manager() as manager:
        session = await create(manager, tools=acts.tools)
        turn = await session.begin("go", timeout=10)
        await world.clock.advance(50)
        assert turn.state == "interrupted"
        with pytest.raises(TimeoutError):
            await turn.reply()
        async with anyio.create_task_group() as group:
            group.start_soon(session.resume)
            await world.clock.advance(200)
        assert session.state == "waiting"
        (pending,) = session.pending
        assert acts.ran == []
        async with anyio.create_task_group() as group:
            group.start_soon(session.approve, pending.call_id)
            await world.clock.advance(200)
        assert (await turn.reply()).text == "done"
        assert acts.ran == [1]
    world.check()


@pytest.mark.parametrize("after", [False, True])
@everywhere
async def test_a_process_that_dies_at_each_commit_leaves_calls_that_can_be_decided(after: bool, tmp_path: Path) -> None:
    for at in range(1, 9):
        path, acts = tmp_path / f"{at}.db", Acts()
        world, store = World(pays(5, 6, also=[call("look")]), url=path), Dying(path, at, after=after)
        async with world.manager(store=store) as manager:
            session = await create(manager, tools=acts.tools, id="s")
            with suppress(Exception):
                await session.send("go")
        await world.clock.advance(11)
        async with world.manager(tools=acts.tools) as manager:
            await manager.recover()
            session = await manager.open("s", tools=acts.tools)
            if not session.messages:
                await session.send("go")
            assert set(acts.ran) <= {"look"}
            first, second = session.pending
            assert session.state == "waiting"
            await session.deny(first.call_id)
            await session.approve(second.call_id)
            assert (await ended(manager, session)).text == "done"
            assert [each for each in acts.ran if each != "look"] == [6]
        world.check()
        if not store.dead:
            break


@everywhere
async def test_a_manager_that_takes_no_turns_takes_no_decisions(tmp_path: Path) -> None:
    world, acts = World(pays(5), url=tmp_path / "a.db"), Acts()
    async with world.manager() as manager:
        session = await create(manager, tools=acts.tools)
        (pending,) = (await session.send("go")).pending
        await manager.drain()
        with pytest.raises(SessionsError, match="takes no new turns"):
            await session.approve(pending.call_id)
    async with world.manager(tools=acts.tools) as manager:
        assert await manager.recover() == {}
        session = await manager.open(session.id, tools=acts.tools)
        await session.approve(pending.call_id)
        assert (await ended(manager, session)).text == "done"
    assert acts.ran == [5]
