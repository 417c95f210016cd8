"""News wakes who waits, on both event loops; where none comes, he looks again and again, and nothing is listened to."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import anyio
import pytest
from sqlalchemy import make_url

from storage import LeaseTaken, Store, open_store
from storage.testing import (
    ME,
    NOW,
    OTHER,
    change,
    decision_record,
    entries_of,
    hold,
    relay_record,
    session_record,
    turn_record,
)
from storage.watching import CHANNEL, Watch, topic
from tests.pooler import Pooler
from tests.sessions.world import everywhere

psycopg = pytest.importorskip("psycopg", reason="no PostgreSQL driver: install the dev extra")
from storage.postgresql import connections, listening  # noqa: E402  # they need the driver


@asynccontextmanager
async def two(url: str) -> AsyncIterator[tuple[Store, Store]]:
    """Two workers."""
    async with AsyncExitStack() as stack:
        stores = open_store(url), open_store(url)
        for store in stores:
            await store.open()
            stack.push_async_callback(store.close)
        yield stores


async def live(watch: Watch) -> None:
    with anyio.fail_after(10):
        while not watch.is_live:
            await anyio.sleep(0.01)


def listeners(url: str, seconds: float = 0.0, until: int = -1) -> int:
    """Connections to the database whose last word was LISTEN; waits until there are `until`, at most that long."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%%'"
    deadline = time.monotonic() + seconds
    with psycopg.connect(url, autocommit=True) as connection:
        while True:
            (count,) = connection.execute(query.replace("%%", "%")).fetchone()
            if count == until or time.monotonic() >= deadline:
                return int(count)
            time.sleep(0.02)


@everywhere
async def test_a_release_wakes_who_waits(empty_store: str) -> None:
    async with two(empty_store) as (one, other):
        await one.create(session_record())
        lease = await hold(one)
        with other.watch("s") as watch:
            await live(watch)
            with pytest.raises(LeaseTaken):
                await other.acquire("s", OTHER, seconds=60, now=NOW, queue=60)
            with anyio.move_on_after(0.2) as scope:
                await watch.news()
            assert scope.cancelled_caught
            await one.release(lease)
            with anyio.fail_after(5):
                await watch.news()
            await other.acquire("s", OTHER, seconds=60, now=NOW)


@everywhere
async def test_a_release_that_nobody_waits_for_is_not_told(empty_store: str) -> None:
    async with two(empty_store) as (one, other):
        await one.create(session_record())
        with other.watch("s") as watch:
            await live(watch)
            await one.release(await hold(one))
            with anyio.move_on_after(0.3) as scope:
                await watch.news()
            assert scope.cancelled_caught


@everywhere
async def test_the_end_of_a_warm_up_wakes_who_waits(empty_store: str) -> None:
    async with two(empty_store) as (one, other):
        for alive in (60.0, 0.0):
            led = await one.lead(f"point {alive}", ME, seconds=60, now=NOW)
            with other.watch(f"point {alive}") as watch, other.watch("another") as elsewhere:
                await live(watch)
                await one.led(f"point {alive}", led.token, ttl="5m", alive=alive, now=NOW)
                with anyio.fail_after(5):
                    await watch.news()
                with anyio.move_on_after(0.1) as scope:
                    await elsewhere.news()
                assert scope.cancelled_caught


@everywhere
async def test_what_is_said_without_a_lease_wakes_who_watches(empty_store: str) -> None:
    """Each verb tells of its own name, once it is there to be read; what changes nothing tells nothing."""
    async with two(empty_store) as (one, other):
        await one.create(session_record(head="a"), entries_of("a"))
        await one.commit(await hold(one), change("a", "a", turn=turn_record(state="waiting")))
        for name, work, is_told in (
            ("s", lambda: one.queue(turn_record("q")), True),
            ("s", lambda: one.queue(turn_record("q")), False),
            ("s", lambda: one.ask_stop("s", "q", now=NOW), True),
            ("s", lambda: one.ask_stop("s", "q", now=NOW), False),
            ("s", lambda: one.decide(decision_record("a"), turn="t", of=1), True),
            ("s", lambda: one.ask_stop("s", "t", now=NOW), True),
            ("followers", lambda: one.follow("s", "me", seconds=60, now=NOW), True),
            ("followers", lambda: one.unfollow("s", "me"), True),
            ("relays", lambda: one.relay([relay_record(), relay_record("b")]), True),
            ("relays", lambda: one.relay([]), False),
        ):
            with other.watch(name) as watch, other.watch("another") as elsewhere:
                await live(watch)
                await work()
                with anyio.move_on_after(5 if is_told else 0.1) as scope:
                    await watch.news()
                assert scope.cancelled_caught is not is_told
                with anyio.move_on_after(0.02) as scope:
                    await elsewhere.news()
                assert scope.cancelled_caught


