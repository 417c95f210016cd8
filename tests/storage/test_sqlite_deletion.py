"""What is deleted is in no file any more, the write-ahead log included."""

# ruff: noqa: ASYNC240  # nothing else runs on these loops, so they may block

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
from pathlib import Path

import pytest

from storage import (
    PromptRecord,
    Store,
)
from storage.testing import (
    call_record,
    change,
    entries_of,
    hold,
    session_record,
    tool_call_record,
    turn_record,
)


async def test_what_is_deleted_cannot_be_read_from_the_file(path: Path, store: Store) -> None:
    secret = "a phrase that nobody else writes"
    entry = entries_of("e")[0]
    await store.create(session_record(title=secret, head="e"), [entry])
    await store.delete("s")
    await store.close()
    assert secret.encode() not in path.read_bytes()


SECRET = b"a phrase that nobody else writes"


def told(path: Path) -> list[str]:
    """The files of the database in which the secret stands."""
    return [one.name for one in sorted(path.parent.iterdir()) if SECRET in one.read_bytes()]


async def keep_secret(store: Store) -> None:
    """Wherever a session keeps words."""
    secret = SECRET.decode()
    (entry,) = entries_of("e")
    call = call_record(error=secret, prompt="p")
    await store.create(
        session_record(metadata=secret, head="e"), [entry._replace(content=f'"{secret}{"." * 9000}"')], [call]
    )
    await store.record(call_record("d"), PromptRecord("p", secret))
    lease = await hold(store)
    journal = (tool_call_record(content=secret),)
    turned = change("e", "e", turn=turn_record(error=secret, key=secret), tool_calls=journal, title=secret)
    await store.commit(lease, turned)


async def test_what_is_deleted_is_in_no_file_while_the_store_is_open(path: Path, store: Store) -> None:
    await keep_secret(store)
    await store.list(search="nobody else")
    assert told(path) == ["chat.db-wal"]
    await store.delete("s")
    assert told(path) == []


async def test_what_is_deleted_goes_when_its_last_reader_has_ended(
    path: Path, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """A reader in another process still needs the log. Nothing else has to be written for it to go."""
    await keep_secret(store)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT title FROM sessions").fetchone()
        await store.delete("s")
        assert "chat.db-wal" in told(path)
    ((name, level, words),) = caplog.record_tuples
    assert (name, level) == ("storage", logging.WARNING)
    assert "deleted words stay in the write-ahead log" in words
    for _ in range(600):
        if not told(path):
            break
        await asyncio.sleep(0.05)
    assert told(path) == []
