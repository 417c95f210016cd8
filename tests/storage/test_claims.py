"""Many workers ask at once what is due: each session is given to exactly one, and that of a dead one is given again."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import pytest

from storage import LeaseTaken, Store, open_store
from storage.testing import ME, NOW, OTHER, change, hold, session_record, turn_record

SESSIONS, WORKERS = 120, 8


@asynccontextmanager
async def stores(url: str, count: int = WORKERS) -> AsyncIterator[list[Store]]:
    async with AsyncExitStack() as stack:
        opened = [open_store(url) for _ in range(count)]
        for store in opened:
            await store.open()
            stack.push_async_callback(store.close)
        yield opened


@pytest.fixture(params=["straight", "behind-a-pooler"])
def server_url(empty_store: str, request: pytest.FixtureRequest) -> str:
    if request.param == "straight":
        return empty_store
    pooled: Callable[[str], str] = request.getfixturevalue("pooler")
    return pooled(empty_store)


async def claim_all(store: Store, name: str) -> list[str]:
    """Claims until nothing is left; what it claims it holds for a minute."""
    claimed: list[str] = []
    while found := await store.claim_due(replace(ME, name=name), now=NOW, limit=3, seconds=60):
        claimed += found
    return claimed


async def test_each_is_given_to_one(server_url: str) -> None:
    async with stores(server_url) as opened:
        for number in range(SESSIONS):
            await opened[0].create(session_record(f"s{number}"))
            await opened[0].tend(f"s{number}", -1.0 if number % 4 else 60.0, now=NOW)
        found = await asyncio.gather(*(claim_all(store, f"worker {at}") for at, store in enumerate(opened)))
        times = Counter(id for those in found for id in those)
        assert times == {f"s{number}": 1 for number in range(SESSIONS) if number % 4}
        assert sum(1 for those in found if those) > 1, "one worker got everything: nothing was put to the test"


async def test_what_a_dead_worker_claimed_is_given_again_once(server_url: str) -> None:
    async with stores(server_url, 5) as opened:
        for number in range(20):
            await opened[0].create(session_record(f"s{number}"))
            await opened[0].tend(f"s{number}", -1.0, now=NOW)
        dead = await opened[0].claim_due(ME, now=NOW, limit=100, seconds=0.3)
        assert len(dead) == 20
        early = await asyncio.gather(*(claim_all(store, f"worker {at}") for at, store in enumerate(opened[1:])))
        assert not any(early)
        await asyncio.sleep(0.4)
        found = await asyncio.gather(*(claim_all(store, f"worker {at}") for at, store in enumerate(opened[1:])))
        assert sorted(id for those in found for id in those) == sorted(dead)


async def test_who_holds_the_session_keeps_it(server_url: str) -> None:
    """A session that is being talked to is left to its holder; others do not wait for it."""
    async with stores(server_url, 2) as (one, other):
        for id in ("talked", "idle"):
            await one.create(session_record(id))
            await one.tend(id, -1.0, now=NOW)
        lease = await hold(one, "talked")
        assert await other.claim_due(OTHER, now=NOW, limit=10, seconds=60) == ["idle"]
        await one.release(lease)
        assert await other.claim_due(OTHER, now=NOW, limit=10, seconds=60) == ["talked"]


async def test_a_prefix_is_led_by_one(server_url: str) -> None:
    async with stores(server_url) as opened:
        answers = await asyncio.gather(
            *(
                store.lead("p", replace(ME, name=f"{at} {again}"), seconds=60, now=NOW)
                for again in range(10)
                for at, store in enumerate(opened)
            )
        )
        assert Counter(one.state for one in answers) == {"leading": 1, "taken": 10 * WORKERS - 1}


async def test_what_was_written_before_a_reboot_keeps_nobody_out(store: Store) -> None:
    """Then the time that leases go by has begun anew: a lease, a place in line, a lead and a living point are over."""
    before, later = replace(ME, host="elsewhere"), 500_000.0
    await store.create(session_record())
    lease = await store.acquire("s", before, seconds=60, now=later)
    with pytest.raises(LeaseTaken):
        await store.acquire("s", replace(before, name="b"), seconds=60, now=later, queue=60)
    await store.commit(lease, change(None, None, turn=turn_record()))
    await store.lead("p", before, seconds=60, now=later)
    written = await store.lead("q", before, seconds=60, now=later)
    await store.led("q", written.token, ttl="1h", alive=3600, now=later)
    await store.tend("s", 0, now=NOW)
    assert await store.orphans(now=5.0, limit=9) == ["s"]
    assert await store.claim_due(ME, now=NOW + 1, limit=9, seconds=60, lease_now=later) == []
    assert await store.claim_due(ME, now=NOW + 1, limit=9, seconds=60, lease_now=5.0) == ["s"]
    assert [(await store.lead(point, ME, seconds=60, now=5.0)).state for point in "pq"] == ["leading", "leading"]
    assert (await store.acquire("s", ME, seconds=60, now=5.0)).expires == 65.0
