"""`warmline list`, `show` and `cost`: what is stored, for a person or as JSON for a script."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any

import anyio
import typer
from rich.markup import escape

from sessions import Call, Cost, Session, SessionInfo, SessionManager
from sessions.cli.terminal import (
    STORE,
    JsonOption,
    OwnerOption,
    SessionArgument,
    StoreOption,
    bar,
    console,
    dollars,
    existing,
    figures,
    plain_table,
    print_json,
)
from sessions.cli.transcript import aside, below, lines, turns


def list_sessions(
    store: StoreOption = STORE,
    owner: OwnerOption = None,
    search: Annotated[str | None, typer.Option("--search", help="Only sessions with these words in them.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many to show.")] = 50,
    before: Annotated[str | None, typer.Option("--before", help="The last id of the page before.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the sessions, newest first, with what each has cost."""

    async def run() -> Sequence[SessionInfo]:
        async with SessionManager(existing(store)) as manager:
            return await manager.list(owner=owner, search=search, limit=limit, before=before)

    found = anyio.run(run)
    if as_json:
        print_json(found)
    elif found:
        _print_sessions(found)
    else:
        console.print("No sessions." if search is None and owner is None else "No such sessions.")


def show(
    session: SessionArgument,
    store: StoreOption = STORE,
    owner: OwnerOption = None,
    ids: Annotated[bool, typer.Option("--ids", help="Print each entry's id, which fork and rewind take.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show a conversation as text, with what each turn read from the cache, wrote to it, and sent uncached."""

    async def run() -> tuple[Session, list[Call]]:
        async with SessionManager(existing(store)) as manager:
            found = await manager.open(session, owner=owner)
            return found, await found.calls()

    found, calls = anyio.run(run)
    if as_json:
        print_json({**_about(found), "entries": found.entries, "calls": calls})
        return
    console.print(
        f"[bold]{escape(found.title or 'Untitled')}[/]  {found.id}  {found.settings.model}  {_moment(found.created_at)}"
    )
    for turn in turns(found.entries, calls):
        console.print()
        for entry in turn.entries:
            if ids:
                console.print(aside(entry.id, "dim"))
            for part in lines(entry):
                console.print(part)
        if turn.calls:
            console.print(below(turn.usage, dollars(Cost.of(turn.calls).total)))
        for call in turn.calls:
            if call.miss is not None:
                console.print(f"          [red]miss: {call.miss.sentence}[/]")


def cost(
    session: Annotated[str | None, typer.Argument(help="A session's id; all sessions without it.")] = None,
    store: StoreOption = STORE,
    owner: OwnerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell what a session, or all of them, have cost, by kind of call."""

    async def run() -> Cost | list[SessionInfo]:
        async with SessionManager(existing(store)) as manager:
            if session is not None:
                return await (await manager.open(session, owner=owner)).cost()
            return await _all(manager, owner)

    found = anyio.run(run)
    if as_json:
        print_json(found)
    elif isinstance(found, Cost):
        print_cost(found)
    else:
        _print_sessions(found)
        console.print(f"[bold]In all {dollars(sum((one.cost for one in found), Decimal(0)))}[/]")


async def _all(manager: SessionManager, owner: str | None) -> list[SessionInfo]:
    found: list[SessionInfo] = []
    while page := await manager.list(owner=owner, limit=200, before=found[-1].id if found else None):
        found += page
    return found


def print_cost(found: Cost) -> None:
    """A session's bill: a row for each kind of call, one for all, and the tokens behind it."""
    table = plain_table("kind", ">USD")
    for kind, price in found.by_kind.items():
        table.add_row(kind, dollars(price))
    table.add_row("in all", dollars(found.total), style="bold")
    console.print(table)
    usage = found.usage
    console.print(f"{found.calls} calls: {figures(usage)}  answers {usage.output:,}")
    console.print(f"{usage.hit_rate:.0%} of all input was read from the cache.")
    if found.unpriced:
        console.print(f"{found.unpriced} of the calls have no published price: the sums leave them out.")


def _print_sessions(found: Sequence[SessionInfo]) -> None:
    """Two lines for each session: its id, time and cost, then how much was cached, and whose it is."""
    for one in found:
        price = dollars(one.cost) if one.unpriced < one.calls or not one.calls else "unknown price"
        console.print(f"[bold]{one.id}[/]  {_moment(one.updated_at)}  {one.turns:5} turns  {price:>10}", soft_wrap=True)
        about = ", ".join(filter(None, (one.title, one.owner)))
        console.print(f"  {bar(one.usage) or '[dim]nothing sent[/]'}  {escape(about)}", soft_wrap=True)


def _about(session: Session) -> dict[str, Any]:
    return {
        "id": session.id,
        "owner": session.owner,
        "title": session.title,
        "head": session.head,
        "created_at": session.created_at,
        "settings": session.settings,
    }


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, tz=UTC).astimezone().strftime("%Y-%m-%d %H:%M")
