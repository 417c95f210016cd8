"""A worker is killed in its tools; of two others that recover, one finishes the turn, on SQLite and on PostgreSQL."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

import anyio
import pytest

from sessions import SessionManager
from sessions.core.steps import INTERRUPTED
from sessions.simulator import Engine
from storage import open_store
from tests.crash.outside import Worker, bill, check_chain, create, effects, model_server, results_by_key, texts
from tests.crash.worker import SESSION, Job, script


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
@pytest.mark.parametrize("stuck", ["look 5.0.1", "act 5.0.0"], ids=["harmless", "in-doubt"])
async def test_a_killed_workers_turn_is_finished_once(
    kind: str, stuck: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Message 5 has two rounds of two and three calls; the first call of one round never comes back."""
    url = f"sqlite:///{tmp_path}/chat.db"
    if kind == "postgresql":
        url = request.getfixturevalue("new_database")()
        await open_store(url).upgrade()
    with model_server(Engine(script)) as model, ExitStack() as stack:
        job = Job(url, model, str(tmp_path), hang=stuck.split()[1])
        await create(job)
        worker = Worker(job)
        stack.callback(worker.end, kill=True)
        worker.tell("message 5")
        await _until_stuck(job, stuck)
        again = Job(url, model, str(tmp_path))
        recovering = {"recover": True, "tools": again.tools()}
        async with again.manager(**recovering) as one, again.manager(**recovering) as two:
            await anyio.sleep(1.0)
            assert await one.recover() == {}  # the worker lives: its turn is its own
            worker.end(kill=True)
            killed = time.monotonic()
            await _until_finished(one)
            assert time.monotonic() - killed < 8  # its process is gone, so its lease does not have to run out
            assert await one.recover() == await two.recover() == {}
            await _check(one, again, stuck)
        assert bill(model)["refused"] == 0


async def _until_stuck(job: Job, stuck: str) -> None:
    store = open_store(job.store)
    await store.open()
    while stuck not in effects(job) or not any(row.ended for row in await store.journal(SESSION)):
        await anyio.sleep(0.01)
    await store.close()


async def _until_finished(manager: SessionManager) -> None:
    while (await manager.runtime.store.turns(SESSION))[-1].state != "finished":
        await anyio.sleep(0.02)


async def _check(manager: SessionManager, job: Job, stuck: str) -> None:
    session = await manager.open(SESSION, tools=job.tools())
    assert texts(session.messages)[-1] == "answer to message 5"
    assert await session.resume() is None
    doubtful = [key for key, told in results_by_key(session).items() if told == INTERRUPTED]
    assert doubtful == ([stuck] if stuck.startswith("act") else [])
    twice = {call: count for call, count in effects(job).items() if count > 1}
    assert twice == ({stuck: 2} if stuck.startswith("look") else {})
    assert [one.status for one in await session.calls()] == ["ok"] * 3
    assert [one.state for one in await manager.runtime.store.turns(SESSION)] == ["finished"]
    await check_chain(session)
