"""Sessions: created, listed, found by their words, deleted."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

from storage.errors import EntryMissing, LeaseGone, SessionExists, SessionMissing
from storage.records import Lease, Totals, TurnState
from storage.store import Store

from .expecting import equal, raises
from .records import (
    ME,
    NOW,
    call_record,
    change,
    decision_record,
    entries_of,
    grown,
    hold,
    relay_record,
    session_record,
    tool_call_record,
    turn_record,
)


async def a_session_comes_back_as_it_was_created(store: Store) -> None:
    """load gives every field of what create took."""
    totals = Totals(
        turns=1, calls=2, input=3, cache_read=4, cache_write_5m=5, cache_write_1h=6, output=7,
        cost=Decimal("0.000000123456789"), unpriced=8,
    )  # fmt: skip
    told = {"owner": "ö", "title": "Ünïcode 🧵", "metadata": '{"b":1,"a":2}', "settings": '{"x": "\\u00e9"}'}
    root = session_record(created_at=1.25, updated_at=2.5, totals=totals, gaps='{"n":1}', base=None, **told)
    await store.create(root)
    equal(await store.load("s"), root)
    fork = session_record("f", tree="s", forked_from="s", base="e", head="e")
    await store.create(fork, entries_of("e"))
    equal(await store.load("f"), fork)


async def a_taken_id_is_refused(store: Store) -> None:
    """create of an existing id raises SessionExists and changes nothing."""
    await store.create(session_record(title="first"))
    await raises(SessionExists, store.create(session_record(title="second"), entries_of("e")))
    equal((await store.load("s")).title, "first")
    equal(await store.entry("s", "e"), None)


async def an_unknown_session_is_missing(store: Store) -> None:
    """What needs a session raises SessionMissing; what lists its rows gives none."""
    lease = Lease("s", 1, ME, NOW)
    await raises(SessionMissing, store.load("s"))
    await raises(SessionMissing, store.delete("s"))
    await raises(SessionMissing, hold(store))
    await raises(SessionMissing, store.record(call_record()))
    await raises(SessionMissing, store.commit(lease, change(None, None)))
    await raises(SessionMissing, store.chain("s", "e"))
    await raises(SessionMissing, store.list(before="s"))
    await raises(SessionMissing, store.queue(turn_record()))
    await raises(SessionMissing, store.ask_stop("s", "t", now=NOW))
    await raises(SessionMissing, store.decide(decision_record(), turn="t", of=1))
    await raises(LeaseGone, store.renew(lease, seconds=10, now=NOW))
    await store.release(lease)
    equal([await store.calls("s"), await store.journal("s"), await store.turns("s")], [[], [], []])
    equal([await store.turn("s", id="t"), await store.open_turn("s"), await store.entry("s", "e")], [None] * 3)
    equal([await store.queued("s"), await store.decisions("s", "e"), await store.relayed("s", "t")], [None, [], []])


async def a_session_is_created_whole_or_not_at_all(store: Store) -> None:
    """A head or a parent that nobody wrote raises EntryMissing, and no session is left."""
    await raises(EntryMissing, store.create(session_record(head="e")))
    await raises(EntryMissing, store.create(session_record(head="f"), entries_of("e")))
    orphan = entries_of("e")[0]._replace(parent="nobody", depth=2)
    await raises(EntryMissing, store.create(session_record(head="e"), [orphan]))
    await raises(SessionMissing, store.load("s"))
    await store.create(session_record(head="f"), entries_of("e", "f"), [call_record(input=3, cost=Decimal("0.1"))])
    equal([entry.id for entry in await store.chain("s", "f")], ["e", "f"])
    equal((await store.load("s")).totals, Totals(calls=1, input=3, cost=Decimal("0.1")))


async def sessions_are_listed_newest_updated_first(store: Store) -> None:
    """list pages through sessions by updated_at, then id, of one owner or of all."""
    for id, owner, updated in (("a", "x", 1.0), ("b", "y", 3.0), ("c", "x", 2.0), ("d", "x", 2.0)):
        await store.create(session_record(id, owner=owner, updated_at=updated))

    async def ids(**filters: Any) -> list[str]:
        return [session.id for session in await store.list(**filters)]

    equal(await ids(), ["b", "d", "c", "a"])
    equal(await ids(owner="x"), ["d", "c", "a"])
    equal(await ids(owner="z"), [])
    equal(await ids(limit=2), ["b", "d"])
    equal(await ids(limit=2, before="d"), ["c", "a"])
    equal(await ids(owner="x", before="c"), ["a"])


async def sessions_are_found_by_their_words(store: Store) -> None:
    """search looks in title, id, metadata and entries, in any letter case, and takes every character literally."""
    said = entries_of("e")[0]._replace(content='[{"text":"Où est le CHÂTEAU_1?"}]')
    await store.create(session_record("a-One", title="Straße 100%"))
    await store.create(session_record("b", metadata='{"tag":"Blue"}', head="e"), [said])

    async def ids(words: str) -> list[str]:
        return sorted(session.id for session in await store.list(search=words))

    for words, expected in (
        ("STRAßE", ["a-One"]),
        ("A-ONE", ["a-One"]),
        ("blue", ["b"]),
        ("château_1", ["b"]),
        ("100%", ["a-One"]),
    ):
        equal(await ids(words), expected)
    for words in ("a%e", "château.1", "a_one", "\\"):
        equal(await ids(words), [])


async def a_search_looks_at_words_and_not_at_json(store: Store) -> None:
    """Keys, kinds, ids and signatures of blocks are no words; quotes and line breaks are found as they were said."""
    blocks: list[dict[str, Any]] = [
        {"type": "text", "text": 'She said "hello\nworld", 100% of a\\b: {x}\0', "citations": None},
        {"type": "thinking", "thinking": "", "signature": "EpIBcc"},
        {"type": "tool_use", "id": "toolu_01Abc", "name": "book", "input": {"city": "Rome: Ostia", "seats": 17}},
        {"type": "tool_result", "tool_use_id": "toolu_01Abc", "content": ["one", ": two"], "is_error": True},
        {"type": "document", "source": {"type": "base64", "media_type": "a/b", "data": "QUJDcat0cat0"}},
    ]
    content = json.dumps(blocks, ensure_ascii=False, separators=(",", ":"))
    said = entries_of("e")[0]._replace(content=content)
    await store.create(session_record("s1", head="e", metadata='{"ticket": "A-7", "tags": ["new"], "n": 42}'), [said])

    async def found(words: str) -> bool:
        return bool(await store.list(search=words))

    for words in (
        'said "hello', "hello\nworld", '\nWORLD", 100% of a\\b: {x}', "rome: ostia", "17", "one", ": two", "book",
        "a-7", "new", "42", "s1", "",
    ):  # fmt: skip
        equal((words, await found(words)), (words, True))
    for words in (
        "type", "citations", "null", "true", "toolu_01", "tool_use", "signature", "EpIB", "seats", "cat0", "base64",
        "ticket", "},", "[{", '":"', "hello\\nworld", "one two", "x" * 50_000,
    ):  # fmt: skip
        equal((words[:30], await found(words)), (words[:30], False))


async def sessions_are_found_by_the_beginning_of_their_id(store: Store) -> None:
    """prefix takes every character literally, in its own letter case."""
    for number, id in enumerate(("ab1", "ab2", "AB3", "a%b", "é_1")):
        await store.create(session_record(id, owner="me" if id == "ab2" else None, updated_at=float(number)))

    async def ids(prefix: str, **filters: Any) -> list[str]:
        return [session.id for session in await store.list(prefix=prefix, **filters)]

    equal(await ids("ab"), ["ab2", "ab1"])
    equal(await ids("ab", limit=1), ["ab2"])
    equal(await ids("ab", owner="me"), ["ab2"])
    equal(await ids("ab1"), ["ab1"])
    equal([await ids("a%"), await ids("é_")], [["a%b"], ["é_1"]])
    equal(await ids("b") + await ids("é%") + await ids("ab11"), [])


async def the_state_of_a_session_is_that_of_its_newest_turn(store: Store) -> None:
    """load, read and list tell it; of two turns with one sequence the later one counts."""
    lease = await grown(store, "a")
    equal((await store.load("s")).state, "idle")

    async def expect(id: str, sequence: int, state: TurnState, stop_reason: str | None, expected: str) -> None:
        turn = turn_record(id, sequence=sequence, state=state, stop_reason=stop_reason, entry="a", reply="a")
        await store.commit(lease, change("a", "a", turn=turn))
        (listed,) = await store.list()
        states = [(await store.load("s")).state, (await store.read("s", calls=1)).record.state, listed.state]
        equal((id, state, states), (id, state, [expected] * 3))

    await expect("older", 1, "finished", "end_turn", "idle")
    for id in ("first", "second"):
        await expect(id, 2, "queued", None, "running")
        await expect(id, 2, "running", None, "running")
        await expect(id, 2, "waiting", "tool_use", "waiting")
        await expect(id, 2, "finished", "end_turn", "idle")
        await expect(id, 2, "finished", "tool_use", "waiting")
        await expect(id, 2, "failed", None, "idle")
        await expect(id, 2, "interrupted", "tool_use", "interrupted")
        await expect(id, 2, "cancelled", "tool_use", "idle")
        await expect(id, 2, "finished", None, "idle")


async def a_turn_that_runs_counts_before_newer_ones(store: Store) -> None:
    """A summary is written as a turn's row while another runs; one that was stopped in the queue has never begun."""
    lease = await grown(store, "a")
    for id, sequence, state, reason, entry, expected in (
        ("t", 1, "running", None, "a", "running"),
        ("summary", 2, "finished", "compaction", None, "running"),
        ("t", 1, "waiting", "tool_use", "a", "waiting"),
        ("queued", 3, "queued", None, None, "waiting"),
        ("queued", 3, "cancelled", None, None, "waiting"),
        ("t", 1, "finished", "end_turn", "a", "idle"),
        ("queued", 3, "queued", None, None, "running"),
    ):
        turn = turn_record(id, sequence=sequence, state=state, stop_reason=reason, entry=entry, reply="a")
        await store.commit(lease, change("a", "a", turn=turn))
        equal((id, state, (await store.load("s")).state), (id, state, expected))


