"""The contract of a store as a list of rules, each a small function; `check_store` runs them on any implementation."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Awaitable, Callable
from dataclasses import replace
from decimal import Decimal
from functools import partial
from typing import Any

import anyio

from .errors import (
    EntryMissing,
    HeadMoved,
    InvalidValue,
    LeaseGone,
    LeaseTaken,
    SessionExists,
    SessionMissing,
    StorageError,
    TurnKeyTaken,
)
from .records import (
    CallRecord,
    Change,
    EntryRecord,
    Holder,
    Lease,
    PromptRecord,
    SessionRecord,
    Stored,
    Subtotal,
    ToolCallRecord,
    Totals,
    TurnRecord,
    Warmup,
)
from .store import Store

__all__ = ["CHECKS", "check_store"]

Check = Callable[[Store], Awaitable[None]]

NOW = 1_000_000.0
ME = Holder.current("me")
OTHER = replace(ME, name="other")

CHECKS: list[Check] = []
"""The rules. Each takes an empty, opened store; its name and first docstring line say what must hold."""


async def check_store(make_store: Callable[[], Store | Awaitable[Store]]) -> None:
    """Runs every rule, each on a store of its own.

    `make_store` gives a new store on an empty database, not opened yet (or an awaitable of one); `upgrade`, `open` and
    `close` are called here. Raises `AssertionError` with the name of the first rule that does not hold, and the cause.
    """
    for check in CHECKS:
        made = make_store()
        store = await made if inspect.isawaitable(made) else made
        await store.upgrade()
        await store.open()
        try:
            await check(store)
        except Exception as error:
            rule = f"{check.__name__} ({(check.__doc__ or '').splitlines()[0]})"
            raise AssertionError(f"the store breaks the rule {rule}: {error}") from error
        finally:
            await store.close()


def _rule(check: Check) -> Check:
    CHECKS.append(check)
    return check


def _equal(actual: object, expected: object) -> None:
    if actual != expected:
        raise AssertionError(f"expected {expected!r:.500}, got {actual!r:.500}")


async def _raises(kind: type[StorageError], work: Awaitable[Any]) -> StorageError:
    try:
        result = await work
    except kind as error:
        return error
    raise AssertionError(f"expected {kind.__name__}, got {result!r:.500}")


def session_record(id: str = "s", **fields: Any) -> SessionRecord:
    """A small session of its own tree."""
    given = {"tree": id, "owner": None, "title": None, "metadata": "{}", "settings": "{}", "head": None}
    return SessionRecord(**{"id": id, "created_at": NOW, "updated_at": NOW, **given, **fields})


def entries_of(*ids: str, after: EntryRecord | None = None) -> tuple[EntryRecord, ...]:
    """A chain of small entries with these ids."""
    made: list[EntryRecord] = []
    for id in ids:
        last = made[-1] if made else after
        depth = last.depth + 1 if last else 1
        role = "user" if depth % 2 else "assistant"
        made.append(EntryRecord(id, last.id if last else None, depth, role, f'[{{"text":"{id}"}}]', NOW + depth))
    return tuple(made)


def call_record(id: str = "c", session: str = "s", **fields: Any) -> CallRecord:
    """A small call."""
    given: dict[str, Any] = {"kind": "turn", "model": "m", "started": NOW, "status": "ok"}
    return CallRecord(id, session, **given | fields)


def turn_record(id: str = "t", session: str = "s", sequence: int = 1, **fields: Any) -> TurnRecord:
    """A small turn."""
    given: dict[str, Any] = {"state": "running", "started": NOW}
    return TurnRecord(id, session, sequence, **given | fields)


async def hold(store: Store, session: str = "s") -> Lease:
    """A lease on the session."""
    return await store.acquire(session, ME, seconds=60, now=NOW)


def change(expected: str | None, head: str | None, **fields: Any) -> Change:
    """A change that moves the head."""
    return Change(expected, head, **{"updated_at": NOW} | fields)


async def _grown(store: Store, *ids: str, session: str = "s") -> Lease:
    """A new session with these entries."""
    await store.create(session_record(session))
    lease = await hold(store, session)
    await store.commit(lease, change(None, ids[-1], entries=entries_of(*ids)))
    return lease


# Sessions


@_rule
async def a_session_comes_back_as_it_was_created(store: Store) -> None:
    """load gives every field of what create took."""
    totals = Totals(1, 2, 3, 4, 5, 6, 7, Decimal("0.000000123456789"), 8)
    told = {"owner": "ö", "title": "Ünïcode 🧵", "metadata": '{"b":1,"a":2}', "settings": '{"x": "\\u00e9"}'}
    root = session_record(created_at=1.25, updated_at=2.5, totals=totals, gaps='{"n":1}', base=None, **told)
    await store.create(root)
    _equal(await store.load("s"), root)
    fork = session_record("f", tree="s", forked_from="s", base="e", head="e")
    await store.create(fork, entries_of("e"))
    _equal(await store.load("f"), fork)


@_rule
async def a_taken_id_is_refused(store: Store) -> None:
    """create of an existing id raises SessionExists and changes nothing."""
    await store.create(session_record(title="first"))
    await _raises(SessionExists, store.create(session_record(title="second"), entries_of("e")))
    _equal((await store.load("s")).title, "first")
    _equal(await store.entry("s", "e"), None)


@_rule
async def an_unknown_session_is_missing(store: Store) -> None:
    """What needs a session raises SessionMissing; what lists its rows gives none."""
    lease = Lease("s", 1, ME, NOW)
    await _raises(SessionMissing, store.load("s"))
    await _raises(SessionMissing, store.delete("s"))
    await _raises(SessionMissing, hold(store))
    await _raises(SessionMissing, store.record(call_record()))
    await _raises(SessionMissing, store.commit(lease, change(None, None)))
    await _raises(SessionMissing, store.chain("s", "e"))
    await _raises(SessionMissing, store.list(before="s"))
    await _raises(LeaseGone, store.renew(lease, seconds=10, now=NOW))
    await store.release(lease)
    _equal([await store.calls("s"), await store.journal("s"), await store.turns("s")], [[], [], []])
    _equal([await store.turn("s", id="t"), await store.open_turn("s"), await store.entry("s", "e")], [None] * 3)


@_rule
async def a_session_is_created_whole_or_not_at_all(store: Store) -> None:
    """A head or a parent that nobody wrote raises EntryMissing, and no session is left."""
    await _raises(EntryMissing, store.create(session_record(head="e")))
    await _raises(EntryMissing, store.create(session_record(head="f"), entries_of("e")))
    orphan = entries_of("e")[0]._replace(parent="nobody", depth=2)
    await _raises(EntryMissing, store.create(session_record(head="e"), [orphan]))
    await _raises(SessionMissing, store.load("s"))
    await store.create(session_record(head="f"), entries_of("e", "f"), [call_record(input=3, cost=Decimal("0.1"))])
    _equal([entry.id for entry in await store.chain("s", "f")], ["e", "f"])
    _equal((await store.load("s")).totals, Totals(calls=1, input=3, cost=Decimal("0.1")))


@_rule
async def sessions_are_listed_newest_updated_first(store: Store) -> None:
    """list pages through sessions by updated_at, then id, of one owner or of all."""
    for id, owner, updated in (("a", "x", 1.0), ("b", "y", 3.0), ("c", "x", 2.0), ("d", "x", 2.0)):
        await store.create(session_record(id, owner=owner, updated_at=updated))

    async def ids(**filters: Any) -> list[str]:
        return [session.id for session in await store.list(**filters)]

    _equal(await ids(), ["b", "d", "c", "a"])
    _equal(await ids(owner="x"), ["d", "c", "a"])
    _equal(await ids(owner="z"), [])
    _equal(await ids(limit=2), ["b", "d"])
    _equal(await ids(limit=2, before="d"), ["c", "a"])
    _equal(await ids(owner="x", before="c"), ["a"])


@_rule
async def sessions_are_found_by_their_words(store: Store) -> None:
    """search looks in title, id, metadata and entries, in any letter case, and takes every character literally."""
    said = EntryRecord("e", None, 1, "user", '[{"text":"Où est le CHÂTEAU_1?"}]', NOW)
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
        _equal(await ids(words), expected)
    for words in ("a%e", "château.1", "a_one", "\\"):
        _equal(await ids(words), [])


@_rule
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
    said = EntryRecord("e", None, 1, "user", content, NOW)
    await store.create(session_record("s1", head="e", metadata='{"ticket": "A-7", "tags": ["new"], "n": 42}'), [said])

    async def found(words: str) -> bool:
        return bool(await store.list(search=words))

    for words in (
        'said "hello', "hello\nworld", '\nWORLD", 100% of a\\b: {x}', "rome: ostia", "17", "one", ": two", "book",
        "a-7", "new", "42", "s1", "",
    ):  # fmt: skip
        _equal((words, await found(words)), (words, True))
    for words in (
        "type", "citations", "null", "true", "toolu_01", "tool_use", "signature", "EpIB", "seats", "cat0", "base64",
        "ticket", "},", "[{", '":"', "hello\\nworld", "one two", "x" * 50_000,
    ):  # fmt: skip
        _equal((words[:30], await found(words)), (words[:30], False))


NUL, HALF = "a\0b", "a\ud800b"


@_rule
async def what_cannot_be_stored_is_refused_by_name(store: Store) -> None:
    """InvalidValue names the argument or the field; nothing is written, and the next work goes on."""
    lease = await _grown(store, "a")
    (entry,) = entries_of("b", after=entries_of("a")[0])

    def writes(**fields: Any) -> Awaitable[None]:
        return store.commit(lease, change("a", "a", **fields))

    anything: Any = store
    for name, work in (
        *(("session", anything.load(wrong)) for wrong in (NUL, HALF, 5)),
        ("id", store.create(session_record("x" * 8000))),
        ("owner", store.create(session_record("t", owner="ö" * 501))),
        ("tree", store.create(session_record("t", tree=NUL))),
        ("created_at", store.create(session_record("t", created_at=math.nan))),
        ("cost", store.create(session_record("t", totals=Totals(cost=Decimal("nan"))))),
        ("input", store.create(session_record("t", totals=Totals(input=2**63)))),
        *(("limit", anything.list(limit=wrong)) for wrong in (-1, 1.5, True, "1")),
        *(("limit", work(limit=-1)) for work in (partial(store.calls, "s"), partial(store.turns, "s"))),
        ("limit", store.read("s", calls=-1)),
        ("limit", store.orphans(now=NOW, limit=-1)),
        ("limit", store.claim_due(ME, now=NOW, limit=-1, seconds=1)),
        ("search", store.list(search=NUL)),
        ("owner", store.list(owner=HALF)),
        ("session", store.list(before=NUL)),
        ("prefix", store.list(prefix=NUL)),
        ("seconds", store.acquire("s", ME, seconds=math.inf, now=NOW)),
        ("queue", store.acquire("s", OTHER, seconds=60, now=NOW, queue=math.nan)),
        ("late", store.claim_due(ME, now=NOW, limit=1, late=10**400, seconds=1)),
        ("seconds", store.renew(lease, seconds=math.nan, now=NOW)),
        ("after", store.tend("s", 10**400, now=NOW)),
        ("point", store.lead(NUL, ME, seconds=60, now=NOW)),
        ("point", store.lead("p" * 8000, ME, seconds=60, now=NOW)),
        ("alive", store.led("p", 1, ttl=None, alive=math.inf, now=NOW)),
        ("token", store.led("p", 2**63, ttl=None, alive=0, now=NOW)),
        ("content", writes(entries=(entry._replace(content=f'["{NUL}"]'),))),
        ("prompt_tokens", writes(entries=(entry._replace(prompt_tokens=2**63),))),
        ("title", writes(title=HALF)),
        ("key", writes(turn=turn_record(key="k" * 8000))),
        ("key", writes(turn=turn_record(key=NUL))),
        ("idempotent", writes(tool_calls=(ToolCallRecord("s", "a", 0, "i", "n", 2, NOW),))),  # type: ignore[arg-type]
        ("content", writes(tool_calls=(ToolCallRecord("s", "a", 0, "i", "n", True, NOW, content=NUL),))),
        ("input", store.record(call_record(input=2**63))),
        ("output", store.record(call_record(output=-1))),
        ("cache_read", store.record(call_record(cache_read=1.5))),
        ("miss_tokens", store.record(call_record(miss_tokens=2**62))),
        *(("cost", store.record(call_record(cost=Decimal(wrong)))) for wrong in ("inf", "1e13", "1e-20000")),
        ("cost", store.record(call_record(cost=0.5))),
        ("waited", store.record(call_record(waited=math.inf))),
        ("response_id", store.record(call_record(response_id=NUL))),
    ):
        error = await _raises(InvalidValue, work)
        _equal((name, name in str(error).split(" must")[0].split(" has")[0].split(" is")[0]), (name, True))
    _equal([one.id for one in await store.list()], ["s"])
    _equal((await store.load("s")).totals, Totals())
    _equal([one.id for one in await store.list(limit=2**63)], ["s"])
    with store.watch(HALF):
        await store.release(lease)


@_rule
async def texts_of_errors_are_stored_whatever_is_in_them(store: Store) -> None:
    """They come from elsewhere, and what they tell of is not to be lost."""
    lease = await _grown(store, "a")
    await store.record(call_record(error=NUL + HALF))
    await store.commit(lease, change("a", "a", turn=turn_record(state="failed", error=NUL)))
    _equal([one.error for one in await store.calls("s")], ["a\N{REPLACEMENT CHARACTER}ba?b"])
    _equal([one.error for one in await store.turns("s")], ["a\N{REPLACEMENT CHARACTER}b"])


@_rule
async def names_of_a_thousand_bytes_are_stored(store: Store) -> None:
    """Two of them share an entry of an index."""
    long = "".join(f"{number:x}\N{SPOOL OF THREAD}"[-4:] for number in range(1000))
    names = [(long[place:] + "x" * 1000).encode()[:996].decode(errors="ignore") for place in range(4)]
    await store.create(session_record(names[0], owner=names[1]), [entries_of("e")[0]._replace(id=names[2])])
    lease = await hold(store, names[0])
    turn = turn_record(names[2], names[0], key=names[3])
    await store.commit(lease, change(None, None, turn=turn, calls=(call_record(names[1], names[0]),)))
    _equal(await store.turn(names[0], key=names[3]), turn)
    _equal([one.id for one in await store.list(owner=names[1])], [names[0]])


@_rule
async def sessions_are_found_by_the_beginning_of_their_id(store: Store) -> None:
    """prefix takes every character literally, in its own letter case."""
    for number, id in enumerate(("ab1", "ab2", "AB3", "a%b", "é_1")):
        await store.create(session_record(id, owner="me" if id == "ab2" else None, updated_at=float(number)))

    async def ids(prefix: str, **filters: Any) -> list[str]:
        return [session.id for session in await store.list(prefix=prefix, **filters)]

    _equal(await ids("ab"), ["ab2", "ab1"])
    _equal(await ids("ab", limit=1), ["ab2"])
    _equal(await ids("ab", owner="me"), ["ab2"])
    _equal(await ids("ab1"), ["ab1"])
    _equal([await ids("a%"), await ids("é_")], [["a%b"], ["é_1"]])
    _equal(await ids("b") + await ids("é%") + await ids("ab11"), [])


# Entries


@_rule
async def content_comes_back_byte_for_byte(store: Store) -> None:
    """Escapes, blanks, key order, every plane of Unicode and a megabyte survive."""
    texts = [
        '[ {"b" : 1,\t"a":"\\u00e9\\ud83d\\ude00\\/"} ]',
        '"é😀\u2028\x7f\r\n"',
        '"' + "x" * 1_000_000 + '"',
        "[]",
        "",
    ]
    chain = [entry._replace(content=text) for entry, text in zip(entries_of(*"abcde"), texts, strict=True)]
    await store.create(session_record(head="e"), chain)
    _equal([entry.content for entry in await store.chain("s", "e")], texts)
    _equal(await store.entry("s", "c"), chain[2])


@_rule
async def a_chain_is_read_from_the_root_or_from_an_ancestor(store: Store) -> None:
    """chain gives root to head, chain_now too; with `after` what is behind it, or HeadMoved if it is not on it."""
    lease = await _grown(store, "a", "b", "c", "d")
    chain = entries_of("a", "b", "c", "d")
    _equal(await store.chain("s", "d"), list(chain))
    _equal(await store.chain("s", "b"), list(chain[:2]))
    _equal(await store.chain("s", None), [])
    _equal(store.chain_now("s", "d"), list(chain))
    _equal(await store.chain("s", "d", after="b"), list(chain[2:]))
    _equal(await store.chain("s", "d", after="d"), [])
    side = entries_of("x", "y", after=chain[1])
    await store.commit(lease, change("d", "y", entries=side))
    _equal(await store.chain("s", "y", after="a"), [chain[1], *side])
    for head, after in (("y", "d"), ("b", "d"), ("d", "nobody"), (None, "a")):
        await _raises(HeadMoved, store.chain("s", head, after=after))
    await _raises(EntryMissing, store.chain("s", "nobody"))


@_rule
async def a_chain_is_the_same_in_a_tree_of_many_branches(store: Store) -> None:
    """A chain is whole and in order, however many branches its tree has, and whichever of them is read."""
    lease = await _grown(store, *"abcdef")
    trunk = entries_of(*"abcdef")
    head = "f"
    for place, root in enumerate(trunk):
        branch = entries_of(*(f"{root.id}{number}" for number in range(place + 1)), after=root)
        await store.commit(lease, change(head, branch[-1].id, entries=branch))
        head = branch[-1].id
        for chain in (trunk, trunk[: place + 1], (*trunk[: place + 1], *branch), (*trunk[: place + 1], branch[0])):
            _equal(await store.chain("s", chain[-1].id), list(chain))


@_rule
async def a_conversation_is_read_as_a_whole(store: Store) -> None:
    """read gives what load, chain and calls give, and of the calls the newest."""
    lease = await _grown(store, "a", "b")
    _equal(await store.read("s", calls=5), Stored(await store.load("s"), list(entries_of("a", "b")), []))
    rows = tuple(call_record(id) for id in "xyz")
    await store.commit(lease, change("b", "b", calls=rows))
    read = await store.read("s", calls=2)
    _equal((read.record, read.calls), (await store.load("s"), list(rows[1:])))
    _equal((await store.read("s", calls=3)).calls, await store.calls("s"))
    await store.create(session_record("empty"))
    _equal((await store.read("empty", calls=2)).entries, [])
    await _raises(SessionMissing, store.read("nobody", calls=1))


@_rule
async def an_ancestor_is_told_from_a_stranger(store: Store) -> None:
    """has_ancestor holds for the head itself and what stands before it, for nothing else."""
    lease = await _grown(store, "a", "b", "c")
    await store.commit(lease, change("c", "x", entries=entries_of("x", after=entries_of("a")[0])))
    for head, ancestor, expected in (
        ("c", "a", True), ("c", "c", True), ("x", "a", True), ("x", "b", False), ("a", "c", False),
        ("c", "nobody", False), ("nobody", "a", False), (None, "a", False),
    ):  # fmt: skip
        _equal((head, ancestor, await store.has_ancestor("s", head, ancestor)), (head, ancestor, expected))


@_rule
async def an_entry_is_written_once(store: Store) -> None:
    """An entry that the tree has already is left as it is; another tree has its own."""
    lease = await _grown(store, "a")
    again = entries_of("a")[0]._replace(created_at=0.0)
    await store.commit(lease, change("a", "a", entries=(again,)))
    _equal(await store.entry("s", "a"), entries_of("a")[0])
    await store.create(session_record("other", head="a"), [again])
    _equal(await store.entry("other", "a"), again)


@_rule
async def every_field_of_an_entry_is_kept(store: Store) -> None:
    """Also those that may be absent."""
    entry = EntryRecord("e", None, 1, "assistant", "[]", 1.5, "end_turn", 12345678901, 7, "msg_1", "c", "m")
    await store.create(session_record(head="e"), [entry])
    _equal(await store.chain("s", "e"), [entry])


# Leases


@_rule
async def a_lease_keeps_others_out(store: Store) -> None:
    """acquire raises LeaseTaken, with holder and expiry, until the lease is released."""
    await store.create(session_record())
    lease = await hold(store)
    error = await _raises(LeaseTaken, store.acquire("s", OTHER, seconds=60, now=NOW))
    assert isinstance(error, LeaseTaken)
    _equal((error.holder, error.expires), (ME, lease.expires))
    await store.release(lease)
    taken = await store.acquire("s", OTHER, seconds=60, now=NOW)
    _equal((taken.holder, taken.token), (OTHER, lease.token + 1))
    await store.release(lease)
    await _raises(LeaseTaken, hold(store))


@_rule
async def the_first_to_wait_is_the_first_served(store: Store) -> None:
    """A refused holder with `queue` keeps its place: others, queued or not, come after it; a lapsed place is gone."""
    await store.create(session_record())
    third = replace(ME, name="third")
    lease = await hold(store)
    for waiter in (OTHER, third, OTHER):
        await _raises(LeaseTaken, store.acquire("s", waiter, seconds=60, now=NOW, queue=60))
    await store.release(lease)
    error = await _raises(LeaseTaken, store.acquire("s", third, seconds=60, now=NOW, queue=60))
    assert isinstance(error, LeaseTaken)
    _equal(error.holder, OTHER)
    await _raises(LeaseTaken, store.acquire("s", ME, seconds=60, now=NOW))
    await store.release(await store.acquire("s", OTHER, seconds=60, now=NOW, queue=60))
    await store.release(await store.acquire("s", third, seconds=60, now=NOW, queue=60))
    lease = await hold(store)
    await _raises(LeaseTaken, store.acquire("s", OTHER, seconds=60, now=NOW, queue=60))
    await _raises(LeaseTaken, store.acquire("s", OTHER, seconds=60, now=NOW, queue=-1))
    await store.release(lease)
    await hold(store)


@_rule
async def a_lease_ends_with_its_time(store: Store) -> None:
    """An expired lease is taken over, and cannot be renewed any more then."""
    await store.create(session_record())
    lease = await store.acquire("s", ME, seconds=-1, now=NOW)
    renewed = await store.renew(lease, seconds=-1, now=NOW)
    _equal(renewed.token, lease.token)
    taken = await store.acquire("s", OTHER, seconds=60, now=NOW)
    _equal(taken.token, lease.token + 1)
    await _raises(LeaseGone, store.renew(lease, seconds=60, now=NOW))


@_rule
async def a_renewed_lease_lasts_longer(store: Store) -> None:
    """renew moves the expiry on and keeps token and holder."""
    await store.create(session_record())
    lease = await store.acquire("s", ME, seconds=-1, now=NOW)
    renewed = await store.renew(lease, seconds=60, now=NOW)
    _equal(replace(renewed, expires=0), replace(lease, expires=0))
    _equal(renewed.expires > lease.expires + 60, True)
    await _raises(LeaseTaken, store.acquire("s", OTHER, seconds=60, now=NOW))


@_rule
async def the_same_holder_gets_a_new_lease_at_once(store: Store) -> None:
    """Its older lease is gone then."""
    await store.create(session_record())
    first, second = await hold(store), await hold(store)
    _equal(second.token, first.token + 1)
    await _raises(LeaseGone, store.commit(first, change(None, None)))
    await store.commit(second, change(None, None))


@_rule
async def a_commit_may_give_the_lease_back(store: Store) -> None:
    """With `release` the lease ends with the commit, all or nothing; releasing it once more is no error."""
    await store.create(session_record())
    lease = await hold(store)
    await _refused(store, HeadMoved, lease, replace(change("nobody", None), release=True))
    await _raises(LeaseTaken, store.acquire("s", OTHER, seconds=60, now=NOW))
    await store.commit(lease, replace(change(None, "a", entries=entries_of("a")), release=True))
    await _refused(store, LeaseGone, lease, change("a", None))
    taken = await store.acquire("s", OTHER, seconds=60, now=NOW)
    _equal(taken.token, lease.token + 1)
    await store.release(lease)
    await store.commit(taken, change("a", None))


@_rule
async def a_dead_process_loses_its_lease_at_once(store: Store) -> None:
    """On the same host only: of another host nobody can know."""
    reborn = replace(ME, started=ME.started - 1000)
    for holder, free in ((reborn, True), (replace(reborn, host="elsewhere"), False)):
        await store.create(session_record(holder.host))
        await store.acquire(holder.host, holder, seconds=60, now=NOW)
        if free:
            await hold(store, holder.host)
        else:
            await _raises(LeaseTaken, hold(store, holder.host))


# Commits


@_rule
async def a_commit_writes_everything(store: Store) -> None:
    """Entries, calls, journal, turn, fields and totals are all there afterwards."""
    await store.create(session_record(title="old", metadata='{"old":1}'))
    lease = await hold(store)
    entries, call, turn = entries_of("a", "b"), call_record(output=5, cost=Decimal("0.25")), turn_record(entry="a")
    tool_call = ToolCallRecord("s", "b", 0, "id", "search", True, NOW)
    written = {"entries": entries, "calls": (call,), "tool_calls": (tool_call,), "turn": turn, "updated_at": NOW + 9}
    await store.commit(lease, change(None, "b", settings='{"x":1}', title="new", gaps="[1]", **written))
    totals = Totals(turns=1, calls=1, output=5, cost=Decimal("0.25"))
    told = {"settings": '{"x":1}', "title": "new", "metadata": '{"old":1}', "gaps": "[1]"}
    _equal(await store.load("s"), session_record(head="b", updated_at=NOW + 9, totals=totals, **told))
    _equal(await store.chain("s", "b"), list(entries))
    _equal([await store.calls("s"), await store.journal("s"), await store.turns("s")], [[call], [tool_call], [turn]])
    await store.commit(lease, change("b", "a", metadata="{}"))
    moved = await store.load("s")
    _equal((moved.head, moved.title, moved.metadata, moved.settings), ("a", "new", "{}", '{"x":1}'))
    await store.commit(lease, change("a", None))
    _equal((await store.load("s")).head, None)


async def _refused(store: Store, kind: type[StorageError], lease: Lease, wrong: Change) -> None:
    """The change is refused with this error, and nothing of it is there."""
    before = await store.load("s"), await store.calls("s"), await store.journal("s"), await store.turns("s")
    rows: dict[str, Any] = {
        "calls": (call_record("new"),),
        "tool_calls": (ToolCallRecord("s", "e", 0, "id", "n", False, NOW),),
    }
    await _raises(kind, store.commit(lease, replace(wrong, title="new", **rows)))
    _equal((await store.load("s"), await store.calls("s"), await store.journal("s"), await store.turns("s")), before)
    for entry in wrong.entries:
        _equal(await store.entry("s", entry.id), None)


@_rule
async def the_ledger_adds_up(store: Store) -> None:
    """Totals by session, owner and day, by kind and cause within them, are sums of the rows, exact in their cost."""
    day, cent = 86_400.0, Decimal("0.0000001")
    for id, owner in (("a", "ada"), ("b", "ada"), ("c", None)):
        await store.create(session_record(id, owner=owner))
    figures = {"input": 1, "cache_read": 20, "cache_write_5m": 300, "cache_write_1h": 4000, "output": 5}
    missed = {"miss_cause": "evicted", "miss_tokens": 7, "miss_cost": cent}
    rows = [
        call_record("1", "a", started=day * 20_000 + 1, cost=Decimal("0.1"), **figures),
        call_record("2", "a", started=day * 20_001 - 1, cost=Decimal("0.2"), **figures, **missed),
        call_record("3", "b", started=day * 20_001, kind="park", cost=cent, **figures),
        call_record("4", "c", started=day * 20_001, cost=None, status="error", **missed | {"miss_cost": None}),
    ]
    for row in rows:
        await store.record(row)
    _equal([call.miss_cost for call in await store.calls("a")], [None, cent])
    one, two, three, four = map(_alone, rows)
    _equal(_sorted(await store.totals("session")), _sorted(
        [replace(one, key="a"), replace(two, key="a"), replace(three, key="b"), replace(four, key="c")]
    ))  # fmt: skip
    _equal(_sorted(await store.totals("owner")), _sorted(
        [replace(one, key="ada"), replace(two, key="ada"), replace(three, key="ada"), four]
    ))  # fmt: skip
    _equal(_sorted(await store.totals("day", owner="ada")), _sorted(
        [replace(one, key="2024-10-04"), replace(two, key="2024-10-04"), replace(three, key="2024-10-05")]
    ))  # fmt: skip
    both = replace(two, calls=2, input=1, cache_read=20, unpriced=1, lost=14, cost=Decimal("0.2"), lost_cost=cent)
    _equal(_sorted(await store.totals()), _sorted([one, both, three]))
    _equal(_sorted(await store.totals(session="b")), [three])
    _equal(await store.totals(owner="nobody"), [])


def _alone(row: CallRecord) -> Subtotal:
    counts = {
        name: getattr(row, name) for name in ("input", "cache_read", "cache_write_5m", "cache_write_1h", "output")
    }
    counts |= {"calls": 1, "unpriced": int(row.cost is None), "lost": row.miss_tokens or 0}
    cost, lost_cost = row.cost or Decimal(0), row.miss_cost or Decimal(0)
    return Subtotal(None, row.kind, row.miss_cause, **counts, cost=cost, lost_cost=lost_cost)


def _sorted(found: list[Subtotal]) -> list[Subtotal]:
    return sorted(found, key=repr)


@_rule
async def a_commit_on_a_moved_head_is_refused(store: Store) -> None:
    """HeadMoved names both heads, and nothing is written."""
    lease = await _grown(store, "a", "b")
    new = entries_of("n", after=entries_of("a")[0])
    await _refused(store, HeadMoved, lease, change("a", "n", entries=new, turn=turn_record()))
    await _refused(store, HeadMoved, lease, change(None, "a"))
    error = await _raises(HeadMoved, store.commit(lease, change("a", "n", entries=new)))
    assert isinstance(error, HeadMoved)
    _equal((error.expected, error.actual), ("a", "b"))


@_rule
async def a_commit_under_an_old_lease_is_refused(store: Store) -> None:
    """LeaseGone once somebody else has acquired it, or it was released; an expired lease still counts until then."""
    lease = await _grown(store, "a")
    await store.release(lease)
    await _refused(store, LeaseGone, lease, change("a", None))
    expired = await store.acquire("s", ME, seconds=-1, now=NOW)
    await store.commit(expired, change("a", "b", entries=entries_of("b", after=entries_of("a")[0])))
    await store.acquire("s", OTHER, seconds=60, now=NOW)
    await _refused(store, LeaseGone, expired, change("b", "a", turn=turn_record()))


@_rule
async def a_commit_names_only_entries_that_exist(store: Store) -> None:
    """EntryMissing for an unknown head or parent, and nothing is written."""
    lease = await _grown(store, "a")
    await _refused(store, EntryMissing, lease, change("a", "nobody", entries=entries_of("b", after=entries_of("a")[0])))
    orphan = entries_of("b")[0]._replace(parent="nobody", depth=2)
    await _refused(store, EntryMissing, lease, change("a", "b", entries=(orphan,)))


@_rule
async def of_two_commits_on_one_head_one_wins(store: Store) -> None:
    """However they arrive, the chain stays one chain."""
    lease = await _grown(store, "a")
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
    _equal(sorted(outcomes)[:2], ["moved", "moved"])
    _equal([(await store.load("s")).head], [id for id in outcomes if id != "moved"])


@_rule
async def one_that_fails_does_not_disturb_the_others(store: Store) -> None:
    """Writes of many sessions at once, some refused: each gets its own answer."""
    leases = [await _grown(store, "a", session=f"s{i}") for i in range(8)]
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
        _equal((answers[i], (await store.load(f"s{i}")).head), (bool(i % 3), "b" if i % 3 else "a"))


# Ledger, journal, turns


@_rule
async def the_ledger_keeps_every_field_and_adds_up(store: Store) -> None:
    """Calls come back whole and in order, once each; costs add up to the last digit."""
    await store.create(session_record())
    full = CallRecord(
        "c1", "s", "park", "m", 1.5, "error", turn="t", entry="e", first_event=2.5, ended=3.5, request_id="r",
        response_id="i", input=1, cache_read=2, cache_write_5m=3, cache_write_1h=4, output=5, counters=False,
        expected='{"a":1}', cost=Decimal("0.0000003"), points="[1]", waited=0.25, stop_reason="end_turn", miss="{}",
        error="no", prompt="p", estimated=True,
    )  # fmt: skip
    priced, unpriced = call_record("c3", cost=Decimal("0.10")), call_record("c2", input=10**12)
    for call in (full, priced, unpriced, replace(full, input=999)):
        await store.record(call)
    _equal(await store.calls("s"), [full, priced, unpriced])
    _equal(await store.calls("s", limit=1), [full])
    _equal(await store.calls("s", limit=2, newest_first=True), [unpriced, priced])
    _equal((await store.load("s")).totals, Totals(0, 3, 10**12 + 1, 2, 3, 4, 5, Decimal("0.1000003"), 1))


@_rule
async def the_journal_joins_start_and_end(store: Store) -> None:
    """One record for each call of an entry; the first start and the first end count."""
    lease = await _grown(store, "a", "b")
    start = ToolCallRecord("s", "b", 0, "same", "search", False, 1.0)
    end = replace(start, started=5.0, ended=6.0, content='{"x":1}', is_error=True)
    second, other = replace(start, index=1), replace(end, entry="a", tool_id="z")
    for rows in ((start, second), (end,), (replace(end, content="late"), replace(start, started=9.0)), (other,)):
        await store.commit(lease, change("b", "b", tool_calls=rows))
    _equal(await store.journal("s"), [replace(end, started=1.0), second, other])
    _equal(await store.journal("s", "a"), [other])
    _equal(await store.journal("s", "nobody"), [])


@_rule
async def a_turn_is_replaced_by_its_id(store: Store) -> None:
    """turn finds it by id and key; a key belongs to one turn of the session."""
    lease = await _grown(store, "a")
    fields: dict[str, Any] = {"ended": 2.0, "base": "x", "entry": "a", "reply": "a", "stop_reason": "end_turn"}
    first = turn_record(key="k", digest="d", result="{}", call="{}", token=7, error="e", attempts=4, **fields)
    done = replace(first, state="finished", call=None)
    for turn in (first, done):
        await store.commit(lease, change("a", "a", turn=turn))
        _equal([await store.turn("s", id="t"), await store.turn("s", key="k")], [turn, turn])
    _equal((await store.load("s")).totals.turns, 1)
    await _refused(store, TurnKeyTaken, lease, change("a", None, turn=turn_record("u", sequence=2, key="k")))
    _equal([await store.turn("s", id="u"), await store.turn("s", key="other")], [None, None])
    await store.create(session_record("s2"))
    await store.commit(await hold(store, "s2"), change(None, None, turn=turn_record(session="s2", key="k")))


@_rule
async def the_open_turn_is_the_newest_unfinished_one(store: Store) -> None:
    """open_turn looks for `running` and `interrupted`; turns lists by sequence."""
    lease = await _grown(store, "a")
    _equal(await store.open_turn("s"), None)
    states = ("running", "interrupted", "finished", "failed", "cancelled")
    made = [turn_record(f"t{i}", sequence=i, state=state) for i, state in enumerate(states)]
    for turn in (made[1], made[0], *made[2:]):
        await store.commit(lease, change("a", "a", turn=turn))
    _equal(await store.open_turn("s"), made[1])
    _equal(await store.turns("s"), made)
    _equal(await store.turns("s", limit=2), made[3:])


@_rule
async def a_prompt_is_kept_once_for_each_session(store: Store) -> None:
    """It comes with a commit or a recorded call, byte for byte; the first text of a digest counts."""
    lease = await _grown(store, "a")
    await store.create(session_record("t"))
    first, text = PromptRecord("d", '{"b":1, "a":"\\u00e9"}'), '{"other":1}'
    await store.commit(lease, change("a", "a", prompts=(first, PromptRecord("e", text)), calls=(call_record(),)))
    await store.record(call_record("c2", prompt="d"), PromptRecord("d", text))
    await store.record(call_record("c3", "t", prompt="d"), PromptRecord("d", text))
    _equal([await store.prompt("s", "d"), await store.prompt("s", "e")], [first.settings, text])
    _equal([await store.prompt("t", "d"), await store.prompt("t", "e")], [text, None])
    await store.delete("s")
    _equal([await store.prompt("s", "d"), await store.prompt("t", "d")], [None, text])


# Tending


async def _due(store: Store, holder: Holder = ME, late: float = 0.0, limit: int = 9) -> list[str]:
    """What is due, and is then due again in an hour."""
    return sorted(await store.claim_due(holder, now=NOW, limit=limit, late=late, seconds=3600))


@_rule
async def a_session_that_is_due_is_claimed_once(store: Store) -> None:
    """Those longest due first; a claim that nobody follows up is offered again."""
    for id, after in (("a", -30.0), ("b", -50.0), ("c", 50.0), ("d", None), ("e", -40.0)):
        await store.create(session_record(id))
        await store.tend(id, after, now=NOW)
    await store.tend("nobody", -1.0, now=NOW)
    _equal(await _due(store, late=35, limit=1), ["b"])
    _equal(await _due(store, late=35), ["e"])
    _equal(await store.claim_due(ME, now=NOW, limit=9, seconds=-10), ["a"])
    _equal(await _due(store), ["a"])
    _equal(await _due(store), [])
    await store.tend("b", -1.0, now=NOW)
    await store.tend("c", -1.0, now=NOW)
    await store.tend("c", None, now=NOW)
    _equal(await _due(store), ["b"])
    await store.create(session_record("f", head="e1"), entries_of("e1"))
    await store.tend("f", -1.0, now=NOW, head="e1")
    await store.tend("f", None, now=NOW, head="another")
    _equal(await _due(store), ["f"])


@_rule
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
    _equal(sorted(claimed), sorted(f"s{number}" for number in range(20)))


@_rule
async def a_commit_sets_the_time_of_tending(store: Store) -> None:
    """It goes with the head that it was for; a commit that leaves the head leaves it, unless it gives another."""
    lease = await _grown(store, "a")
    for moved, after, due in ((False, -1.0, True), (False, None, True), (True, None, False), (True, 60.0, False)):
        await store.tend("s", -1.0, now=NOW)
        head = (await store.load("s")).head
        await store.commit(lease, change(head, (None if head else "a") if moved else head, tend_after=after))
        _equal((moved, after, await _due(store)), (moved, after, ["s"] if due else []))
    await store.commit(lease, change("a", None))
    await store.commit(lease, change(None, None, tend_after=-1.0))
    await store.commit(lease, change(None, None))
    _equal(await _due(store), ["s"])


@_rule
async def a_session_in_use_is_tended_by_its_holder(store: Store) -> None:
    """claim_due leaves what another holds under a lease to that holder, until the lease is over."""
    await store.create(session_record())
    lease = await hold(store)
    await store.tend("s", -1.0, now=NOW)
    _equal(await _due(store, OTHER), [])
    _equal(await _due(store, ME), ["s"])
    await store.tend("s", -1.0, now=NOW)
    await store.renew(lease, seconds=-1, now=NOW)
    _equal(await _due(store, OTHER), ["s"])
    await store.tend("s", -1.0, now=NOW)
    await store.release(await hold(store))
    _equal(await _due(store, OTHER), ["s"])


@_rule
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
    _equal(await store.orphans(now=NOW, limit=9), ["released", "expired", "dead"])
    _equal(await store.orphans(now=NOW, limit=2), ["released", "expired"])


# Warm-ups


async def _lead(store: Store, holder: Holder = ME, seconds: float = 60, point: str = "p") -> Warmup:
    """Asks to write the point."""
    return await store.lead(point, holder, seconds=seconds, now=NOW)


@_rule
async def one_holder_leads_a_point(store: Store) -> None:
    """Others are told who, until it says that the point was not written, or its time or its process is over."""
    mine = await _lead(store)
    _equal((mine.state, (await _lead(store, point="q")).state), ("leading", "leading"))
    other = await _lead(store, OTHER)
    _equal((other.state, other.holder, 0 < other.seconds_left <= 60, other.ttl), ("taken", ME, True, None))
    await store.led("p", mine.token, ttl=None, alive=0, now=NOW)
    late = await _lead(store, OTHER, seconds=-1)
    _equal(late.state, "leading")
    anew = await _lead(store)
    _equal((anew.state, anew.token == late.token), ("leading", False))
    await store.led("p", late.token, ttl="5m", alive=300, now=NOW)
    _equal((await _lead(store, OTHER)).state, "taken")
    for seconds, others in ((60, "taken"), (-1, "leading")):
        again = await _lead(store, seconds=seconds)
        _equal((again.state, again.token), ("leading", anew.token))
        _equal((await _lead(store, OTHER)).state, others)


@_rule
async def a_dead_leader_is_followed_at_once(store: Store) -> None:
    """On the same host only: of another host nobody can know."""
    reborn = replace(ME, started=ME.started - 1000)
    for holder, state in ((reborn, "leading"), (replace(reborn, host="elsewhere"), "taken")):
        await _lead(store, holder, point=holder.host)
        _equal((await _lead(store, point=holder.host)).state, state)


@_rule
async def a_written_point_is_known_until_it_lapses(store: Store) -> None:
    """With its lifetime and what is left of it; then somebody leads again."""
    for alive, state in ((300.0, "warm"), (1e-9, "leading")):
        mine = await _lead(store)
        await store.led("p", mine.token, ttl="1h", alive=alive, now=NOW - 1e-3)
        found = await _lead(store, OTHER)
        _equal((found.state, found.ttl), (state, "1h" if state == "warm" else None))
        if state == "warm":
            _equal(290 < found.seconds_left <= 300, True)
            _equal((await _lead(store, ME)).state, "warm")
            await store.led("p", found.token, ttl=None, alive=0, now=NOW)


@_rule
async def of_many_at_once_one_leads(store: Store) -> None:
    """And the others all hear of it."""
    states: list[str] = []

    async def ask(name: str) -> None:
        states.append((await _lead(store, replace(ME, name=name))).state)

    async with anyio.create_task_group() as group:
        for number in range(8):
            group.start_soon(ask, str(number))
    _equal(sorted(states), ["leading", *["taken"] * 7])


# Deletion


@_rule
async def a_deleted_session_is_gone(store: Store) -> None:
    """With its entries, calls, journal and turns; its id may be used again."""
    lease = await _grown(store, "a")
    rows: dict[str, Any] = {"calls": (call_record(),), "turn": turn_record(key="k")}
    await store.commit(lease, change("a", "a", tool_calls=(ToolCallRecord("s", "a", 0, "i", "n", True, 1.0),), **rows))
    await store.delete("s")
    await _raises(SessionMissing, store.load("s"))
    await _raises(SessionMissing, store.commit(lease, change("a", None)))
    await store.create(session_record())
    _equal([await store.calls("s"), await store.journal("s"), await store.turns("s")], [[], [], []])
    _equal(await store.entry("s", "a"), None)


@_rule
async def what_a_fork_reaches_stays(store: Store) -> None:
    """An entry goes only when no remaining session wrote it, points at it, or has such an entry behind it."""
    lease = await _grown(store, "a", "b", "c", "d", "e")
    await store.create(session_record("f", tree="s", head="b", forked_from="s"))
    fork = await hold(store, "f")
    written = entries_of("x", after=entries_of("a", "b")[1])
    await store.commit(fork, change("b", "x", entries=written))
    await store.commit(fork, change("x", "b", turn=turn_record(session="f", reply="d")))
    await store.release(lease)
    await store.delete("s")
    stays = {id for id in "abcdex" if await store.entry("f", id) is not None}
    _equal(stays, set("abcdx"))
    _equal([entry.id for entry in await store.chain("f", "x")], ["a", "b", "x"])
    await _raises(EntryMissing, store.create(session_record("g", tree="s", head="e")))
    await store.delete("f")
    await _raises(EntryMissing, store.create(session_record("g", tree="s", head="a")))
