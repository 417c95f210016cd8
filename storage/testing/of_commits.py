"""Commits: all or nothing, on the head that was expected, under the newest lease."""

from __future__ import annotations

from decimal import Decimal

import anyio

from storage.errors import EntryMissing, HeadMoved, LeaseGone
from storage.records import Totals
from storage.store import Store

from .expecting import equal, raises, refused
from .records import (
    ME,
    NOW,
    OTHER,
    call_record,
    change,
    entries_of,
    grown,
    hold,
    session_record,
    tool_call_record,
    turn_record,
)


async def a_commit_writes_everything(store: Store) -> None:
    """Entries, calls, journal, turn, fields and totals are all there afterwards."""
    await store.create(session_record(title="old", metadata='{"old":1}'))
    lease = await hold(store)
    entries, call, turn = entries_of("a", "b"), call_record(output=5, cost=Decimal("0.25")), turn_record(entry="a")
    tool_call = tool_call_record(entry="b", idempotent=True)
    written = {"entries": entries, "calls": (call,), "tool_calls": (tool_call,), "turn": turn, "updated_at": NOW + 9}
    await store.commit(lease, change(None, "b", settings='{"x":1}', title="new", gaps="[1]", **written))
    totals = Totals(turns=1, calls=1, output=5, cost=Decimal("0.25"))
    told = {"settings": '{"x":1}', "title": "new", "metadata": '{"old":1}', "gaps": "[1]"}
    equal(await store.load("s"), session_record(head="b", updated_at=NOW + 9, totals=totals, state="running", **told))
    equal(await store.chain("s", "b"), list(entries))
    equal([await store.calls("s"), await store.journal("s"), await store.turns("s")], [[call], [tool_call], [turn]])
    await store.commit(lease, change("b", "a", metadata="{}"))
    moved = await store.load("s")
    equal((moved.head, moved.title, moved.metadata, moved.settings), ("a", "new", "{}", '{"x":1}'))
    await store.commit(lease, change("a", None))
    equal((await store.load("s")).head, None)


async def a_commit_on_a_moved_head_is_refused(store: Store) -> None:
    """HeadMoved names both heads, and nothing is written."""
    lease = await grown(store, "a", "b")
    new = entries_of("n", after=entries_of("a")[0])
    await refused(store, HeadMoved, lease, change("a", "n", entries=new, turn=turn_record()))
    await refused(store, HeadMoved, lease, change(None, "a"))
    error = await raises(HeadMoved, store.commit(lease, change("a", "n", entries=new)))
    assert isinstance(error, HeadMoved)
    equal((error.expected, error.actual), ("a", "b"))


async def a_commit_under_an_old_lease_is_refused(store: Store) -> None:
    """LeaseGone once somebody else has acquired it, or it was released; an expired lease still counts until then."""
    lease = await grown(store, "a")
    await store.release(lease)
    await refused(store, LeaseGone, lease, change("a", None))
    expired = await store.acquire("s", ME, seconds=-1, now=NOW)
    await store.commit(expired, change("a", "b", entries=entries_of("b", after=entries_of("a")[0])))
    await store.acquire("s", OTHER, seconds=60, now=NOW)
    await refused(store, LeaseGone, expired, change("b", "a", turn=turn_record()))


async def a_commit_names_only_entries_that_exist(store: Store) -> None:
    """EntryMissing for an unknown head or parent, and nothing is written."""
    lease = await grown(store, "a")
    await refused(store, EntryMissing, lease, change("a", "nobody", entries=entries_of("b", after=entries_of("a")[0])))
    orphan = entries_of("b")[0]._replace(parent="nobody", depth=2)
    await refused(store, EntryMissing, lease, change("a", "b", entries=(orphan,)))


async def of_two_commits_on_one_head_one_wins(store: Store) -> None:
    """However they arrive, the chain stays one chain."""
    lease = await grown(store, "a")
    outcomes: list[str] = []

    async def attempt(id: str) -> None:
        try:
            await store.commit(lease, change("a", id, entries=entries_of(id, after=entries_of("a")[0])))
            outcomes.append(id)
        except HeadMoved:
            outcomes.append("moved")

    async with anyio.create_task_group() as group:
        for id in ("x", "y", "z"):
            group.start_soon(attempt, id)
    equal(sorted(outcomes)[:2], ["moved", "moved"])
    equal([(await store.load("s")).head], [id for id in outcomes if id != "moved"])


async def one_that_fails_does_not_disturb_the_others(store: Store) -> None:
    """Writes of many sessions at once, some refused: each gets its own answer."""
    leases = [await grown(store, "a", session=f"s{i}") for i in range(8)]
    answers: dict[int, bool] = {}

    async def attempt(i: int) -> None:
        wrong = i % 3 == 0
        try:
            entries = entries_of("b", after=entries_of("a")[0])
            await store.commit(leases[i], change(None if wrong else "a", "b", entries=entries))
            answers[i] = True
        except HeadMoved:
            answers[i] = False

    async with anyio.create_task_group() as group:
        for i in range(8):
            group.start_soon(attempt, i)
    for i in range(8):
        equal((answers[i], (await store.load(f"s{i}")).head), (bool(i % 3), "b" if i % 3 else "a"))
