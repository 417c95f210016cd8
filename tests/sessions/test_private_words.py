"""Words that an error quotes are told to the caller, and stand nowhere else: not in the ledger, not in a turn's row."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from sessions import ModelError
from sessions.errors import without_words
from sessions.simulator import Fault
from tests.sessions.world import World, create

SECRET = "the-secret"


def stored(path: Path) -> str:
    """All that the database holds beside the entries, which are the conversation itself."""
    with sqlite3.connect(path) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        rows = [connection.execute(f"SELECT * FROM {name}").fetchall() for name in tables if name != "entries"]
    return repr(rows)


@pytest.mark.parametrize("status", [400, 413, 429, 500, 529])
async def test_what_the_api_quotes_is_not_kept(tmp_path: Path, status: int) -> None:
    path = tmp_path / "chat.db"
    world = World(url=path, faults=lambda index: Fault.http(status, f"cannot take '{SECRET}'"))
    async with world.manager() as manager:
        session = await create(manager)
        for use in (session.prewarm, lambda: session.send(f"I am {SECRET}")):
            try:
                await use()
            except ModelError as error:
                assert f"the API answered {status}: " in str(error)
                assert SECRET in str(error)
        calls = await session.calls()
    assert len(calls) == 2
    assert all((one.error or "").startswith(f"the API answered {status} ") for one in calls)
    assert SECRET not in stored(path)


async def test_what_a_batch_answers_is_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    world = World(
        lambda request: Fault.http(400, f"cannot take '{SECRET}'") if "no" in request.text else "Fine.", url=path
    )
    async with world.manager() as manager:
        session = await create(manager)
        with pytest.raises(ModelError, match="have no reply"):
            await session.batch(["yes", "no"])
    assert SECRET not in stored(path)


async def test_an_error_that_is_not_ours_is_kept_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"

    class Moody:
        def choose(self, outlook: object) -> object:
            raise RuntimeError(f"no idea about {SECRET}")

    world = World(url=path)
    async with world.manager(ttl=Moody()) as manager:
        session = await create(manager)
        with pytest.raises(RuntimeError, match=SECRET):
            await session.send("Hello")
    assert SECRET not in stored(path)
    assert "'RuntimeError: RuntimeError'" not in stored(path)


def test_an_error_of_ours_can_be_stored_whatever_it_names() -> None:
    assert without_words(ModelError("the tool 'a\0b \ud800'")) == "the tool 'a\N{REPLACEMENT CHARACTER}b ?'"
    assert without_words(ModelError("quotes", kind="the kind")) == "the kind"
    assert without_words(KeyError(SECRET)) == "KeyError"
