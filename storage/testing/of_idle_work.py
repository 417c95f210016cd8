"""Work while nobody talks: what is due, what the dead left, who warms which point."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import anyio

from storage.holders import Holder
from storage.records import Warmup
from storage.store import Store

from .expecting import equal
from .records import ME, NOW, OTHER, change, entries_of, grown, hold, session_record, turn_record


async def _due(store: Store, holder: Holder = ME, late: float = 0.0, limit: int = 9) -> list[str]:
    """What is due, and is then due again in an hour."""
    return sorted(await store.claim_due(holder, now=NOW, limit=limit, late=late, seconds=3600))


async def a_session_that_is_due_is_claimed_once(store: Store) -> None:
    """Those longest due first; a claim that nobody follows up is offered again."""
    for id, after in (("a", -30.0), ("b", -50.0), ("c", 50.0), ("d", None), ("e", -40.0)):
        await store.create(session_record(id))
        await store.tend(id, after, now=NOW)
    await store.tend("nobody", -1.0, now=NOW)
    equal(await _due(store, late=35, limit=1), ["b"])
    equal(await _due(store, late=35), ["e"])
    equal(await store.claim_due(ME, now=NOW, limit=9, seconds=-10), ["a"])
    equal(await _due(store), ["a"])
    equal(await _due(store), [])
    await store.tend("b", -1.0, now=NOW)
    await store.tend("c", -1.0, now=NOW)
    await store.tend("c", None, now=NOW)
    equal(await _due(store), ["b"])
    await store.create(session_record("f", head="e1"), entries_of("e1"))
    await store.tend("f", -1.0, now=NOW, head="e1")
    await store.tend("f", None, now=NOW, head="another")
    equal(await _due(store), ["f"])


async def a_claim_is_given_to_one_of_many(store: Store) -> None:
    """However many ask at the same time, and with more due than one may take."""
    for number in range(20):
        await store.create(session_record(f"s{number}"))
        await store.tend(f"s{number}", -1.0, now=NOW)
    claimed: list[str] = []

    async def claim(name: str) -> None:
        claimed.extend(await _due(store, replace(ME, name=name), limit=3))

    async with anyio.create_task_group() as group:
        for number in range(6):
            group.start_soon(claim, str(number))
    while more := await _due(store, limit=3):
        claimed.extend(more)
    equal(sorted(claimed), sorted(f"s{number}" for number in range(20)))


async def a_commit_sets_the_time_of_tending(store: Store) -> None:
    """It goes with the head that it was for; a commit that leaves the head leaves it, unless it gives another."""
    lease = await grown(store, "a")
    for moved, after, due in ((False, -1.0, True), (False, None, True), (True, None, False), (True, 60.0, False)):
        await store.tend("s", -1.0, now=NOW)
        head = (await store.load("s")).head
        await store.commit(lease, change(head, (None if head else "a") if moved else head, tend_after=after))
        equal((moved, after, await _due(store)), (moved, after, ["s"] if due else []))
    await store.commit(lease, change("a", None))
    await store.commit(lease, change(None, None, tend_after=-1.0))
    await store.commit(lease, change(None, None))
    equal(await _due(store), ["s"])


async def a_session_in_use_is_tended_by_its_holder(store: Store) -> None:
    """claim_due leaves what another holds under a lease to that holder, until the lease is over."""
    await store.create(session_record())
    lease = await hold(store)
    await store.tend("s", -1.0, now=NOW)
    equal(await _due(store, OTHER), [])
    equal(await _due(store, ME), ["s"])
    await store.tend("s", -1.0, now=NOW)
    await store.renew(lease, seconds=-1, now=NOW)
    equal(await _due(store, OTHER), ["s"])
    await store.tend("s", -1.0, now=NOW)
    await store.release(await hold(store))
    equal(await _due(store, OTHER), ["s"])


async def a_running_turn_without_a_lease_is_an_orphan(store: Store) -> None:
    """Of a process that has ended, of a lease that expired or was given back; never one that somebody runs."""
    dead = replace(ME, started=ME.started - 1000)
    states: dict[str, Any] = {
        "done": "finished", "stopped": "interrupted", "held": "running", "released": "running", "expired": "running",
        "dead": "running", "far": "running",
    }  # fmt: skip
    holders = {"dead": dead, "far": replace(dead, host="elsewhere")}
    for session, state in states.items():
        await store.create(session_record(session))
        lease = await store.acquire(session, holders.get(session, ME), seconds=60, now=NOW)
        for number in (1, 2):
            turn = turn_record(f"t{number}", session, number, state=state)
            await store.commit(lease, change(None, None, turn=turn))
        if session == "expired":
            await store.renew(lease, seconds=-1, now=NOW)
        elif session not in {"held", *holders}:
            await store.release(lease)
    equal(await store.orphans(now=NOW, limit=9), ["released", "expired", "dead"])
    equal(await store.orphans(now=NOW, limit=2), ["released", "expired"])


async def a_turn_in_the_queue_is_an_orphan_too(store: Store) -> None:
    """Where nobody holds the session, and once for each session; by the age of the oldest such turn."""
    for session in ("both", "queued", "held", "stopped"):
        await store.create(session_record(session))
        await store.queue(turn_record("q", session))
    lease = await hold(store, "both")
    await store.commit(lease, replace(change(None, None, turn=turn_record("t", "both", 2)), release=True))
    await hold(store, "held")
    await store.ask_stop("stopped", "q", now=NOW)
    equal(await store.orphans(now=NOW, limit=9), ["both", "queued"])
    equal(await store.orphans(now=NOW, limit=1), ["both"])


async def _lead(store: Store, holder: Holder = ME, seconds: float = 60, point: str = "p") -> Warmup:
    """Asks to write the point."""
    return await store.lead(point, holder, seconds=seconds, now=NOW)


async def one_holder_leads_a_point(store: Store) -> None:
    """Others are told who, until it says that the point was not written, or its time or its process is over."""
    mine = await _lead(store)
    equal((mine.state, (await _lead(store, point="q")).state), ("leading", "leading"))
    other = await _lead(store, OTHER)
    equal((other.state, other.holder, 0 < other.seconds_left <= 60, other.ttl), ("taken", ME, True, None))
    await store.led("p", mine.token, ttl=None, alive=0, now=NOW)
    late = await _lead(store, OTHER, seconds=-1)
    equal(late.state, "leading")
    anew = await _lead(store)
    equal((anew.state, anew.token == late.token), ("leading", False))
    await store.led("p", late.token, ttl="5m", alive=300, now=NOW)
    equal((await _lead(store, OTHER)).state, "taken")
    for seconds, others in ((60, "taken"), (-1, "leading")):
        again = await _lead(store, seconds=seconds)
        equal((again.state, again.token), ("leading", anew.token))
        equal((await _lead(store, OTHER)).state, others)


async def a_dead_leader_is_followed_at_once(store: Store) -> None:
    """On the same host only: of another host nobody can know."""
    reborn = replace(ME, started=ME.started - 1000)
    for holder, state in ((reborn, "leading"), (replace(reborn, host="elsewhere"), "taken")):
        await _lead(store, holder, point=holder.host)
        equal((await _lead(store, point=holder.host)).state, state)


async def a_written_point_is_known_until_it_lapses(store: Store) -> None:
    """With its lifetime and what is left of it; then somebody leads again."""
    for alive, state in ((300.0, "warm"), (1e-9, "leading")):
        mine = await _lead(store)
        await store.led("p", mine.token, ttl="1h", alive=alive, now=NOW - 1e-3)
        warmup = await _lead(store, OTHER)
        equal((warmup.state, warmup.ttl), (state, "1h" if state == "warm" else None))
        if state == "warm":
            equal(290 < warmup.seconds_left <= 300, True)
            equal((await _lead(store, ME)).state, "warm")
            await store.led("p", warmup.token, ttl=None, alive=0, now=NOW)


async def of_many_at_once_one_leads(store: Store) -> None:
    """And the others all hear of it."""
    states: list[str] = []

    async def ask(name: str) -> None:
        states.append((await _lead(store, replace(ME, name=name))).state)

    async with anyio.create_task_group() as group:
        for number in range(8):
            group.start_soon(ask, str(number))
    equal(sorted(states), ["leading", *["taken"] * 7])
