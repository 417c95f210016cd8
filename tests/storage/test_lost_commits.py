"""A connection lost at each commit of a work: it is done once, whether its answer came or not."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from storage import Store, open_store
from storage.testing import (
    ME,
    NOW,
    OTHER,
    call_record,
    change,
    decision_record,
    entries_of,
    hold,
    relay_record,
    session_record,
    turn_record,
)
from storage.transactions.writing import is_same
from tests.storage.relay import COMMIT, Fate, Relay

psycopg = pytest.importorskip("psycopg", reason="no PostgreSQL driver: install the dev extra")
from storage.postgresql import database  # noqa: E402  # they need the driver

FULL = change(
    None,
    "b",
    entries=entries_of("a", "b"),
    calls=(call_record(input=3, cost=Decimal("0.5")),),
    turn=turn_record(key="k", state="finished"),
    title="done",
)


async def _commit(store: Store) -> None:
    await store.create(session_record())
    await store.commit(await hold(store), FULL)


async def _turn_only(store: Store) -> None:
    await store.create(session_record())
    await store.commit(await hold(store), change(None, None, turn=turn_record()))


async def _last_commit(store: Store) -> None:
    """It gives the lease back, so another one gets it at once."""
    await store.create(session_record())
    for given in (FULL, change("b", "b", turn=turn_record(key="k", state="failed"))):
        await store.commit(await hold(store), replace(given, release=True))
    await store.acquire("s", OTHER, seconds=60, now=NOW)


async def _delete(store: Store) -> None:
    await store.create(session_record())
    await store.delete("s")


async def _record(store: Store) -> None:
    await store.create(session_record())
    await store.record(call_record(output=2))


async def _fork(store: Store) -> None:
    await store.create(session_record(head="a"), entries_of("a"))
    await store.create(session_record("f", tree="s", head="a", base="a"), calls=(call_record("x", "f", input=1),))


async def _leases(store: Store) -> None:
    await store.create(session_record())
    lease = await hold(store)
    await store.release(await store.renew(lease, seconds=60, now=NOW))
    await store.acquire("s", OTHER, seconds=60, now=NOW)


async def _warm(store: Store) -> None:
    led = await store.lead("p", ME, seconds=60, now=NOW)
    await store.led("p", led.token, ttl="5m", alive=60, now=NOW)


async def _unleased(store: Store) -> None:
    await store.create(session_record(head="a"), entries_of("a"))
    await store.commit(await hold(store), change("a", "a", turn=turn_record(state="waiting")))
    await store.queue(turn_record("q", key="k"))
    await store.ask_stop("s", "q", now=NOW)
    assert [await store.decide(decision_record("a", index), turn="t", of=2) for index in (0, 1)] == [1, 0]
    await store.ask_stop("s", "t", now=NOW)


async def _relay(store: Store) -> None:
    await store.follow("s", "me", seconds=60, now=NOW)
    await store.relay([relay_record("a"), relay_record("b")])
    await store.relay([relay_record("c")])


async def _state(store: Store) -> list[Any]:
    """What the store then says, without the times that are the server's own."""
    found: list[Any] = []
    for session in await store.list():
        found += [session, await store.chain(session.id, session.head), await store.calls(session.id)]
        found += [await store.turns(session.id), await store.decisions(session.id, "a")]
    found += [[follower.reader for follower in await store.followed(now=NOW)]]
    found += [[row.id for row in await store.relayed("s", "t")]]
    warmup = await store.lead("p", OTHER, seconds=60, now=NOW)
    await store.led("p", warmup.token, ttl=None, alive=0, now=NOW)
    return [*found, warmup.state]


@pytest.mark.parametrize("fate", ["lose", "deliver and lose"])
@pytest.mark.parametrize(
    "work", [_commit, _last_commit, _turn_only, _delete, _record, _fork, _leases, _warm, _unleased, _relay]
)
async def test_a_connection_lost_at_each_commit_of_a_work(
    work: Callable[[Store], Awaitable[None]], fate: Fate, new_store: Callable[[], str]
) -> None:
    """The caller notices nothing, and what is then stored is what would have been."""
    plain = open_store(new_store())
    await plain.open()
    await work(plain)
    expected = await _state(plain)
    await plain.close()
    for number in range(1, 12):
        url = new_store()
        with Relay(url) as relay:
            store = open_store(relay.url)
            await store.open()
            seen = 0

            def decide(piece: bytes) -> Fate:
                nonlocal seen
                seen += COMMIT in piece
                return fate if COMMIT in piece and seen == number else "pass"  # noqa: B023 - called in this round

            relay.fate = decide
            await work(store)
            relay.fate = lambda _: "pass"
            assert await _state(store) == expected
            await store.close()
        if seen < number:
            return
    raise AssertionError("the work never came through unharmed")


def test_who_created_a_session_is_told_by_what_never_changes() -> None:
    made = session_record(owner="a")
    assert is_same(replace(made, head="x", title="later", updated_at=9.0), made)
    assert not is_same(replace(made, tree="another"), made)


def test_what_failed_is_named_and_not_what_was_skipped() -> None:
    """Answers that come in two parts: the second part only says that the rest was skipped."""
    failed = psycopg.errors.NotNullViolation("failed")
    skipped = psycopg.errors.PipelineAborted("skipped")
    skipped.__context__ = failed
    assert database.first_failure(skipped) is failed
    assert database.first_failure(failed) is failed
