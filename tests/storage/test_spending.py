"""Room under limits, beyond the contract: values that are none, and a server whose lock is waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from storage import BudgetFull, Change, InvalidValue, Limit, Store, open_store
from storage.sql import SQLStore
from storage.testing import call_record, change, hold, reservation, session_record, turn_record
from storage.transactions import Database, spending

ALMOST = Decimal("0.000000000000001")


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"expected": Decimal(-1)}, "expected must be an amount"),
        ({"most": Decimal(2_000_000)}, "most must be an amount"),
        ({"expected": Decimal("NaN")}, "expected must be a finite Decimal"),
        ({"now": float("nan")}, "now must be a finite number"),
        ({"until": float("inf")}, "until must be a finite number"),
        ({"limits": (Limit("a", Decimal(1), 0.0),)}, "window must be more than no seconds"),
        ({"limits": (Limit("a", Decimal(-1), 1.0),)}, "usd must be an amount"),
    ],
)
async def test_what_is_no_amount_or_time_is_refused(store: Store, fields: dict[str, Any], what: str) -> None:
    given = {name: value for name, value in fields.items() if name not in ("expected", "most")}
    amounts = {name: str(value) for name, value in fields.items() if name in ("expected", "most")}
    with pytest.raises(InvalidValue, match=what):
        await store.reserve(reservation(**amounts, **given))


async def test_amounts_are_rounded_up(store: Store) -> None:
    await store.reserve(reservation("a", "0.2", "0.5"))
    with pytest.raises(BudgetFull):
        await store.reserve(reservation("b", str(Decimal("0.5") + ALMOST)))
    await store.reserve(reservation("b", "0.5"))


async def test_a_reservation_that_was_kept_is_not_taken_twice(url: str) -> None:
    """The answer to a COMMIT was lost, and the same work comes again."""
    store = SQLStore(url)
    await store.open()
    given = reservation("a", "0.6", "0.6")
    await store.reserve(given)
    await store.reserve(given)
    with pytest.raises(BudgetFull) as refused:
        await store.reserve(reservation("b", "0.6", "0.6"))
    assert refused.value.left == Decimal("0.4")
    await store.close()


async def test_what_ends_between_two_questions_makes_room(url: str) -> None:
    """Ledger rows are written without taking turns: what was full may have room when it is looked at again."""
    store = SQLStore(url)
    await store.open()
    await store.create(session_record())
    await store.reserve(reservation("a", "0.1", "1"))
    seen: list[str] = []

    class Ending:
        """The database, where the first request ends behind the first refusal."""

        def __init__(self, db: Database) -> None:
            self._db = db

        def __getattr__(self, name: str) -> Any:
            return getattr(self._db, name)

        def run(self, statement: Any, values: Any) -> Any:
            seen.append(statement.text["sqlite"].split()[0])
            if seen == ["INSERT", "SELECT"]:
                from storage.transactions.rows import call_cells
                from storage.transactions.statements import INSERT_CALL

                self._db.run(INSERT_CALL, call_cells(call_record("a", cost=Decimal("0.1"))))
            return self._db.run(statement, values)

    work = lambda db: spending.reserve(Ending(db), reservation("b", "0.5"))  # type: ignore[arg-type]  # noqa: E731
    assert await asyncio.wrap_future(store.dialect.write(work)) is None
    assert seen[:4] == ["INSERT", "SELECT", "SELECT", "INSERT"]
    await store.close()


async def test_a_refused_commit_is_not_taken_for_done_by_who_is_cancelled(store: Store) -> None:
    await store.create(session_record())
    lease = await hold(store)
    await store.reserve(reservation("a", "1", "1"))
    asks = change(None, None, turn=turn_record(), reserve=reservation("b"))
    task = asyncio.create_task(store.commit(lease, asks))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as cancelled:
        await task
    assert isinstance(cancelled.value.__cause__, BudgetFull)
    assert await store.turns("s") == []
    later = asyncio.create_task(store.commit(lease, change(None, None, turn=turn_record())))
    await asyncio.sleep(0)
    later.cancel()
    with pytest.raises(asyncio.CancelledError) as done:
        await later
    assert done.value.__cause__ is None
    assert len(await store.turns("s")) == 1


async def test_who_waits_too_long_for_others_goes_alone_and_the_connection_stays_sound(
    new_store: Callable[[], str],
) -> None:
    """A shared transaction waits for a moment only. Plans that were to be made behind the failure are made anew."""
    import psycopg

    url = new_store()
    store = open_store(url)
    await store.open()
    leases = {}
    for name in "abcdefghijkl":
        await store.create(session_record(name))
        leases[name] = await hold(store, name)

    def asks(name: str, number: int) -> Change:
        turn = turn_record(f"t{number}", name, sequence=number + 1)
        return change(None, None, turn=turn, reserve=reservation(f"c{number}", "0", "0", session=name))

    for number, count in enumerate((2, 3, 12, 12, 12)):
        with psycopg.connect(url) as other:
            other.execute("SELECT pg_advisory_xact_lock(hashtext('warmline spending'), 0)")
            some = [asks(name, number) for name in "abcdefghijkl"[:count]]
            tasks = [asyncio.create_task(store.commit(leases[each.turn.session], each)) for each in some if each.turn]
            await asyncio.sleep(0.5)
            assert not any(task.done() for task in tasks)
        await asyncio.gather(*tasks)
    assert [len(await store.turns(name)) for name in "abcl"] == [5, 5, 4, 3]
    await store.close()
