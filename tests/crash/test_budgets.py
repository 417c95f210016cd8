"""Four processes and two hundred conversations under one budget: it is exceeded by one request at most."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest

from sessions.core.prices import cost
from sessions.core.profiles import profile_for
from sessions.simulator import Engine, Latency, Scripted
from storage import open_store
from tests.crash.outside import ROOT, model_server
from tests.crash.spender import MAX_TOKENS
from tests.crash.worker import MODEL, Job

WORKERS, CONVERSATIONS = 4, 200


@pytest.mark.parametrize(("per", "usd"), [("manager", "0.4"), ("owner", "0.08")])
def test_a_budget_is_exceeded_by_one_request_at_most(
    per: str, usd: str, new_place: Callable[[], str], tmp_path: Path
) -> None:
    # Answers as long as they may be: the worst that a reservation has to stand for.
    engine = Engine(lambda request: Scripted("x" * 40, output_tokens=MAX_TOKENS), keep=100_000)
    store = new_place()
    asyncio.run(open_store(store).upgrade())
    with model_server(engine, Latency(first_event=0.05)) as url:
        job = Job(store, url, str(tmp_path))
        workers = []
        each = CONVERSATIONS // WORKERS
        for number in range(WORKERS):
            places = [str(number * each), str((number + 1) * each)]
            command = [sys.executable, "-W", "ignore", "-m", "tests.crash.spender", job.text]
            process = subprocess.Popen(
                [*command, json.dumps([usd, per, 3600]), *places],
                cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            workers.append(process)
        for process in workers:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in workers:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        told = [json.loads(process.communicate()[0]) for process in workers]
    sent, refused = (sum(one[name] for one in told) for name in ("sent", "refused"))
    assert refused, "the budget was never reached"
    asked = [one for one in engine.requests if one.usage is not None]
    assert len(asked) == sent
    profile = profile_for(MODEL)
    estimate = max((cost(one.usage, profile) or Decimal(0)) for one in asked if one.usage)
    spent = asyncio.run(spent_by_owner(store))
    assert sum(spent.values()) == engine.bill().cost
    sums = [sum(spent.values())] if per == "manager" else list(spent.values())
    for total in sums:
        assert total <= Decimal(usd) + estimate
        assert total >= Decimal(usd) * 3 / 4, "requests were refused for which there was room"


async def spent_by_owner(store: str) -> dict[str | None, Decimal]:
    opened = open_store(store)
    await opened.open()
    try:
        return {group.key: group.cost for group in await opened.totals("owner")}
    finally:
        await opened.close()
