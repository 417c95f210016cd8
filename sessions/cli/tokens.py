"""`warmline token`: bearer tokens for `warmline serve --tokens`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from sessions.cli.named import extra_chat
from sessions.cli.terminal import console, plain_table, print_table

FILE = Path("tokens.txt")
FileOption = Annotated[Path, typer.Option("--file", envvar="WARMLINE_TOKENS", help="The file of tokens.")]
_DIGITS = 12

app = typer.Typer(
    help="Make, list and revoke the tokens of `warmline serve --tokens FILE`.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command("new")
def new_token(
    owner: Annotated[str, typer.Argument(help="Whose conversations it opens.")], file: FileOption = FILE
) -> None:
    """Make a token and print it, once: the file keeps its hash only."""
    with extra_chat():
        from sessions.web.tokens import add
    token = add(file, owner)
    typer.echo(token)
    console.print(f"[dim]Of {escape(owner)}, in {escape(str(file))}. It is shown this once.[/]", soft_wrap=True)


@app.command("list")
def list_tokens(file: FileOption = FILE) -> None:
    """List the owners, with the first digits of each token's hash, which `revoke` takes."""
    with extra_chat():
        from sessions.web.tokens import read
    table = plain_table("token", "owner", "made")
    for token in read(file):
        table.add_row(token.digest[:_DIGITS], escape(token.owner), token.made.isoformat())
    print_table(table)


@app.command("revoke")
def revoke_tokens(
    named: Annotated[str, typer.Argument(metavar="OWNER|DIGITS", help="An owner, or first digits of a hash.")],
    file: FileOption = FILE,
) -> None:
    """Revoke all tokens of an owner, or one. A server that runs sees it within a second."""
    with extra_chat():
        from sessions.web.tokens import revoke
    for token in revoke(file, named):
        console.print(f"Revoked: {token.digest[:_DIGITS]} of {escape(token.owner)}", soft_wrap=True)
