"""A task that serves while there is something to serve, and hears news meanwhile: one way for relay and reader."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

import anyio

from sessions.background import Background
from storage import Store
from storage.watching import Watch

Work: TypeAlias = Callable[[Watch], Coroutine[Any, Any, None]]


class Serving:
    """One task at a time. `serve` returns where nothing is left to do; what runs `beside` it ends with it.

    Both are given the ear for news of `name`.
    """

    def __init__(self, store: Store, background: Background, name: str, serve: Work, *beside: Work) -> None:
        self._store, self._background, self._name = store, background, name
        self._serve, self._beside = serve, beside
        self._is_running = False

    def start(self) -> None:
        """There is something to do now. Where the task runs it sees to it."""
        if not self._is_running:
            self._is_running = True
            self._background.start(self._run)

    async def _run(self) -> None:
        try:
            with self._store.watch(self._name) as ear:
                async with anyio.create_task_group() as group:
                    for work in self._beside:
                        group.start_soon(work, ear)
                    await self._serve(ear)
                    # At once: the group takes a moment to end, and who begins in it needs a task of its own.
                    self._is_running = False
                    group.cancel_scope.cancel()
        except BaseException:  # not at the end as well: the next task may run by then
            self._is_running = False
            raise
