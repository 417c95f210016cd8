"""`warmline verify` and `export`: whether the stored history is as it was written, and the history itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import anyio
import typer
from rich.markup import escape

from sessions import SessionManager, SessionNotFound
from sessions.cli.exit_codes import Code
from sessions.cli.lookup import reading, session_named
from sessions.cli.options import STORE, JsonOption, OwnerOption, SessionArgument, StoreOption
from sessions.cli.output import ForceOption, files_of, writing
from sessions.cli.terminal import console, echo_json, errors, print_json
from sessions.conversation.entries import Damage, first_damage
from sessions.translate import storage_errors
from storage import EntryMissing, Store, StoreDamaged


def verify(
    session: SessionArgument, store: StoreOption = STORE, owner: OwnerOption = None, as_json: JsonOption = False
) -> None:
    """Re-hash a conversation; exit code 1, and the first damaged entry, if it is not as it was written."""
    session = session_named(store, session, owner)
    count, damage = anyio.run(_verified, reading(store), session, owner)
    if as_json:
        print_json({"id": session, "entries": count, "damage": damage})
    elif damage is None:
        console.print(f"{count} entries, each as it was written.")
    else:
        errors.print(f"[bold red]Damaged:[/] {escape(damage.sentence)}", soft_wrap=True)
    if damage is not None:
        raise typer.Exit(Code.FAILED)


async def _verified(store: Store, session: str, owner: str | None) -> tuple[int, Damage | None]:
    """How many entries there are and what is wrong; reads rows only, for a damaged session may not open."""
    with storage_errors():
        await store.open()
        try:
            record = await store.load(session)
            if owner is not None and record.owner != owner:
                raise SessionNotFound
            try:
                rows = await store.chain(session, record.head)
            except (EntryMissing, StoreDamaged) as error:  # a row is gone; the message names it
                return 0, Damage(record.head or "", str(error))
        finally:
            await store.close()
    return len(rows), first_damage(rows)


def export(
    session: SessionArgument,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A file instead of standard output.")] = None,
    force: ForceOption = False,
    store: StoreOption = STORE,
    owner: OwnerOption = None,
) -> None:
    """Print the history as plain Messages JSON, which `append` and `replay` take."""
    session = session_named(store, session, owner)

    async def run() -> list[dict[str, object]]:
        async with SessionManager(reading(store)) as manager:
            return await (await manager.open(session, owner=owner)).export()

    messages = anyio.run(run)
    text = json.dumps(messages, ensure_ascii=False, indent=2) + "\n"
    if output is None:
        echo_json(text)
        return
    with writing(output, force=force, never=files_of(store)) as draft:
        draft.write_bytes(text.encode())
    console.print(f"{len(messages)} messages in {output}.", soft_wrap=True, markup=False)
