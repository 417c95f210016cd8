"""What all commands have in common: `--help`, `--version`, warnings and errors in one line, the exit code."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from importlib import metadata
from typing import Annotated, Any

import typer
from rich.markup import escape
from typer.core import TyperCommand, TyperGroup

from sessions.cli import COMMANDS
from sessions.cli.exit_codes import CODES_IN_WORDS, Code
from sessions.cli.interrupts import quiet, quiet_at_exit
from sessions.cli.terminal import WHOLE, console, errors, report
from sessions.cli.visible import Lines, express_everything
from sessions.errors import SessionsError


class Commands(TyperGroup):
    """The commands of `COMMANDS`."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        """Their names, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: typer.Context, cmd_name: str) -> Any:  # type: ignore[override]
        """What the help tells of it; `None` where there is none."""
        if cmd_name not in COMMANDS:
            return None
        return TyperCommand(cmd_name, help=COMMANDS[cmd_name][1])

    def resolve_command(self, ctx: typer.Context, args: list[str]) -> Any:  # type: ignore[override]
        """The command that is to be run, from its module."""
        name, known, rest = super().resolve_command(ctx, args)
        return name, known and loaded(args[0]), rest


def loaded(name: str) -> Any:
    """The command of that name."""
    module, _, attribute = COMMANDS[name][0].partition(":")
    with quiet():
        found = getattr(importlib.import_module(f"sessions.cli.{module}"), attribute)
    group = typer.Typer()
    if isinstance(found, typer.Typer):
        group.add_typer(found, name=name)
    else:
        group.command(name)(found)
    return typer.main.get_group(group).commands[name]


def _tell_version(asked: bool) -> None:
    if asked:
        console.print(f"warmline {metadata.version('warmline')}")
        raise typer.Exit


app = typer.Typer(
    help=f"Claude conversations that persist, resume after a crash, and keep their cache warm.\n\n{CODES_IN_WORDS}",
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def warmline(
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Tell the version and exit.")
    ] = False,
) -> None:
    """What stands before the command."""


def run(arguments: Sequence[str] | None = None) -> None:
    """Runs one command and ends the process with its exit code."""
    _open_what_is_closed()
    warnings.showwarning = _warn
    logging.lastResort = Lines(errors)
    express_everything()
    for one in (console, errors):
        if not one.is_terminal:
            one.width = WHOLE
    try:
        try:
            app(args=None if arguments is None else list(arguments), prog_name="warmline")
        finally:
            quiet_at_exit()
            sys.stdout.flush()
    except SessionsError as error:
        sys.exit(report(error))
    except OSError as error:
        sys.exit(_unwritten(error))


def _open_what_is_closed() -> None:
    """A caller may have closed a standard stream (`>&-`); the next file that is opened would take its place."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: PTH123, SIM115  # until the process ends


def _unwritten(error: OSError) -> int:
    """What cannot be printed is told in one line; a reader that has had enough (`| head -1`) is no failure to tell."""
    with open(os.devnull, "w") as nothing:  # noqa: PTH123  # what is left in the buffer goes there at exit
        os.dup2(nothing.fileno(), sys.stdout.fileno())
    if not isinstance(error, BrokenPipeError):
        errors.print(f"[bold red]Error:[/] {escape(error.strerror or str(error))}", soft_wrap=True)
    return Code.FAILED


def _warn(message: Warning | str, *_: object, **__: object) -> None:
    """A warning is a line for the user, not a place in our source."""
    errors.print(f"[yellow]{escape(str(message))}[/]", soft_wrap=True)