async def a_turn_waits_only_while_its_reply_is_the_head(store: Store) -> None:
    """Where the head has moved on without a turn, or back, nobody is to decide or to answer anything."""
    lease = await grown(store, "a", "b")
    for state in ("waiting", "finished"):
        turn = turn_record(state=state, stop_reason="tool_use", entry="a", reply="b")
        await store.commit(lease, change("b", "b", turn=turn))
        equal((await store.load("s")).state, "waiting")
        await store.commit(lease, change("b", "c", entries=entries_of("a", "b", "c")[2:]))
        equal([(await store.load("s")).state, (await store.list(state="waiting"))], ["idle", []])
        await store.commit(lease, change("c", "a"))
        equal([session.state for session in await store.list()], ["idle"])
        await store.commit(lease, change("a", "b"))
        equal([session.state for session in await store.list(state="waiting")], ["waiting"])


async def sessions_are_listed_by_state_and_parent(store: Store) -> None:
    """With the other filters, page by page; without `branches`, those that were made from others are left out."""
    made = (("a", None, "running"), ("b", "a", "interrupted"), ("c", "a", "running"), ("d", "b", "waiting"))
    for number, (id, parent, state) in enumerate((*made, ("e", None, "finished"), ("f", "a", None))):
        given = {"forked_from": parent, "owner": "ada" if number % 2 else None, "updated_at": float(number)}
        await store.create(session_record(id, **given))
        if state is not None:
            turn = turn_record(session=id, state=state)
            await store.commit(await hold(store, id), change(None, None, turn=turn, updated_at=float(number)))

    async def ids(**filters: Any) -> str:
        return "".join([session.id for session in await store.list(**filters)])

    equal([await ids(state=state) for state in ("running", "interrupted", "waiting", "idle")], ["ca", "b", "d", "fe"])
    equal([await ids(parent=parent) for parent in "abc"], ["fcb", "d", ""])
    equal([await ids(branches=False), await ids(branches=True), await ids()], ["ea", "fedcba", "fedcba"])
    equal([await ids(parent="a", state="running"), await ids(parent="a", branches=False)], ["c", ""])
    equal([await ids(state="running", branches=False), await ids(state="idle", owner="ada")], ["a", "f"])
    equal([await ids(parent="a", limit=1), await ids(parent="a", before="f"), await ids(parent="a", search="B")],
          ["f", "cb", "b"])  # fmt: skip
    await store.delete("b")  # what was made of it is nobody's branch any more, and must not be hidden
    equal([await ids(branches=False), await ids(parent="b")], ["eda", "d"])


