"""A server that goes away, at every moment: nothing is lost, nothing written twice, and what is not known is said."""

from __future__ import annotations

import asyncio
import multiprocessing
import re
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from sqlalchemy import make_url

from storage import HeadMoved, LeaseGone, ServerAway, SessionExists, SessionMissing, Store, StoreUnavailable, open_store
from storage.sql import SQLStore
from storage.testing import (
    NOW,
    call_record,
    change,
    entries_of,
    hold,
    session_record,
    turn_record,
)
from storage.threads import outcome
from storage.transactions.statements import LOCK
from tests.storage.relay import COMMIT, Fate, Relay
from tests.storage.test_lost_commits import FULL

psycopg = pytest.importorskip("psycopg", reason="no PostgreSQL driver: install the dev extra")
from storage.postgresql import connections, database, dialect  # noqa: E402  # they need the driver


@pytest.fixture
def direct(new_store: Callable[[], str]) -> str:
    return new_store()


@pytest.fixture
async def relay(direct: str) -> AsyncIterator[Relay]:
    with Relay(direct) as relay:
        yield relay


@pytest.fixture
async def store(relay: Relay) -> AsyncIterator[SQLStore]:
    store = open_store(relay.url)
    assert isinstance(store, SQLStore)
    await store.open()
    yield store
    await store.close()


@pytest.fixture
async def other(direct: str) -> AsyncIterator[Store]:
    """A worker whose connections nobody cuts."""
    store = open_store(direct)
    await store.open()
    yield store
    await store.close()


def execute(url: str, *statements: str) -> list[Any]:
    with psycopg.connect(url, autocommit=True) as connection:
        return [connection.execute(one).fetchall() if one.startswith("SELECT") else connection.execute(one) and None
                for one in statements]  # fmt: skip


def once(fate: Fate, when: bytes = COMMIT) -> Callable[[bytes], Fate]:
    """That fate for the first piece with these words; all others pass."""
    left = [fate]

    def decide(piece: bytes) -> Fate:
        return left.pop() if left and when in piece else "pass"

    return decide


async def test_a_commit_takes_two_round_trips(relay: Relay, store: Store) -> None:
    await store.create(session_record())
    lease = await hold(store)
    taken: dict[str, int] = {}

    async def count(name: str, work: Awaitable[Any]) -> None:
        before = relay.round_trips
        await work
        taken[name] = relay.round_trips - before

    await count("commit", store.commit(lease, FULL))
    await count("load", store.load("s"))
    await count("chain", store.chain("s", "b"))
    await count("record", store.record(call_record("c2")))
    await count("release", store.release(lease))
    await count("acquire", hold(store))
    assert taken == {"commit": 2, "load": 1, "chain": 1, "record": 2, "release": 1, "acquire": 2}
    assert relay.connected == 1


def _taken_over(direct: str, fate: Fate, *, by: str) -> Callable[[bytes], Fate]:
    """The first COMMIT has this fate; before anything else is sent, another worker has taken the session."""
    commits = once(fate)
    lost, looks = threading.Event(), threading.Lock()

    def decide(piece: bytes) -> Fate:
        with looks:  # each connection has a thread of its own: it happens once, and before either goes on
            if lost.is_set():
                execute(direct, by)
                lost.clear()
        if (decided := commits(piece)) != "pass":
            lost.set()
        return decided

    return decide


TAKE = "UPDATE sessions SET lease_token = lease_token + 1"


async def test_a_commit_is_truthful_although_the_session_was_taken_over(
    direct: str, relay: Relay, store: Store
) -> None:
    await store.create(session_record())
    lease = await hold(store)
    relay.fate = _taken_over(direct, "deliver and lose", by=TAKE)
    await store.commit(lease, FULL)
    lease = await hold(store)
    relay.fate = _taken_over(direct, "lose", by=TAKE)
    with pytest.raises(LeaseGone, match="nothing was written"):
        await store.commit(lease, change("b", "c", entries=entries_of("a", "b", "c")[2:], calls=(call_record("c2"),)))
    assert len(await store.calls("s")) == 1
    lease = await hold(store)
    relay.fate = _taken_over(direct, "deliver and lose", by=TAKE)
    await store.commit(lease, change("b", "b", turn=turn_record("t2", sequence=2)))
    lease = await hold(store)
    relay.fate = _taken_over(direct, "lose", by=TAKE)
    with pytest.raises(LeaseGone):
        await store.commit(lease, change("b", "b", turn=turn_record("t3", sequence=3)))
    assert [turn.id for turn in await store.turns("s")] == ["t", "t2"]


