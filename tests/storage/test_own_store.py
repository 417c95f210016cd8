"""Whoever adds a store writes a dialect, and one line for it: the contract's own rules say whether it is one."""

from __future__ import annotations

import itertools
from pathlib import Path

import anyio
import pytest
import trio

from sessions.testing import simulated_manager
from storage import StoreUnavailable, open_store
from storage.dialects import DIALECTS
from storage.testing import check_store
from tests.storage.plain import Plain


@pytest.fixture
def line(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one line."""
    monkeypatch.setitem(DIALECTS, "plain", Plain)


async def check(folder: Path) -> None:
    numbers = itertools.count()
    await check_store(lambda: open_store(f"plain:///{folder}/{next(numbers)}.db"))


@pytest.mark.usefixtures("line")
async def test_a_store_of_its_own_keeps_the_contract(tmp_path: Path) -> None:
    await check(tmp_path)


@pytest.mark.usefixtures("line")
def test_a_store_of_its_own_keeps_the_contract_on_trio(tmp_path: Path) -> None:
    trio.run(check, tmp_path)


@pytest.mark.usefixtures("line")
async def test_a_conversation_goes_on_in_it(tmp_path: Path) -> None:
    url = f"plain:///{tmp_path}/chat.db"
    async with simulated_manager(url) as manager:
        session = await manager.create(model="claude-opus-4-8", max_tokens=100)
        await session.send("hello")
    async with simulated_manager(url) as manager:
        session = await manager.open(session.id)
        await session.send("hello again")
        assert [entry.role for entry in session.entries] == ["user", "assistant"] * 2


@pytest.mark.usefixtures("line")
async def test_who_waits_in_it_hears_of_a_point_that_is_written(tmp_path: Path) -> None:
    store = open_store(f"plain:///{tmp_path}/chat.db")
    await store.open()
    with store.watch("p") as watch, anyio.fail_after(30):
        await store.led("p", 1, ttl="5m", alive=300.0, now=0.0)
        await watch.news()
    await store.close()


def test_without_the_line_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="this plain:// URL is none of a store"):
        open_store(f"plain:///{tmp_path}/chat.db")
