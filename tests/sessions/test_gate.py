"""Requests that would write the same prefix at the same time: one writes, the others read; nobody waits for nothing."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from sessions import ConfigurationError, Fixed, ModelError, Reply, Session, SessionManager, tool
from sessions.simulator import Fault, Latency, Request, filler
from storage import Holder, StoreUnavailable, Warmup
from storage.sql import SQLStore
from tests.sessions.world import World, create, everywhere, words

SYSTEM = filler(3000)
ONE_SECOND = Latency(first_event=1.0)
ELSEWHERE = Holder("elsewhere", 1, 1.0)


class Counting(SQLStore):
    """A real store that counts the questions about warm-ups, keeps the last answer, and fails them when told to."""

    broken = False

    def __init__(self, url: str = "sqlite://") -> None:
        super().__init__(url)
        self.asked = self.told = 0
        self.answer: tuple[str, Warmup] | None = None

    async def lead(self, point: str, *args: Any, **given: Any) -> Warmup:
        self.asked += 1
        if self.broken:
            raise StoreUnavailable("broken on purpose")
        self.answer = point, await super().lead(point, *args, **given)
        return self.answer[1]

    async def led(self, *args: Any, **given: Any) -> None:
        self.told += 1
        if self.broken:
            raise StoreUnavailable("broken on purpose")
        await super().led(*args, **given)


async def gathered(world: World, *works: Callable[[], Awaitable[Any]], seconds: float = 100) -> list[Any]:
    """What came of each piece of work, its errors too, with all begun at the same time."""
    found: list[Any] = [None] * len(works)

    async def run(number: int) -> None:
        try:
            found[number] = await works[number]()
        except Exception as error:
            found[number] = error

    async with anyio.create_task_group() as group:
        for number in range(len(works)):
            group.start_soon(run, number)
        await world.clock.advance(seconds)
    return found


def sending(session: Session, text: str = "Hello", **given: Any) -> Callable[[], Awaitable[Reply]]:
    return lambda: session.send(text, **given)


def after(world: World, seconds: float, work: Callable[[], Awaitable[Any]]) -> Callable[[], Awaitable[Any]]:
    """The same work, begun that many seconds later."""

    async def later() -> Any:
        await world.clock.sleep(seconds)
        return await work()

    return later


async def several(manager: SessionManager, count: int, **given: Any) -> list[Session]:
    return [await create(manager, **{"system": SYSTEM, **given}) for _ in range(count)]


def waits(replies: list[Any]) -> list[float]:
    """Seconds that each reply's call spent at the gate, sorted."""
    return sorted(round(reply.calls[0].waited, 3) for reply in replies)


async def point_of(system: str) -> str:
    """The point of that system prompt, as a call in a world of its own names it."""
    world = World()
    async with world.manager() as manager:
        (reply,) = await gathered(world, sending(await create(manager, system=system)))
    (_, point, *_), *_ = reply.calls[0].points
    return str(point)


async def check_nothing_is_left(world: World, manager: SessionManager, *systems: str, **given: Any) -> None:
    """No leader is on the books: when all has lapsed, whoever writes the prefix next need not wait for anybody."""
    await world.clock.advance(2 * 3600)
    sessions = [await create(manager, **{"system": system, **given}) for system in systems or (SYSTEM,)]
    replies = await gathered(world, *map(sending, sessions))
    assert sum(reply.usage.cache_read for reply in replies) == 0  # so each would have waited for a leader
    assert waits(replies) == [0.0] * len(replies)


