"""One keeper for a prefix that many sessions use: read once for all of them, for as long as uses are expected."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from sessions import Budget, Fixed, SessionManager, Usage, simulator
from sessions.core.profiles import profile_for
from sessions.simulator import Exchange, Fault, Scripted
from storage.sql import SQLStore
from storage.sqlite.database import SQLiteDatabase
from storage.threads import outcome
from storage.transactions import Database
from tests.sessions.world import World, buckets, everywhere, marks

OPUS = "claude-opus-5"
HOUR = 3600.0
HEAD = simulator.filler(20_000)
GAPS = (3000.0, 4200.0, 2400.0, 5000.0, 3300.0, 4500.0, 3900.0, 2700.0)
"""Seconds between sessions: between 40 and 90 minutes."""
CALLED = [{"name": "look", "description": "Looks.", "input_schema": {"type": "object"}}]


def world(**given: Any) -> World:
    return World(lambda request: Scripted("Yes, of course.", output_tokens=5), **given)


async def visit(manager: SessionManager, **given: Any) -> Usage:
    """A new session's only turn, which nobody comes back for."""
    session = await manager.create(**{"model": OPUS, "max_tokens": 1000, "system": HEAD, **given})
    return (await session.send("hello", expected_gap=float("inf"))).usage


async def visits(at: World, *managers: SessionManager, gaps: Any = GAPS, **given: Any) -> list[Usage]:
    """One session after the other, each in the next of these managers."""
    found = []
    for number, gap in enumerate(gaps):
        found.append(await visit(managers[number % len(managers)], **given))
        await at.clock.advance(gap)
    return found


def kept(at: World) -> list[Exchange]:
    """The requests for no tokens."""
    return [one for one in at.requests if (one.body or {})["max_tokens"] == 0]


async def rows(manager: SessionManager) -> dict[str, int]:
    """How many idle requests are in the ledgers of which session."""
    found = {}
    for info in await manager.list(branches=True):
        calls = await (await manager.open(info.id)).calls()
        if idle := [call for call in calls if call.kind != "turn"]:
            found[info.id] = len(idle)
    return found


async def ledger(manager: SessionManager) -> tuple[Any, ...]:
    costs = await manager.costs("kind")
    used = sum((cost.usage for cost in costs.values()), start=Usage())
    return buckets(used), sum(cost.total for cost in costs.values())


def billed(at: World) -> tuple[Any, ...]:
    bill = at.engine.bill()
    return buckets(bill.usage), bill.cost


@everywhere
async def test_a_head_used_every_forty_to_ninety_minutes_is_read_once_for_all() -> None:
    costs = []
    for tend in (True, False):
        at = world()
        async with at.manager(tend=tend) as manager:
            usages = await visits(at, manager, gaps=GAPS * 2)
            costs.append(at.engine.bill().cost)
            if tend:
                assert all(usage.cache_read >= 20_000 for usage in usages[4:])
                # Nothing is sent but the head and a placeholder, and it is read for another hour.
                for one in kept(at):
                    assert marks(dict(one.body or {})) == [("system", "1h")]
                    assert len((one.body or {})["messages"]) == 1
                    assert one.prompt is not None
                    assert (one.prompt.usage.cache_read, one.prompt.usage.cache_write) == (20_000, 0)
                late = [gap for gap in (GAPS * 2)[3:] if gap > HOUR - 60.0]
                assert len(kept(at)) == len(late), "one for each hour in which nobody asked"
                ((session, many),) = (await rows(manager)).items()
                assert session.startswith("head-")
                assert many == len(late)
            assert await ledger(manager) == billed(at)
        at.check()
    assert costs[0] < costs[1] / 2


@everywhere
async def test_it_ends_when_nobody_asks_any_more_and_begins_again_with_the_next_use() -> None:
    at = world()
    async with at.manager() as manager:
        await visits(at, manager)
        before = len(kept(at))
        assert before
        await at.clock.advance(40 * HOUR)
        assert len(kept(at)) - before <= 1, "nobody ever came later than that"
        ended = len(kept(at))
        await visits(at, manager, gaps=GAPS[:3])
        await at.clock.advance(2 * HOUR)
        assert len(kept(at)) == ended, "what was long ago says nothing of today"
        await visits(at, manager, gaps=GAPS)
        assert len(kept(at)) > ended
        assert await ledger(manager) == billed(at)
    at.check()


