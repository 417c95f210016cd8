"""Work on different sessions in one transaction of a real server: together where it can be, and nobody for another."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from storage import HeadMoved, Lease, LeaseTaken, Store, open_store, threads
from storage.sql import SQLStore
from storage.testing import NOW, OTHER, call_record, change, entries_of, hold, session_record
from tests.storage.relay import Fate, Relay

psycopg = pytest.importorskip("psycopg", reason="no PostgreSQL driver: install the dev extra")
from storage.postgresql import sharing  # noqa: E402  # it needs the driver

NAMES = ["a", "b", "c", "d", "e"]


@pytest.fixture
def url(new_store: Callable[[], str]) -> str:
    return new_store()


@pytest.fixture
async def store(url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SQLStore]:
    monkeypatch.setattr(sharing, "LANES", 1)
    store = await opened(url)
    yield store
    await store.close()


async def opened(url: str) -> SQLStore:
    store = open_store(url)
    assert isinstance(store, SQLStore)
    await store.open()
    return store


@contextmanager
def busy(store: SQLStore) -> Iterator[None]:
    """Keeps the only lane busy, so that all that is asked for meanwhile comes together."""
    left, entered = threading.Event(), threading.Event()

    def wait(_: Any) -> Iterator[None]:
        entered.set()
        assert left.wait(60)
        yield

    job = store.dialect.change("nobody", wait)  # type: ignore[arg-type]
    assert entered.wait(60)
    try:
        yield
    finally:
        left.set()
        job.result(60)


async def leases(store: Store, names: Sequence[str] = NAMES) -> list[Lease]:
    for name in names:
        await store.create(session_record(name))
    return [await hold(store, name) for name in names]


def written(name: str) -> Any:
    """A first message and its call."""
    return change(None, f"{name}1", entries=entries_of(f"{name}1"), calls=(call_record("c", name, input=3),))


async def together(store: SQLStore, *works: Any) -> list[Any]:
    """Their results, or the exceptions, when all of them waited for the same lane."""
    with busy(store):
        tasks = [asyncio.ensure_future(work) for work in works]
        await asked(len(works))
    return await asyncio.gather(*tasks, return_exceptions=True)


async def asked(works: int) -> None:
    """Returns when so much work has been asked for and waits; who asks has handed it over before."""
    while threads.busy() < works:
        await asyncio.sleep(0.001)


async def stored(store: Store) -> dict[str, tuple[str | None, int, int]]:
    """The head of each session, its ledger rows, and the tokens added up."""
    found = {}
    for name in NAMES:
        record = await store.load(name)
        found[name] = record.head, len(await store.calls(name)), record.totals.input
    return found


EVERYTHING = {name: (f"{name}1", 1, 3) for name in NAMES}


async def test_sessions_share_a_transaction(store: SQLStore) -> None:
    held = await leases(store)
    before = store.statistics()
    await together(store, *(store.commit(lease, written(lease.session)) for lease in held))
    after = store.statistics()
    assert (after.writes - before.writes, after.transactions - before.transactions) == (1 + len(NAMES), 2)
    assert await stored(store) == EVERYTHING


async def test_they_share_two_round_trips(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "LANES", 1)
    with Relay(url) as relay:
        store = await opened(relay.url)
        held = await leases(store)
        alone = relay.round_trips
        await together(store)
        alone = relay.round_trips - alone  # what the work that keeps the lane busy takes
        before = relay.round_trips
        await together(store, *(store.commit(lease, written(lease.session)) for lease in held))
        assert relay.round_trips - before - alone == 2
        await store.close()


async def test_whoever_fails_fails_alone(store: SQLStore) -> None:
    held = await leases(store)
    await store.commit(held[1], written("b"))
    found = await together(store, *(store.commit(lease, written(lease.session)) for lease in held))
    assert [type(one) for one in found] == [type(None), HeadMoved, *[type(None)] * 3]
    assert await stored(store) == EVERYTHING


async def test_a_refused_lease_undoes_nothing(store: SQLStore) -> None:
    """To be refused is an answer: the others stay in the same transaction."""
    held = await leases(store)
    before = store.statistics().transactions
    taken, *found = await together(
        store,
        store.acquire("a", OTHER, seconds=60, now=NOW, queue=5.0),
        *(store.commit(lease, written(lease.session)) for lease in held[1:]),
    )
    assert isinstance(taken, LeaseTaken)
    assert found == [None] * 4
    assert store.statistics().transactions == before + 2


async def test_one_session_is_in_a_transaction_once(store: SQLStore) -> None:
    """Both rows are counted, since the second work looks only when the first is committed."""
    await leases(store)
    rows = [call_record(f"c{number}", "a", input=2) for number in range(6)]
    assert await together(store, *map(store.record, rows)) == [None] * 6
    assert (await store.load("a")).totals.input == 12


async def test_a_session_that_is_locked_keeps_no_other_waiting(store: SQLStore, url: str) -> None:
    held = await leases(store)
    with psycopg.connect(url) as raw:
        raw.execute("SELECT id FROM sessions WHERE id = 'c' FOR UPDATE")
        with busy(store):
            tasks = {one.session: asyncio.ensure_future(store.commit(one, written(one.session))) for one in held}
            await asked(len(tasks))
        await asyncio.wait_for(asyncio.gather(*(task for name, task in tasks.items() if name != "c")), 30)
        assert not tasks["c"].done()
    await asyncio.wait_for(tasks["c"], 30)
    assert await stored(store) == EVERYTHING


@pytest.mark.parametrize("fate", ["lose", "deliver and lose"])
async def test_a_shared_commit_that_is_lost(fate: Fate, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it was done or not, everything is written once."""
    monkeypatch.setattr(sharing, "LANES", 1)
    with Relay(url) as relay:
        store = await opened(relay.url)
        held = await leases(store)
        commits = 0

        def decide(piece: bytes) -> Fate:
            nonlocal commits
            commits += b"COMMIT\0" in piece
            return fate if b"COMMIT\0" in piece and commits == 2 else "pass"

        relay.fate = decide
        works = (store.commit(lease, written(lease.session)) for lease in held)
        assert await together(store, *works) == [None] * len(NAMES)
        assert commits > 2
        assert await stored(store) == EVERYTHING
        await store.close()


