"""The same on a PostgreSQL server: a worker killed in its tools, one killed while it waits, and many writers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import anyio
import pytest

from sessions.core.steps import INTERRUPTED
from sessions.simulator import Engine
from sessions.testing import simulated_manager
from storage import open_store
from tests.crash.outside import (
    Worker,
    bill,
    check_chain,
    conversation,
    create,
    effects,
    model_server,
    results_by_key,
    texts,
)
from tests.crash.worker import SESSION, Job, script
from tests.sessions.world import everywhere

pytest.importorskip("psycopg", reason="no PostgreSQL driver: install the extra postgres")
from storage.postgresql import listening  # needs the driver


@pytest.mark.parametrize("live", [True, False], ids=["live", "behind-a-pooler"])
@everywhere
async def test_who_waits_for_a_session_is_woken(
    live: bool,
    new_store: Callable[[], str],
    request: pytest.FixtureRequest,
) -> None:
    """Long before it would have looked again; behind a pooler it looks."""
    url = new_store()
    with pytest.MonkeyPatch.context() as patch:
        if live:
            patch.setattr(listening, "LIVE_PAUSE", 60)
        else:
            url = request.getfixturevalue("pooler")(url)
        async with simulated_manager(url) as one, simulated_manager(url) as other, anyio.create_task_group() as group:
            session = await one.create(model="claude-sonnet-5-5", max_tokens=100)
            entered = anyio.Event()

            async def enter() -> None:
                async with other.runtime.leases.hold(session.id):
                    entered.set()

            async with one.runtime.leases.hold(session.id):
                group.start_soon(enter)
                await anyio.sleep(1)
                assert not entered.is_set()
            with anyio.fail_after(5):
                await entered.wait()


async def test_killed_in_its_tools(new_store: Callable[[], str], tmp_path: Path) -> None:
    """Message 5 has two rounds of two and three calls; `look 5.0.1` never comes back."""
    url = new_store()
    with model_server(Engine(script)) as model, ExitStack() as stack:
        job = Job(url, model, str(tmp_path), hang="5.0.1")
        await create(job)
        worker = Worker(job)
        stack.callback(worker.end, kill=True)
        worker.tell("message 5")
        store = open_store(url)
        await store.open()
        while "look 5.0.1" not in effects(job) or not any(row.ended for row in await store.journal(SESSION)):
            await anyio.sleep(0.01)
        await store.close()
        worker.end(kill=True)
        again = Job(url, model, str(tmp_path))
        async with again.manager() as manager:
            session = await manager.open(SESSION, tools=again.tools())
            reply = await session.resume()
            assert reply is not None
            assert reply.text == "answer to message 5"
            assert INTERRUPTED not in results_by_key(session).values()
            assert {call: count for call, count in effects(job).items() if count > 1} == {"look 5.0.1": 2}
            assert [one.status for one in await session.calls()] == ["ok"] * 3
            await check_chain(session)
        assert bill(model)["refused"] == 0


@pytest.mark.parametrize("way", ["straight", "behind-a-pooler"])
async def test_processes_send_to_one_session(
    way: str,
    new_store: Callable[[], str],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    """Two processes and two tasks, five messages each; a third process is killed in the middle of its own."""
    url = new_store()
    if way != "straight":
        url = request.getfixturevalue("pooler")(url)
    with model_server(Engine(script)) as model, ExitStack() as stack:
        job = Job(url, model, str(tmp_path), pause=0.005)
        await create(job)
        workers = [Worker(job) for _ in range(3)]
        for number, worker in enumerate(workers):
            stack.callback(worker.end, kill=True)
            worker.tell(*(f"message {10 * number + turn}" for turn in range(5)))
        await anyio.to_thread.run_sync(workers[2].replies, 2)
        workers[2].end(kill=True)
        async with job.manager() as manager:
            session = await manager.open(SESSION, tools=job.tools())
            async with anyio.create_task_group() as group:
                for number in (30, 40):
                    for turn in range(5):
                        group.start_soon(session.send, f"message {number + turn}")
            for worker in workers[:2]:
                await anyio.to_thread.run_sync(worker.replies, 5)
            session = await manager.open(SESSION)
            await check_chain(session)
            turns = dict(conversation(session))
            assert len(turns) == len(conversation(session))
            for number in (n for base in (0, 10, 30, 40) for n in range(base, base + 5)):
                assert texts(turns[number])[-1] == f"answer to message {number}"
            for call, count in effects(job).items():
                assert count == 1 or call.startswith("look")
        assert bill(model)["refused"] == 0
