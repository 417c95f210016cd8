"""Behind a pooler that has fewer connections than we: nobody keeps one at rest."""

from __future__ import annotations

import anyio
import pytest

from storage import open_store
from tests.pooler import Pooler

pytest.importorskip("psycopg", reason="no PostgreSQL driver: install the extra postgres")
NOW = 1_700_000_000.0


async def test_a_write_leaves_the_poolers_connection_to_others(empty_store: str) -> None:
    """Each write in a client connection of its own, behind one to the server. A Flush at rest would keep that one."""
    with Pooler(empty_store, size=1) as pooler:
        store = open_store(pooler.behind(empty_store))
        await store.open()
        try:
            with anyio.fail_after(30):  # without, the second waited until the first one's connection was closed
                async with anyio.create_task_group() as group:
                    for number in range(4):
                        group.start_soon(lambda name: store.follow("s", name, seconds=60, now=NOW), f"r{number}")
                found = await store.followed(now=NOW)
        finally:
            await store.close()
    assert sorted(row.reader for row in found) == ["r0", "r1", "r2", "r3"]