@pytest.mark.parametrize("state", ["cancelled", "running"])
async def test_a_commit_that_was_lost_undoes_no_stop_and_no_decision_that_came_since(
    state: str, direct: str, relay: Relay, store: Store
) -> None:
    """What waits is stopped and decided without a lease, so also before a worker has heard that it waits."""
    await store.create(session_record())
    lease = await hold(store)
    running = turn_record(state="running", pending=None)
    await store.commit(lease, change(None, None, turn=running))
    waits = replace(running, state="waiting", pending="[1]", ended=NOW)
    relay.fate = _taken_over(direct, "lose", by="UPDATE sessions SET title = 'looked at'")
    await store.commit(lease, change(None, None, turn=waits))
    assert await store.turn("s", id="t") == waits
    # A busy server may still be about to run what was delivered.
    when_written = (
        f"DO $$ BEGIN FOR number IN 1..1000 LOOP UPDATE turns SET state = '{state}', ended = ended + 1"
        " WHERE pending = '[2]'; EXIT WHEN FOUND; PERFORM pg_sleep(0.01); END LOOP; END $$"
    )
    relay.fate = _taken_over(direct, "deliver and lose", by=when_written)
    await store.commit(lease, change(None, None, turn=replace(waits, pending="[2]")))
    stored = await store.turn("s", id="t")
    assert stored is not None
    assert (stored.state, stored.pending, stored.ended) == (state, "[2]", NOW + 1)


async def test_other_refusals_stay_what_they_are(direct: str, relay: Relay, store: Store) -> None:
    await store.create(session_record())
    lease = await hold(store)
    relay.fate = _taken_over(direct, "lose", by="UPDATE sessions SET head = 'elsewhere'")
    with pytest.raises(HeadMoved):
        await store.commit(lease, FULL)
    execute(direct, "UPDATE sessions SET head = NULL")
    relay.fate = _taken_over(direct, "lose", by="DELETE FROM sessions")
    with pytest.raises(SessionMissing):
        await store.commit(lease, FULL)
    insert = open_store(direct)
    await insert.open()
    await insert.create(session_record(owner="first"))
    await insert.close()
    relay.fate = once("lose")
    with pytest.raises(SessionExists):
        await store.create(session_record(owner="second"))


async def test_a_server_that_comes_back_is_waited_for(relay: Relay, store: Store) -> None:
    await store.create(session_record())
    relay.stop()
    timer = threading.Timer(0.4, relay.start)
    timer.start()
    began = time.monotonic()
    await asyncio.gather(store.load("s"), hold(store), store.record(call_record()))
    assert 0.3 < time.monotonic() - began < 10
    timer.join()