async def test_one_connection_listens_and_none_when_nobody_waits(
    empty_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "REST", 0.3)
    async with two(empty_store) as (one, _):
        assert listeners(empty_store) == 0
        for _ in range(2):  # the second time anew
            with one.watch("a") as a, one.watch("a") as again, one.watch("b") as b:
                for watch in (a, again, b):
                    await live(watch)
                assert listeners(empty_store) == 1
                await anyio.sleep(0.5)
                assert listeners(empty_store) == 1
            assert await anyio.to_thread.run_sync(listeners, empty_store, 5.0, 0) == 0
            assert not one.watch("a").is_live


async def test_closing_ends_the_listening(empty_store: str) -> None:
    async with two(empty_store) as (one, _):
        with one.watch("a") as watch:
            await live(watch)
            await one.close()
        assert await anyio.to_thread.run_sync(listeners, empty_store, 5.0, 0) == 0
        await one.open()
        with one.watch("a") as watch:
            await live(watch)


async def test_who_waits_looks_for_himself_while_nothing_is_heard(empty_store: str) -> None:
    async with two(empty_store) as (one, _):
        with one.watch("a") as watch:
            await live(watch)
            assert watch.pause == listening.LIVE_PAUSE
            with psycopg.connect(empty_store, autocommit=True) as connection:
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"
                    " AND datname = current_database() AND pid <> pg_backend_pid()"
                )
            with anyio.fail_after(5):
                await watch.news()
            await live(watch)
            assert listeners(empty_store) == 1


@pytest.fixture(params=["pgbouncer", "ours"])
def pooled(request: pytest.FixtureRequest, empty_store: str, server: str) -> Iterator[str]:
    """A database behind a pgbouncer, where there is one, and behind the small pooler of the tests, everywhere."""
    if request.param == "pgbouncer":
        pooler: Callable[[str], str] = request.getfixturevalue("pooler")
        yield pooler(empty_store)
        return
    with Pooler(server) as own:
        yield own.behind(empty_store)


def tries() -> bool:
    """Whether a listener of this process listens, or tries out whether news comes."""
    return any(thread.name == "storage-listener" for thread in threading.enumerate())


async def tried() -> None:
    """Returns when the listener has given up."""
    with anyio.fail_after(10):
        while tries():
            await anyio.sleep(0.01)


async def test_nothing_is_listened_to_behind_a_pooler(pooled: str, empty_store: str) -> None:
    async with two(pooled) as (one, _):
        with one.watch("a") as watch:
            await tried()
            assert not watch.is_live
            assert watch.pause == listening.DEAF_PAUSE
            assert listeners(empty_store) == 0
        with one.watch("a"):
            assert not tries()  # again at once


async def test_a_pooler_that_hides_is_found_out(empty_store: str, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It gives the process ids of the server; but what is told elsewhere is not heard."""
    monkeypatch.setattr(listening, "ECHO", 0.5)
    with Pooler(server, size=1, hides=True) as pooler:
        url = pooler.behind(empty_store)
        with connections.Connections(make_url(url), 1).lent() as (raw, _):
            assert not connections.is_pooled(raw)
        await _finds_out(url)


async def _finds_out(url: str) -> None:
    async with two(url) as (one, _):
        with one.watch("a") as watch:
            await tried()
            assert not watch.is_live


async def test_news_of_others_is_no_proof(empty_store: str) -> None:
    """What another worker tells at the same time on the channel is not what was to come back."""
    pool = connections.Connections(make_url(empty_store), 2)

    def tell(news: str) -> None:
        with pool.lent() as (raw, _):
            for topic in ("something else", news):
                raw.execute("SELECT pg_notify(%s, %s)", (CHANNEL, topic))

    listener = listening.Listener(pool.connect, tell, CHANNEL)
    with listening.ListeningWatch(listener, "a") as watch:
        await live(watch)
    listener.close()
    pool.close()


@everywhere
async def test_a_file_tells_nothing(tmp_path: Path) -> None:
    async with two(f"sqlite:///{tmp_path}/a.db") as (one, _):
        with one.watch("a") as watch:
            assert not watch.is_live
            assert watch.pause < 0.1
            with anyio.move_on_after(0.05) as scope:
                await watch.news()
            assert scope.cancelled_caught


def test_a_topic_is_short_whatever_the_name() -> None:
    assert len(topic("x" * 100_000)) == len(topic("ö")) == 24
