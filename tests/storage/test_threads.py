"""Work in threads runs to its end, whatever happens to those who wait for it."""

from __future__ import annotations

import asyncio
import multiprocessing
import threading

import anyio
import anyio.lowlevel
import pytest
import trio

from storage import threads


class Gate:
    """Blocks a worker thread until the test lets it go on."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()
        self.passed = False

    def __call__(self, error: Exception | None = None) -> str:
        self.reached.set()
        assert self.opened.wait(30)
        self.passed = True
        if error is not None:
            raise error
        return "done"

    async def is_reached(self) -> None:
        await anyio.to_thread.run_sync(self.reached.wait)


async def test_result_and_error_come_back() -> None:
    assert await threads.run(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await threads.run(divmod, 7, 0)
    assert threads.busy() == 0


def test_trio() -> None:
    async def main() -> tuple[int, int]:
        return await threads.run(divmod, 7, 2)

    assert trio.run(main) == (3, 1)


@pytest.mark.parametrize("times", [1, 3])
async def test_a_natively_cancelled_task_ends_after_its_work(times: int) -> None:
    gate = Gate()
    task = asyncio.create_task(threads.run(gate))
    await gate.is_reached()
    for _ in range(times):
        task.cancel("because")
        await asyncio.sleep(0)
    assert (task.done(), threads.busy()) == (False, 1)
    gate.opened.set()
    with pytest.raises(asyncio.CancelledError) as raised:
        await task
    assert (gate.passed, task.cancelled(), threads.busy()) == (True, True, 0)
    assert raised.value.__cause__ is None


async def test_the_cause_of_a_cancellation_says_what_became_of_the_work() -> None:
    gate = Gate()

    async def wait() -> BaseException | None:
        try:
            await threads.run(gate, ValueError("no"))
        except asyncio.CancelledError as error:
            return error.__cause__
        return None

    task = asyncio.create_task(wait())
    await gate.is_reached()
    task.cancel()
    gate.opened.set()
    assert repr(await task) == "ValueError('no')"


async def test_a_timeout_of_asyncio_stays_a_timeout() -> None:
    gate = Gate()

    async def limited() -> None:
        async with asyncio.timeout(None) as limit:
            loop = asyncio.get_running_loop()
            loop.call_soon(limit.reschedule, loop.time())
            loop.call_later(0.01, gate.opened.set)
            await threads.run(gate)

    with pytest.raises(TimeoutError):
        await limited()
    assert gate.passed
    await asyncio.sleep(0)  # nothing is left over to be raised here


async def scope_cancelled() -> tuple[bool, bool]:
    gate = Gate()
    results: list[str] = []

    async def wait(scope: anyio.CancelScope) -> None:
        with scope:
            results.append(await threads.run(gate))
            await anyio.lowlevel.checkpoint()
            results.append("not reached")

    scope = anyio.CancelScope()
    async with anyio.create_task_group() as group:
        group.start_soon(wait, scope)
        await gate.is_reached()
        scope.cancel()
        await anyio.wait_all_tasks_blocked()
        waited = threads.busy() == 1
        gate.opened.set()
    return waited, results == ["done"] and scope.cancelled_caught


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_cancelled_scope_learns_the_result_first(backend: str) -> None:
    assert anyio.run(scope_cancelled, backend=backend) == (True, True)


def test_work_may_outlive_its_loop() -> None:
    gate = Gate()
    job = threads.start(gate)
    loop = asyncio.new_event_loop()
    task = loop.create_task(threads.outcome(job))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    gate.opened.set()
    assert job.result(30) == "done"
    with pytest.raises(RuntimeError):  # the task can no longer be told anything: end it by hand
        task.get_coro().throw(RuntimeError)  # type: ignore[union-attr]


def in_child() -> None:
    assert asyncio.run(threads.run(int, "7")) == 7
    assert threads.busy() == 0


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # forking a process with threads is what is tested
async def test_a_forked_child_has_threads_of_its_own() -> None:
    await threads.run(int, "1")
    child = multiprocessing.get_context("fork").Process(target=in_child)
    child.start()
    await anyio.to_thread.run_sync(child.join, 30)
    assert child.exitcode == 0
