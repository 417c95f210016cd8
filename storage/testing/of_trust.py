"""Trust: what workers find out about an endpoint and a model adds up, and one of them is to find it out."""

from __future__ import annotations

import anyio

from storage.records import TrustRecord
from storage.store import Store

from .expecting import equal
from .records import NOW

DAY = 86_400.0


async def _weigh(
    store: Store, by: int, first: int = 2, *, now: float = NOW, endpoint: str = "e", model: str = "m"
) -> TrustRecord:
    """Says what was seen; what counts against it is forgotten after a day."""
    return await store.weigh_trust(endpoint, model, by, first=first, most=4, now=now, forget=DAY)


async def _claim(store: Store, seconds: float = 60.0, *, now: float = NOW, model: str = "m") -> bool:
    return await store.claim_trust("e", model, seconds=seconds, now=now, forget=DAY)


async def points_of_trust_add_up(store: Store) -> None:
    """From `first`, to `most`, for each endpoint and model apart; at 0 they stay."""
    equal(await store.trust("e", "m"), None)
    for by, points in ((7, 2), (1, 3), (1, 4), (1, 4), (-1, 3), (-3, 0), (1, 0), (-1, 0)):
        equal(await _weigh(store, by), TrustRecord("e", "m", points, NOW))
        equal(await store.trust("e", "m"), TrustRecord("e", "m", points, NOW))
    equal((await _weigh(store, 1, endpoint="f")).points, 2)
    equal((await _weigh(store, 1, 1, model="n")).points, 1)


async def what_counts_against_an_endpoint_is_forgotten(store: Store) -> None:
    """After its time; what came later does not prolong it, and what counts for it is kept."""
    await _weigh(store, 0, 0)
    equal(await _weigh(store, -1, now=NOW + DAY), TrustRecord("e", "m", 0, NOW))
    equal(await _weigh(store, -1, 1, now=NOW + DAY + 1), TrustRecord("e", "m", 1, NOW + DAY + 1))
    equal((await _weigh(store, 1, now=NOW + 9 * DAY)).points, 2)


async def points_that_many_give_are_all_counted(store: Store) -> None:
    """Those who say something at the same time, of a row that is there and of one that is not."""
    for model, start in (("new", 0), ("known", 4)):
        if start:
            await store.weigh_trust("e", model, 0, first=40, most=40, now=NOW, forget=DAY)

        async def say(model: str = model) -> None:
            await store.weigh_trust("e", model, 1, first=1, most=50, now=NOW, forget=DAY)

        async with anyio.create_task_group() as group:
            for _ in range(8):
                group.start_soon(say)
        found = await store.trust("e", model)
        equal(found and found.points, 48 if start else 8)


async def one_of_many_is_to_find_out(store: Store) -> None:
    """While nobody has: another one when its time is over, nobody where it is known, until that is forgotten."""
    claimed: list[bool] = []

    async def claim() -> None:
        claimed.append(await _claim(store))

    async with anyio.create_task_group() as group:
        for _ in range(6):
            group.start_soon(claim)
    equal(sorted(claimed), [False] * 5 + [True])
    equal(await store.trust("e", "m"), TrustRecord("e", "m", None, NOW))
    equal([await _claim(store, -1.0, model="n"), await _claim(store, model="n")], [True, True])
    await _weigh(store, 0, 0, model="n")
    equal(await _claim(store, model="n"), False)
    equal(await store.trust("e", "n"), TrustRecord("e", "n", 0, NOW))
    await _weigh(store, 0, 2, model="o")
    equal([await _claim(store, model="o"), await _claim(store, now=NOW + 2 * DAY, model="o")], [False, False])
    await _weigh(store, 0, 0, model="p")
    equal(await _claim(store, now=NOW + 2 * DAY, model="p"), True)
