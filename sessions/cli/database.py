"""`warmline db`: the database's schema."""

from __future__ import annotations

import anyio
import typer

from sessions.cli.terminal import STORE, StoreOption, console, existing
from sessions.translate import storage_errors
from storage import open_store

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