@everywhere
async def test_eight_equal_cold_requests_write_one_prefix() -> None:
    world = World(latency=ONE_SECOND)
    async with world.manager(ttl=Fixed("5m")) as manager:
        replies = await gathered(world, *map(sending, await several(manager, 8)))
        prefix = max(reply.usage.cache_write for reply in replies)
        assert prefix >= 3000
        assert world.engine.bill().usage.cache_write == prefix
        assert world.engine.bill().usage.cache_read == 7 * prefix
        assert waits(replies) == [0.0, *[1.0] * 7]  # the leader's first event, nothing more
        calls = [reply.calls[0] for reply in replies]
        assert sorted(call.ended - min(c.started for c in calls) for call in calls) == [1.0, *[2.0] * 7]
        assert all(bool(call.expected.cache_read) == bool(call.usage.cache_read) for call in calls)
        await check_nothing_is_left(world, manager)
    world.check()


@everywhere
async def test_eight_branches_write_their_history_once() -> None:
    world = World(latency=ONE_SECOND)
    async with world.manager(ttl=Fixed("5m")) as manager:
        session = await create(manager)
        await session.append(
            [{"role": role, "content": filler(2000)} for _ in range(4) for role in ("user", "assistant")]
        )
        found: list[Reply] = []

        async def mapping() -> None:
            found.extend(await session.map([f"part {n}: {filler(20 + n)}" for n in range(8)]))

        await gathered(world, mapping)
        written = sorted(reply.usage.cache_write for reply in found)
        assert written[-1] >= 16000
        assert written[-2] < 50  # its own words
        assert sum(reply.usage.cache_read >= 16000 for reply in found) == 7
        assert waits(found) == [0.0, *[1.0] * 7]
        branch = found[0].session
        again = await gathered(world, sending(await branch.fork(), "a"), sending(await branch.fork(), "b"))
        assert waits(again) == [0.0, 0.0]  # what they write is less than the minimum, and they know the rest
        assert all(reply.calls[0].expected.cache_read == reply.usage.cache_read > 16000 for reply in again)
    world.check()


@everywhere
async def test_a_known_prefix_costs_no_wait_and_no_question() -> None:
    world, store = World(latency=ONE_SECOND), Counting()
    async with world.manager(store=store) as manager:
        first, *others = await several(manager, 5)
        await gathered(world, sending(first))
        assert (store.asked, store.told) == (1, 1)
        replies = await gathered(world, *(sending(one, f"Other words {n}") for n, one in enumerate(others)))
        assert waits(replies) == [0.0] * 4
        assert all(reply.calls[0].expected.cache_read and reply.usage.cache_read >= 3000 for reply in replies)
        await gathered(world, *map(sending, (first, *others)))
        assert (store.asked, store.told) == (1, 1)
    world.check()


@everywhere
async def test_others_do_not_wait_for_each_other() -> None:
    """Another system prompt, and what is too short to be worth it."""
    world = World(latency=ONE_SECOND)
    async with world.manager() as manager:
        different = [await create(manager, system=filler(3000, f"word{n}")) for n in range(3)]
        short = await several(manager, 3, system="Be brief.")
        assert waits(await gathered(world, *map(sending, (*different, *short)))) == [0.0] * 6
        off = world.manager(warmup=False)
        async with off:
            replies = await gathered(world, *map(sending, await several(off, 4, system=filler(3000, "off"))))
            assert waits(replies) == [0.0] * 4
            assert sum(reply.usage.cache_write >= 3000 for reply in replies) == 4
    with pytest.raises(ConfigurationError, match="warmup_timeout"):
        world.manager(warmup_timeout=-1.0)


@everywhere
async def test_a_failed_leader_is_followed_by_the_next_in_line() -> None:
    world = World(latency=ONE_SECOND, faults={0: Fault.http(529), 1: Fault.drop()})
    order: list[str] = []

    async def turn(session: Session, number: int) -> Any:
        await world.clock.sleep(number / 100)  # they come one after the other
        try:
            return await session.send("Hello")
        finally:
            order.append(f"{number}")

    async with world.manager() as manager:
        sessions = await several(manager, 5)
        found = await gathered(world, *((lambda s=s, n=n: turn(s, n)) for n, s in enumerate(sessions)))  # type: ignore[misc]
        assert [isinstance(one, ModelError) for one in found] == [True, True, False, False, False]
        assert order[:3] == ["0", "1", "2"]  # the last two go together
        assert sum(reply.usage.cache_write >= 3000 for reply in found[2:]) == 1
        assert found[2].usage.cache_write >= 3000
        await check_nothing_is_left(world, manager)
    world.check()


