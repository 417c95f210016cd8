"""The user's stop button: a flag, and the wait that it interrupts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

T = TypeVar("T")


class Stop:
    """`pressed` once the user has stopped the turn; `scope` is what runs and is interrupted then."""

    def __init__(self) -> None:
        self.pressed = False
        self.scope: anyio.CancelScope | None = None

    def press(self) -> None:
        """What runs is interrupted at its next await; whoever drives the turn then closes it truthfully."""
        self.pressed = True
        if self.scope is not None:
            self.scope.cancel()

    async def run_unless_stopped(self, work: Callable[[], Awaitable[T]]) -> T | None:
        """The result, or `None` when the user pressed stop before it or while it was waited for."""
        result: T | None = None
        if not self.pressed:
            with anyio.CancelScope() as self.scope:
                result = await work()
            self.scope = None
        return result