async def test_the_rows_are_those_of_a_session_that_nobody_owns() -> None:
    at = world()
    async with at.manager() as manager:
        await visits(at, manager, owner="ann")
        ((id, many),) = (await rows(manager)).items()
        session = await manager.open(id)
        assert (session.owner, session.metadata, session.messages) == (None, {"purpose": "keep"}, [])
        assert session.conversation.settings.system == ()
        assert {call.kind for call in await session.calls()} == {"refresh"}
        assert (await session.cost()).calls == many
        assert not any(one.id.startswith("head-") for one in await manager.for_owner("ann").list())
        assert await manager.recover() == {}
    at.check()


@everywhere
async def test_of_all_workers_on_a_store_one_reads_it(tmp_path: Path) -> None:
    """Each knows of the others' uses by the ledger alone."""
    at = world(url=tmp_path / "shared.db")
    async with at.manager() as one, at.manager() as two:
        usages = await visits(at, one, two, gaps=GAPS * 2)
        assert all(usage.cache_read >= 20_000 for usage in usages[5:])
        starts = [exchange.started for exchange in kept(at)]
        assert len(starts) >= 6
        assert all(after - before > HOUR - 61.0 for before, after in pairwise(starts))
        assert len(await rows(one)) == 1
        assert await ledger(two) == billed(at)
    at.check()


async def test_a_worker_that_knows_the_head_from_the_ledger_alone_takes_it_up(tmp_path: Path) -> None:
    """The one that used it has ended; another one, which serves other conversations, reads it in time."""
    at = world(url=tmp_path / "shared.db")
    async with at.manager() as one:
        usages = await visits(at, one, gaps=(*GAPS[:7], 600.0))
        assert usages[-1].cache_read >= 20_000
    before = len(kept(at))
    async with at.manager() as other:
        await at.clock.advance(HOUR - 600.0 - 90.0)
        await visit(other, system=simulator.filler(100))
        await at.clock.advance(80.0)
        assert len(kept(at)) == before + 1
        last = kept(at)[-1].prompt
        assert last is not None
        assert last.usage.cache_read == 20_000
        assert await ledger(other) == billed(at)
    at.check()


async def test_nothing_is_read_after_the_end(tmp_path: Path) -> None:
    at = world(url=tmp_path / "shared.db")
    async with at.manager() as manager:
        await visits(at, manager)
        await visit(manager)
    ended = len(kept(at))
    assert ended
    await at.clock.advance(10 * HOUR)
    assert len(kept(at)) == ended
    async with at.manager() as manager:
        await visit(manager, system=simulator.filler(100))
        await at.clock.advance(HOUR)
        assert len(kept(at)) == ended, "it has lapsed: to write it anew is for whoever asks"


@pytest.mark.parametrize("given", [{"tend": False}, {"ttl": Fixed("1h")}, {"ttl": Fixed("5m")}])
async def test_who_wants_nothing_sent_while_idle_gets_nothing(given: dict[str, Any]) -> None:
    at = world()
    async with at.manager(**given) as manager:
        await visits(at, manager, gaps=GAPS * 2)
        assert kept(at) == []
        assert await rows(manager) == {}
    at.check()


async def test_a_head_that_is_asked_for_within_every_hour_has_no_session() -> None:
    at = world()
    async with at.manager() as manager:
        await visits(at, manager, gaps=[900.0] * 12)
        await at.clock.advance(5 * HOUR)
        assert kept(at) == []
        assert not any(one.id.startswith("head-") for one in await manager.list(branches=True))
    at.check()


