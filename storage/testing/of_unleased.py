"""What is said to a session without its lease: turns in the queue, turns to be stopped, decisions on tool calls."""

from __future__ import annotations

import math
from dataclasses import replace

import anyio

from storage.errors import DecisionTaken, HeadMoved, InvalidValue, SessionMissing, TurnKeyTaken, TurnMissing
from storage.records import Totals
from storage.store import Store

from .expecting import equal, raises
from .records import (
    NOW,
    call_record,
    change,
    decision_record,
    entries_of,
    grown,
    hold,
    session_record,
    turn_record,
)


async def a_turn_waits_in_the_queue(store: Store) -> None:
    """queue gives the row as it is stored, behind the turns that are there; queued gives the oldest."""
    lease = await grown(store, "a")
    equal(await store.queued("s"), None)
    await store.commit(lease, change("a", "a", turn=turn_record("t"), calls=(call_record(input=3),)))
    given = turn_record("q", sequence=9, state="finished", key="k", digest="d", queued='["é"]')
    first = await store.queue(given)
    equal(first, replace(given, sequence=2, state="queued"))
    second = await store.queue(turn_record("r"))
    equal((second.sequence, second.state), (3, "queued"))
    equal([await store.turn("s", id="q"), await store.turn("s", key="k"), await store.queued("s")], [first] * 3)
    equal((await store.load("s")).totals, Totals(turns=3, calls=1, input=3, unpriced=1))
    equal((await store.open_turn("s")), turn_record("t"))
    await store.commit(lease, change("a", "b", entries=entries_of("b", after=entries_of("a")[0])))
    await store.commit(lease, change("b", "b", turn=replace(first, state="running", queued=None)))
    equal([await store.queued("s"), (await store.load("s")).totals.turns], [second, 3])
    await store.create(session_record("empty"))
    equal((await store.queue(turn_record("q", "empty", key="k"))).sequence, 1)


async def a_turn_is_queued_once(store: Store) -> None:
    """The same id again gives what is stored, whatever has become of it; a key belongs to one turn of the session."""
    lease = await grown(store, "a")
    first = await store.queue(turn_record("q", key="k"))
    equal(await store.queue(turn_record("q", key="k", queued="other")), first)
    running = replace(first, state="running")
    await store.commit(lease, change("a", "a", turn=running))
    equal(await store.queue(turn_record("q", key="k")), running)
    error = await raises(TurnKeyTaken, store.queue(turn_record("r", key="k")))
    assert isinstance(error, TurnKeyTaken)
    equal((error.session, error.key), ("s", "k"))
    equal([await store.turns("s"), (await store.load("s")).totals.turns], [[running], 1])


async def turns_that_are_queued_at_once_stand_in_a_row(store: Store) -> None:
    """Each has a place of its own, whoever holds the session meanwhile."""
    lease = await grown(store, "a")

    async def ask(number: int) -> None:
        await store.queue(turn_record(f"q{number}"))

    async with anyio.create_task_group() as group:
        for number in range(8):
            group.start_soon(ask, number)
        group.start_soon(store.commit, lease, change("a", "a", calls=(call_record(output=1),)))
    turns = await store.turns("s")
    equal([turn.sequence for turn in turns], list(range(1, 9)))
    equal((await store.load("s")).totals, Totals(turns=8, calls=1, output=1, unpriced=1))
    for turn in turns:
        equal(await store.queued("s"), turn)
        await store.ask_stop("s", turn.id, now=NOW)
    equal(await store.queued("s"), None)


async def of_one_sequence_the_first_written_is_queued_first(store: Store) -> None:
    """A worker that does not know of a queued turn gives its own the same place."""
    lease = await grown(store, "a")
    for id in ("z", "a", "m"):
        await store.commit(lease, change("a", "a", turn=turn_record(id, state="queued")))
    for id in ("z", "a", "m"):
        equal((await store.queued("s")), turn_record(id, state="queued"))
        await store.ask_stop("s", id, now=NOW)


