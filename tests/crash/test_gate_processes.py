"""Two processes on one database make their first calls at the same time: one writes, the others read."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import anyio
import pytest

from sessions import Session, SessionManager, simulator
from sessions.clock import SystemClock
from sessions.simulator import Engine, Latency
from tests.crash.first_calls import SYSTEM
from tests.crash.outside import ROOT, model_server
from tests.crash.worker import MODEL, Job
from tests.sessions.world import create, everywhere

PREFIX = 3000


class Caller:
    """A process that makes `count` first calls at once."""

    def __init__(self, stack: ExitStack, job: Job, count: int) -> None:
        command = [sys.executable, "-W", "ignore", "-m", "tests.crash.first_calls", job.text, str(count)]
        self.count = count
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        stack.callback(self.process.communicate)
        stack.callback(self.process.kill)
        assert self.process.stdout is not None
        assert json.loads(self.process.stdout.readline()) == "ready"

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def answers(self) -> list[list[float]]:
        """(written, read, seconds waited) of each call."""
        assert self.process.stdout is not None
        return [json.loads(self.process.stdout.readline()) for _ in range(self.count)]


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/chat.db"
    url: str = request.getfixturevalue("new_store")()
    return url


def test_six_first_calls_of_two_processes_write_one_prefix(store: str, tmp_path: Path) -> None:
    engine = Engine()
    with model_server(engine, Latency(first_event=1.0)) as url, ExitStack() as stack:
        job = Job(store, url, str(tmp_path))
        callers = [Caller(stack, job, 3) for _ in range(2)]
        for caller in callers:
            caller.go()
        answers = [answer for caller in callers for answer in caller.answers()]
        assert sum(written >= PREFIX for written, _, _ in answers) == 1
        assert sum(read >= PREFIX for _, read, _ in answers) == 5
        assert max(waited for _, _, waited in answers) < 10
        assert engine.bill().usage.cache_write < 2 * PREFIX


async def test_a_leader_that_is_killed_is_followed_at_once(store: str, tmp_path: Path) -> None:
    engine = Engine()
    with model_server(engine, Latency(first_event=20.0)) as url, ExitStack() as stack:
        job = Job(store, url, str(tmp_path))
        leader = Caller(stack, job, 1)
        leader.go()
        while not engine.requests:
            await anyio.sleep(0.01)
        async with job.manager(warmup=True) as manager:
            session = await manager.create(model=MODEL, max_tokens=100, system=SYSTEM)
            async with anyio.create_task_group() as group:
                began = time.monotonic()
                group.start_soon(session.send, "Hello")
                await anyio.sleep(0.3)
                assert len(engine.requests) == 1, "it did not wait"
                leader.process.kill()
                leader.process.wait()
                while len(engine.requests) < 2:
                    await anyio.sleep(0.01)
                assert time.monotonic() - began < 5
                group.cancel_scope.cancel()


@everywhere
async def test_who_waits_for_a_prefix_is_woken_by_the_server(new_store: Callable[[], str]) -> None:
    """By the news that it is written, long before it would have looked again."""
    url, latency = new_store(), Latency(first_event=1.5)
    engine, clock = Engine(), SystemClock()
    from storage.postgresql import listening

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(listening, "LIVE_PAUSE", 60)
        clients = [simulator.client(engine=engine, clock=clock, latency=latency) for _ in range(2)]
        async with SessionManager(url, client=clients[0]) as one, SessionManager(url, client=clients[1]) as other:
            sessions = [await create(manager, system=SYSTEM) for manager in (one, other)]
            replies = []

            async def send(session: Session, after: float) -> None:
                await anyio.sleep(after)
                replies.append(await session.send("Hello"))

            with anyio.fail_after(20):
                async with anyio.create_task_group() as group:
                    group.start_soon(send, sessions[0], 0.0)
                    group.start_soon(send, sessions[1], 0.2)
    assert [reply.usage.cache_write >= PREFIX for reply in replies] == [True, False]
    assert 0.3 < replies[1].calls[0].waited < 10
