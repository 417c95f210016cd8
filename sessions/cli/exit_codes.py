"""The exit codes of all commands, and which error ends with which."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum

from sessions.errors import (
    ConfigurationError,
    Conflict,
    InDoubtToolCalls,
    InvalidHistory,
    InvalidImport,
    LeaseLost,
    PrefixChange,
    SchemaOutOfDate,
    SessionBusy,
    SessionNotFound,
    SessionsError,
    ToolsChanged,
)


class EntryNotFound(Conflict):
    """The session has no such entry. `warmline show ID --ids` lists them."""


class Code(IntEnum):
    """The exit code of every command."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    REFUSED = 4


CODES: Mapping[type[SessionsError], Code] = {
    ConfigurationError: Code.USAGE,
    InvalidHistory: Code.USAGE,
    InvalidImport: Code.USAGE,
    SchemaOutOfDate: Code.USAGE,
    ToolsChanged: Code.USAGE,
    SessionNotFound: Code.NOT_FOUND,
    EntryNotFound: Code.NOT_FOUND,
    Conflict: Code.REFUSED,
    InDoubtToolCalls: Code.REFUSED,
    LeaseLost: Code.REFUSED,
    PrefixChange: Code.REFUSED,
    SessionBusy: Code.REFUSED,
}
CODES_IN_WORDS = (
    "Exit codes: 0 done, 1 the run failed, 2 wrong usage, settings or input, 3 not found, "
    "4 refused (busy, taken over, or in doubt), 130 interrupted."
)


def code_of(error: SessionsError) -> Code:
    """The exit code for `error`; `Code.FAILED` for every kind that has none of its own."""
    return next((CODES[kind] for kind in type(error).__mro__ if kind in CODES), Code.FAILED)
