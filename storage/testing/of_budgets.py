"""Room under limits: who may spend how much, before it is spent, whatever becomes of those who took it."""

from __future__ import annotations

from decimal import Decimal

import anyio

from storage.errors import BudgetFull
from storage.records import Limit
from storage.store import Store

from .expecting import equal
from .records import NOW, call_record, change, entries_of, grown, hold, reservation, session_record, turn_record


async def _refused(store: Store, *asked: object, **fields: object) -> BudgetFull | None:
    try:
        await store.reserve(reservation(*asked, **fields))  # type: ignore[arg-type]
    except BudgetFull as error:
        return error
    return None


async def there_is_room_until_it_is_taken(store: Store) -> None:
    """What is expected of a request is set against what others may cost at most; the refused takes nothing."""
    equal(await _refused(store, "a", "0.1", "0.45"), None)
    equal(await _refused(store, "b", "0.55", "0.6"), None)
    full = await _refused(store, "c", "0.1", "0.1")
    equal(full and (full.scope, full.left, full.frees, full.is_held), ("a", Decimal(0), NOW + 60, True))
    full = await _refused(store, "c", "0.4", "0.4")
    equal(full and full.is_held, False)
    await store.free("s", "b")
    equal(await _refused(store, "c", "0.55", "0.6"), None)
    equal(full is not None and (full.left, full.frees) == (Decimal(0), NOW + 60), True)


async def what_ended_counts_for_what_it_cost(store: Store) -> None:
    """As the ledger has it, which settles the reservation by itself; what has no price counts as nothing."""
    await store.create(session_record())
    equal(await _refused(store, "a", "0.1", "0.9"), None)
    equal((await _refused(store, "b", "0.2", "0.2")) is None, False)
    await store.record(call_record("a", cost=Decimal("0.7")))
    equal(await _refused(store, "b", "0.2", "0.2"), None)
    await store.record(call_record("b", cost=None))
    full = await _refused(store, "c", "0.31", "0.31")
    equal(full and (full.left, full.is_held), (Decimal("0.3"), False))
    equal(await _refused(store, "c", "0.3", "0.3"), None)
    await store.free("s", "a")
    equal((await _refused(store, "d", "0.1", "0.1")) is None, False)


async def nobody_waits_for_the_dead_for_ever(store: Store) -> None:
    """A reservation without a ledger row counts for what was expected when its time is over, and leaves the window."""
    equal(await _refused(store, "a", "0.4", "1", until=NOW + 5), None)
    full = await _refused(store, "b", "0.6", "0.6", now=NOW + 4)
    equal(full and full.is_held, True)
    equal(await _refused(store, "b", "0.6", "0.6", now=NOW + 5, until=NOW + 5), None)
    full = await _refused(store, "c", "0.7", "0.7", now=NOW + 60)
    equal(full and full.frees, NOW + 65)
    equal(await _refused(store, "c", "0.4", "0.4", now=NOW + 60), None)
    full = await _refused(store, "d", "1.1", "1.1", now=NOW + 60)
    equal(full and full.frees, None)


async def a_request_needs_room_under_all_its_limits(store: Store) -> None:
    """The refusal names the one that frees last, and nothing is taken of any."""
    wide, narrow = Limit("wide", Decimal(5), 10.0), Limit("é'\"", Decimal(1), 90.0)
    both = {"limits": (wide, narrow)}
    equal(await _refused(store, "a", "0.9", "0.9", **both), None)
    full = await _refused(store, "b", "0.2", "0.2", **both)
    equal(full and (full.scope, full.left, full.frees), (narrow.scope, Decimal("0.1"), NOW + 90))
    equal(await _refused(store, "b", "4.1", "4.1", limits=(wide,)), None)
    full = await _refused(store, "c", "0.2", "0.2", **both)
    equal(full and full.scope, narrow.scope)
    equal(await _refused(store, "d", "1", "1"), None)


async def a_commit_takes_room_or_writes_nothing(store: Store) -> None:
    """With its request's row; refused, the same commit may come again."""
    lease = await grown(store, "e1")
    equal(await _refused(store, "a", "0.9", "0.9"), None)
    asks = change("e1", "e1", turn=turn_record(call="{}"), reserve=reservation("b", "0.2"))
    try:
        await store.commit(lease, asks)
    except BudgetFull as error:
        equal(error.left, Decimal("0.1"))
    equal(await store.turns("s"), [])
    await store.free("s", "a")
    await store.commit(lease, asks)
    equal([turn.call for turn in await store.turns("s")], ["{}"])
    full = await _refused(store, "c", "0.9", "0.9")
    equal(full and full.left, Decimal("0.8"))
    answer = entries_of("e1", "e2")[1:]
    await store.commit(lease, change("e1", "e2", entries=answer, calls=(call_record("b", cost=Decimal("0.05")),)))
    equal(await _refused(store, "c", "0.95", "0.95"), None)


async def what_a_deleted_session_has_spent_stays_spent(store: Store) -> None:
    """Else who deletes could spend again; what it had under way counts for what was expected."""
    await store.create(session_record())
    equal(await _refused(store, "a", "0.1", "0.5"), None)
    await store.record(call_record("a", cost=Decimal("0.4")))
    equal(await _refused(store, "b", "0.1", "0.2"), None)
    await store.delete("s")
    full = await _refused(store, "c", "0.51", "0.51", session="t")
    equal(full and full.left, Decimal("0.5"))


async def many_take_room_at_once_and_no_more_than_there_is(store: Store) -> None:
    """By commits and without them: two never take the same room."""
    taken: list[str] = []

    async def take(number: int) -> None:
        if number % 2:
            asked = await _refused(store, f"c{number}", session=f"s{number}")
        else:
            await store.create(session_record(f"s{number}"))
            lease = await hold(store, f"s{number}")
            asked = None
            try:
                reserve = reservation(f"c{number}", session=f"s{number}")
                await store.commit(lease, change(None, None, reserve=reserve))
            except BudgetFull as error:
                asked = error
        if asked is None:
            taken.append(f"c{number}")

    async with anyio.create_task_group() as group:
        for number in range(12):
            group.start_soon(take, number)
    equal(len(taken), 5)


async def a_long_window_is_kept_short(store: Store) -> None:
    """However many requests are in it: what has ended is added up, what is over goes, and the sum stays right."""
    await store.create(session_record())
    limits = (Limit("a", Decimal(1), 20_000.0),)
    for number in range(250):
        asked = reservation(f"c{number}", "0.001", "0.002", now=NOW + number, until=NOW + 9e9, limits=limits)
        await store.reserve(asked)
        await store.record(call_record(f"c{number}", cost=Decimal("0.003")))
    full = await _refused(store, "z", "0.2501", now=NOW + 250, limits=limits)
    equal(full and full.left, Decimal("0.25"))
    # It leaves with the newest of those that it was added up with: up to a 200th of the window later.
    equal(full is not None and NOW + 20_000 <= (full.frees or 0.0) <= NOW + 20_100, True)
    equal(await _refused(store, "z", "0.25", now=NOW + 250, limits=limits), None)
    await store.free("s", "z")
    # When all have left, they go with one of the next requests.
    for number in range(150):
        equal(await _refused(store, f"d{number}", "0.001", "0.002", now=NOW + 30_000, limits=limits), None)
