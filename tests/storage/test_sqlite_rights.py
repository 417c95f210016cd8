"""Who may read or write the files: the rights of what exists are kept, and new files are their owner's only."""

# ruff: noqa: ASYNC240  # nothing else runs on these loops, so they may block

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from storage import (
    SchemaTooOld,
    Store,
    StoreUnavailable,
    open_store,
)
from storage.testing import (
    session_record,
)
from tests.storage.refusals import refused


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a directory where nobody can write")
async def test_a_directory_without_write_access() -> None:
    await refused("sqlite:////proc/self/chat.db", StoreUnavailable, "check the path and your rights")


as_nobody = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become a user without rights"
)


@contextlib.contextmanager
def nobody() -> Iterator[None]:
    """Does what is inside as a user without rights."""
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
async def others() -> AsyncIterator[Path]:
    """A database with one session, in a directory that everybody can reach."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "chat ö%.db"
        path.parent.chmod(0o777)
        await write(path, "s")
        path.chmod(0o644)
        yield path


async def write(path: Path, session: str) -> None:
    store = open_store(f"sqlite:///{path}")
    await store.open()
    await store.create(session_record(session))
    await store.close()


@as_nobody
async def test_a_file_that_may_only_be_read(others: Path) -> None:
    others.chmod(0o444)
    with nobody():
        await refused(f"sqlite:///{others}", StoreUnavailable, "cannot be written; change their rights")


@as_nobody
@pytest.mark.parametrize("rights", [(0o444, 0o777), (0o666, 0o555), (0o444, 0o555)])
@pytest.mark.parametrize("live", [False, True])
async def test_who_only_reads_may_be_forbidden_to_write(others: Path, rights: tuple[int, int], live: bool) -> None:
    writer = open_store(f"sqlite:///{others}")
    if live:
        await writer.open()
        await writer.create(session_record("t"))
    others.chmod(rights[0])
    others.parent.chmod(rights[1])
    before = {path: path.read_bytes() for path in others.parent.iterdir() if path.suffix != ".db-shm"}
    store = open_store(f"sqlite:///{others}", reading=True)
    with nobody():
        await store.open()
        assert len(await store.list()) == 1 + live
        with pytest.raises(StoreUnavailable, match="cannot be written; change their rights"):
            await store.create(session_record("new"))
        await store.close()
    assert {path: path.read_bytes() for path in before} == before
    assert len(list(others.parent.iterdir())) == len(before) + live
    await writer.close()


@as_nobody
async def test_a_file_without_any_rights(others: Path) -> None:
    others.chmod(0)
    for reading in (False, True):
        store = open_store(f"sqlite:///{others}", reading=reading)
        with nobody(), pytest.raises(StoreUnavailable, match="your rights to the file and its directory"):
            await store.open()


@as_nobody
async def test_an_older_schema_that_may_only_be_read(others: Path) -> None:
    with contextlib.closing(sqlite3.connect(others)) as raw:
        raw.execute("UPDATE warmline_version SET version_num = '0000'")
        raw.commit()
    others.chmod(0o444)
    store = open_store(f"sqlite:///{others}", reading=True)
    with nobody(), pytest.raises(SchemaTooOld, match=r"0000.*warmline db upgrade"):
        await store.open()


async def test_who_only_reads_and_may_write_is_no_different(url: str) -> None:
    for one in (url, "sqlite://"):
        store = open_store(one, reading=True)
        await open_store(one).upgrade()
        await store.open()
        await store.create(session_record())
        await store.close()


async def test_new_files_are_their_owners_only(path: Path, store: Store) -> None:
    await store.create(session_record())
    modes = {one.name: one.stat().st_mode & 0o777 for one in path.parent.iterdir()}
    assert modes == {"chat.db": 0o600, "chat.db-wal": 0o600, "chat.db-shm": 0o600}


@pytest.mark.parametrize("mode", [0o640, 0o666])
async def test_the_rights_to_a_file_that_exists_are_left(path: Path, url: str, mode: int) -> None:
    path.touch()
    path.chmod(mode)
    store = open_store(url)
    await store.open()
    await store.create(session_record())
    assert {one.stat().st_mode & 0o777 for one in path.parent.iterdir()} == {mode}
    await store.close()


async def test_the_target_of_a_link_is_private_too(path: Path) -> None:
    path.with_name("link.db").symlink_to(path)
    store = open_store(f"sqlite:///{path.with_name('link.db')}")
    await store.open()
    assert path.stat().st_mode & 0o777 == 0o600
    await store.close()
