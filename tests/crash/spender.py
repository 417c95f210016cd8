"""A worker under budgets: `python -m tests.crash.spender JOB BUDGET FIRST LAST` talks in these conversations at once.

BUDGET is `usd per window` as JSON. It says how many requests went and how many were refused, as a line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys

from sessions import Budget, BudgetExceeded, simulator
from tests.crash.worker import MODEL, Job

TURNS = 4
MAX_TOKENS = 300


async def spend(job: Job, budget: Budget, names: range) -> dict[str, int]:
    """Each conversation goes on until its turns are over or it is refused."""
    told = {"sent": 0, "refused": 0}
    async with job.manager(budgets=[budget], tend=False) as manager:
        # All begin at the same time, whenever each process has started.
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.readline)

        async def converse(number: int) -> None:
            session = await manager.create(
                model=MODEL, max_tokens=MAX_TOKENS, system=simulator.filler(20 + number % 7), owner=f"o{number % 5}"
            )
            for turn in range(TURNS):
                try:
                    await session.send(f"{simulator.filler(30)} message {turn}")
                    told["sent"] += 1
                except BudgetExceeded:
                    told["refused"] += 1
                    return

        async with asyncio.TaskGroup() as group:
            for number in names:
                group.create_task(converse(number))
    return told


if __name__ == "__main__":
    usd, per, window = json.loads(sys.argv[2])
    found = asyncio.run(
        spend(
            Job(**json.loads(sys.argv[1])), Budget(float(usd), per, window), range(int(sys.argv[3]), int(sys.argv[4]))
        )
    )
    sys.stdout.write(json.dumps(found) + "\n")
