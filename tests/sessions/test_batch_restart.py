"""A batch outlives the process that sent it: whoever comes next goes on from there, and nothing is paid twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anthropic
import anyio
import anyio.lowlevel
import httpx2
import pytest

import sessions.model.batch_api
from sessions import BatchIncomplete, ConfigurationError, ModelError, Reply, Session, SessionBusy, SessionManager
from sessions.model.batch_api import item
from sessions.simulator import Engine, Fault, Transport
from sessions.testing import ManualClock
from sessions.turns.batched import Part
from storage import open_store
from tests.crash.test_killed_anywhere import Dying
from tests.sessions.test_batch import MINUTE, SLOW, batches, check_bills, echo, items, turned
from tests.sessions.world import SYSTEM, World, create, everywhere, words

CONTENTS = ["red", "green", "blue"]
REPLIES = [f"re: {color}" for color in CONTENTS]
HOUR = 60 * MINUTE


async def given_up(world: World, seconds: float) -> None:
    """A process that sends the batch and is gone after some seconds."""
    async with world.manager() as manager:
        session = await create(manager, id="fixed")
        with pytest.raises(TimeoutError, match="it goes on"):
            await turned(world, seconds + 1, lambda: session.batch(CONTENTS, idempotency_key="k", timeout=seconds))


async def with_key(world: World, manager: SessionManager) -> list[Reply]:
    session = await manager.open("fixed")
    replies: list[Reply] = await turned(world, HOUR, lambda: session.batch(CONTENTS, idempotency_key="k"))
    return replies


@everywhere
@pytest.mark.parametrize("seconds", [5.0, 9 * MINUTE, 15 * MINUTE])
async def test_the_same_key_in_another_process_collects(seconds: float, tmp_path: Path) -> None:
    world = World(echo, url=tmp_path / "a.db", latency=SLOW)
    await given_up(world, seconds)
    async with world.manager() as manager:
        replies = await with_key(world, manager)
        assert [one.text for one in replies] == REPLIES
        assert (batches(world), len(items(world))) == (2, 3)
        await check_bills(world, *(one.session for one in replies))
    world.check()


@everywhere
async def test_recover_collects_and_sends_what_was_left(tmp_path: Path) -> None:
    world = World(echo, url=tmp_path / "a.db", latency=SLOW)
    await given_up(world, 5.0)
    async with world.manager() as manager:
        found: dict[str, Any] = {}
        for _ in range(25):
            found |= await manager.recover()
            await world.clock.advance(MINUTE)
        assert sorted(one.text for one in found.values()) == sorted(REPLIES)
        assert all(one.session.id == id for id, one in found.items())
        assert (batches(world), len(items(world))) == (2, 3)
        await check_bills(world, *(one.session for one in found.values()))
        assert [one.text for one in await with_key(world, manager)] == REPLIES
    world.check()


@everywhere
async def test_in_the_background_with_few_looks(tmp_path: Path) -> None:
    world = World(echo, url=tmp_path / "a.db", latency=SLOW)
    await given_up(world, 5.0)
    before = len(world.requests)
    async with world.manager(recover=True) as manager:
        await world.clock.advance(25 * MINUTE)
        assert len(world.requests) - before < 80
        assert [one.text for one in await with_key(world, manager)] == REPLIES
    assert (batches(world), len(items(world))) == (2, 3)


@everywhere
async def test_a_call_that_looks_after_its_batch_is_not_disturbed_by_recovery(tmp_path: Path) -> None:
    world = World(echo, url=tmp_path / "a.db", latency=SLOW)
    async with world.manager(recover=True) as manager, world.manager(recover=True) as other:
        session = await create(manager)
        replies = await turned(world, HOUR, lambda: session.batch(CONTENTS))
        assert [one.text for one in replies] == REPLIES
        assert await other.recover() == {}
        await check_bills(world, *(one.session for one in replies))
    assert (batches(world), len(items(world))) == (2, 3)


@everywhere
async def test_two_processes_with_one_key_send_once(tmp_path: Path) -> None:
    world = World(echo, url=tmp_path / "a.db", latency=SLOW)
    async with world.manager() as one, world.manager() as two:
        first = await create(one, id="fixed")
        second = await two.open("fixed")
        found: list[list[Reply]] = []

        async def send(session: Session) -> None:
            found.append(await session.batch(CONTENTS, idempotency_key="k"))

        async with anyio.create_task_group() as group:
            group.start_soon(send, first)
            await anyio.lowlevel.checkpoint()
            group.start_soon(send, second)
            await world.clock.advance(HOUR)
        assert [[reply.text for reply in replies] for replies in found] == [REPLIES, REPLIES]
        await check_bills(world, *(reply.session for reply in found[0]))
    assert (batches(world), len(items(world))) == (2, 3)
    world.check()


@pytest.mark.parametrize("then", ["key", "recover"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_a_process_that_dies_at_each_commit(after: bool, then: str, tmp_path: Path) -> None:
    for at in range(1, 50):
        path = tmp_path / f"{at}.db"
        world = World(echo, url=path, latency=SLOW)
        store = Dying(path, at, after=after)
        async with world.manager(store=store) as manager:
            session = await create(manager, id="fixed")
            try:
                await turned(world, HOUR, lambda s=session: s.batch(CONTENTS, idempotency_key="k"))
            except Exception:
                assert store.dead
        async with world.manager() as manager:
            if then == "recover":
                for _ in range(60):
                    await manager.recover()
                    await world.clock.advance(MINUTE)
                assert await manager.runtime.store.orphans(now=world.clock.now(), limit=9) == []
            made = len(items(world))
            replies = await with_key(world, manager)
            assert [one.text for one in replies] == REPLIES
            assert [words(one.session) for one in replies] == [[color] for color in CONTENTS]
            assert (batches(world), len(items(world))) == (2, 3)
            assert then == "key" or made in (0, 3)  # what was sent at all was collected without the key
            await check_bills(world, *(one.session for one in replies))
            assert [await one.session.verify() for one in replies] == [None] * 3
        world.check()
        if not store.dead:
            break
    else:
        raise AssertionError("the batch never came through")
    assert at > 10


@everywhere
async def test_an_answer_that_is_lost_after_the_batch_was_made(tmp_path: Path) -> None:
    world = World(echo, url=tmp_path / "a.db", latency=SLOW, faults={0: Fault.cut(0)})
    async with world.manager(max_retries=2) as manager:
        session = await create(manager)
        replies = await turned(world, HOUR, lambda: session.batch(CONTENTS))
        assert [one.text for one in replies] == REPLIES
    assert (batches(world), len(items(world))) == (2, 3)


@everywhere
async def test_a_batch_that_never_arrived_is_sent_again(tmp_path: Path) -> None:
    world = World(echo, url=tmp_path / "a.db", latency=SLOW, faults={0: Fault.drop()})
    async with world.manager() as manager:
        session = await create(manager)
        replies = await turned(world, HOUR, lambda: session.batch(CONTENTS))
        assert [one.text for one in replies] == REPLIES
        assert items(world)[0].started >= world.requests[0].started + MINUTE
    assert (batches(world), len(items(world))) == (2, 3)


@everywhere
async def test_a_strangers_batch_is_not_taken_for_ours(tmp_path: Path) -> None:
    """Of the same size and time, and still being processed: only its end can tell."""
    world = World(echo, url=tmp_path / "a.db", latency=SLOW, faults={2: Fault.drop()})
    async with world.manager() as manager:
        params = {"model": "claude-sonnet-5-5", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
        theirs: list[Any] = [{"custom_id": name, "params": params} for name in ("one", "two")]
        await manager.runtime.client.sdk.messages.batches.create(requests=theirs[:1])
        await manager.runtime.client.sdk.messages.batches.create(requests=theirs)
        session = await create(manager)
        replies = await turned(world, HOUR, lambda: session.batch(CONTENTS))
        assert [one.text for one in replies] == REPLIES
    assert (batches(world), len(items(world))) == (4, 6)


@everywhere
async def test_the_branch_itself_waits_or_says_that_it_is_busy(tmp_path: Path) -> None:
    world = World(echo, url=tmp_path / "a.db", latency=SLOW)
    await given_up(world, 11 * MINUTE)
    async with world.manager() as manager:
        infos = await manager.list(branches=True)
        branches = [await manager.open(one.id) for one in infos if one.id != "fixed"]
        waiting = [one for one in branches if len(one.messages) == 1]
        assert len(waiting) == 2
        with pytest.raises(SessionBusy, match=r"msgbatch_.*resume"):
            await waiting[0].send("And now?")
        reply = await turned(world, HOUR, waiting[0].resume)
        assert reply is not None
        assert reply.text == f"re: {words(waiting[0])[0]}"
        assert await waiting[0].resume() is None
        assert (await waiting[1].send("And now?")).text == "re: And now?"
        assert len(words(waiting[1])) == 2
        await check_bills(world, *branches)
    assert (batches(world), len(items(world))) == (2, 3)
    world.check()


@everywhere
async def test_an_api_that_is_down_for_a_while_is_asked_again(tmp_path: Path) -> None:
    down = {number: Fault.http(529) for number in (3, 4, 5, 6)}
    world = World(echo, url=tmp_path / "a.db", latency=SLOW, faults=down)
    async with world.manager() as manager:
        session = await create(manager)
        replies = await turned(world, 2 * HOUR, lambda: session.batch(CONTENTS))
        assert [one.text for one in replies] == REPLIES


@everywhere
@pytest.mark.parametrize(("fault", "retryable"), [(Fault.http(429), True), (Fault.http(401), False)])
async def test_a_batch_that_is_refused_is_sent_by_the_next_call(fault: Fault, retryable: bool, tmp_path: Path) -> None:
    faults = dict.fromkeys(range(5) if retryable else [0], fault)
    world = World(echo, url=tmp_path / "a.db", latency=SLOW, faults=faults)
    async with world.manager() as manager:
        session = await create(manager, id="fixed")
        with pytest.raises(ModelError) as caught:
            await turned(world, HOUR, lambda: session.batch(CONTENTS, idempotency_key="k"))
        assert caught.value.retryable == retryable
        assert batches(world) == 0
        assert [one.text for one in await with_key(world, manager)] == REPLIES
    assert (batches(world), len(items(world))) == (2, 3)


@everywhere
async def test_results_that_are_gone_are_counted_as_expected(tmp_path: Path) -> None:
    world = World(echo, url=tmp_path / "a.db", latency=SLOW)
    await given_up(world, 11 * MINUTE)
    await world.clock.advance(30 * 24 * HOUR)
    async with world.manager() as manager:
        session = await manager.open("fixed")
        with pytest.raises(BatchIncomplete, match="29 days") as caught:
            await turned(world, HOUR, lambda: session.batch(CONTENTS, idempotency_key="k"))
        results = caught.value.results
        assert [isinstance(one, Reply) for one in results] == [True, False, False]
        branches = [await manager.open(one.id) for one in await manager.list(branches=True) if one.id != "fixed"]
        lost = [one for branch in branches for one in await branch.calls() if one.status == "error"]
        assert [one.kind for one in lost] == ["batch"] * 2
        for one in lost:
            assert one.cost is not None
            assert one.cost > 0
        assert [one.text for one in await with_key(world, manager)] == REPLIES


@everywhere
async def test_branches_that_go_on_or_go_away_meanwhile(tmp_path: Path) -> None:
    world = World(echo, url=tmp_path / "a.db", latency=SLOW)
    await given_up(world, 11 * MINUTE)
    async with world.manager() as manager:
        infos = [one for one in await manager.list(branches=True) if one.id != "fixed"]
        branches = {words(branch)[0]: branch for branch in [await manager.open(one.id) for one in infos]}
        await branches["green"].append([{"role": "assistant", "content": "I know."}])
        await branches["blue"].delete()
        session = await manager.open("fixed")
        with pytest.raises(BatchIncomplete, match="2 of 3") as caught:
            await turned(world, HOUR, lambda: session.batch(CONTENTS, idempotency_key="k"))
        assert [type(one) for one in caught.value.results] == [Reply, ModelError, ModelError]
        assert "went on" in str(caught.value.results[1])
        assert "deleted" in str(caught.value.results[2])
        (paid,) = await branches["green"].calls()
        assert paid.usage.output > 0
    assert (batches(world), len(items(world))) == (2, 3)


@everywhere
async def test_branches_of_a_call_that_died_before_it_sent_anything(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    world, store = World(echo, url=path, latency=SLOW), Dying(path, 2, after=True)
    async with world.manager(store=store) as manager:
        session = await create(manager, id="fixed")
        with pytest.raises(ConfigurationError, match="dead"):
            await session.batch(CONTENTS)
    await world.clock.advance(11)
    async with world.manager() as manager:
        branches = [
            await manager.open(one.id) for one in await manager.list(branches=True) if one.id != "fixed" and one.head
        ]
        assert branches
        with pytest.raises(SessionBusy, match="being made"):  # for all that is known, it still is
            await branches[0].resume()
        assert await manager.recover() == {}
        await world.clock.advance(600)
        assert await manager.recover() == {}
        reply = await branches[0].resume()
        assert reply is not None
        assert [one.kind for one in reply.calls] == ["turn"]
    assert batches(world) == 0


@everywhere
async def test_a_branch_that_is_deleted_while_its_batch_is_waited_for(tmp_path: Path) -> None:
    world = World(echo, url=tmp_path / "a.db", latency=SLOW)
    async with world.manager() as manager, world.manager() as other:
        session = await create(manager)

        async def delete() -> None:
            await world.clock.sleep(15 * MINUTE)
            blue = next(one.id for one in await other.list(search="blue", branches=True))
            await other.delete(blue)

        async with anyio.create_task_group() as group:
            group.start_soon(delete)
            with pytest.raises(BatchIncomplete, match="1 of 3") as caught:
                await turned(world, HOUR, lambda: session.batch(CONTENTS))
        assert [type(one) for one in caught.value.results] == [Reply, Reply, ModelError]


@everywhere
async def test_a_batch_that_somebody_cancels_is_sent_again_by_the_next_call(tmp_path: Path) -> None:
    world = World(echo, url=tmp_path / "a.db", latency=SLOW)
    async with world.manager() as manager:
        session = await create(manager, id="fixed")

        async def cancel() -> None:
            await world.clock.sleep(15 * MINUTE)
            api = manager.runtime.client.sdk.messages.batches
            await api.cancel((await api.list()).data[0].id)

        async with anyio.create_task_group() as group:
            group.start_soon(cancel)
            with pytest.raises(BatchIncomplete, match=r"2 of 3.*canceled") as caught:
                await turned(world, HOUR, lambda: session.batch(CONTENTS, idempotency_key="k"))
        assert caught.value.retryable
        replies = await with_key(world, manager)
        assert [one.text for one in replies] == REPLIES
        await check_bills(world, *(one.session for one in replies))
    assert (batches(world), len(items(world))) == (3, 3)


@everywhere
async def test_a_branch_whose_content_is_refused_says_so(tmp_path: Path) -> None:
    world = World(echo, url=tmp_path / "a.db", latency=SLOW)
    odd = [{"type": "text", "text": "green"}, {"type": "odd", "text": "nobody knows this block"}]
    async with world.manager() as manager:
        session = await create(manager, id="fixed")
        with pytest.raises(TimeoutError):
            await turned(world, 11 * MINUTE, lambda: session.batch(["red", odd], timeout=660.0))
    async with world.manager() as manager:
        branch = await manager.open(
            next(one.id for one in await manager.list(search="nobody knows this block", branches=True))
        )
        with pytest.raises(ModelError, match="invalid_request_error"):
            await turned(world, HOUR, branch.resume)
        assert await branch.resume() is None
        assert (await branch.send("red again")).text == "re: red again"


@everywhere
async def test_without_a_key_nothing_is_left_half_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    monkeypatch.delenv("ANTHROPIC_AUTH_TOKEN", raising=False)
    clock = ManualClock()
    async with httpx2.AsyncClient(transport=Transport(Engine())) as http:
        client = anthropic.AsyncAnthropic(http_client=http, credentials=None)
        async with SessionManager("sqlite://", client=client, clock=clock) as manager:
            session = await create(manager)
            with pytest.raises(ConfigurationError, match="no API key"):
                await session.batch(CONTENTS)
            ids = await manager.runtime.store.orphans(now=clock.now(), limit=9)
            parts = [Part.of_row(await manager.runtime.store.open_turn(id)) for id in ids]
            assert [part.waits for part in parts if part is not None] == [True] * 3


async def test_recovered_on_postgresql(new_database: Callable[[], str]) -> None:
    url = new_database()
    await open_store(url).upgrade()
    world = World(echo, url=url, latency=SLOW)
    await given_up(world, 5.0)
    async with world.manager() as one, world.manager() as two:
        found: dict[str, Any] = {}
        for _ in range(25):
            async with anyio.create_task_group() as group:
                for manager in (one, two):
                    group.start_soon(_recover, manager, found)
            await world.clock.advance(MINUTE)
        assert sorted(reply.text for reply in found.values()) == sorted(REPLIES)
        await check_bills(world, *(reply.session for reply in found.values()))
    assert (batches(world), len(items(world))) == (2, 3)
    world.check()


async def _recover(manager: SessionManager, found: dict[str, Any]) -> None:
    outcomes = await manager.recover()
    assert not set(outcomes) & set(found)  # each by one of the two
    found.update(outcomes)


async def test_a_large_one_is_sent_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions.model.batch_api, "MOST", 2)
    world = World(echo)
    async with world.manager() as manager:
        contents = [str(number) for number in range(6)]
        replies = await (await create(manager)).batch(contents)
        assert [one.text for one in replies] == [f"re: {one}" for one in contents]
        assert batches(world) == 4
        monkeypatch.setattr(sessions.model.batch_api, "LARGEST", 5000)
        replies = await (await create(manager, system="Short.")).batch(["x" * 3000] * 3)
        assert batches(world) == 7
        assert len(replies) == 3


async def test_a_key_is_for_its_contents() -> None:
    world = World(echo)
    async with world.manager() as manager:
        session = await create(manager)
        await session.batch(CONTENTS, idempotency_key="k")
        for contents in (["red", "green"], [*CONTENTS, "gray"], ["red", "green", "black"]):
            with pytest.raises(ConfigurationError, match="choose a new key"):
                await session.batch(contents, idempotency_key="k")
        assert len(await session.batch(["gray"], idempotency_key="other")) == 1
    assert len(items(world)) == 4


async def test_branches_start_where_the_first_call_started(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    world, store = World(echo, url=path), Dying(path, 2, after=True)
    async with world.manager(store=store) as manager:
        session = await create(manager, id="fixed")
        with pytest.raises(ConfigurationError, match="dead"):
            await session.batch(CONTENTS, idempotency_key="k")
    await world.clock.advance(11)
    async with world.manager() as manager:
        session = await manager.open("fixed")
        await session.send("Something else.")
        replies = await session.batch(CONTENTS, idempotency_key="k")
        assert [words(one.session) for one in replies] == [[color] for color in CONTENTS]


async def test_pending_instructions_go_with_each_branch() -> None:
    world = World(echo)
    async with world.manager() as manager:
        session = await create(manager)
        await session.instruct("Be brief.")
        replies = await session.batch(["red", "green"])
        for reply in replies:
            assert [one["role"] for one in reply.session.messages] == ["user", "system", "assistant"]
            assert reply.session.settings.instructions == ()
    world.check()


async def test_other_platforms_and_settings_are_refused_before_anything_is_stored() -> None:
    http = httpx2.AsyncClient(transport=Transport(Engine()))
    bedrock = anthropic.AsyncAnthropicBedrock(aws_region="us-east-1", http_client=http, api_key="x")
    foundry = anthropic.AsyncAnthropicFoundry(api_key="x", resource="r", http_client=http)
    for client in (bedrock, foundry):
        async with SessionManager("sqlite://", client=client, clock=ManualClock()) as manager:
            session = await manager.create(model="claude-sonnet-5-5", max_tokens=100, system=SYSTEM)
            with pytest.raises(ConfigurationError, match=r"no Message Batches: use map"):
                await session.batch(CONTENTS)
            assert len(await manager.list(branches=True)) == 1
    await http.aclose()
    async with World(echo).manager() as manager:
        session = await create(manager, params={"speed": "fast"})
        with pytest.raises(ConfigurationError, match="use map"):
            await session.batch(CONTENTS)


async def test_arguments_of_the_sdk_become_fields_and_headers() -> None:
    body = {"model": "m", "betas": ["b"], "extra_headers": {"x-a": "1"}, "extra_body": {"new": 1}, "timeout": 3}
    assert item(body) == {"model": "m", "new": 1}
    world = World(echo)
    async with world.manager() as manager:
        params = {
            "betas": ["compact-2026-09-04"],
            "extra_headers": {"x-a": "1"},
            "extra_body": {"service_tier": "auto"},
        }
        session = await create(manager, params=params)
        (reply,) = await session.batch(["red"])
        assert reply.text == "re: red"
        (made,) = items(world)
        assert made.betas == {"compact-2026-09-04"}
        assert made.body["service_tier"] == "auto"