@everywhere
async def test_nobody_waits_longer_than_the_timeout() -> None:
    world = World(faults={0: Fault.stall(0)})
    async with world.manager(warmup_timeout=7.0) as manager:
        first, *others = await several(manager, 4)
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(first.send, "Hello")
                await world.clock.advance(1)
                replies = await gathered(world, *map(sending, others))
                assert waits(replies) == [7.0] * 3
                late = await create(manager, system=SYSTEM)
                assert waits(await gathered(world, sending(late))) == [0.0]
                scope.cancel()
        await check_nothing_is_left(world, manager)
    world.check()


@everywhere
async def test_one_that_goes_by_itself_opens_the_gate_for_the_rest() -> None:
    """Where the leader hangs, who came later goes on when the first that waited too long has its first event."""
    world = World(faults={0: Fault.stall(0)}, latency=ONE_SECOND)
    async with world.manager(warmup_timeout=10.0) as manager:
        first, second, third = await several(manager, 3)

        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(first.send, "Hello")
                await world.clock.advance(1)
                replies = await gathered(world, sending(second), after(world, 5, sending(third)))
                assert waits(replies) == [6.0, 10.0]  # it waited from 5 to 11
                assert replies[1].usage.cache_read >= 3000
                scope.cancel()
        await check_nothing_is_left(world, manager)


@everywhere
async def test_a_prefix_below_the_minimum_is_waited_for_once() -> None:
    """It was thought to be longer: the first answer tells, and from then on nobody waits."""
    world = World(latency=ONE_SECOND)
    async with world.manager() as manager:
        short = filler(420)
        replies = await gathered(world, *map(sending, await several(manager, 6, system=short)))
        assert world.engine.bill().usage.cache_write == 0
        assert waits(replies) == [0.0, *[1.0] * 5]
        assert waits(await gathered(world, *map(sending, await several(manager, 6, system=short)))) == [0.0] * 6
        await check_nothing_is_left(world, manager, short)
    world.check()


@everywhere
async def test_the_shortest_prefix_first_and_then_the_next() -> None:
    """All share the system prompt, and two of them a document behind it."""
    world = World(latency=ONE_SECOND)
    document = [{"type": "text", "text": filler(4000, "document")}]
    async with world.manager(ttl=Fixed("5m")) as manager:
        plain, with_document = await several(manager, 1), await several(manager, 2, context=document)

        replies = await gathered(
            world, sending(plain[0]), *(after(world, 0.5, sending(session)) for session in with_document)
        )
        assert waits(replies) == [0.0, 0.5, 1.5]
        usage = world.engine.bill().usage
        assert 7000 <= usage.cache_write < 7300
        await check_nothing_is_left(world, manager, context=document)
    world.check()


@everywhere
async def test_a_storm_of_cold_requests() -> None:
    """500 requests on 50 prefixes, one in ten fails: each prefix is written once, and nobody waits past the bound."""
    dice = random.Random(20261122)
    failing = {number: Fault.http(529) for number in range(600) if dice.random() < 0.1 and number < 500}
    world = World(faults=failing, latency=ONE_SECOND)
    async with world.manager(ttl=Fixed("5m"), warmup_timeout=20.0) as manager:
        systems = [filler(1000 + n, f"prefix{n}") for n in range(50)]
        sessions = [await create(manager, system=systems[n % 50]) for n in range(500)]
        dice.shuffle(sessions)
        found = await gathered(world, *(sending(one) for one in sessions), seconds=200)
        failed = [one for one in found if isinstance(one, Exception)]
        replies = [one for one in found if isinstance(one, Reply)]
        assert len(failed) == sum(number < 500 for number in failing)
        assert {type(one) for one in failed} == {ModelError}
        assert len(replies) == 500 - len(failed)
        written = Counter(str(reply.session.settings.system) for reply in replies if reply.usage.cache_write)
        assert len(written) == 50
        assert set(written.values()) == {1}
        assert max(waits(replies)) <= 20.0
        assert sum(number < 50 for number in failing) >= 3, "no leader failed: the first fifty requests lead"
        await check_nothing_is_left(world, manager, *systems)
    world.check()


