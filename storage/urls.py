"""A store's URL: read in one place, and never repeated with a password, wherever in it that stands."""

from __future__ import annotations

import re
import shlex
from typing import NamedTuple

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from .errors import StoreUnavailable

FORMS = "sqlite:///path, sqlite:////absolute/path, sqlite:// (in memory), or postgresql://user@host/database"
VARIABLE = "WARMLINE_STORE"
"""Where `warmline` finds the URL of the store."""

_PLAIN = {
    "host", "hostaddr", "port", "dbname", "user", "service", "schema", "pool_size", "sslmode", "sslrootcert",
    "connect_timeout", "application_name", "target_session_attrs", "load_balance_hosts",
}  # fmt: skip
"""Options that are shown; a password can stand in any other, in one with a typo too."""


POOL_SIZE = 16
"""Connections to a server that a store has at a time, beside the one that listens."""


class Options(NamedTuple):
    """What is ours among the options of a PostgreSQL URL: the schema of the tables, and the most connections."""

    schema: str | None = None
    pool_size: int = POOL_SIZE


def own_options(url: URL) -> tuple[URL, Options]:
    """The URL as the driver takes it, and our own options of it. Raises `StoreUnavailable`."""
    schema, size = url.query.get("schema"), url.query.get("pool_size", str(POOL_SIZE))
    if schema is not None and not (isinstance(schema, str) and re.fullmatch(r"[A-Za-z_]\w{0,62}", schema, re.ASCII)):
        raise StoreUnavailable("the schema in the store's URL must be a name of up to 63 letters, digits and _")
    if not (isinstance(size, str) and re.fullmatch(r"[1-9][0-9]{0,3}", size)):
        raise StoreUnavailable("the pool_size in the store's URL must be a number of connections from 1 to 9999")
    return url.difference_update_query(["schema", "pool_size"]), Options(schema, int(size))


def parse(url: str) -> URL:
    """The parts of a URL. Raises `StoreUnavailable` if it has none; what cannot be read may hold a password."""
    text, mark, query = str(url).partition("?")
    try:
        # A plus sign is one, as for the server's own programs, and no space.
        parsed = make_url(text + mark + query.replace("+", "%2B"))
    except (ArgumentError, ValueError):  # no URL at all, or a port that is no number
        raise unknown(text) from None
    if "@" in (parsed.host or ""):
        raise StoreUnavailable("the password in the store's URL has an @ in it: write it there as %40")
    return parsed if parsed.password else parsed._replace(password=None)  # an empty one is none


def unknown(url: str) -> StoreUnavailable:
    """The error for a URL of another form."""
    scheme, mark, _ = url.partition("://")
    if mark and re.fullmatch(r"[\w+.-]+", scheme):
        return StoreUnavailable(f"this {scheme}:// URL is none of a store: give {FORMS}")
    given = "the text given" if re.search(r"[:@=]", url) else repr(url)
    return StoreUnavailable(f"{given} is no store URL: give {FORMS}")


def shown(url: URL) -> str:
    """The URL as messages name the store."""
    return _written(url.set(query={name: value for name, value in url.query.items() if name in _PLAIN}))


def _written(url: URL, *, hide_password: bool = True) -> str:
    text, mark, query = url.render_as_string(hide_password).partition("?")
    return text + mark + query.replace("+", "%20")  # as `parse` reads it


def upgrade_command(url: URL) -> str:
    """The command that upgrades that store, to be pasted: a URL that holds a password comes from the environment."""
    whole = _written(url, hide_password=False)
    if shown(url) == whole:
        return f"`warmline db upgrade --store {shlex.quote(whole)}`"
    return f'`warmline db upgrade --store "${VARIABLE}"`, with the whole URL in {VARIABLE}'