async def a_turn_that_begins_stands_before_those_that_were_queued_meanwhile(store: Store) -> None:
    """Its worker has not heard of them, and they run after it; of turns before it nothing changes."""
    lease = await grown(store, "a")
    await store.commit(lease, change("a", "a", turn=turn_record("first", state="finished")))
    for id in ("one", "two"):
        await store.queue(turn_record(id))
    begins = turn_record("begins", sequence=2, state="running")
    for row in (begins, replace(begins, state="finished")):
        await store.commit(lease, change("a", "a", turn=row))
        places = [(turn.id, turn.sequence) for turn in await store.turns("s")]
        equal(places, [("first", 1), ("begins", 2), ("one", 3), ("two", 4)])
    equal((await store.queue(turn_record("three"))).sequence, 5)


async def a_turn_that_was_stopped_in_the_queue_does_not_begin(store: Store) -> None:
    """Although a worker has just taken it up; nothing of its words is written then."""
    lease = await grown(store, "a")
    turn = await store.queue(turn_record("q"))
    equal(await store.ask_stop("s", "q", now=NOW), "queued")
    begins = change("a", "b", entries=entries_of("a", "b")[1:], turn=replace(turn, state="running", entry="b"))
    await raises(TurnMissing, store.commit(lease, begins))
    stopped = replace(turn, state="cancelled", ended=NOW)
    equal([(await store.load("s")).head, await store.turns("s")], ["a", [stopped]])


async def a_turn_is_asked_to_stop(store: Store) -> None:
    """ask_stop gives the state before; what nobody runs is cancelled then, and what has ended stays as it is."""
    lease = await grown(store, "a")
    states = ("queued", "running", "waiting", "finished", "interrupted", "failed", "cancelled")
    turns = [turn_record(state, sequence=place, state=state, pending="[1]") for place, state in enumerate(states)]
    for turn in turns:
        await store.commit(lease, change("a", "a", turn=turn))
    for turn in turns:
        equal(await store.ask_stop("s", turn.id, now=NOW + 1), turn.state)
        ends = turn.state in ("queued", "waiting")
        equal(await store.turn("s", id=turn.id), replace(turn, state="cancelled", ended=NOW + 1) if ends else turn)
    equal((await store.renew(lease, seconds=60, now=NOW)).stop, "running")
    equal(await store.ask_stop("s", "queued", now=NOW + 2), "cancelled")
    error = await raises(TurnMissing, store.ask_stop("s", "nobody", now=NOW))
    assert isinstance(error, TurnMissing)
    equal((error.session, error.turn), ("s", "nobody"))


async def a_turn_goes_on_when_all_is_decided(store: Store) -> None:
    """decide gives how many are left; decisions come back whole, by their index; with the last the turn is running."""
    lease = await grown(store, "a", "b")
    waiting = turn_record(state="waiting", ended=NOW, pending="[0, 2]")
    await store.commit(lease, replace(change("b", "b", turn=waiting), release=True))
    denied = decision_record("b", 2, approved=False, reason="no: é", decided=NOW + 0.5)
    approved = decision_record("b", 0, input='{"b": 1, "a": "\\u00e9"}')
    equal(await store.decide(denied, turn="t", of=2), 1)
    equal([await store.turn("s", id="t"), await store.orphans(now=NOW, limit=9)], [waiting, []])
    equal(await store.decide(approved, turn="t", of=2), 0)
    equal(await store.turn("s", id="t"), replace(waiting, state="running"))
    equal([await store.decisions("s", "b"), await store.decisions("s", "a")], [[approved, denied], []])
    equal([await store.orphans(now=NOW, limit=9), (await store.load("s")).totals.turns], [["s"], 1])


