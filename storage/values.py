"""What can be stored: one look at each value, at the door that every statement passes, the same for every database."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Any

from sqlalchemy import BigInteger, Boolean, Float, Integer, Table, Text
from sqlalchemy.types import TypeEngine

from .errors import InvalidValue, StoreDamaged

LONGEST_NAME = 1_000
"""Bytes of a text that stands in an index: two of them fit into an entry of a PostgreSQL index, of 2,704 bytes."""
MOST_TOKENS = 10**12
"""Tokens of one call: millions of such calls can be added up."""
MOST_DOLLARS = 10**12
NO_LIMIT = 2**31 - 1

_INTEGERS = range(-(2**63), 2**63)
_DIGITS = 50

Look = Callable[[str, Any], None]

_ARGUMENTS = {"words": "search"}
"""What callers know these values by."""


def looks(names: Mapping[str, TypeEngine[Any]], table: Table | None = None) -> list[tuple[str, Look]]:
    """What to look at of a statement's values, by their types; `table`: the one that a whole row goes into."""
    typed = [(name, look) for name, kind in names.items() for types, look in _LOOKS.items() if isinstance(kind, types)]
    return typed + ([] if table is None else [(name, _short) for name in _indexed(table)])


def check(values: Mapping[str, Any], looks: Iterable[tuple[str, Look]]) -> None:
    """Raises `InvalidValue` that names the first value that cannot be stored; None is the database's to judge."""
    for name, look in looks:
        if (value := values[name]) is not None:
            look(_ARGUMENTS.get(name, name), value)


def at_most(limit: int | None) -> int:
    """A limit of rows as the statements take it; None is none. Raises `InvalidValue`."""
    if limit is None:
        return NO_LIMIT
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 0:
        raise InvalidValue(f"limit must be a whole number of rows from 0, or None for all of them, not {limit!r:.30}")
    return min(limit, NO_LIMIT)


def tokens(name: str, count: int) -> int:
    """A number of tokens that can be added up. Raises `InvalidValue`."""
    if not isinstance(count, int) or not 0 <= count <= MOST_TOKENS:
        raise InvalidValue(f"{name} must be a number of tokens from 0 to {MOST_TOKENS:,}")
    return count


def seconds(name: str, value: float) -> float:
    """A number of seconds or a time that can be calculated with. Raises `InvalidValue`."""
    try:
        fits = isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:  # a whole number of more than 308 digits
        fits = False
    if not fits:
        raise InvalidValue(f"{name} must be a finite number of seconds")
    return value


def dollars(name: str, cost: Decimal) -> str:
    """The text of a price that can be added up. Raises `InvalidValue`."""
    if not isinstance(cost, Decimal) or not cost.is_finite() or abs(cost) > MOST_DOLLARS or _places(cost) > _DIGITS:
        raise InvalidValue(f"{name} must be a finite Decimal of US dollars with at most {_DIGITS} places")
    return str(cost)


def read_dollars(text: str) -> Decimal:
    """A price as `dollars` wrote it. Raises `StoreDamaged`."""
    try:
        return Decimal(text)
    except (ArithmeticError, TypeError, ValueError):
        raise StoreDamaged("a stored price is no number any more: restore a copy of the store") from None


def storable(text: str | None) -> str | None:
    """A text from elsewhere, such as an error's, with a mark in place of each character that cannot be stored."""
    return None if text is None else text.encode(errors="replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")


def _places(cost: Decimal) -> int:
    return -int(cost.as_tuple().exponent)


def _indexed(table: Table) -> list[str]:
    columns = {column for index in table.indexes for column in index.columns} | set(table.primary_key)
    return [column.name for column in table.columns if column in columns and isinstance(column.type, Text)]


def _short(name: str, text: str) -> None:
    if len(text) > LONGEST_NAME or len(text.encode()) > LONGEST_NAME:
        raise InvalidValue(f"{name} is too long: it may have {LONGEST_NAME:,} bytes")


def _text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise InvalidValue(f"{name} must be text, not {type(value).__name__}")
    if "\0" in value:
        raise InvalidValue(f"{name} has a NUL character (\\0) in it, which not every database can hold: take it out")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InvalidValue(f"{name} has half of a surrogate pair in it, which is no text: take it out") from None


def _whole(name: str, value: object) -> None:
    if not isinstance(value, int) or value not in _INTEGERS:
        raise InvalidValue(f"{name} must be a whole number of at most 64 bits")


def _number(name: str, value: float) -> None:
    seconds(name, value)


def _flag(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise InvalidValue(f"{name} must be True or False")


_LOOKS: dict[type[TypeEngine[Any]] | tuple[type[TypeEngine[Any]], ...], Look] = {
    Text: _text,
    (Integer, BigInteger): _whole,
    Float: _number,
    Boolean: _flag,
}