@everywhere
async def test_a_stream_that_is_left_half_way_lets_the_others_go() -> None:
    world = World(latency=Latency(first_event=1.0, per_output_token=1.0))
    async with world.manager() as manager:
        first, *others = await several(manager, 3)

        async def leaving() -> None:
            async with first.stream("Hello") as stream:
                async for _ in stream:
                    break

        found = await gathered(world, leaving, *(after(world, 0.5, sending(one)) for one in others))
        assert waits(found[1:]) == [0.5, 0.5]
        assert sum(reply.usage.cache_write >= 3000 for reply in found[1:]) == 0
        await check_nothing_is_left(world, manager)


@everywhere
async def test_the_words_of_who_waits_are_kept_and_a_stop_ends_the_wait(tmp_path: Path) -> None:
    world = World(latency=Latency(first_event=20.0), url=tmp_path / "a.db")
    async with world.manager() as manager, world.manager() as other:
        first, second = await several(manager, 2)
        stream = second.stream("Do not lose me")
        kept: list[Any] = []

        async def reading() -> Reply:
            async with stream:
                return await stream.get_final_reply()

        async def stopping() -> None:
            await world.clock.sleep(5)
            kept.extend(words(await other.open(second.id)))
            await stream.cancel()

        _, stopped, _ = await gathered(world, sending(first), after(world, 1, reading), stopping)
        assert kept == ["Do not lose me"]
        assert (stopped.stop_reason, stopped.calls) == ("cancelled", ())
        assert len(world.requests) == 1
        assert await second.calls() == []
        await check_nothing_is_left(world, manager)
        assert (await gathered(world, sending(second, "And now?")))[0].text
        assert words(second) == ["Do not lose me", "And now?"]
    world.check()


@everywhere
async def test_a_warm_up_and_a_turn_at_the_same_time() -> None:
    """A zero-token request opens the gate at its end; one that then finds the prefix warm has nothing to do."""
    world = World(latency=Latency(first_event=2.0))
    async with world.manager(ttl=Fixed("5m")) as manager:
        warmed, asked, late = await several(manager, 3)

        usage, reply, nothing = await gathered(
            world, warmed.prewarm, after(world, 1, sending(asked)), after(world, 1, late.prewarm)
        )
        assert usage.cache_write >= 3000
        assert (reply.usage.cache_read, waits([reply])) == (usage.cache_write, [1.0])
        assert nothing is None
        assert len(world.requests) == 2
        await check_nothing_is_left(world, manager)
    world.check()


@everywhere
async def test_six_first_calls_in_three_processes_write_one_prefix(tmp_path: Path) -> None:
    world = World(latency=ONE_SECOND, url=tmp_path / "a.db")
    # Untended: it is to lapse in between.
    untended = [world.manager(tend=False) for _ in range(3)]
    async with untended[0] as one, untended[1] as two, untended[2] as three:
        managers = [one, two, three]
        sessions = [(await several(manager, 2))[n] for n in range(2) for manager in managers]
        replies = await gathered(world, *map(sending, sessions))
        assert sum(reply.usage.cache_write >= 3000 for reply in replies) == 1
        assert max(waits(replies)) <= 1.5  # the leader's first event, and one look at the store
        later = [(await several(manager, 1))[0] for manager in managers]
        again = await gathered(world, *(sending(session, "Other") for session in later))
        assert waits(again) == [0.0] * 3
        for manager in managers:
            await check_nothing_is_left(world, manager)
    world.check()


