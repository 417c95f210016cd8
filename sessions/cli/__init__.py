"""The command line, `warmline`: one file for each command, errors as one line and an exit code."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Sequence

import typer
from rich.markup import escape

from sessions.cli import branches, chat, costs, database, demo, history, load, probe, records, replay, serve, why
from sessions.cli.terminal import CODES_IN_WORDS, WHOLE, console, errors, report
from sessions.cli.visible import Lines, express_everything
from sessions.errors import SessionsError

app = typer.Typer(
    help=f"Claude conversations that persist, resume after a crash, and keep their cache warm.\n\n{CODES_IN_WORDS}",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("demo")(demo.demo)
app.command("chat")(chat.chat)
app.command("list")(history.list_sessions)
app.command("show")(history.show)
app.command("cost")(costs.cost)
app.command("why")(why.why)
app.command("fork")(branches.fork)
app.command("rewind")(branches.rewind)
app.command("verify")(records.verify)
app.command("export")(records.export)
app.command("replay")(replay.replay)
app.command("probe")(probe.probe)
app.command("load")(load.load)
app.command("simulate")(serve.simulate)
app.add_typer(database.app, name="db")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command and ends the process with its exit code."""
    warnings.showwarning = _warn
    logging.lastResort = Lines(errors)
    express_everything()
    for one in (console, errors):
        if not one.is_terminal:
            one.width = WHOLE
    try:
        app(args=None if arguments is None else list(arguments), prog_name="warmline")
    except SessionsError as error:
        sys.exit(report(error))


def _warn(message: Warning | str, *_: object, **__: object) -> None:
    """A warning is a line for the user, not a place in our source."""
    errors.print(f"[yellow]{escape(str(message))}[/]", soft_wrap=True)