async def test_two_workers_on_the_same_sessions_never_wait_in_a_circle(store: SQLStore, url: str) -> None:
    """Whatever order their work came in, each locks in the same one."""
    other = await opened(url)
    await leases(store)
    for number in range(20):
        rows = [call_record(f"{number}", name, input=1) for name in NAMES]
        mine, theirs = ([store.record(row) for row in rows], [other.record(row) for row in reversed(rows)])
        assert await asyncio.gather(*mine, *theirs) == [None] * 10
    assert [record.totals.input for record in await store.list()] == [20] * 5
    with psycopg.connect(url, autocommit=True) as raw:
        query = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        assert raw.execute(query).fetchone() == (0,)
    await other.close()


async def test_plans_are_kept_where_no_pooler_stands_between(store: SQLStore) -> None:
    """Failures between them do no harm: the driver and the server forget together."""
    await store.create(session_record("a"))
    for number in range(30):
        lease = await hold(store, "a")
        head = (await store.load("a")).head
        made = entries_of(f"e{number}")[0]._replace(parent=head, depth=number + 1)
        if number % 4 == 3:
            with pytest.raises(HeadMoved):
                await store.commit(lease, change("elsewhere", made.id, entries=(made._replace(parent=None),)))
        await store.commit(lease, change(head, made.id, entries=(made,), release=True))
    assert len(await store.chain("a", "e29")) == 30
    query = "SELECT statement FROM pg_prepared_statements"
    kept = await threads.outcome(store.dialect.read(lambda db: db.raw.execute(query).fetchall()))  # type: ignore[attr-defined]
    assert any("INSERT INTO entries" in statement for (statement,) in kept)
    assert not any("COMMIT" in statement for (statement,) in kept)


async def test_a_pooler_is_asked_to_keep_no_plan(pooler: Callable[[str], str], url: str) -> None:
    store = await opened(pooler(url))
    await store.create(session_record("a"))
    for _ in range(20):
        await store.release(await hold(store, "a"))
    threshold = store.dialect.read(lambda db: db.raw.prepare_threshold)  # type: ignore[attr-defined]
    assert await threads.outcome(threshold) is None
    await store.close()


async def test_an_unforeseen_error_reaches_its_caller_alone(store: SQLStore) -> None:
    await leases(store, ["a"])

    def broken(_: Any) -> Iterator[None]:
        yield
        raise ZeroDivisionError("a bug")

    async def bug() -> None:
        await threads.outcome(store.dialect.change("b", broken))  # type: ignore[arg-type]

    found = await together(store, bug(), store.record(call_record("c", "a")))
    assert [type(one) for one in found] == [ZeroDivisionError, type(None)]


async def test_a_commit_that_gives_the_lease_back_tells_who_waits(store: SQLStore) -> None:
    (held,) = await leases(store, ["a"])
    with pytest.raises(LeaseTaken):
        await store.acquire("a", OTHER, seconds=60, now=NOW, queue=5.0)
    await store.commit(held, change(None, "a1", entries=entries_of("a1"), release=True))
    assert (await store.acquire("a", OTHER, seconds=60, now=NOW, queue=5.0)).holder == OTHER