@everywhere
async def test_a_leader_elsewhere_that_takes_long_keeps_the_lead(tmp_path: Path) -> None:
    """Its word in the store is renewed: who asks in another process goes on waiting, and reads."""
    world = World(latency=Latency(first_event=25.0), url=tmp_path / "a.db")
    async with world.manager() as one, world.manager() as two:
        (first,), (second,) = await several(one, 1), await several(two, 1)

        replies = await gathered(world, sending(first), after(world, 2, sending(second)))
        assert replies[1].usage.cache_read >= 3000
        assert 23.0 <= replies[1].calls[0].waited <= 23.5
    world.check()


@everywhere
async def test_a_leader_elsewhere_that_fails_or_dies(tmp_path: Path) -> None:
    world = World(latency=ONE_SECOND, faults={0: Fault.http(529)}, url=tmp_path / "a.db")
    store = SQLStore(world.url)
    async with world.manager(store=store) as one, world.manager() as two:
        (first,), (second,) = await several(one, 1), await several(two, 1)

        failed, reply = await gathered(world, sending(first), after(world, 0.01, sending(second)))
        assert isinstance(failed, ModelError)
        assert reply.usage.cache_write >= 3000
        dead = Holder(Holder.current("here").host, 2**22 + 1, 1.0)
        for holder, longest in ((ELSEWHERE, 10.5), (dead, 0.0)):
            system = filler(3000, holder.host[:5])
            session, point = await create(two, system=system), await point_of(system)
            assert (await store.lead(point, holder, seconds=10, now=world.clock.now())).state == "leading"
            (found,) = await gathered(world, sending(session))
            assert longest - 0.6 <= found.calls[0].waited <= longest
            assert found.usage.cache_write >= 3000
    world.check()


@everywhere
async def test_nobody_waits_for_another_process_longer_than_the_timeout(tmp_path: Path) -> None:
    world = World(url=tmp_path / "a.db")
    store = SQLStore(world.url)
    async with world.manager(store=store, warmup_timeout=3.0) as manager:
        (session,) = await several(manager, 1)
        await store.lead(await point_of(SYSTEM), ELSEWHERE, seconds=60, now=world.clock.now())
        (reply,) = await gathered(world, sending(session))
        assert waits([reply]) == [3.0]
        await check_nothing_is_left(world, manager)
    world.check()


@everywhere
async def test_that_nothing_is_written_there_is_told_to_other_processes(tmp_path: Path) -> None:
    world = World(latency=ONE_SECOND, url=tmp_path / "a.db")
    async with world.manager() as one, world.manager() as two:
        first, *rest = [await create(manager, system=filler(420)) for manager in (one, two, two, two)]
        replies = await gathered(world, sending(first), *(after(world, 0.5, sending(session)) for session in rest))
        assert max(waits(replies)) <= 2.0  # once for each process
        assert world.engine.bill().usage.cache_write == 0
        assert waits(await gathered(world, *map(sending, await several(two, 3, system=filler(420))))) == [0.0] * 3


@everywhere
async def test_a_leader_that_has_lost_the_lead_says_nothing(tmp_path: Path) -> None:
    world = World(latency=Latency(first_event=25.0), url=tmp_path / "a.db")
    store = Counting(world.url)
    async with world.manager(store=store) as manager:
        (session,) = await several(manager, 1)

        async def taking() -> str:
            assert store.answer is not None
            point, leading = store.answer
            await store.led(point, leading.token, ttl=None, alive=0, now=world.clock.now())
            await store.lead(point, ELSEWHERE, seconds=90, now=world.clock.now())
            return point

        reply, point = await gathered(world, sending(session), after(world, 2, taking), seconds=50)
        assert reply.usage.cache_write >= 3000
        found = await store.lead(point, Holder.current("here"), seconds=1, now=world.clock.now())
        assert (found.state, found.holder) == ("taken", ELSEWHERE)
        await check_nothing_is_left(world, manager)


