"""`warmline db`: the database's schema, and copies of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import anyio
import typer

from sessions.cli.lookup import existing
from sessions.cli.options import STORE, JsonOption, StoreOption
from sessions.cli.output import ForceOption, files_of, writing
from sessions.cli.terminal import console, print_json
from sessions.errors import ConfigurationError
from sessions.translate import storage_errors
from storage import open_store, revisions
from storage.dialects import dialect
from storage.records import SchemaState
from storage.tables import REVISION

app = typer.Typer(help="Look after the database.", no_args_is_help=True)


@app.callback()
def database() -> None:
    """Look after the database."""


@app.command()
def upgrade(store: StoreOption = STORE) -> None:
    """Bring the database's schema up to date (SQLite also does so by itself when it is opened)."""

    async def run() -> str:
        with storage_errors():
            opened = open_store(existing(store))
            try:
                return await opened.upgrade()
            finally:
                await opened.close()

    console.print(f"The schema is at revision {anyio.run(run)}.")


@app.command()
def status(store: StoreOption = STORE, as_json: JsonOption = False) -> None:
    """Say which schema the database has, which one this version knows, and which versions may use it."""
    with storage_errors():
        found = dialect(existing(store), reading=True).schema_state()
    if as_json:
        usable = not (revisions.is_too_old(found) or revisions.is_too_new(found))
        print_json({**found._asdict(), "known": REVISION, "usable": usable})
        return
    if found.revision is None:
        console.print("The database has no schema yet.")
    else:
        console.print(f"The schema is at revision {found.revision}.")
    console.print(f"This version of warmline knows revision {REVISION}: {_advice(found)}.")
    if found.oldest is not None:
        console.print(f"Versions that know revision {found.oldest} or a later one may use the database.")


def _advice(found: SchemaState) -> str:
    if revisions.is_too_old(found):
        return "run `warmline db upgrade`"
    if revisions.is_too_new(found):
        return "install a newer one to use the database"
    return "the database is up to date" if found.revision == REVISION else "it may use the database as it is"


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(help="The copy, a database like the store itself.")],
    store: StoreOption = STORE,
    force: ForceOption = False,
) -> None:
    """Copy a SQLite store while others use it; a copied file lacks what is still in the write-ahead log."""
    with storage_errors():
        source = dialect(existing(store), reading=True)
        with writing(file, force=force, never=files_of(store)) as draft:
            _check_alone(file)
            source.backup(draft)
    console.print("The copy is written.")


def _check_alone(file: Path) -> None:
    """SQLite would take the log of the database that stood there for one of the copy."""
    for end in ("-wal", "-journal"):
        if Path(f"{file.resolve()}{end}").exists():
            raise ConfigurationError(f"{file} is in use, {file}{end} stands beside it: choose another file")
