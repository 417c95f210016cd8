"""What SQLite lacks: three functions of ours that the statements call; PostgreSQL has its own for each."""

from __future__ import annotations

import re
import sqlite3
from decimal import Decimal

from storage.transactions.searching import IN_CONTENT, IN_METADATA, KEPT

_patterns = {pattern: re.compile(pattern) for pattern in (IN_METADATA, IN_CONTENT)}


def teach(raw: sqlite3.Connection) -> None:
    """Makes them known on a connection."""
    raw.create_function("lower", 1, _lower, deterministic=True)  # SQLite's own knows ASCII only
    raw.create_function("words", 2, _words, deterministic=True)
    raw.create_aggregate("decimal_sum", 1, DecimalSum)  # type: ignore[arg-type]  # typeshed: finalize gives an int


def _lower(text: str | None) -> str | None:
    return None if text is None else text.lower()


def _words(text: str | None, pattern: str) -> str | None:
    """What the pattern leaves of a JSON text."""
    return None if text is None else _patterns[pattern].sub(KEPT, text)


class DecimalSum:
    """Adds up decimals that are kept as text, exactly. NULL where there are none."""

    def __init__(self) -> None:
        self._sum: Decimal | None = None

    def step(self, text: str | None) -> None:
        if text is not None:
            self._sum = (self._sum or Decimal(0)) + Decimal(text)

    def finalize(self) -> str | None:
        return None if self._sum is None else str(self._sum)
