"""What must stay small stays small: bytes in a file, pages read for what is new."""

# ruff: noqa: ASYNC240  # nothing else runs on these loops, so they may block

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

from storage import EntryRecord, Store
from storage.sql import SQLStore
from storage.sqlite import SQLite, SQLiteDatabase
from storage.testing import NOW, call_record, change, entries_of, hold, session_record, turn_record
from storage.threads import outcome
from storage.transactions import Database
from storage.transactions.reading import chain
from storage.transactions.writing import create


def digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


async def test_a_thousand_turns_of_two_kilobytes(store: Store, path: Path) -> None:
    session = digest("session")[:32]
    await store.create(session_record(session))
    lease = await hold(store, session)
    head: str | None = None
    for number in range(1000):
        words = json.dumps([{"type": "text", "text": "x" * 1000}])
        user = EntryRecord(
            id=digest(number, "u"), parent=head, depth=2 * number + 1, role="user", content=words, created_at=1.0
        )
        reply = user._replace(id=digest(number, "a"), parent=user.id, depth=2 * number + 2, role="assistant")
        reply = reply._replace(stop_reason="end_turn", prompt_tokens=1)
        points, expected = json.dumps([[digest(number, i), "5m"] for i in range(2)]), json.dumps({"cache_read": number})
        call = call_record(
            digest(number)[:26], session, entry=reply.id, points=points, expected=expected, cost=Decimal(1)
        )
        turn = turn_record(call.id, session, number, entry=user.id, call=expected, base=head)
        await store.commit(lease, change(head, user.id, entries=(user,), turn=turn))
        done = replace(turn, state="finished", reply=reply.id, call=None)
        await store.commit(lease, change(user.id, reply.id, entries=(reply,), calls=(call,), turn=done))
        head = reply.id
    await store.close()
    assert path.stat().st_size <= 4_500_000


async def test_a_turn_that_nobody_follows_or_stops_takes_these_statements(url: str) -> None:
    """Counted one by one: what others may say of a turn is read where its session is read anyway."""
    store = SQLStore(url)
    await store.open()
    await store.create(session_record())
    seen: list[str] = []

    def listen(db: Database) -> None:
        assert isinstance(db, SQLiteDatabase)
        db.raw.set_trace_callback(seen.append)

    def said() -> list[str]:
        words = [statement.split()[0] for statement in seen]
        seen.clear()
        return [word for word in words if word in ("SELECT", "INSERT", "UPDATE", "DELETE")]

    await outcome(store.dialect.write(listen))
    said()
    lease = await hold(store)
    assert said() == ["SELECT", "UPDATE"]
    await store.renew(lease, seconds=60, now=NOW)
    assert said() == ["UPDATE"]
    turn = turn_record()
    await store.commit(lease, change(None, "a", entries=entries_of("a"), turn=turn))
    assert said() == ["SELECT", "SELECT", "INSERT", "INSERT", "UPDATE"]
    last = change("a", "b", entries=entries_of("b", after=entries_of("a")[0]), calls=(call_record(),))
    await store.commit(lease, replace(last, turn=replace(turn, state="finished")))
    assert said() == ["SELECT", "SELECT", "SELECT", "INSERT", "INSERT", "UPDATE", "UPDATE"]
    await store.release(lease)
    assert said() == ["UPDATE"]
    await store.close()


def test_what_is_new_is_read_without_what_is_old(path: Path) -> None:
    """Counted in SQLite's own steps, so that no clock decides."""
    database = SQLite(str(path))
    database.open()
    steps: dict[str | None, int] = {}

    def fill(db: Database) -> None:
        create(db, session_record(head="e4999"), entries_of(*(f"e{number}" for number in range(5000))), ())

    def count(db: Database) -> None:
        assert isinstance(db, SQLiteDatabase)
        for after, expected in ((None, 5000), ("e4989", 10), ("e4999", 0)):
            steps[after] = 0

            def step(after: str | None = after) -> None:
                steps[after] += 1

            db.raw.set_progress_handler(step, 10)
            entries = chain(db, "s", "e4999", after)
            assert [entry.id for entry in entries] == [f"e{number}" for number in range(5000 - expected, 5000)]

    database.write(fill).result(60)
    database.read(count).result(60)
    database.close()
    assert steps["e4999"] == 0 < steps["e4989"]
    assert steps["e4989"] * 100 < steps[None]


def test_a_short_branch_is_read_without_the_rest_of_its_tree(path: Path) -> None:
    """Counted in the same steps: a chain costs by its own length, whatever else its tree holds."""
    database = SQLite(str(path))
    database.open()
    trunk = entries_of(*(f"e{number}" for number in range(5000)))
    branch = entries_of("x", "y", after=trunk[9])
    steps: dict[str, int] = {}

    def fill(db: Database) -> None:
        create(db, session_record(head="e4999"), (*trunk, *branch), ())

    def count(db: Database) -> None:
        assert isinstance(db, SQLiteDatabase)
        for head, expected in (("e4999", trunk), ("y", (*trunk[:10], *branch)), ("e9", trunk[:10])):
            steps[head] = 0

            def step(head: str = head) -> None:
                steps[head] += 1

            db.raw.set_progress_handler(step, 10)
            assert chain(db, "s", head, None) == list(expected)

    database.write(fill).result(60)
    database.read(count).result(60)
    database.close()
    assert 0 < steps["e9"] <= steps["y"]
    assert steps["y"] * 100 < steps["e4999"]
