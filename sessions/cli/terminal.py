"""What every command shares: the console, errors in one line, JSON, tables, bars and figures."""

from __future__ import annotations

from decimal import Decimal

import typer
from pydantic_core import to_json
from rich.markup import escape
from rich.table import Table

from sessions.cli.exit_codes import Code, code_of
from sessions.cli.visible import Door, json_text
from sessions.core.usage import Usage
from sessions.errors import SessionsError

console = Door(highlight=False, emoji=False)
errors = Door(stderr=True, highlight=False, emoji=False)

WHOLE = 1_000_000
"""Columns of a console that is no terminal: what goes into a file or a pipe is neither wrapped nor cut."""
NAMES = 9
"""Columns that the names in a table have at least: enough of an id to find the session by."""


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
