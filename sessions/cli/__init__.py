"""The command line, `warmline`: one file for each command, errors as one line and an exit code.

The entry point imports this module, which imports next to nothing: the rest is imported by `main`, where Ctrl-C is
looked after.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS = {
    "demo": (
        "demo.demo:demo",
        "Show it all in under a minute: tools, a crash and a resume, eight branches, the bill. No key is needed.",
    ),
    "chat": ("chat:chat", "Talk with Claude; the conversation is kept and can be resumed by its id."),
    "serve": (
        "serve:serve",
        "Serve a chat: a page, a JSON API and two protocols of front ends. Without a key, a simulated Claude answers.",
    ),
    "token": ("tokens:app", "Make, list and revoke the tokens of `warmline serve --tokens FILE`."),
    "list": ("history:list_sessions", "List the sessions, newest first, with what each has cost."),
    "show": (
        "history:show",
        "Show a conversation as text, with what each turn read from the cache, wrote to it, and sent uncached.",
    ),
    "cost": (
        "costs:cost",
        "Tell what a session, or all of them, have cost, how much the cache gave, and what its misses added.",
    ),
    "fit": (
        "fit:fit_ledger",
        "Show when users come back, as the ledger tells it, beside the shipped prior, and how well it forecasts.",
    ),
    "why": (
        "why:why",
        "Tell which calls of a session lost cached tokens, and why: what differs, what it cost, what to change.",
    ),
    "fork": (
        "branches:fork",
        "Make a branch: a second session with the same history, up to an entry. `show --ids` tells the entries.",
    ),
    "rewind": (
        "branches:rewind",
        "Go back to an earlier entry. What lay behind it stays stored: `fork --at` reaches it.",
    ),
    "compact": ("compacting:compact", "Let Claude summarize a conversation, which then goes on from the summary."),
    "delete": ("branches:delete", "Delete sessions for good. What a branch of theirs still reaches stays."),
    "verify": (
        "records:verify",
        "Re-hash a conversation; exit code 1, and the first damaged entry, if it is not as it was written.",
    ),
    "export": ("records:export", "Print the history as plain Messages JSON, which `append` and `replay` take."),
    "import": ("importing:import_files", "Make a session of each recorded conversation, without calling the model."),
    "replay": (
        "replay:replay",
        "Send recorded conversations again, against the simulator on a turned clock, and tell what each turn costs.",
    ),
    "probe": (
        "probe:probe",
        "Ask an endpoint the rules of the API, and write what it does as a profile for SessionManager(profile=…).",
    ),
    "load": (
        "load.load:load",
        "Measure turns per second, the time that sessions add to the model's own, and errors. No key is needed.",
    ),
    "simulate": (
        "simulating:simulate",
        "Serve a simulated Claude over HTTP; its cache, bill and refusals are those of the documented API.",
    ),
    "db": ("database:app", "Look after the database."),
}
"""Where each command is, and what the list of all tells of it. A command's module is imported when it is run: neither
that list nor the commands that only read wait for the SDK."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command and ends the process with its exit code."""
    try:
        from sessions.cli.interrupts import quiet

        with quiet():
            from sessions.cli.commands import run
        run(arguments)
    except KeyboardInterrupt:
        sys.exit(130)