async def a_deleted_session_is_gone(store: Store) -> None:
    """With its entries, calls, journal, turns, decisions, followers and relays; its id may be used again."""
    lease = await grown(store, "a")
    rows: dict[str, Any] = {"calls": (call_record(),), "turn": turn_record(key="k", state="waiting")}
    await store.commit(lease, change("a", "a", tool_calls=(tool_call_record(entry="a"),), **rows))
    await store.decide(decision_record("a"), turn="t", of=2)
    await store.follow("s", "me", seconds=60, now=NOW)
    await store.relay([relay_record()])
    await store.delete("s")
    equal([await store.followed(now=NOW), await store.relayed("s", "t"), await store.decisions("s", "a")], [[]] * 3)
    await raises(SessionMissing, store.load("s"))
    await raises(SessionMissing, store.commit(lease, change("a", None)))
    await store.create(session_record())
    equal([await store.calls("s"), await store.journal("s"), await store.turns("s")], [[], [], []])
    equal(await store.entry("s", "a"), None)


async def what_a_fork_reaches_stays(store: Store) -> None:
    """An entry goes only when no remaining session wrote it, points at it, or has such an entry behind it."""
    lease = await grown(store, "a", "b", "c", "d", "e")
    await store.create(session_record("f", tree="s", head="b", forked_from="s"))
    fork = await hold(store, "f")
    written = entries_of("x", after=entries_of("a", "b")[1])
    await store.commit(fork, change("b", "x", entries=written))
    await store.commit(fork, change("x", "b", turn=turn_record(session="f", reply="d")))
    await store.release(lease)
    await store.delete("s")
    stays = {id for id in "abcdex" if await store.entry("f", id) is not None}
    equal(stays, set("abcdx"))
    equal([entry.id for entry in await store.chain("f", "x")], ["a", "b", "x"])
    await raises(EntryMissing, store.create(session_record("g", tree="s", head="e")))
    await store.delete("f")
    await raises(EntryMissing, store.create(session_record("g", tree="s", head="a")))
