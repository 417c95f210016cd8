"""Cancels a task natively (`task.cancel()`) at exactly its n-th wait: every await of a turn can be tried in order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from typing import Any


class Stepper:
    """Drives a coroutine; before its n-th wait the task that runs it is cancelled. `steps` counts the waits seen."""

    def __init__(self, work: Coroutine[Any, Any, Any], step: int, stop: Callable[[], Any] | None = None) -> None:
        self._work, self._step = work, step
        self._stop = stop or (lambda: asyncio.current_task().cancel())  # type: ignore[union-attr]
        self.steps = 0

    async def run(self) -> Any:
        """The coroutine's own result or error."""
        return await self

    def __await__(self) -> Generator[Any, Any, Any]:
        value: Any = None
        error: BaseException | None = None
        while True:
            try:
                waited = self._work.throw(error) if error is not None else self._work.send(value)
            except StopIteration as end:
                return end.value
            self.steps += 1
            if self.steps == self._step:
                self._stop()
            try:
                value, error = (yield waited), None
            except BaseException as thrown:
                value, error = None, thrown


def at_step(work: Coroutine[Any, Any, Any], step: int, stop: Callable[[], Any] | None = None) -> Stepper:
    """`work`, cancelled at its `step`-th wait (counted from 1)."""
    return Stepper(work, step, stop)
