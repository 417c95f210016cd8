"""Many writers, one session, several processes: every turn is there, whole, in the order in which they came."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import anyio
import pytest

from sessions import Session, SessionBusy
from sessions.simulator import Engine, Latency, Request
from tests.crash.outside import Worker, bill, check_chain, conversation, create, model_server, texts
from tests.crash.worker import SESSION, Job
from tests.sessions.world import World, everywhere, words
from tests.sessions.world import create as create_in

TASKS, PROCESSES, EACH = 8, 4, 25


def echo(request: Request) -> str:
    """Answers what was said, so that an answer to somebody else's words shows."""
    return f"answer to {request.text}"


async def test_tasks_and_processes_send_to_one_session(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with model_server(Engine(echo)) as url, ExitStack() as workers:
        job = Job(f"sqlite:///{tmp_path}/chat.db", url, str(tmp_path))
        await create(job)
        senders = [_started(workers, job) for _ in range(PROCESSES)]
        began = time.monotonic()
        for number, sender in enumerate(senders, TASKS):
            sender.tell(*_words(number))
        async with job.manager() as manager:
            opened = [await manager.open(SESSION, tools=job.tools()) for _ in range(2)]

            async def send(task: int) -> None:
                for words in _words(task):
                    assert (await opened[task % 2].send(words)).text == f"answer to {words}"

            async with anyio.create_task_group() as group:
                for task in range(TASKS):
                    group.start_soon(send, task)
            for number, sender in enumerate(senders, TASKS):
                answered = await anyio.to_thread.run_sync(sender.replies, EACH)
                assert answered == [f"answer to {words}" for words in _words(number)]
            seconds = time.monotonic() - began
            session = await manager.open(SESSION)
            turns = conversation(session)
            with capsys.disabled():
                sys.stdout.write(f"\n{TASKS} tasks and {PROCESSES} processes: {len(turns)} turns in {seconds:.1f} s\n")
            assert sorted(number for number, _ in turns) == sorted(
                EACH * sender + turn for sender in range(TASKS + PROCESSES) for turn in range(EACH)
            )
            for number, messages in turns:
                assert [message["role"] for message in messages] == ["user", "assistant"]
                assert texts(messages) == [f"answer to message {number}"]
            for sender in range(TASKS + PROCESSES):
                own = [number for number, _ in turns if number // EACH == sender]
                assert own == sorted(own), "a sender's words are out of order"
            await check_chain(session)
            calls = await session.calls()
            assert [one.status for one in calls] == ["ok"] * len(turns), "somebody paid twice"
        found = bill(url)
        assert (found["charged"], found["refused"]) == (len(turns), 0)


def _words(sender: int) -> list[str]:
    return [f"message {EACH * sender + turn}" for turn in range(EACH)]


def _started(stack: ExitStack, job: Job) -> Worker:
    worker = Worker(job)
    stack.callback(worker.end, kill=True)
    assert "ready" in worker.hear()
    return worker


class Door:
    """A model that lets nobody go on until it is opened: whoever is being answered keeps the session."""

    def __init__(self) -> None:
        self.open = False

    async def __call__(self, request: Request) -> str:
        while not self.open and request.text.startswith("hold"):
            await anyio.sleep(0.01)
        return echo(request)


async def test_processes_are_served_in_the_order_in_which_they_came(
    new_place: Callable[[], str], tmp_path: Path
) -> None:
    door = Door()
    with model_server(Engine(door)) as url, ExitStack() as workers:
        job = Job(new_place(), url, str(tmp_path))
        await create(job)
        senders = [_started(workers, job) for _ in range(3)]
        async with job.manager() as manager:
            session = await manager.open(SESSION, tools=job.tools())
            orders = [[0, 1, 2], [2, 0, 1], [1, 2, 0], [2, 1, 0]]
            for round_, order in enumerate(orders):
                await _queue_up(session, door, round_, [(place, senders[place]) for place in order])
            expected = [10 * round_ + place for round_, order in enumerate(orders) for place in order]
            found = await manager.open(SESSION)
            assert [number for number, _ in conversation(found)] == expected


async def _queue_up(session: Session, door: Door, round_: int, order: list[tuple[int, Worker]]) -> None:
    """This process has the session; the others come one after the other, each heard to wait before the next."""
    door.open = False
    async with anyio.create_task_group() as group:
        group.start_soon(session.send, f"hold {round_}")
        while not session.runtime.leases.is_held(SESSION):
            await anyio.sleep(0.01)
        for place, sender in order:
            sender.tell(f"message {10 * round_ + place}")
            assert await anyio.to_thread.run_sync(sender.hear) == {"waiting": True}
            await anyio.sleep(0.03 * (round_ + place + 1))  # whoever only asks now and then is out of step by now
        door.open = True
    for _, sender in order:
        await anyio.to_thread.run_sync(sender.replies, 1)


async def test_a_killed_waiter_keeps_nobody_waiting(new_place: Callable[[], str], tmp_path: Path) -> None:
    """Its place in line dies with it."""
    door = Door()
    with model_server(Engine(door)) as url, ExitStack() as workers:
        job = Job(new_place(), url, str(tmp_path))
        await create(job)
        doomed, patient = _started(workers, job), _started(workers, job)
        async with job.manager() as manager:
            session = await manager.open(SESSION, tools=job.tools())
            async with anyio.create_task_group() as group:
                group.start_soon(session.send, "hold 0")
                while not manager.runtime.leases.is_held(SESSION):
                    await anyio.sleep(0.01)
                for number, sender in enumerate((doomed, patient)):
                    sender.tell(f"message {number}")
                    assert await anyio.to_thread.run_sync(sender.hear) == {"waiting": True}
                doomed.end(kill=True)
                door.open = True
            assert await anyio.to_thread.run_sync(patient.replies, 1) == ["answer to message 1"]
            found = await manager.open(SESSION)
            assert [number for number, _ in conversation(found)] == [1]


async def test_a_killed_holder_keeps_nobody_waiting(new_place: Callable[[], str], tmp_path: Path) -> None:
    """Killed while the model answers: who waits goes on, and both words are there, the first without an answer."""
    door = Door()
    with model_server(Engine(door)) as url, ExitStack() as workers:
        job = Job(new_place(), url, str(tmp_path))
        await create(job)
        doomed, patient = _started(workers, job), _started(workers, job)
        doomed.tell("hold 0")
        while await _head(job) is None:
            await anyio.sleep(0.01)
        patient.tell("message 1")
        assert await anyio.to_thread.run_sync(patient.hear) == {"waiting": True}
        doomed.end(kill=True)
        assert await anyio.to_thread.run_sync(patient.replies, 1) == ["answer to message 1"]
        async with job.manager() as manager:
            session = await manager.open(SESSION)
            assert [message["role"] for message in session.messages] == ["user", "user", "assistant"]
            assert [one.status for one in await session.calls()] == ["error", "ok"]
            await check_chain(session)


@pytest.mark.parametrize("how", ["busy", "cancelled"])
@everywhere
async def test_a_waiter_that_gave_up_keeps_nobody_waiting(how: str, tmp_path: Path) -> None:
    """Its place in line goes with it: the session is free, so who comes next is served at once."""
    world = World(echo, url=tmp_path / "a.db", latency=Latency(first_event=1.0))
    async with (
        world.manager() as holder,
        world.manager(busy_timeout=0.3 if how == "busy" else 60) as waiter,
        world.manager(busy_timeout=0) as third,
    ):
        session = await create_in(holder)
        waiting, coming = await waiter.open(session.id), await third.open(session.id)
        ended: list[BaseException] = []

        async def wait(scope: anyio.CancelScope) -> None:
            with scope:
                try:
                    await waiting.send("never")
                except SessionBusy as error:
                    ended.append(error)

        async with anyio.create_task_group() as group:
            group.start_soon(session.send, "message 0")
            await world.clock.advance(0.5)
            scope = anyio.CancelScope()
            group.start_soon(wait, scope)
            await world.clock.advance(0.4)
            scope.cancel()
            await world.clock.advance(0.2)
            group.start_soon(coming.send, "message 1")
            await world.clock.advance(2)
        assert len(ended) == (how == "busy")
        assert words(await holder.open(session.id)) == ["message 0", "message 1"]
    world.check()


async def _head(job: Job) -> str | None:
    async with job.manager() as manager:
        return (await manager.open(SESSION)).head
