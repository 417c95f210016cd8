"""`warmline replay`: recorded conversations through real sessions, and the bill beside two others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from enum import StrEnum
from typing import Annotated

import anyio
import typer
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from sessions import ExpectedCost, Fixed, Policy, Usage
from sessions.cli.exit_codes import Code
from sessions.cli.options import JsonOption
from sessions.cli.recorded import MAX_MIB, FilesArgument, MaxMibOption, StrictOption, read_file
from sessions.cli.terminal import bar, console, dollars, errors, plain_table, print_json
from sessions.importers import RecordedConversation
from sessions.replay import Replay, ReplayTurn, Totals, recordings
from sessions.replay import replay as play


class Ttl(StrEnum):
    """What `--ttl` takes."""

    AUTO = "auto"
    FIVE_MINUTES = "5m"
    ONE_HOUR = "1h"

    @property
    def policy(self) -> Policy:
        """The policy of that name."""
        return ExpectedCost() if self is Ttl.AUTO else Fixed("5m" if self is Ttl.FIVE_MINUTES else "1h")


def replay(
    files: FilesArgument,
    strict: StrictOption = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first conversations of each file.")] = None,
    max_mib: MaxMibOption = MAX_MIB,
    ttl: Annotated[Ttl, typer.Option(help="The lifetime of what is written to the cache.")] = Ttl.AUTO,
    brief: Annotated[bool, typer.Option("--brief", help="A line for each conversation instead of each turn.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Send recorded conversations again, against the simulator on a turned clock, and tell what each turn costs.

    The time, the sizes and the tool results are the recorded ones. The totals stand beside what the same requests cost
    uncached, and with one top-level cache_control. Ends with code 1 if a request was refused, or read less of the cache
    than it should have.
    """
    recorded = [
        recording for file in files for recording in recordings(read_file(file, strict, max_mib).conversations)[:limit]
    ]
    played = [_play(recording, ttl.policy, number, len(recorded)) for number, recording in enumerate(recorded, 1)]
    if as_json:
        print_json([{"id": one.id, "model": one.model, "totals": one.totals, "turns": one.turns} for one in played])
    else:
        for one in played:
            _print(one, brief)
        totals = sum((one.totals for one in played), start=Totals())
        console.print(_bill(totals))
        console.print(_checked(totals))
    if any(one.problems for one in played):
        raise typer.Exit(Code.FAILED)


def _play(recording: Sequence[RecordedConversation], policy: Policy, number: int, count: int) -> Replay:
    columns = (
        TextColumn(f"[dim]{number} of {count}[/]"),
        BarColumn(),
        TextColumn("{task.completed} of {task.total} requests"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=errors, transient=True) as progress:
        task = progress.add_task("")

        def done(requests: int, of: int) -> None:
            progress.update(task, completed=requests, total=of)

        async def run() -> Replay:
            return await play(recording, progress=done, ttl=policy)

        return anyio.run(run)


def _print(one: Replay, brief: bool) -> None:
    totals = one.totals
    console.print(f"[bold]{escape(one.id)}[/]  {escape(one.model)}, {len(one.turns)} turns, {totals.requests} requests")
    if not brief:
        console.print(_turns(one.turns))
    for problem in one.problems:
        console.print(f"  [red]{escape(problem)}[/]")
    if brief:
        console.print(f"  {bar(totals.usage)}  {_prices(totals)}")
    else:
        console.print(f"  {_prices(totals)}\n")


def _turns(turns: Iterable[ReplayTurn]) -> Table:
    table = plain_table("turn", ">gap", ">calls", ">read", ">written", ">uncached", "", ">USD")
    for number, turn in enumerate(turns, 1):
        usage = turn.usage
        tokens = [f"{n:,}" for n in (usage.cache_read, usage.cache_write, usage.input)]
        table.add_row(
            str(number), _gap(turn.gap), str(turn.totals.requests), *tokens, bar(usage, 12), dollars(turn.totals.cost)
        )
    return table


def _prices(totals: Totals) -> str:
    return (
        f"uncached {dollars(totals.uncached_cost)}, top-level cache_control {dollars(totals.top_level_cost)}, "
        f"[bold]warmline {dollars(totals.cost)}[/]"
    )


def _bill(totals: Totals) -> Table:
    """The three ways beside each other."""
    table = plain_table("", ">read", ">written", ">uncached", ">USD", ">")
    everything = Usage(input=totals.top_level.total_input)
    rows: list[tuple[str, Usage, Decimal | None]] = [
        ("uncached", everything, totals.uncached_cost),
        ("top-level cache_control", totals.top_level, totals.top_level_cost),
        ("warmline", totals.usage, totals.cost),
    ]
    for name, usage, price in rows:
        tokens = [f"{n:,}" for n in (usage.cache_read, usage.cache_write, usage.input)]
        whole = totals.uncached_cost
        share = f"{price / whole:.1%}" if price is not None and whole else ""
        table.add_row(name, *tokens, dollars(price), share, style="bold green" if name == "warmline" else "")
    return table


def _checked(totals: Totals) -> str:
    right = totals.checked - totals.broken
    return (
        f"{totals.requests} requests, {totals.refused} refused. Of {totals.checked} sent inside the lifetime of the "
        f"one before, {right} read exactly what that one had read and written."
    )


def _gap(seconds: float | None) -> str:
    """Hours, minutes and seconds from the start of the request before to the start of this turn's first."""
    if seconds is None:
        return ""
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"
