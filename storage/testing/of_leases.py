"""Leases: one holder at a time, and who comes next."""

from __future__ import annotations

from dataclasses import replace

from storage.errors import HeadMoved, LeaseGone, LeaseTaken
from storage.store import Store

from .expecting import equal, raises, refused
from .records import ME, NOW, OTHER, change, entries_of, hold, session_record, turn_record


async def a_lease_keeps_others_out(store: Store) -> None:
    """acquire raises LeaseTaken, with holder and expiry, until the lease is released."""
    await store.create(session_record())
    lease = await hold(store)
    error = await raises(LeaseTaken, store.acquire("s", OTHER, seconds=60, now=NOW))
    assert isinstance(error, LeaseTaken)
    equal((error.holder, error.expires), (ME, lease.expires))
    await store.release(lease)
    taken = await store.acquire("s", OTHER, seconds=60, now=NOW)
    equal((taken.holder, taken.token), (OTHER, lease.token + 1))
    await store.release(lease)
    await raises(LeaseTaken, hold(store))


async def the_first_to_wait_is_the_first_served(store: Store) -> None:
    """A refused holder with `queue` keeps its place: others, queued or not, come after it; a lapsed place is gone."""
    await store.create(session_record())
    third = replace(ME, name="third")
    lease = await hold(store)
    for waiter in (OTHER, third, OTHER):
        await raises(LeaseTaken, store.acquire("s", waiter, seconds=60, now=NOW, queue=60))
    await store.release(lease)
    error = await raises(LeaseTaken, store.acquire("s", third, seconds=60, now=NOW, queue=60))
    assert isinstance(error, LeaseTaken)
    equal(error.holder, OTHER)
    await raises(LeaseTaken, store.acquire("s", ME, seconds=60, now=NOW))
    await store.release(await store.acquire("s", OTHER, seconds=60, now=NOW, queue=60))
    await store.release(await store.acquire("s", third, seconds=60, now=NOW, queue=60))
    lease = await hold(store)
    await raises(LeaseTaken, store.acquire("s", OTHER, seconds=60, now=NOW, queue=60))
    await raises(LeaseTaken, store.acquire("s", OTHER, seconds=60, now=NOW, queue=-1))
    await store.release(lease)
    await hold(store)


async def a_lease_ends_with_its_time(store: Store) -> None:
    """An expired lease is taken over, and cannot be renewed any more then."""
    await store.create(session_record())
    lease = await store.acquire("s", ME, seconds=-1, now=NOW)
    renewed = await store.renew(lease, seconds=-1, now=NOW)
    equal(renewed.token, lease.token)
    taken = await store.acquire("s", OTHER, seconds=60, now=NOW)
    equal(taken.token, lease.token + 1)
    await raises(LeaseGone, store.renew(lease, seconds=60, now=NOW))


async def a_renewed_lease_lasts_longer(store: Store) -> None:
    """renew moves the expiry on and keeps token and holder."""
    await store.create(session_record())
    lease = await store.acquire("s", ME, seconds=-1, now=NOW)
    renewed = await store.renew(lease, seconds=60, now=NOW)
    equal(replace(renewed, expires=0), replace(lease, expires=0))
    equal(renewed.expires > lease.expires + 60, True)
    await raises(LeaseTaken, store.acquire("s", OTHER, seconds=60, now=NOW))


async def a_lease_tells_which_turn_is_to_be_stopped(store: Store) -> None:
    """Asked for while it lasts or before; whoever has the lease next is told too."""
    await store.create(session_record())
    lease = await hold(store)
    await store.commit(lease, change(None, None, turn=turn_record("t")))
    equal([lease.stop, (await store.renew(lease, seconds=60, now=NOW)).stop], [None, None])
    equal(await store.ask_stop("s", "t", now=NOW), "running")
    equal((await store.renew(lease, seconds=60, now=NOW)).stop, "t")
    await store.commit(lease, replace(change(None, None), release=True))
    taken = await store.acquire("s", OTHER, seconds=60, now=NOW)
    equal([taken.stop, (await store.renew(taken, seconds=60, now=NOW)).stop], ["t", "t"])
    await store.commit(taken, change(None, None, turn=turn_record("u", sequence=2)))
    await store.ask_stop("s", "u", now=NOW)
    equal((await store.renew(taken, seconds=60, now=NOW)).stop, "u")


async def the_same_holder_gets_a_new_lease_at_once(store: Store) -> None:
    """Its older lease is gone then."""
    await store.create(session_record())
    first, second = await hold(store), await hold(store)
    equal(second.token, first.token + 1)
    await raises(LeaseGone, store.commit(first, change(None, None)))
    await store.commit(second, change(None, None))


async def a_commit_may_give_the_lease_back(store: Store) -> None:
    """With `release` the lease ends with the commit, all or nothing; releasing it once more is no error."""
    await store.create(session_record())
    lease = await hold(store)
    await refused(store, HeadMoved, lease, replace(change("nobody", None), release=True))
    await raises(LeaseTaken, store.acquire("s", OTHER, seconds=60, now=NOW))
    await store.commit(lease, replace(change(None, "a", entries=entries_of("a")), release=True))
    await refused(store, LeaseGone, lease, change("a", None))
    taken = await store.acquire("s", OTHER, seconds=60, now=NOW)
    equal(taken.token, lease.token + 1)
    await store.release(lease)
    await store.commit(taken, change("a", None))


async def a_dead_process_loses_its_lease_at_once(store: Store) -> None:
    """On the same host only: of another host nobody can know."""
    reborn = replace(ME, started=ME.started - 1000)
    for holder, free in ((reborn, True), (replace(reborn, host="elsewhere"), False)):
        await store.create(session_record(holder.host))
        await store.acquire(holder.host, holder, seconds=60, now=NOW)
        if free:
            await hold(store, holder.host)
        else:
            await raises(LeaseTaken, hold(store, holder.host))
