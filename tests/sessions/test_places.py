"""A manager belongs to the process and event loop where it was entered; made before a fork, it has no identity yet."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

import sessions
from sessions import ConfigurationError, tool
from sessions.clock import SystemClock
from sessions.testing import simulated_manager
from tests.sessions.world import World, create, everywhere, words

FORKS = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")

SCRIPT = '''
import asyncio, os, sys, time
from pathlib import Path
import anyio
from sessions import SessionBusy, SessionsError, tool
from sessions.testing import simulated_manager

folder = Path(sys.argv[2])

def said(name, text=""):
    with (folder / name).open("a") as file:
        file.write(text + "\\n")

async def heard(name):
    while not (folder / name).exists():
        await anyio.sleep(0.01)

@tool(idempotent=True)
async def look() -> str:
    """Looks."""
    said("looked", str(os.getpid()))
    await heard("go")
    return "seen"

def script(request):
    return "done" if request.results else [{"type": "tool_use", "name": "look", "input": {}}]

manager = simulated_manager(sys.argv[1], script, tools=[look], busy_timeout=0)

async def first():
    async with manager:
        session = await manager.create(model="claude-sonnet-5-5", max_tokens=1000, tools=[look], id="fixed")
        said("replied", (await session.send("go")).text)

async def second():
    await heard("looked")
    async with manager:
        session = await manager.open("fixed", tools=[look])
        try:
            said("resumed", str(await session.resume()))
        except SessionBusy as error:
            said("busy", str(error))
        said("recovered", str(await manager.recover()))
        said("go")

def child(work):
    pid = os.fork()
    if pid == 0:
        try:
            asyncio.run(work())
        except BaseException as error:
            said("failed", repr(error))
        os._exit(0)
    return pid

def workers():
    for pid in [child(first), child(second)]:
        os.waitpid(pid, 0)

def daemon():
    child(first)

def inherited():
    loop = asyncio.new_event_loop()
    loop.run_until_complete(manager.__aenter__())

    async def use():
        try:
            await manager.list()
        except SessionsError as error:
            said("refused", f"{type(error).__name__}: {error}")
        await manager.__aexit__(None, None, None)  # its parent's things are left alone
        said("left")

    os.waitpid(child(use), 0)
    assert loop.run_until_complete(manager.list()) == []
    loop.run_until_complete(manager.__aexit__(None, None, None))
    loop.close()

globals()[sys.argv[3]]()
'''


def run(url: str, folder: Path, what: str) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(sessions.__file__).parents[1])}
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, url, str(folder), what]
    subprocess.run(command, check=True, timeout=100, env=environment, stdin=subprocess.DEVNULL)


def noted(folder: Path, name: str) -> list[str]:
    path = folder / name
    return path.read_text().splitlines() if path.exists() else []


@FORKS
def test_workers_of_one_manager_made_before_the_fork(tmp_path: Path, new_place: Callable[[], str]) -> None:
    """One holds the session; the other does not take its lease, and an idempotent tool runs once."""
    run(new_place(), tmp_path, "workers")
    assert noted(tmp_path, "failed") == []
    assert len(noted(tmp_path, "looked")) == 1
    assert noted(tmp_path, "resumed") == []
    assert len(noted(tmp_path, "busy")) == 1
    assert noted(tmp_path, "recovered") == ["{}"]
    assert noted(tmp_path, "replied") == ["done"]


@FORKS
async def test_a_daemon_whose_parent_has_ended_is_not_dead(tmp_path: Path, new_place: Callable[[], str]) -> None:
    url = new_place()
    run(url, tmp_path, "daemon")
    while not noted(tmp_path, "looked"):
        await anyio.sleep(0.01)
    async with simulated_manager(url, clock=SystemClock()) as manager:
        assert await manager.runtime.store.orphans(now=manager.clock.monotonic(), limit=9) == []
        (tmp_path / "go").touch()
        while not noted(tmp_path, "replied"):
            await anyio.sleep(0.01)
        assert len((await manager.open("fixed")).messages) == 4
    assert noted(tmp_path, "replied") == ["done"]


@FORKS
def test_a_manager_entered_before_the_fork_says_what_to_do(tmp_path: Path, new_place: Callable[[], str]) -> None:
    run(new_place(), tmp_path, "inherited")
    assert noted(tmp_path, "failed") == []
    (refused,) = noted(tmp_path, "refused")
    assert refused.startswith("ConfigurationError: this manager was entered in another process")
    assert noted(tmp_path, "left") == [""]


def in_a_thread(work: Callable[[], Any], backend: str = "asyncio") -> BaseException | None:
    """What `work` raises in an event loop of another thread."""
    errors: list[BaseException] = []

    def run_there() -> None:
        try:
            anyio.run(work, backend=backend)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run_there, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive(), "it hangs"
    return errors[0] if errors else None


@everywhere
async def test_another_event_loop_is_told_so_at_once(tmp_path: Path) -> None:
    @tool
    def nothing() -> str:
        """Does nothing."""
        return ""

    world = World(url=tmp_path / "a.db")
    async with world.manager() as manager:
        session = await create(manager)

        async def stream() -> None:
            async with session.stream("no") as events:
                await anext(events)

        works: list[Callable[[], Any]] = [
            lambda: create(manager), lambda: manager.open(session.id), manager.list, manager.recover, manager.drain,
            lambda: session.send("no"), session.resume, stream, lambda: session.append([]), session.calls,
            lambda: session.update(max_tokens=5), session.fork, lambda: manager.prewarm(model="m", max_tokens=1),
        ]  # fmt: skip
        for work in works:
            for backend in ("asyncio", "trio"):
                error = in_a_thread(work, backend)
                assert isinstance(error, ConfigurationError), (work, error)
                assert "another event loop" in str(error)
        await session.send("yes")
        assert words(session) == ["yes"]
    world.check()


def test_a_manager_may_be_entered_anew_in_another_event_loop(tmp_path: Path) -> None:
    world = World(url=tmp_path / "a.db")
    manager = world.manager()

    async def use() -> int:
        async with manager:
            await (await create(manager)).send("Hello")
            return len(await manager.list())

    assert [asyncio.run(use()), asyncio.run(use())] == [1, 2]
    world.check()
