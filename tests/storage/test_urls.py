"""A store's URL is understood or refused; whatever is said of it, its password is not."""

from __future__ import annotations

import re
import sys
import traceback

import pytest
from sqlalchemy import make_url

from storage import StoreUnavailable, open_store
from storage.urls import parse, shown, upgrade_command

SECRET = "hunter2"

TYPOS = [
    f"mysql://me:{SECRET}@host/d",
    f"postgresq://me:{SECRET}@host/d",
    f"postgresql//me:{SECRET}@host/d",
    f"postgresql:/me:{SECRET}@host/d",
    f"postgresql://me:{SECRET}/host/d",
    f"postgresql://me:x@{SECRET}@host/d",
    f"postgresql://me:{SECRET}:5432/d",
    f"postgresql//host/d?password={SECRET}",
    f"sqlite:///x.db?password={SECRET}",
    f"sqlite://me:{SECRET}@/x.db",
]


@pytest.mark.parametrize("url", TYPOS)
def test_a_url_with_a_typo_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(StoreUnavailable) as raised:
        open_store(url)
    assert SECRET not in "".join(traceback.format_exception_only(raised.value))
    assert SECRET not in repr(raised.value)
    assert raised.value.__cause__ is None
    assert raised.value.__context__ is None or raised.value.__suppress_context__
    assert re.search(r"give sqlite:///path|as %40", str(raised.value))


def test_what_is_no_url_at_all_is_repeated() -> None:
    with pytest.raises(StoreUnavailable, match=r"'chat\.db' is no store URL: give sqlite:///path"):
        open_store("chat.db")


@pytest.mark.parametrize(
    "query", [f"password={SECRET}", f"sslpassword={SECRET}", f"pasword={SECRET}", f"options=-c%20x%3D{SECRET}"]
)
async def test_a_password_in_an_option_is_not_repeated(query: str) -> None:
    pytest.importorskip("psycopg", reason="no PostgreSQL driver: install the dev extra")
    store = open_store(f"postgresql://me@/d?host=/nowhere&{query}")
    for work in (store.open, store.upgrade, store.list):
        with pytest.raises(StoreUnavailable, match="host=%2Fnowhere") as raised:
            await work()
        assert SECRET not in "".join(traceback.format_exception(raised.value))


@pytest.mark.parametrize("query", ["connect_timeout=%00", "host=%00"])
async def test_what_the_driver_cannot_read_is_said(query: str) -> None:
    pytest.importorskip("psycopg", reason="no PostgreSQL driver: install the dev extra")
    with pytest.raises(StoreUnavailable, match="check the URL"):
        await open_store(f"postgresql://me@/d?{query}").open()


def test_a_plus_sign_is_no_space() -> None:
    assert parse("postgresql://me@host/d?password=a+b%20c").query == {"password": "a+b c"}


def test_the_command_for_an_upgrade_holds_no_password() -> None:
    plain = "postgresql://me@/d?host=/some where&port=5433"
    assert upgrade_command(make_url(plain)) == (
        "`warmline db upgrade --store 'postgresql://me@/d?host=%2Fsome%20where&port=5433'`"
    )
    assert parse(shown(make_url(plain))) == make_url(plain)
    for url in (f"postgresql://me:{SECRET}@host/d", f"postgresql://me@host/d?password={SECRET}"):
        assert upgrade_command(make_url(url)).startswith('`warmline db upgrade --store "$WARMLINE_STORE"`')
        assert SECRET not in shown(make_url(url))


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("schema=a%22b", "the schema in the store's URL"),
        ("schema=a&schema=b", "the schema in the store's URL"),
        (f"schema={'x' * 64}", "up to 63 letters"),
        ("pool_size=0", "the pool_size in the store's URL"),
        ("pool_size=many", "from 1 to 9999"),
    ],
)
def test_options_that_make_no_sense(query: str, words: str) -> None:
    pytest.importorskip("psycopg", reason="no PostgreSQL driver: install the dev extra")
    with pytest.raises(StoreUnavailable, match=words):
        open_store(f"postgresql://me@host/d?{query}")


def test_without_the_driver_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    for name in [name for name in sys.modules if name.startswith("storage.postgresql")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(StoreUnavailable, match=r"install warmline\[postgres\]"):
        open_store("postgresql://host/d")
