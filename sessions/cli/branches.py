"""`warmline fork` and `rewind`: another way on from an earlier point; nothing is copied and nothing is lost."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

import anyio
import typer
from rich.markup import escape

from sessions import Conflict, Session, SessionManager
from sessions.cli.exit_codes import Code, EntryNotFound
from sessions.cli.lookup import session_named
from sessions.cli.options import STORE, JsonOption, OwnerOption, SessionArgument, StoreOption
from sessions.cli.terminal import console, print_json
from sessions.errors import ConfigurationError

T = TypeVar("T")

START = "start"
"""What stands for the place before the first entry."""


def fork(
    session: SessionArgument,
    at: Annotated[str | None, typer.Option("--at", metavar="ENTRY", help="Branch here, not at the end.")] = None,
    store: StoreOption = STORE,
    owner: OwnerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a branch: a second session with the same history, up to an entry. `show --ids` tells the entries."""
    session = session_named(store, session, owner)
    made = anyio.run(_with_session, store, session, owner, at, Session.fork)
    if as_json:
        print_json({"id": made.id, "head": made.head, "forked_from": session})
    else:
        console.print(f"A branch of {len(made.entries)} entries: session [bold]{escape(made.id)}[/].", soft_wrap=True)
        console.print(f"[dim]Go on with: warmline chat {escape(made.id)}[/]", soft_wrap=True)


def rewind(
    session: SessionArgument,
    entry: Annotated[str, typer.Argument(help=f"The entry that becomes the last one, or “{START}” for none.")],
    store: StoreOption = STORE,
    owner: OwnerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Go back to an earlier entry. What lay behind it stays stored: `fork --at` reaches it."""
    session = session_named(store, session, owner)

    async def work(found: Session, to: str | None) -> tuple[str | None, Session]:
        before = found.head
        await found.rewind(to)
        return before, found

    before, found = anyio.run(_with_session, store, session, owner, None if entry == START else entry, work)
    if as_json:
        print_json({"id": found.id, "head": found.head, "previous_head": before})
        return
    console.print(f"The conversation has {len(found.entries)} entries now.")
    if before is not None and before != found.head:
        console.print(f"[dim]What was: warmline fork {escape(found.id)} --at {before}[/]", soft_wrap=True)


def delete(
    sessions: Annotated[list[str], typer.Argument(metavar="ID…", help="Whole ids, or their beginnings.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    store: StoreOption = STORE,
    owner: OwnerOption = None,
) -> None:
    """Delete sessions for good. What a branch of theirs still reaches stays."""
    ids = list(dict.fromkeys(session_named(store, name, owner) for name in sessions))

    async def run(work: Callable[[SessionManager, str], Awaitable[object]]) -> None:
        async with SessionManager(store) as manager:
            for id in ids:
                await work(manager, id)

    async def tell(manager: SessionManager, id: str) -> None:
        found = await manager.open(id, owner=owner)
        title = escape(found.title or "Untitled")
        console.print(f"[bold]{escape(id)}[/]  {len(found.entries)} entries  {title}", soft_wrap=True)

    async def remove(manager: SessionManager, id: str) -> None:
        await manager.delete(id, owner=owner)

    anyio.run(run, tell)  # all must be there before one is gone
    if not yes and not sys.stdin.isatty():
        raise ConfigurationError("nobody is there to be asked: pass --yes to delete for good")
    if not yes and not typer.confirm("Delete for good?"):
        raise typer.Exit(Code.REFUSED)
    anyio.run(run, remove)
    console.print(f"Deleted: {len(ids)}.")


def entry_named(session: Session, name: str) -> str:
    """The entry's whole id: the name itself, or the one on the present chain that begins with it.

    Raises `ConfigurationError` if several do.
    """
    found = [entry.id for entry in session.entries if entry.id.startswith(name)]
    if len(found) > 1:
        raise ConfigurationError(f"{len(found)} entries of this session begin with {name!r}: give more of the id")
    return found[0] if found else name


async def _with_session(
    store: str, session: str, owner: str | None, entry: str | None, work: Callable[[Session, str | None], Awaitable[T]]
) -> T:
    """Does that with the session and the entry. Raises `EntryNotFound` where it has no such entry."""
    async with SessionManager(store) as manager:
        found = await manager.open(session, owner=owner)
        try:
            return await work(found, entry and entry_named(found, entry))
        except Conflict as error:
            raise EntryNotFound(
                f"there is no entry {entry!r} on the chain of session {session}: "
                f"`warmline show {session} --ids` lists them"
            ) from error
