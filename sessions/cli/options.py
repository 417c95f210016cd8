"""The options and arguments that several commands take, and the values that they have without them."""

from __future__ import annotations

from typing import Annotated

import typer

from storage.urls import VARIABLE

MODEL = "claude-sonnet-5-5"
STORE = "sqlite:///sessions.db"

StoreOption = Annotated[
    str, typer.Option("--store", envvar=VARIABLE, help="sqlite:///path or postgresql://user@host/name.")
]
ModelOption = Annotated[str, typer.Option("--model", envvar="WARMLINE_MODEL", help="The model to talk to.")]
OwnerOption = Annotated[str | None, typer.Option("--owner", help="Only sessions of this owner.")]
SessionArgument = Annotated[str, typer.Argument(help="The session's id, or the beginning of it.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for a script instead of text for a person.")]
