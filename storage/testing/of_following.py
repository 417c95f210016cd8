"""Following a session from elsewhere: who does, and what is passed on to them."""

from __future__ import annotations

from dataclasses import replace

import anyio

from storage.records import FollowerRecord
from storage.store import Store

from .expecting import equal
from .records import NOW, relay_record, session_record


async def _followed(store: Store) -> list[tuple[str, str]]:
    return [(follower.session, follower.reader) for follower in await store.followed(now=NOW)]


async def a_follower_is_known_until_it_lapses(store: Store) -> None:
    """Or until it says that it follows no more; said again, it lasts from then. Two minutes are the most."""
    await store.follow("s", "b", seconds=60, now=NOW)
    await store.follow("s", "a", seconds=60, now=NOW)
    await store.follow("r", "a", seconds=60, now=NOW)
    await store.follow("s", "late", seconds=-1, now=NOW)
    equal(await _followed(store), [("r", "a"), ("s", "a"), ("s", "b")])
    first = (await store.followed(now=NOW))[0]
    equal(type(first), FollowerRecord)
    await store.follow("r", "a", seconds=90, now=NOW)
    later = (await store.followed(now=NOW))[0]
    equal(29 < later.expires - first.expires < 90, True)
    await store.follow("r", "a", seconds=1e9, now=NOW)
    equal(29 < (await store.followed(now=NOW))[0].expires - later.expires < 60, True)
    await store.follow("s", "b", seconds=-1, now=NOW)
    await store.unfollow("s", "a")
    await store.unfollow("s", "a")
    await store.unfollow("nobody", "a")
    equal(await _followed(store), [("r", "a")])


async def many_may_follow_at_once(store: Store) -> None:
    """Each by a name of its own, and while others lapse."""

    async def follow(number: int) -> None:
        await store.follow(f"s{number % 3}", f"r{number}", seconds=60 if number % 2 else -1, now=NOW)

    async with anyio.create_task_group() as group:
        for number in range(12):
            group.start_soon(follow, number)
    expected = sorted((f"s{number % 3}", f"r{number}") for number in range(1, 12, 2))
    equal(await _followed(store), expected)


async def what_is_relayed_comes_in_order(store: Store) -> None:
    """Byte for byte, by number, only what is behind `after`, and of that turn only."""
    texts = ['{"b" : 1, "a":"\\u00e9\\ud83d\\ude00\\/"}', '"é😀\u2028\x7f\r\n"', "x" * 100_000, "17", "null", ""]
    given = [relay_record(f"é{place}", content=text, written=NOW + place) for place, text in enumerate(texts)]
    await store.relay([])
    await store.relay([*given[:4], relay_record("other", turn="u"), relay_record("other", session="r")])
    await store.relay(given[4:])
    rows = await store.relayed("s", "t")
    equal([replace(row, number=None) for row in rows], given)
    numbers = [row.number or 0 for row in rows]
    equal([numbers, numbers[0] > 0], [sorted(set(numbers)), True])
    equal(await store.relayed("s", "t", after=numbers[1]), rows[2:])
    equal(await store.relayed("s", "t", after=numbers[1], limit=2), rows[2:4])
    equal([await store.relayed("s", "t", after=numbers[-1]), await store.relayed("s", "nobody")], [[], []])
    equal([row.id for row in await store.relayed("s", "u") + await store.relayed("r", "t")], ["other", "other"])


async def what_is_relayed_of_many_turns_is_read_at_once(store: Store) -> None:
    """Of each turn what is behind its own number, and nothing of others; all by their numbers, at most so many."""
    turns = [("s", "t"), ("s", "u"), ("r", "t"), ("é'\"", "\\")]
    for round in range(2):
        await store.relay([relay_record(f"{round}{s}{t}", session=s, turn=t) for s, t in turns])
    first = [(await store.relayed(s, t))[0].number or 0 for s, t in turns]
    rows = await store.relayed_in([("s", "t", 0), ("r", "t", first[2]), (*turns[3], first[3]), ("nobody", "t", 0)])
    equal([row.id for row in rows], ["0st", "1st", "1rt", "1é'\"\\"])
    equal(rows[:2], await store.relayed("s", "t"))
    equal(
        await store.relayed_in([("s", "t", 0), ("s", "u", 0)], limit=2),
        (await store.relayed("s", "t"))[:1] + (await store.relayed("s", "u"))[:1],
    )
    equal(await store.relayed_in([]), [])


async def old_relays_go_and_their_numbers_do_not_come_again(store: Store) -> None:
    """end_relays removes what was written before; who goes by numbers misses nothing that comes after."""
    await store.create(session_record())
    await store.relay([relay_record(str(place), written=NOW + place) for place in range(4)])
    await store.end_relays(before=NOW)
    await store.end_relays(before=NOW + 2)
    left = await store.relayed("s", "t")
    equal([row.id for row in left], ["2", "3"])
    await store.end_relays(before=NOW + 9)
    equal(await store.relayed("s", "t"), [])
    await store.relay([relay_record("new")])
    equal([row.id for row in await store.relayed("s", "t", after=left[-1].number or 0)], ["new"])