@pytest.mark.parametrize(
    ("fate", "words"), [("lose", "whether the last write was kept is not known"), (None, "nothing was written")]
)
async def test_patience_has_an_end(
    fate: Fate | None, words: str, relay: Relay, store: SQLStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is one for all: who comes later does not wait as long again. Then all is well again."""
    await store.create(session_record())
    monkeypatch.setattr(dialect, "PATIENCE", 2.0)

    def decide(piece: bytes) -> Fate:
        if fate is None or COMMIT in piece:
            threading.Thread(target=relay.stop).start()
            return "lose"
        return "pass"

    relay.fate = decide
    with pytest.raises(StoreUnavailable, match=words) as raised:
        await store.record(call_record())
    assert "load the session again" in str(raised.value)
    began = time.monotonic()
    with pytest.raises(StoreUnavailable, match="nothing was written"):
        await store.load("s")
    assert time.monotonic() - began < 1.5  # a wait of its own would have been longer
    relay.fate = lambda _: "pass"
    relay.start()
    assert await store.load("s")
    assert len(await store.calls("s")) == 0


async def test_the_log_says_when_waiting_begins_and_ends(
    relay: Relay, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "storage")
    await store.create(session_record())
    relay.stop()
    waiting = [asyncio.ensure_future(store.load("s")) for _ in range(3)]
    while not caplog.records:
        await asyncio.sleep(0.01)
    relay.start()
    await asyncio.gather(*waiting)
    begun, ended = caplog.records
    assert (begun.name, begun.levelname, ended.name, ended.levelname) == ("storage", "WARNING", "storage", "INFO")
    assert re.search(r"^postgresql://.* is waited for: .*", begun.getMessage())
    assert re.search(r" is back after \d+\.\d s$", ended.getMessage())


async def test_the_log_says_when_waiting_is_given_up(
    relay: Relay, store: Store, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO", "storage")
    monkeypatch.setattr(dialect, "PATIENCE", 0.3)
    relay.stop()
    with pytest.raises(StoreUnavailable):
        await store.load("s")
    assert [one.levelname for one in caplog.records] == ["WARNING", "INFO"]
    assert " is no longer waited for after " in caplog.messages[1]
    relay.start()


async def test_a_statement_that_takes_too_long_is_tried_again(direct: str) -> None:
    """By the server's own setting: it may be busy with something else for a while."""
    name = make_url(direct).database
    execute(direct, f"ALTER DATABASE {name} SET statement_timeout = '150ms'")
    store = open_store(direct)
    await store.open()
    await store.create(session_record())
    with psycopg.connect(direct) as other:
        other.execute("LOCK TABLE sessions IN ACCESS EXCLUSIVE MODE")
        works = [asyncio.ensure_future(work) for work in (store.load("s"), store.record(call_record()))]
        await asyncio.sleep(0.5)
        assert not any(work.done() for work in works)
        other.rollback()
    await asyncio.gather(*works)
    assert (await store.load("s")).totals.calls == 1
    await store.close()


async def test_a_server_that_hands_over_is_waited_for(direct: str, relay: Relay, store: Store) -> None:
    """It takes no writes any more; a new connection leads to the one that does, by and by. Reads go on meanwhile."""
    await store.create(session_record())
    name = make_url(direct).database
    execute(direct, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    relay.cut()
    writing = asyncio.ensure_future(store.record(call_record()))
    for _ in range(10):
        await asyncio.sleep(0.05)
        assert (await store.load("s")).id == "s"
    assert not writing.done()
    execute(
        direct, "SET default_transaction_read_only = off", f"ALTER DATABASE {name} RESET default_transaction_read_only"
    )
    await writing
    assert (await store.load("s")).totals.calls == 1


async def test_a_server_that_stays_read_only_is_named(
    direct: str, relay: Relay, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reads that go through do not make its writers wait for ever."""
    await store.create(session_record())
    name = make_url(direct).database
    execute(direct, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    relay.cut()
    monkeypatch.setattr(dialect, "PATIENCE", 0.5)
    writing = asyncio.ensure_future(store.record(call_record()))
    while not writing.done():
        await store.load("s")
    with pytest.raises(ServerAway, match=r"is read-only: name the primary server.*nothing was written"):
        await writing
    execute(
        direct, "SET default_transaction_read_only = off", f"ALTER DATABASE {name} RESET default_transaction_read_only"
    )


async def test_closing_ends_the_wait(relay: Relay, store: Store) -> None:
    relay.stop()
    reading = asyncio.create_task(store.list())
    await asyncio.sleep(0.1)
    await store.close()
    with pytest.raises(StoreUnavailable):
        await asyncio.wait_for(reading, 5)
    relay.start()


async def test_a_process_that_sleeps_in_a_transaction_keeps_nobody_waiting(
    store: SQLStore, other: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "FROZEN", 0.2)
    await store.create(session_record())
    runs: list[bool] = []
    awake = threading.Event()

    def sleep(db: Any) -> None:
        db.run(LOCK, {"session": "s"}).fetchone()
        runs.append(db.again)
        assert awake.wait(60)

    sleeping = asyncio.ensure_future(outcome(store.dialect.write(sleep)))
    while not runs:
        await asyncio.sleep(0.01)
    await asyncio.wait_for(hold(other), 30)  # while it sleeps
    awake.set()
    await sleeping
    assert runs == [False, True] or runs == [False, False]


async def test_a_deadlock_is_no_error(store: SQLStore) -> None:
    """The one that the server ends is run again."""
    for id in "ab":
        await store.create(session_record(id))
    met = threading.Barrier(2)
    runs: list[str] = []

    def lock(db: Any, first: str, second: str) -> None:
        runs.append(first)
        db.raw.execute("UPDATE sessions SET title = %s WHERE id = %s RETURNING id", (first, first)).fetchone()
        if len(runs) <= 2:
            met.wait(10)
        db.raw.execute("UPDATE sessions SET title = %s WHERE id = %s RETURNING id", (first, second)).fetchone()

    works = [partial(lock, first="a", second="b"), partial(lock, first="b", second="a")]
    await asyncio.gather(*(outcome(store.dialect.write(work)) for work in works))
    assert len(runs) == 3
    titles = {(await store.load(id)).title for id in "ab"}
    assert len(titles) == 1


async def test_connections_at_rest_are_closed(direct: str, other: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "IDLE", 0.3)
    store = open_store(direct)
    await store.open()
    await asyncio.gather(*(store.list() for _ in range(8)))
    there = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'warmline'"
    (before,) = execute(direct, there)[0]
    assert before[0] >= 2
    for _ in range(100):
        await asyncio.sleep(0.05)
        await other.list()
        if execute(direct, there)[0][0][0] == 1:
            break
    assert execute(direct, there)[0][0][0] == 1
    await asyncio.gather(*(store.list() for _ in range(8)))
    await store.close()


async def test_no_more_connections_than_the_server_gives(direct: str) -> None:
    """Who gets none waits for one."""
    execute(
        direct,
        "DROP ROLE IF EXISTS modest",
        "CREATE ROLE modest LOGIN CONNECTION LIMIT 2",
        "GRANT ALL ON ALL TABLES IN SCHEMA public TO modest",
        "GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO modest",
    )
    url = direct.replace("postgres:@", "modest:@")
    assert "modest" in url
    store = open_store(url)
    await store.open()
    await store.create(session_record())
    await asyncio.gather(*(store.record(call_record(f"c{number}")) for number in range(60)))
    assert (await store.load("s")).totals.calls == 60
    await store.close()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # what is tested
async def test_a_store_is_not_used_across_a_fork(store: SQLStore) -> None:
    child = multiprocessing.get_context("fork").Process(target=in_a_fork, args=(store,))
    child.start()
    await asyncio.to_thread(child.join, 30)
    assert child.exitcode == 0


def in_a_fork(store: SQLStore) -> None:
    with pytest.raises(StoreUnavailable, match="open a store of its own here"):
        store.dialect.read(lambda _: None)
