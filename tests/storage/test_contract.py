"""Every rule of the contract, on every back end, on asyncio and on Trio."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from storage import SessionRecord, Store, open_store
from storage.sql import SQLStore
from storage.tables import metadata
from storage.testing import CHECKS, Check, check_store, session_record
from tests.servers import make_database

rules = pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)


async def hold(check: Check, store: Store) -> None:
    await store.upgrade()
    await store.open()
    try:
        await check(store)
    finally:
        await store.close()


@rules
async def test_file(check: Check, url: str) -> None:
    await hold(check, open_store(url))


@rules
async def test_memory(check: Check) -> None:
    await hold(check, open_store("sqlite://"))


@rules
def test_file_on_trio(check: Check, url: str) -> None:
    trio.run(hold, check, open_store(url))


@rules
async def test_postgresql(check: Check, empty_store: str) -> None:
    await hold(check, open_store(empty_store))


@rules
def test_postgresql_on_trio(check: Check, empty_store: str) -> None:
    trio.run(hold, check, open_store(empty_store))


@rules
async def test_postgresql_behind_a_pooler(check: Check, empty_store: str, pooler: Callable[[str], str]) -> None:
    await hold(check, open_store(pooler(empty_store)))


@pytest.fixture(scope="session")
def one_schema(server: str) -> str:
    """The URL of a database whose tables stand in a schema of their own, beside another program's."""
    url = make_database(server)
    execute(url, *(f"CREATE TABLE {table} (another_programs text)" for table in metadata.tables))
    asyncio.run(open_store(f"{url}&schema=Warm_1").upgrade())
    return url


def execute(url: str, *statements: str) -> None:
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


@pytest.fixture
def empty_schema(one_schema: str) -> str:
    tables = ", ".join(f'"Warm_1".{table}' for table in metadata.tables)
    execute(one_schema, f"TRUNCATE {tables}")
    return one_schema


@rules
async def test_postgresql_in_a_schema(check: Check, empty_schema: str) -> None:
    await hold(check, open_store(f"{empty_schema}&schema=Warm_1"))


@rules
async def test_postgresql_in_a_schema_behind_a_pooler(
    check: Check, empty_schema: str, pooler: Callable[[str], str]
) -> None:
    await hold(check, open_store(f"{pooler(empty_schema)}?schema=Warm_1"))


async def test_all_rules_at_once_without_pytest(tmp_path: Path) -> None:
    numbers = itertools.count()
    await check_store(lambda: open_store(f"sqlite:///{tmp_path}/{next(numbers)}.db"))


async def test_a_maker_may_be_asynchronous() -> None:
    async def make() -> Store:
        return open_store("sqlite://")

    await check_store(make)


class Forgetful(SQLStore):
    """Breaks the contract: it has every session under another title."""

    async def load(self, session: str) -> SessionRecord:
        return session_record(session, title="forgotten")


class Lenient(SQLStore):
    """Breaks the contract: it takes any id twice."""

    async def create(self, session: SessionRecord, entries: object = (), calls: object = ()) -> None:
        return None


@pytest.mark.parametrize(
    ("store", "rule"),
    [(Forgetful, "a_session_comes_back_as_it_was_created"), (Lenient, "a_session_comes_back_as_it_was_created")],
)
async def test_a_broken_store_is_told_which_rule_it_breaks(store: type[SQLStore], rule: str) -> None:
    with pytest.raises(AssertionError, match=rule):
        await check_store(lambda: store("sqlite://"))


async def test_a_rule_names_the_error_that_did_not_come() -> None:
    taken = next(check for check in CHECKS if check.__name__ == "a_taken_id_is_refused")
    store = Lenient("sqlite://")
    with pytest.raises(AssertionError, match="expected SessionExists, got None"):
        await hold(taken, store)
