"""A copy of a store in use is whole, private, and takes nobody's place unasked."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import anyio
import pytest

from storage import open_store
from storage.testing import session_record
from tests.cli.conftest import Run


async def create(path: Path, *names: str) -> None:
    store = open_store(f"sqlite:///{path}")
    await store.open()
    for name in names:
        await store.create(session_record(name))
    await store.close()


async def names_in(path: Path) -> list[str]:
    store = open_store(f"sqlite:///{path}")
    await store.open()
    found = [session.id for session in await store.list()]
    await store.close()
    return sorted(found)


def test_a_store_in_use_is_copied_with_its_log(warmline: Run, tmp_path: Path) -> None:
    path, copy = tmp_path / "sessions.db", tmp_path / "copy.db"
    with contextlib.closing(sqlite3.connect(path)) as other:
        anyio.run(create, path, "one")
        other.execute("SELECT * FROM sessions").fetchall()  # a reader stays, so the log does too
        anyio.run(create, path, "two")
        assert path.with_name("sessions.db-wal").stat().st_size
        ran = warmline("db", "backup", str(copy))
    assert (ran.code, ran.err) == (0, "")
    assert copy.stat().st_mode & 0o777 == 0o600
    assert not list(tmp_path.glob("*copy.db?*"))
    assert anyio.run(names_in, copy) == ["one", "two"]


def test_what_exists_is_replaced_by_force_only_and_the_store_never(warmline: Run, tmp_path: Path) -> None:
    path, copy = tmp_path / "sessions.db", tmp_path / "copy.db"
    anyio.run(create, path, "one")
    copy.write_text("old")
    refused = warmline("db", "backup", str(copy))
    assert (refused.code, copy.read_text()) == (2, "old")
    assert "--force" in refused.err
    assert warmline("db", "backup", str(path), "--force").code == 2
    assert warmline("db", "backup", str(copy), "--force").code == 0
    assert anyio.run(names_in, copy) == anyio.run(names_in, path) == ["one"]


@pytest.mark.parametrize("end", ["-wal", "-journal"])
def test_a_log_that_would_be_taken_for_the_copys_is_said(warmline: Run, tmp_path: Path, end: str) -> None:
    anyio.run(create, tmp_path / "sessions.db", "one")
    (tmp_path / f"copy.db{end}").write_text("old")
    ran = warmline("db", "backup", "copy.db", "--force")
    assert (ran.code, (tmp_path / "copy.db").exists()) == (2, False)
    assert f"copy.db{end} stands beside it" in " ".join(ran.err.split())


@pytest.mark.parametrize(
    ("store", "said"),
    [
        ("postgresql://nobody@localhost/x", "use pg_dump"),
        ("sqlite:///absent.db", "no database at absent.db"),
        ("sqlite:///foreign.db", "database of another program"),
    ],
)
def test_what_cannot_be_copied_is_said(warmline: Run, tmp_path: Path, store: str, said: str) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "foreign.db")) as raw:
        raw.execute("CREATE TABLE theirs (x)")
    ran = warmline("db", "backup", "copy.db", "--store", store)
    assert (ran.code, (tmp_path / "copy.db").exists()) == (2, False)
    assert said in " ".join(ran.err.split())
