"""What callers give, checked where it comes in: each refusal is a `ConfigurationError` that names the argument."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Any

from sessions.core.transcript import Malformed, encode, fault_of, shown
from sessions.errors import ConfigurationError
from storage.values import LONGEST_NAME

MOST = 2**53
"""The largest whole number taken: every database and every JSON reader holds it exactly."""


def check_texts(**given: Any) -> None:
    """Each is text that can be stored, or `None`."""
    for name, value in given.items():
        if value is None:
            continue
        if not isinstance(value, str):
            raise ConfigurationError(f"{name} must be a str or None, not {shown(value)}")
        if (fault := fault_of(value)) is not None:
            raise ConfigurationError(f"{name} {fault}, which cannot be stored: {shown(value)}")


def check_names(**given: Any) -> None:
    """As `check_texts`, for what rows are found by: ids, owners and keys."""
    check_texts(**given)
    for name, value in given.items():
        if value is not None and (size := len(value.encode())) > LONGEST_NAME:
            raise ConfigurationError(f"{name} may have {LONGEST_NAME} bytes at most, not {size}: {shown(value)}")


def check_key(key: Any) -> None:
    """An idempotency key, or none: an empty one would be stored and never found."""
    check_names(idempotency_key=key)
    if key == "":
        raise ConfigurationError("idempotency_key is empty: give some text, or leave it out")


def check_switches(**given: Any) -> None:
    """Each is True or False."""
    for name, value in given.items():
        if not isinstance(value, bool):
            raise ConfigurationError(f"{name} must be True or False, not {shown(value)}")


def check_model_names(given: Any) -> None:
    """Names of models by the names that they have elsewhere, or `None`."""
    named = given.items() if isinstance(given, Mapping) else [(None, None)]
    if given is not None and not all(isinstance(name, str) for pair in named for name in pair):
        raise ConfigurationError(f"model_names must be a dict of names, each a str, not {shown(given)}")


def check_choice(name: str, value: Any, choices: Collection[str]) -> None:
    """One of these words."""
    if not isinstance(value, str) or value not in choices:
        raise ConfigurationError(f"{name} must be one of {', '.join(choices)}, not {shown(value)}")


def check_counts(least: int, **given: Any) -> None:
    """Each is a whole number that is not less than `least`."""
    for name, value in given.items():
        # Not by isinstance: True is an int too.
        if type(value) is not int or not least <= value <= MOST:
            raise ConfigurationError(f"{name} must be a whole number, {least} or more, not {shown(value)}")


def seconds(name: str, given: Any) -> float | None:
    """A time that is given, in seconds; `None` stays none. Infinity is a time: never."""
    if given is None:
        return None
    try:
        found = given.total_seconds() if isinstance(given, timedelta) else float(given)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if isinstance(given, bool | str | bytes) or not found >= 0:
        raise ConfigurationError(f"{name} must be zero or more seconds, not {shown(given)}")
    return found


def moment(name: str, given: Any) -> float | None:
    """A time in seconds since the epoch; `None` stays none."""
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, int | float) or not -MOST <= given <= MOST:
        raise ConfigurationError(f"{name} must be a number of seconds since the epoch, not {shown(given)}")
    return float(given)


def dollars(name: str, given: Any) -> Decimal | None:
    """A price limit in USD; `None` stays none. A float is taken as it is written."""
    if given is None:
        return None
    try:
        # Through its text: 0.1 as a float is another number.
        found = Decimal(str(given))
    except (ArithmeticError, ValueError):
        found = Decimal("NaN")
    if isinstance(given, bool | str | bytes) or not found.is_finite() or found <= 0:
        raise ConfigurationError(f"{name} must be a number of USD above zero, not {shown(given)}")
    return found


def duration(name: str, given: Any) -> float:
    """As `seconds`, where there must be one."""
    found = seconds(name, given)
    if found is None:
        raise ConfigurationError(f"{name} must be zero or more seconds, not None")
    return found


def check_pause(name: str, given: Any) -> None:
    """Seconds between two looks: more than none."""
    if not seconds(name, given):
        raise ConfigurationError(f"{name} must be a positive number of seconds, not {given!r}")


def listed(name: str, given: Any, what: str) -> list[Any]:
    """What is given as several of these (`what`, in the plural), as a list."""
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
        raise ConfigurationError(f"{name} must be a list of {what}, not {shown(given)}")
    return list(given)


def tool_list(given: Any) -> list[Any]:
    """The tools that are given; what each of them is, `Toolbox` looks at."""
    return listed("tools", given, "functions, SDK tools or dicts")


def metadata_text(metadata: Any) -> str:
    """The caller's own data as JSON text."""
    if metadata is not None and not isinstance(metadata, Mapping):
        raise ConfigurationError(f"metadata must be a dict that JSON can hold, not {shown(metadata)}")
    try:
        return encode([dict(metadata or {})], where="metadata")[1:-1]
    except Malformed as error:
        raise ConfigurationError(f"metadata must be a dict that JSON can hold: {error}") from error


def tool_input_text(given: Any) -> str:
    """A tool's input, an object, as JSON text."""
    if not isinstance(given, Mapping):
        raise ConfigurationError(f"a tool's input must be a dict, not {shown(given)}")
    try:
        return encode([dict(given)])[1:-1]
    except Malformed as error:
        raise ConfigurationError(str(error)) from error
