"""`map`: one turn on each of several branches, at the same time; what they share is written to the cache once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anyio

from sessions.beginning import Options
from sessions.history import History
from sessions.outcome import Outcome
from sessions.runtime import Runtime
from sessions.streaming import BringIn, Driver
from sessions.turn import Turn


async def fan_out(
    runtime: Runtime, bring_in: BringIn, branches: Sequence[History], words: Sequence[Any], limit: int | None
) -> list[Outcome]:
    """Runs one turn a branch, `limit` of them at the same time; whoever comes first to the gate writes what is shared.

    If some fail, the others still finish; then the error of the first branch that failed is raised.
    """
    outcomes: dict[int, Outcome] = {}
    errors: dict[int, Exception] = {}
    slots = anyio.Semaphore(limit or max(1, len(branches)))

    async def run(number: int) -> None:
        async with slots:
            try:
                turn = Turn(runtime, branches[number], words[number], Options(branches=True))
                outcome = await Driver(runtime, turn, bring_in).outcome()
                assert outcome is not None
                outcomes[number] = outcome
            except Exception as error:
                errors[number] = error

    async with anyio.create_task_group() as group:
        for number in range(len(branches)):
            group.start_soon(run, number)
    if errors:
        raise errors[min(errors)]
    return [outcomes[number] for number in sorted(outcomes)]
