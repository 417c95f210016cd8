"""`warmline list` and `show`: what is stored, for a person or as JSON for a script."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any

import anyio
import typer
from rich.markup import escape

from sessions import Call, Cost, Session, SessionInfo, SessionManager
from sessions.cli.lookup import reading, session_named
from sessions.cli.options import STORE, JsonOption, OwnerOption, SessionArgument, StoreOption
from sessions.cli.terminal import bar, console, dollars, print_json
from sessions.cli.transcript import aside, below, lines, turns


class State(StrEnum):
    """What `--state` takes."""

    IDLE = "idle"
    RUNNING = "running"
    WAITING = "waiting"
    INTERRUPTED = "interrupted"


def list_sessions(
    store: StoreOption = STORE,
    owner: OwnerOption = None,
    search: Annotated[str | None, typer.Option("--search", help="Only sessions with these words in them.")] = None,
    state: Annotated[State | None, typer.Option("--state", help="Only those.", show_default=False)] = None,
    branches: Annotated[bool, typer.Option("--branches", help="Forks, other branches and subagents too.")] = False,
    parent: Annotated[str | None, typer.Option("--parent", help="Only those made of this session.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many to show.")] = 50,
    before: Annotated[str | None, typer.Option("--before", help="The last id of the page before.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the sessions, newest first, with what each has cost."""
    before = before and session_named(store, before, owner)
    parent = parent and session_named(store, parent, owner)

    async def run() -> tuple[Sequence[SessionInfo], bool]:
        async with SessionManager(reading(store)) as manager:

            async def listed(branches: bool) -> Sequence[SessionInfo]:
                return await manager.list(
                    owner=owner, search=search, state=None if state is None else state.value, parent=parent,
                    branches=branches, limit=limit, before=before,
                )  # fmt: skip

            shown = await listed(branches)
            whole = not (branches or parent or as_json)
            return shown, whole and any(one.parent for one in await listed(branches=True))

    found, has_branches = anyio.run(run)
    if as_json:
        print_json(found)
        return
    print_sessions(found)
    if has_branches:
        console.print("[dim]Forks, other branches and subagents are left out: --branches lists them.[/]")
    elif not found:
        is_any = search is None and owner is None and state is None and parent is None
        console.print("No sessions." if is_any else "No such sessions.")


def show(
    session: SessionArgument,
    store: StoreOption = STORE,
    owner: OwnerOption = None,
    ids: Annotated[bool, typer.Option("--ids", help="Print each entry's id, which fork and rewind take.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show a conversation as text, with what each turn read from the cache, wrote to it, and sent uncached."""
    session = session_named(store, session, owner)

    async def run() -> tuple[Session, list[Call]]:
        async with SessionManager(reading(store)) as manager:
            found = await manager.open(session, owner=owner)
            return found, await found.calls()

    found, calls = anyio.run(run)
    if as_json:
        print_json({**_about(found), "entries": found.entries, "calls": calls})
        return
    about = escape(f"{found.id}  {found.settings.model}  {moment(found.created_at)}")
    console.print(f"[bold]{escape(found.title or 'Untitled')}[/]  {about}")
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
                console.print(aside(f"miss: {call.miss.sentence}", "red"))


def print_sessions(found: Sequence[SessionInfo]) -> None:
    """Two lines for each session: its id, time and cost, then how much was cached, whose it is, and what it does."""
    for one in found:
        price = dollars(one.cost) if one.unpriced < one.calls or not one.calls else "unknown price"
        figures = f"{moment(one.updated_at)}  {one.turns:5} turns  {price:>10}"
        console.print(f"[bold]{escape(one.id)}[/]  {figures}", soft_wrap=True)
        state, origin = None if one.state == "idle" else one.state, one.parent and f"made of {one.parent}"
        about = ", ".join(filter(None, (one.title, one.owner, state, origin)))
        console.print(f"  {bar(one.usage) or '[dim]nothing sent[/]'}  {escape(about)}", soft_wrap=True)


def _about(session: Session) -> dict[str, Any]:
    return {
        "id": session.id,
        "owner": session.owner,
        "title": session.title,
        "parent": session.parent,
        "state": session.state,
        "head": session.head,
        "created_at": session.created_at,
        "settings": session.settings,
    }


def moment(seconds: float) -> str:
    """A time of the ledger on this machine's clock, to the minute."""
    return datetime.fromtimestamp(seconds, tz=UTC).astimezone().strftime("%Y-%m-%d %H:%M")