@pytest.mark.parametrize("fails", [True, False])
@everywhere
async def test_a_request_that_is_over_asks_the_store_no_more(fails: bool) -> None:
    """Its word there is renewed until it has its first event, or has failed, and not once after that."""

    async def script(request: Request) -> Any:
        await world.clock.sleep(7)
        return Fault.http(529) if fails else "ok"

    world, store = World(script), Counting()
    async with world.manager(store=store) as manager:
        (session,) = await several(manager, 1)
        (found,) = await gathered(world, sending(session), seconds=7)
        assert isinstance(found, ModelError) == fails
        assert (store.asked, store.told) == (3, 1)  # first, and after 3 and 6 seconds
        await world.clock.advance(60)
        assert (store.asked, store.told) == (3, 1)


class Slow(SQLStore):
    """A real store whose second question takes five seconds, before or after it is put."""

    asked, before = 0, True
    world: World

    async def lead(self, *args: Any, **given: Any) -> Warmup:
        self.asked += 1
        if self.asked == 2 and self.before:
            await self.world.clock.sleep(5)
        found = await super().lead(*args, **given)
        if self.asked == 2 and not self.before:
            await self.world.clock.sleep(5)
        return found


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("fails", [True, False])
@everywhere
async def test_a_word_that_is_renewed_while_the_request_ends(before: bool, fails: bool) -> None:
    """Nobody is left waiting for a request that is over."""
    world = World(latency=Latency(first_event=4.0))
    store = Slow("sqlite://")
    store.world, store.before = world, before

    async def failing(request: Request) -> Any:
        await world.clock.sleep(4.0 if fails else 0.0)
        return Fault.http(529) if fails else "ok"

    world.engine.script = failing
    async with world.manager(store=store) as manager:
        (session,) = await several(manager, 1)
        (found,) = await gathered(world, sending(session), seconds=9)
        assert isinstance(found, ModelError) == fails
        assert store.asked == 2
        then = await store.lead(await point_of(SYSTEM), ELSEWHERE, seconds=1, now=world.clock.now())
        assert then.state == ("leading" if fails else "warm")
        world.engine.script = lambda request: "ok"
        await check_nothing_is_left(world, manager)


@everywhere
async def test_a_store_that_knows_nothing_of_warm_ups_costs_money_not_turns(caplog: pytest.LogCaptureFixture) -> None:
    world, store = World(latency=ONE_SECOND), Counting()
    async with world.manager(store=store) as manager:
        sessions = await several(manager, 3)
        store.broken = True
        replies = await gathered(world, *map(sending, sessions[:2]))
        assert waits(replies) == [0.0, 1.0]  # within the process it works all the same
        store.broken = False
        other = await create(manager, system=filler(3000, "other"))

        async def breaking() -> None:
            await world.clock.sleep(0.5)
            store.broken = True

        reply, _ = await gathered(world, sending(other), breaking)
        assert reply.usage.cache_write >= 3000
        assert "who warms a prefix" in caplog.text
        assert "be told" in caplog.text
        await check_nothing_is_left(world, manager)


@everywhere
async def test_a_turn_inside_a_turn_does_not_wait_for_itself() -> None:
    """A tool that talks to a branch of its own session while the turn is under way."""

    def script(request: Request) -> Any:
        if request.text == "go" and not request.results:
            return [{"type": "tool_use", "name": "delegate", "input": {}}]
        return "done"

    world = World(script, latency=ONE_SECOND)

    async def delegate() -> str:
        """Asks a helper."""
        return (await (await session.fork()).send("help")).text

    async with world.manager() as manager:
        session = await create(manager, system=SYSTEM, tools=[tool(delegate)])
        (reply,) = await gathered(world, sending(session, "go"))
        assert reply.text == "done"
        assert [call.waited for call in reply.calls] == [0.0, 0.0]
        await check_nothing_is_left(world, manager, tools=[tool(delegate)])
    world.check()
