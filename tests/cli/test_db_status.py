"""What a database says of its schema, for those who upgrade it while workers run."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from pathlib import Path

import anyio
import pytest

from storage import open_store
from storage.tables import OLDEST, REVISION
from tests.cli.conftest import Run

NEWER = "9999"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The database that the commands find by themselves."""
    path = tmp_path / "sessions.db"
    anyio.run(open_store(f"sqlite:///{path}").upgrade)
    return path


def said(path: Path, revision: str, oldest: str | None) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as raw:
        raw.execute(
            "UPDATE warmline_version SET version_num = ?, oldest = ?, oldest_of = ?", (revision, oldest, revision)
        )


@pytest.mark.parametrize(
    ("revision", "oldest", "usable", "words"),
    [
        (REVISION, OLDEST, True, f"revision {REVISION}: the database is up to date"),
        ("0001", None, False, f"revision {REVISION}: run `warmline db upgrade`"),
        (NEWER, REVISION, True, f"revision {REVISION}: it may use the database as it is"),
        (NEWER, NEWER, False, f"revision {REVISION}: install a newer one to use the database"),
        (NEWER, None, False, f"revision {REVISION}: install a newer one to use the database"),
    ],
    ids=["newest", "older", "newer", "too new", "nothing said"],
)
def test_it_says_what_to_do(
    warmline: Run, path: Path, revision: str, oldest: str | None, usable: bool, words: str
) -> None:
    said(path, revision, oldest)
    before = path.read_bytes()
    ran = warmline("db", "status")
    assert (ran.code, ran.err) == (0, "")
    assert f"The schema is at revision {revision}." in ran.out
    assert words in ran.out
    assert (f"revision {oldest} or a later one may use" in ran.out) is (oldest is not None)
    told = json.loads(warmline("db", "status", "--json").out)
    assert told == {"revision": revision, "oldest": oldest, "known": REVISION, "usable": usable}
    assert path.read_bytes() == before


def test_a_database_without_a_schema_is_named_and_left_alone(warmline: Run, tmp_path: Path) -> None:
    assert warmline("db", "status").code == 2
    (tmp_path / "sessions.db").touch()
    ran = warmline("db", "status")
    assert "The database has no schema yet." in ran.out
    assert "run `warmline db upgrade`" in ran.out
    assert not (tmp_path / "sessions.db").stat().st_size


def test_the_database_of_another_program_is_refused(warmline: Run, tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "sessions.db")) as raw:
        raw.execute("CREATE TABLE theirs (text)")
    ran = warmline("db", "status")
    assert (ran.code, "another program" in ran.err) == (2, True)
