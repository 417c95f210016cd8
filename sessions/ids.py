"""Names that nobody else gives: random digits, asked of the system for many names at a time.

Each question to the system gives the interpreter to another thread, and waiting to have it back costs a turn more
than all the arithmetic of its plan.
"""

from __future__ import annotations

import os

_AT_ONCE = 128
_drawn: list[str] = []


def new_id() -> str:
    """32 random hex digits."""
    try:
        return _drawn.pop()
    except IndexError:
        digits = os.urandom(16 * _AT_ONCE).hex()
        _drawn.extend(digits[at : at + 32] for at in range(32, len(digits), 32))
        return digits[:32]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_drawn.clear)  # parent and child must not give the same names
