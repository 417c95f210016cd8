"""The way from what a user names to what a command works on: a model, a store that is there, a session's whole id."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from sessions.cli.interrupts import quiet
from sessions.cli.terminal import console
from sessions.errors import ConfigurationError
from sessions.translate import storage_errors
from storage import SessionMissing, Store, StoreUnavailable, open_store
from storage.urls import VARIABLE, parse

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic

NO_KEY = "[yellow]No ANTHROPIC_API_KEY is set: a simulated Claude answers. Nothing leaves this machine.[/]"
CANDIDATES = 5
"""Ids that are shown where several sessions begin with what was given."""


def has_key(client: AsyncAnthropic) -> bool:
    """Whether the SDK found credentials, in the environment or in its configuration."""
    return bool(client.api_key or client.auth_token or client.credentials)


def claude(*, tells: bool = True) -> AsyncAnthropic:
    """The real API where there are credentials, else the simulator, which is said on the console (`tells`)."""
    with quiet():
        from anthropic import AsyncAnthropic

        from sessions import simulator

    client = AsyncAnthropic()
    if has_key(client):
        return client
    if tells:
        console.print(NO_KEY)
    return simulator.client()


def existing(store: str) -> str:
    """`store`, unless it names a SQLite file that is not there: reading commands make no new database.

    Raises `ConfigurationError` that tells which file was looked for.
    """
    try:
        url = parse(store)
        absent = url.get_backend_name() == "sqlite" and url.database and not Path(url.database).exists()
    except (StoreUnavailable, OSError):
        return store  # the store's own error says which forms there are, or what is wrong with the path
    if absent:
        raise ConfigurationError(
            f"there is no database at {url.database}: name another with --store or {VARIABLE}, "
            "or start one with `warmline chat`"
        )
    return store


def reading(store: str) -> Store:
    """The store of a command that only reads, not opened yet: a file that may not be written will do.

    Raises `ConfigurationError`.
    """
    with storage_errors():
        return open_store(existing(store), reading=True)


def session_named(store: str, name: str, owner: str | None = None) -> str:
    """The whole id of a session: the name itself, or the one that begins with it; else the name as it is.

    Raises `ConfigurationError` if several begin with it.
    """

    async def ids() -> list[str]:
        opened = reading(store)
        with storage_errors():
            await opened.open()
            try:
                return [(await opened.load(name)).id]
            except SessionMissing:
                return [record.id for record in await opened.list(prefix=name, owner=owner, limit=CANDIDATES + 1)]
            finally:
                await opened.close()

    matches = anyio.run(ids) if name else []
    if len(matches) > 1:
        shown = ", ".join(matches[:CANDIDATES]) + (", …" if len(matches) > CANDIDATES else "")
        raise ConfigurationError(f"several sessions begin with {name!r}: {shown}; give more of the id")
    return matches[0] if matches else name
