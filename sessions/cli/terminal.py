"""What every command shares: the console, the options, the way to a model, and errors as exit codes."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import anyio
import typer
from pydantic_core import to_json
from rich.markup import escape
from rich.table import Table

from sessions.cli.interrupts import quiet
from sessions.cli.visible import Door, json_text
from sessions.core.usage import Usage
from sessions.errors import (
    ConfigurationError,
    Conflict,
    InDoubtToolCalls,
    InvalidHistory,
    InvalidImport,
    LeaseLost,
    PrefixChange,
    SchemaOutOfDate,
    SessionBusy,
    SessionNotFound,
    SessionsError,
    ToolsChanged,
)
from sessions.translate import storage_errors
from storage import SessionMissing, Store, StoreUnavailable, open_store
from storage.urls import VARIABLE, parse

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic

MODEL = "claude-sonnet-5-5"
STORE = "sqlite:///sessions.db"

console = Door(highlight=False, emoji=False)
errors = Door(stderr=True, highlight=False, emoji=False)

WHOLE = 1_000_000
"""Columns of a console that is no terminal: what goes into a file or a pipe is neither wrapped nor cut."""
NAMES = 9
"""Columns that the names in a table have at least: enough of an id to find the session by."""
CANDIDATES = 5


class EntryNotFound(Conflict):
    """The session has no such entry. `warmline show ID --ids` lists them."""


class Code(IntEnum):
    """The exit code of every command."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    REFUSED = 4


CODES: Mapping[type[SessionsError], Code] = {
    ConfigurationError: Code.USAGE,
    InvalidHistory: Code.USAGE,
    InvalidImport: Code.USAGE,
    SchemaOutOfDate: Code.USAGE,
    ToolsChanged: Code.USAGE,
    SessionNotFound: Code.NOT_FOUND,
    EntryNotFound: Code.NOT_FOUND,
    Conflict: Code.REFUSED,
    InDoubtToolCalls: Code.REFUSED,
    LeaseLost: Code.REFUSED,
    PrefixChange: Code.REFUSED,
    SessionBusy: Code.REFUSED,
}
CODES_IN_WORDS = (
    "Exit codes: 0 done, 1 the run failed, 2 wrong usage, settings or input, 3 not found, "
    "4 refused (busy, taken over, or in doubt), 130 interrupted."
)

StoreOption = Annotated[
    str, typer.Option("--store", envvar=VARIABLE, help="sqlite:///path or postgresql://user@host/name.")
]
ModelOption = Annotated[str, typer.Option("--model", envvar="WARMLINE_MODEL", help="The model to talk to.")]
OwnerOption = Annotated[str | None, typer.Option("--owner", help="Only sessions of this owner.")]
SessionArgument = Annotated[str, typer.Argument(help="The session's id, or the beginning of it.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for a script instead of text for a person.")]


def code_of(error: SessionsError) -> Code:
    """The exit code for `error`; `Code.FAILED` for every kind that has none of its own."""
    return next((CODES[kind] for kind in type(error).__mro__ if kind in CODES), Code.FAILED)


def report(error: SessionsError, place: str = "") -> Code:
    """Prints `error` in one line on standard error, without a traceback. `place`: where it happened, said before it."""
    told = " ".join(f"{place}: {error}".split() if place else str(error).split())
    errors.print(f"[bold red]{type(error).__name__}:[/] {escape(told)}", soft_wrap=True)
    return code_of(error)


def print_json(value: object) -> None:
    """Prints dataclasses and plain values as one JSON document; decimals are strings, so that none is rounded."""
    echo_json(to_json(value, indent=2).decode() + "\n")


def echo_json(document: str) -> None:
    """Prints a JSON document as it is, but for characters that a terminal would obey: these are escaped."""
    typer.echo(json_text(document).encode(), nl=False)


def has_key(client: AsyncAnthropic) -> bool:
    """Whether the SDK found credentials, in the environment or in its configuration."""
    return bool(client.api_key or client.auth_token or client.credentials)


def claude() -> AsyncAnthropic:
    """The real API where there are credentials, else the simulator, which is said on the console."""
    with quiet():
        from anthropic import AsyncAnthropic

        from sessions import simulator

    client = AsyncAnthropic()
    if has_key(client):
        return client
    console.print("[yellow]No ANTHROPIC_API_KEY is set: a simulated Claude answers. Nothing leaves this machine.[/]")
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
                return [one.id for one in await opened.list(prefix=name, owner=owner, limit=CANDIDATES + 1)]
            finally:
                await opened.close()

    found = anyio.run(ids) if name else []
    if len(found) > 1:
        shown = ", ".join(found[:CANDIDATES]) + (", …" if len(found) > CANDIDATES else "")
        raise ConfigurationError(f"several sessions begin with {name!r}: {shown}; give more of the id")
    return found[0] if found else name


def dollars(price: Decimal | None) -> str:
    """USD to a thousandth of a cent; sessions cost little."""
    return "unknown price" if price is None else f"${price:.5f}"


def plain_table(*columns: str) -> Table:
    """A table without lines; a heading that begins with ">" stands over a column of figures."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), caption_justify="left")
    for column in columns:
        table.add_column(column.lstrip(">"), justify="right" if column.startswith(">") else "left", no_wrap=True)
    return table


def print_table(table: Table) -> None:
    """Prints a table with every figure whole: where the console is too narrow, the names in the first column are cut.

    They keep `NAMES` columns; if that is not enough, the terminal wraps the lines.
    """
    if _width(table) > console.width:
        names = table.columns[0]
        names.max_width, table.padding = NAMES, (0, 1, 0, 0)
        least = _width(table)
        names.max_width += max(0, console.width - least)
        table.width = max(least, console.width)
    console.print(table, crop=False)


def _width(table: Table) -> int:
    return console.measure(table, options=console.options.update(width=WHOLE)).maximum


BAR = 18


def bar(usage: Usage, width: int = BAR) -> str:
    """The prompt of a call or a turn as a bar of `width` cells: read (green), written (yellow), uncached (red)."""
    parts = [(usage.cache_read, "green", "█"), (usage.cache_write, "yellow", "▓"), (usage.input, "red", "░")]
    cells = shares([tokens for tokens, _, _ in parts], width)
    return "".join(f"[{colour}]{sign * n}[/]" for n, (_, colour, sign) in zip(cells, parts, strict=True) if n)


def shares(amounts: list[int], width: int) -> list[int]:
    """Whole cells for each amount, `width` in all; every amount that is not zero has at least one."""
    total = sum(amounts)
    if not total:
        return [0 for _ in amounts]
    cells = [max(1, round(width * amount / total)) if amount else 0 for amount in amounts]
    cells[cells.index(max(cells))] += width - sum(cells)
    return cells


def figures(usage: Usage) -> str:
    """The prompt in words: what was read, written and uncached, in tokens."""
    return (
        f"read [green]{usage.cache_read:,}[/]  written [yellow]{usage.cache_write:,}[/]  "
        f"uncached [red]{usage.input:,}[/]"
    )