async def test_a_budget_without_room_lets_it_lapse(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Turns of the other sessions have room: one for the head costs a cent."""
    caplog.set_level(logging.INFO, "sessions")
    for usd, many in ((0.009, 0), (0.02, 1)):
        at = world(url=tmp_path / f"{usd}.db")
        async with at.manager() as manager:
            await visits(at, manager, gaps=(*GAPS[:7], HOUR - 90.0))
        before = len(kept(at))
        async with at.manager(budgets=[Budget(usd, "session", 48 * HOUR)]) as manager:
            await visit(manager, system=simulator.filler(100), max_tokens=20)
            await at.clock.advance(2 * HOUR)
            assert len(kept(at)) == before + many
            assert await ledger(manager) == billed(at)
        at.check()
    assert "is not kept warm: the budget of" in caplog.text


async def test_this_hours_limit_holds_for_it_too(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("sessions.core.idle_limits.FREE_PER_HOUR", 0.0)
    monkeypatch.setattr("sessions.core.idle_limits.SHARE_PER_HOUR", 0.0)
    caplog.set_level(logging.INFO, "sessions")
    at = world()
    async with at.manager() as manager:
        await visits(at, manager)
    assert kept(at) == []
    assert "is not kept warm: this hour's limit for idle requests is reached" in caplog.text


@pytest.mark.parametrize(
    "fields",
    [
        {"model": "claude-sonnet-4-6", "thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 3000},
        {"tools": CALLED, "tool_choice": {"type": "none"}},
        {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}},
    ],
)
async def test_settings_that_such_a_request_may_not_have_are_left_out(fields: dict[str, Any]) -> None:
    """They are no part of what the head is cached by."""
    at = world()
    async with at.manager() as manager:
        usages = await visits(at, manager, gaps=GAPS * 2, **fields)
        assert all(usage.cache_read >= 20_000 for usage in usages[4:])
        assert len(kept(at)) >= 5
        assert all(one.prompt is not None and not one.prompt.usage.cache_write for one in kept(at))
        assert not any({"thinking", "tool_choice", "output_config"} & set(one.body or {}) for one in kept(at))
        assert await ledger(manager) == billed(at)
    at.check()


async def test_a_pinned_document_is_kept_with_the_head_before_it() -> None:
    at = world()
    document = [{"type": "text", "text": simulator.filler(30_000)}]
    async with at.manager() as manager:
        usages = await visits(at, manager, gaps=GAPS * 2, context=document)
        assert all(usage.cache_read >= 50_000 for usage in usages[4:])
        late = [gap for gap in (GAPS * 2)[3:] if gap > HOUR - 60.0]
        deep = [one for one in kept(at) if ("messages", "1h") in marks(dict(one.body or {}))]
        assert len(deep) == len(late)
        for one in deep:
            assert marks(dict(one.body or {})) == [("system", "1h"), ("messages", "1h")]
            assert [len(message["content"]) for message in (one.body or {})["messages"]] == [1]
            assert one.prompt is not None
            assert (one.prompt.usage.cache_read, one.prompt.usage.input) == (50_000, 0)
        assert len(kept(at)) == len(deep), "with the document the head is read too"
        assert await ledger(manager) == billed(at)
    at.check()


async def test_an_endpoint_that_refuses_such_requests_is_asked_once(caplog: pytest.LogCaptureFixture) -> None:
    """The first of them is the fifth request of all."""
    refusal = Fault.http(400, "max_tokens must be at least 1", type="invalid_request_error")
    at = world(faults={4: refusal})
    async with at.manager() as manager:
        await visits(at, manager, gaps=GAPS * 3)
        assert [one.index for one in kept(at)] == [4]
        assert await ledger(manager) == billed(at)
    assert "a background task failed" not in caplog.text


async def test_an_entry_that_is_gone_is_written_anew_once() -> None:
    at = world()
    async with at.manager() as manager:
        await visits(at, manager)
        await visit(manager)
        before = len(kept(at))
        at.engine.evict()
        await at.clock.advance(10 * HOUR)
        assert len(kept(at)) == before + 1
        last = kept(at)[-1].prompt
        assert last is not None
        assert last.usage.cache_write_1h == 20_000
        assert await ledger(manager) == billed(at)
    at.check()


async def test_a_request_that_fails_is_a_row_and_the_next_hour_begins_with_a_use(
    caplog: pytest.LogCaptureFixture,
) -> None:
    at = world()
    async with at.manager() as manager:
        await visits(at, manager)
        await visit(manager)
        before, failing = len(kept(at)), Fault.http(529)
        at.engine.faults = lambda index: failing
        await at.clock.advance(HOUR)
        assert len(kept(at)) > before
        assert "could not be kept warm" in caplog.text
        at.engine.faults = None
        await visits(at, manager)
        assert await ledger(manager) == billed(at)


async def test_what_an_endpoint_writes_for_five_minutes_is_not_kept() -> None:
    at = world(grants_hours=False)
    async with at.manager() as manager:
        await visits(at, manager, gaps=GAPS * 2)
        assert kept(at) == []
    at.check()


def dumped(path: Path) -> str:
    """All that a database says."""
    with closing(sqlite3.connect(path)) as database:
        return "\n".join(database.iterdump())


def said(path: Path, statement: str) -> None:
    """One statement of a program that is not ours."""
    with closing(sqlite3.connect(path)) as database:
        database.execute(statement)
        database.commit()


async def test_a_store_that_cannot_take_it_harms_no_turn(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    at, path = world(url=tmp_path / "a.db"), tmp_path / "a.db"
    async with at.manager() as manager:
        said(
            path,
            "CREATE TRIGGER broken BEFORE UPDATE OF tend_at ON sessions WHEN OLD.id LIKE 'head-%' "
            "BEGIN SELECT json('{'); END",
        )
        await visits(at, manager)
        assert kept(at) == []
        assert "a shared prefix cannot be kept warm now" in caplog.text
        said(path, "DROP TRIGGER broken")
        await visits(at, manager)
        assert kept(at)
        assert await ledger(manager) == billed(at)
    at.check()


async def test_what_the_prefix_says_is_gone_with_the_sessions_that_used_it(tmp_path: Path) -> None:
    at, secret = world(url=tmp_path / "a.db"), "the secret of the pinned document"
    document = [{"type": "text", "text": f"{secret} {simulator.filler(30_000)}"}]
    async with at.manager() as manager:
        await visits(at, manager, context=document)
        await visit(manager, context=document)
        assert secret in dumped(tmp_path / "a.db")
        before = len(kept(at))
        assert before
        for info in await manager.list(branches=True):
            if not info.id.startswith("head-"):
                await manager.delete(info.id)
        assert secret not in dumped(tmp_path / "a.db")
        await at.clock.advance(10 * HOUR)
        assert len(kept(at)) == before
        assert await rows(manager), "what it cost stays"
    at.check()


async def test_sessions_that_have_other_settings_by_now_say_nothing_of_it() -> None:
    """What they began with is a part of what they have now, and ends no prefix of theirs any more."""
    at, used = world(), []
    async with at.manager() as manager:
        for gap in GAPS:
            used.append(await manager.create(model=OPUS, max_tokens=1000, system=[{"type": "text", "text": HEAD}]))
            await used[-1].send("hello", expected_gap=float("inf"))
            await at.clock.advance(gap)
        before = len(kept(at))
        assert before
        last = await manager.create(model=OPUS, max_tokens=1000, system=[{"type": "text", "text": HEAD}])
        await last.send("hello", expected_gap=float("inf"))
        for session in (*used, last):
            longer = [{"type": "text", "text": HEAD}, {"type": "text", "text": simulator.filler(2000, "more")}]
            await session.update(system=longer, rebase=True)
        await at.clock.advance(HOUR)
        assert len(kept(at)) == before
    at.check()


async def test_a_clock_that_is_set_back_ends_nothing() -> None:
    at = world()
    async with at.manager() as manager:
        await visits(at, manager)
        before = len(kept(at))
        at.clock.step(-5 * HOUR)
        await visits(at, manager, gaps=GAPS * 3)
        assert len(kept(at)) > before
        assert await ledger(manager) == billed(at)


async def test_a_session_of_ones_own_with_such_a_name_is_a_session() -> None:
    at = world()
    async with at.manager() as manager:
        session = await manager.create(model=OPUS, max_tokens=1000, system=HEAD, id="head-of-sales")
        await session.send("hello")
        await at.clock.advance(600.0)
        assert [call.kind for call in await session.calls()] == ["turn", "park"]
    at.check()


async def test_no_turn_takes_a_statement_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That the head is to be kept is said once, in the background, for the hour to come."""
    monkeypatch.setattr("storage.transactions.spending.SWEEP_EACH", 2**64)
    counts: dict[bool, list[int]] = {}
    for tend in (True, False):
        at, store, seen = world(), SQLStore(f"sqlite:///{tmp_path}/{tend}.db"), list[str]()

        def listen(db: Database, seen: list[str] = seen) -> None:
            assert isinstance(db, SQLiteDatabase)
            db.raw.set_trace_callback(seen.append)

        async with at.manager(store=store, tend=tend) as manager:
            await visits(at, manager)
            await visit(manager)
            await outcome(store.dialect.write(listen))
            for _ in range(2):
                seen.clear()
                await visit(manager)
                said = [text for text in seen if text.split()[0] in ("SELECT", "INSERT", "UPDATE", "DELETE")]
                counts.setdefault(tend, []).append(len(said))
        at.check()
    assert counts[True] == counts[False]


def test_the_model_of_these_tests_has_what_it_takes() -> None:
    profile = profile_for(OPUS)
    assert profile.prewarms
    assert "1h" in profile.ttls