async def a_decision_is_refused_where_it_does_not_belong(store: Store) -> None:
    """Then nothing is written: of a call that was decided, of an entry that is not the head, of no turn that waits."""
    lease = await grown(store, "a", "b")
    await store.commit(lease, change("b", "b", turn=turn_record(state="waiting")))
    await store.commit(lease, change("b", "b", turn=turn_record("u", sequence=2)))
    first = decision_record("b")
    await store.decide(first, turn="t", of=3)
    for again in (first, replace(first, approved=False)):
        taken = await raises(DecisionTaken, store.decide(again, turn="t", of=3))
        assert isinstance(taken, DecisionTaken)
        equal((taken.session, taken.entry, taken.index), ("s", "b", 0))
    moved = await raises(HeadMoved, store.decide(decision_record("a"), turn="t", of=3))
    assert isinstance(moved, HeadMoved)
    equal((moved.expected, moved.actual), ("a", "b"))
    for turn in ("u", "nobody"):
        missing = await raises(TurnMissing, store.decide(decision_record("b", 1), turn=turn, of=3))
        assert isinstance(missing, TurnMissing)
        equal(missing.turn, turn)
    for name, wrong in (
        ("index", decision_record("b", 2**63)),
        ("reason", decision_record("b", 1, reason="a\0b")),
        ("input", decision_record("b", 1, input="a\ud800b")),
        ("approved", decision_record("b", 1, approved=2)),
        ("decided", decision_record("b", 1, decided=math.inf)),
    ):
        equal(str(await raises(InvalidValue, store.decide(wrong, turn="t", of=1))).startswith(name), True)
    equal([await store.decisions("s", "b"), await store.decisions("s", "a")], [[first], []])
    equal(await store.turn("s", id="t"), turn_record(state="waiting"))
    await store.commit(lease, change("b", "c", entries=entries_of("c", after=entries_of("a", "b")[1])))
    await raises(DecisionTaken, store.decide(first, turn="t", of=3))


async def of_many_who_decide_each_call_is_decided_once(store: Store) -> None:
    """However they arrive: one of them is heard of each call, and the last one takes the turn on."""
    lease = await grown(store, "a", "b")
    await store.commit(lease, change("b", "b", turn=turn_record(state="waiting")))
    left: list[int] = []
    taken: list[int] = []

    async def attempt(index: int, approved: bool) -> None:
        try:
            left.append(await store.decide(decision_record("b", index, approved=approved), turn="t", of=3))
        except DecisionTaken:
            taken.append(index)

    async with anyio.create_task_group() as group:
        for index in range(3):
            for approved in (True, False):
                group.start_soon(attempt, index, approved)
    equal([sorted(left), sorted(taken)], [[0, 1, 2], [0, 1, 2]])
    equal([decision.index for decision in await store.decisions("s", "b")], [0, 1, 2])
    equal([turn.state for turn in await store.turns("s")], ["running"])


async def a_title_is_given_whoever_holds_the_session(store: Store) -> None:
    """entitle changes the title alone, while a lease is held; a commit keeps it. SessionMissing for no session."""
    lease = await grown(store, "a")
    before = await store.load("s")
    await store.entitle("s", "ï")
    equal(await store.load("s"), replace(before, title="ï"))
    await store.commit(lease, change("a", "b", entries=entries_of("b", after=entries_of("a")[0])))
    equal((await store.load("s")).title, "ï")
    await raises(SessionMissing, store.entitle("absent", "x"))


async def an_entry_with_decisions_stays(store: Store) -> None:
    """Where the session that wrote it is deleted, and one that has decided on its calls is not."""
    lease = await grown(store, "a", "b", "c")
    await store.create(session_record("f", tree="s", head="b", forked_from="s"))
    fork = await hold(store, "f")
    await store.commit(fork, change("b", "b", turn=turn_record(session="f", state="waiting")))
    await store.decide(decision_record("b", session="f"), turn="t", of=1)
    await store.commit(fork, change("b", "a"))
    await store.release(lease)
    await store.delete("s")
    equal([id for id in "abc" if await store.entry("f", id) is not None], ["a", "b"])
