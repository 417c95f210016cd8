"""A flipped bit, wherever it is: what cannot be read is said to be damaged, with what to do, and never quoted."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from sessions import SessionManager
from sessions.errors import ConfigurationError
from sessions.testing import simulated_manager
from tests.sessions.world import MODEL

Use = Callable[[SessionManager, str], Awaitable[object]]


async def _open(manager: SessionManager, id: str) -> object:
    return (await manager.open(id)).messages


async def _verify(manager: SessionManager, id: str) -> object:
    return await (await manager.open(id)).verify()


async def _calls(manager: SessionManager, id: str) -> object:
    return await (await manager.open(id)).calls()


async def _list(manager: SessionManager, id: str) -> object:
    return await manager.list()


async def _costs(manager: SessionManager, id: str) -> object:
    return await manager.costs("session")


async def _enter(manager: SessionManager, id: str) -> object:
    return None


@pytest.fixture
async def id(tmp_path: Path) -> str:
    async with simulated_manager(f"sqlite:///{tmp_path}/a.db") as manager:
        session = await manager.create(
            model=MODEL, max_tokens=100, owner="one owner", metadata={"ticket": 7}, system="x" * 9000
        )
        await session.send("words that were said")
        await session.send("more of them")
        return session.id


@pytest.mark.parametrize(
    ("place", "use"),
    [
        (rb"\tmiss_cost TEXT", _costs),
        (rb"\tmiss_cost TEXT", _verify),
        (rb"\tlease_queue TEXT", _list),
        (rb"\tlease_queue TEXT", _open),
        (rb"CREATE TABLE calls", _enter),
        (rb"CREATE UNIQUE INDEX", _enter),
        (rb"one owner", _open),
        (rb"one owner", _list),
        (rb"words that were said", _open),
        (rb"words that were said", _verify),
        (rb'"ticket"', _list),
    ],
)
@pytest.mark.parametrize("bit", [0x80, 0x01])
async def test_a_flipped_bit_is_damage(tmp_path: Path, id: str, place: bytes, use: Use, bit: int) -> None:
    """Where the bit leaves a text that can be read, everything goes on, and `verify` tells of an entry."""
    path = tmp_path / "a.db"
    content = bytearray(path.read_bytes())
    found = re.search(place, content)
    assert found is not None
    content[found.start() + 4] ^= bit
    path.write_bytes(content)
    try:
        async with simulated_manager(f"sqlite:///{path}", tend=False) as manager:
            await use(manager, id)
    except ConfigurationError as error:
        assert "restore a copy" in str(error)
        assert "words" not in str(error)
    else:
        assert bit == 0x01


@pytest.mark.parametrize(
    ("place", "use", "words"),
    [
        (rb'\{"ticket"', _list, "stored of session '.*' cannot be read"),
        (rb'\{"model"', _open, "stored of session '.*' cannot be read"),
        (rb'\[\["', _calls, "stored of .* cannot be read"),
    ],
)
async def test_stored_json_that_is_none_is_damage(tmp_path: Path, id: str, place: bytes, use: Use, words: str) -> None:
    path = tmp_path / "a.db"
    content = bytearray(path.read_bytes())
    for found in list(re.finditer(place, content)):
        content[found.start()] ^= 0x01
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=rf"{words}.*restore a copy"):
        async with simulated_manager(f"sqlite:///{path}", tend=False) as manager:
            await use(manager, id)


async def test_a_head_that_is_gone_is_damage(tmp_path: Path, id: str) -> None:
    with sqlite3.connect(tmp_path / "a.db") as raw:
        raw.execute("UPDATE sessions SET head = 'elsewhere'")
    raw.close()
    async with simulated_manager(f"sqlite:///{tmp_path}/a.db", tend=False) as manager:
        with pytest.raises(ConfigurationError, match=r"entry 'elsewhere', the head of .*, is gone: restore a copy"):
            await manager.open(id)
