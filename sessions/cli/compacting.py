"""`warmline compact`: the API's own summary takes the place of a conversation; what was said stays stored."""

from __future__ import annotations

import anyio
from rich.markup import escape

from sessions import Call, Session, SessionManager
from sessions.cli.lookup import claude, session_named
from sessions.cli.options import STORE, OwnerOption, SessionArgument, StoreOption
from sessions.cli.terminal import console, dollars
from sessions.cli.transcript import below, said


def compact(session: SessionArgument, store: StoreOption = STORE, owner: OwnerOption = None) -> None:
    """Let Claude summarize a conversation, which then goes on from the summary.

    What was said before stays stored: `fork --at` reaches it.
    """
    session = session_named(store, session, owner)
    before, found, call = anyio.run(_compacted, store, session, owner)
    for block in found.entries[0].content:
        console.print(said("summary", str(block.get("content") or block.get("text") or f"[{block['type']}]")))
    console.print(below(call.usage, f"{call.usage.output:,} tokens written, {dollars(call.cost)}"))
    console.print(f"[dim]What was: warmline fork {escape(found.id)} --at {before}[/]", soft_wrap=True)


async def _compacted(store: str, session: str, owner: str | None) -> tuple[str | None, Session, Call]:
    """The head before, the session, and the call that made the summary."""
    async with claude() as client, SessionManager(store, client=client) as manager:
        found = await manager.open(session, owner=owner)
        before = found.head
        return before, found, await found.compact()
