"""Entries: chains, byte for byte."""

from __future__ import annotations

from storage.errors import EntryMissing, HeadMoved, SessionMissing
from storage.records import EntryRecord, Stored
from storage.store import Store

from .expecting import equal, raises
from .records import call_record, change, entries_of, grown, session_record


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
    equal([entry.content for entry in await store.chain("s", "e")], texts)
    equal(await store.entry("s", "c"), chain[2])


async def a_chain_is_read_from_the_root_or_from_an_ancestor(store: Store) -> None:
    """chain gives root to head, chain_now too; with `after` what is behind it, or HeadMoved if it is not on it."""
    lease = await grown(store, "a", "b", "c", "d")
    chain = entries_of("a", "b", "c", "d")
    equal(await store.chain("s", "d"), list(chain))
    equal(await store.chain("s", "b"), list(chain[:2]))
    equal(await store.chain("s", None), [])
    equal(store.chain_now("s", "d"), list(chain))
    equal(await store.chain("s", "d", after="b"), list(chain[2:]))
    equal(await store.chain("s", "d", after="d"), [])
    side = entries_of("x", "y", after=chain[1])
    await store.commit(lease, change("d", "y", entries=side))
    equal(await store.chain("s", "y", after="a"), [chain[1], *side])
    for head, after in (("y", "d"), ("b", "d"), ("d", "nobody"), (None, "a")):
        await raises(HeadMoved, store.chain("s", head, after=after))
    await raises(EntryMissing, store.chain("s", "nobody"))


async def a_chain_is_the_same_in_a_tree_of_many_branches(store: Store) -> None:
    """A chain is whole and in order, however many branches its tree has, and whichever of them is read."""
    lease = await grown(store, *"abcdef")
    trunk = entries_of(*"abcdef")
    head = "f"
    for place, root in enumerate(trunk):
        branch = entries_of(*(f"{root.id}{number}" for number in range(place + 1)), after=root)
        await store.commit(lease, change(head, branch[-1].id, entries=branch))
        head = branch[-1].id
        for chain in (trunk, trunk[: place + 1], (*trunk[: place + 1], *branch), (*trunk[: place + 1], branch[0])):
            equal(await store.chain("s", chain[-1].id), list(chain))


async def a_conversation_is_read_as_a_whole(store: Store) -> None:
    """read gives what load, chain and calls give, and of the calls the newest."""
    lease = await grown(store, "a", "b")
    equal(await store.read("s", calls=5), Stored(await store.load("s"), list(entries_of("a", "b")), []))
    rows = tuple(call_record(id) for id in "xyz")
    await store.commit(lease, change("b", "b", calls=rows))
    read = await store.read("s", calls=2)
    equal((read.record, read.calls), (await store.load("s"), list(rows[1:])))
    equal((await store.read("s", calls=3)).calls, await store.calls("s"))
    await store.create(session_record("empty"))
    equal((await store.read("empty", calls=2)).entries, [])
    await raises(SessionMissing, store.read("nobody", calls=1))


async def an_ancestor_is_told_from_a_stranger(store: Store) -> None:
    """has_ancestor holds for the head itself and what stands before it, for nothing else."""
    lease = await grown(store, "a", "b", "c")
    await store.commit(lease, change("c", "x", entries=entries_of("x", after=entries_of("a")[0])))
    for head, ancestor, expected in (
        ("c", "a", True), ("c", "c", True), ("x", "a", True), ("x", "b", False), ("a", "c", False),
        ("c", "nobody", False), ("nobody", "a", False), (None, "a", False),
    ):  # fmt: skip
        equal((head, ancestor, await store.has_ancestor("s", head, ancestor)), (head, ancestor, expected))


async def an_entry_is_written_once(store: Store) -> None:
    """An entry that the tree has already is left as it is; another tree has its own."""
    lease = await grown(store, "a")
    again = entries_of("a")[0]._replace(created_at=0.0)
    await store.commit(lease, change("a", "a", entries=(again,)))
    equal(await store.entry("s", "a"), entries_of("a")[0])
    await store.create(session_record("other", head="a"), [again])
    equal(await store.entry("other", "a"), again)


async def every_field_of_an_entry_is_kept(store: Store) -> None:
    """Also those that may be absent."""
    entry = EntryRecord(
        id="e", parent=None, depth=1, role="assistant", content="[]", created_at=1.5, stop_reason="end_turn",
        prompt_tokens=12345678901, output_tokens=7, message_id="msg_1", call="c", model="m",
    )  # fmt: skip
    await store.create(session_record(head="e"), [entry])
    equal(await store.chain("s", "e"), [entry])
