"""What every command shares: the console, the options, the way to a model, and errors as exit codes."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from enum import IntEnum
from pathlib import Path
from typing import Annotated

import typer
from anthropic import AsyncAnthropic
from pydantic_core import to_json
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from sessions import simulator
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

MODEL = "claude-sonnet-5-5"
STORE = "sqlite:///sessions.db"

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)


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
    str, typer.Option("--store", envvar="WARMLINE_STORE", help="sqlite:///path or postgresql://user@host/name.")
]
ModelOption = Annotated[str, typer.Option("--model", envvar="WARMLINE_MODEL", help="The model to talk to.")]
OwnerOption = Annotated[str | None, typer.Option("--owner", help="Only sessions of this owner.")]
SessionArgument = Annotated[str, typer.Argument(help="The session's id.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for a script instead of text for a person.")]


def code_of(error: SessionsError) -> Code:
    """The exit code for `error`; `Code.FAILED` for every kind that has none of its own."""
    return next((CODES[kind] for kind in type(error).__mro__ if kind in CODES), Code.FAILED)


def report(error: SessionsError) -> Code:
    """Prints `error` in one line on standard error, without a traceback."""
    errors.print(f"[bold red]{type(error).__name__}:[/] {escape(' '.join(str(error).split()))}", soft_wrap=True)
    return code_of(error)


def print_json(value: object) -> None:
    """Prints dataclasses and plain values as one JSON document; decimals are strings, so that none is rounded."""
    typer.echo(to_json(value, indent=2).decode())


def has_key(client: AsyncAnthropic) -> bool:
    """Whether the SDK found credentials, in the environment or in its configuration."""
    return bool(client.api_key or client.auth_token or client.credentials)


def claude() -> AsyncAnthropic:
    """The real API where there are credentials, else the simulator, which is said on the console."""
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
        url = make_url(store)
    except ArgumentError:
        return store  # the manager's own error says which forms there are
    if url.get_backend_name() == "sqlite" and url.database and not Path(url.database).exists():
        raise ConfigurationError(
            f"there is no database at {url.database}: name another with --store or WARMLINE_STORE, "
            "or start one with `warmline chat`"
        )
    return store


def dollars(price: Decimal | None) -> str:
    """USD to a thousandth of a cent; sessions cost little."""
    return "unknown price" if price is None else f"${price:.5f}"


def plain_table(*columns: str) -> Table:
    """A table without lines; a heading that begins with ">" stands over a column of figures."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), caption_justify="left")
    for column in columns:
        table.add_column(column.lstrip(">"), justify="right" if column.startswith(">") else "left", no_wrap=True)
    return table


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
