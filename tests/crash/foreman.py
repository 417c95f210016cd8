"""Who hands out the work of `crew.py`, kills workers, and restarts and cuts off the database meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import random
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import psycopg

from tests.crash.outside import ROOT
from tests.crash.worker import Job

WORKERS = 4
_ENDS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
"""How a worker is ended: at once, twice over, or by a Ctrl-C that leaves the manager's block first."""


class Gone(Exception):
    """The worker ended before it answered."""


class Failed(Exception):
    """The worker could not do it, and said why."""


@dataclass(eq=False)
class Member:
    """A worker that lives."""

    number: int
    pid: int
    writer: asyncio.StreamWriter
    asked: dict[int, asyncio.Future[str]] = field(default_factory=dict)
    words: dict[int, dict[str, Any]] = field(default_factory=dict)
    """What it was asked."""
    heard: dict[int, Callable[[str], None]] = field(default_factory=dict)
    """Who takes what comes before an answer."""


class Foreman:
    """Hands messages to workers until each is answered. `happened` counts what went wrong meanwhile.

    `down` are the times at which the database was away, `known` those at which something was heard of a session.
    """

    def __init__(self, job: Job, seed: int, crew: str = "tests.crash.crew") -> None:
        self._module, self._job, self._rng = crew, job, random.Random(seed)
        self._address = str(Path(job.directory, "crew"))
        self._members: dict[int, Member] = {}
        self._meetings: set[asyncio.Task[None]] = set()
        self._numbers, self._ids = itertools.count(), itertools.count()
        self._some = asyncio.Event()
        self.happened: Counter[str] = Counter()
        self.down: list[tuple[float, float]] = []
        self.faults: list[float] = []
        self.known: defaultdict[str, list[float]] = defaultdict(list)
        self.answered = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_unix_server(self._meet, self._address, limit=1 << 24)
        command = [sys.executable, "-W", "ignore", "-m", self._module, self._job.text, self._address]
        self._crew = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdin=asyncio.subprocess.PIPE)
        for _ in range(WORKERS):
            self._hire()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for member in list(self._members.values()):
            os.kill(member.pid, signal.SIGKILL)
        for meeting in self._meetings:  # one that was hired last may not have told its name: it ends where this ends
            meeting.cancel()
        await asyncio.gather(*self._meetings, return_exceptions=True)
        assert self._crew.stdin is not None
        self._crew.stdin.close()
        await self._crew.wait()

    def _hire(self) -> None:
        assert self._crew.stdin is not None
        self._crew.stdin.write(f"{next(self._numbers)}\n".encode())

    def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        meeting = asyncio.create_task(self._listen(reader, writer))
        self._meetings.add(meeting)
        meeting.add_done_callback(self._meetings.discard)

    async def _listen(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._hear_all(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _hear_all(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not (line := await reader.readline()):
            return  # it was ended just when it had come
        hello = json.loads(line)
        member = self._members[hello["number"]] = Member(hello["number"], hello["pid"], writer)
        self._some.set()
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                self._hear(member, json.loads(line))
        self._lose(member)

    def _hear(self, member: Member, answer: dict[str, Any]) -> None:
        if "event" in answer:
            member.heard[answer["id"]](answer["event"])
            return
        waiting = member.asked.pop(answer["id"])
        if waiting.done():
            return
        if "text" in answer:
            waiting.set_result(answer["text"])
        else:
            waiting.set_exception(Failed(answer["error"]))

    def _lose(self, member: Member) -> None:
        del self._members[member.number]
        if not self._members:
            self._some.clear()
        for waiting in member.asked.values():
            if not waiting.done():
                waiting.set_exception(Gone())

    # -- the work --

    async def converse(self, session: str, messages: list[int]) -> None:
        """Sends them one after the other; some are given to two workers at the same time."""
        for message in messages:
            both = self._rng.random() < 0.1
            self.happened["given to two workers"] += both
            await asyncio.gather(*(self._say(session, message) for _ in range(1 + both)))
            self.answered += 1

    async def _say(self, session: str, message: int) -> None:
        while True:
            member = await self.somebody()
            self.known[session].append(time.time())
            try:
                text = await self.ask(member, session=session, message=message)
            except Gone:
                self.happened["worker gone"] += 1
            except Failed as error:
                self.happened[str(error).partition(":")[0]] += 1
                await asyncio.sleep(0.1)
            else:
                self.known[session].append(time.time())
                assert text == f"answer to message {message}", (message, text)
                return

    async def somebody(self) -> Member:
        """A worker that lives; waits where there is none."""
        while not self._members:
            await self._some.wait()
        return self._rng.choice(list(self._members.values()))

    async def ask(self, member: Member, heard: Callable[[str], None] | None = None, **asked: Any) -> str:
        """Its answer; `heard` takes what it says before. Raises `Gone` and `Failed`."""
        id = next(self._ids)
        member.words[id] = asked
        waiting = member.asked[id] = asyncio.get_running_loop().create_future()
        if heard is not None:
            member.heard[id] = heard
        member.writer.write(json.dumps({"id": id, **asked}).encode() + b"\n")
        answer: str = await waiting
        return answer

    def open_asks(self) -> str:
        """What was asked and is not answered, by worker."""
        members = self._members.values()
        return "; ".join(f"{member.number}: {[member.words[id] for id in member.asked]}" for member in members)

    # -- what goes wrong --

    @contextlib.asynccontextmanager
    async def trouble(self, restart: Callable[[str], None], total: int) -> AsyncIterator[None]:
        """Meanwhile workers are ended and connections cut; the database is restarted at a third and at two thirds."""
        when = {total // 3: "fast", 2 * total // 3: "immediate"}
        tasks = [asyncio.create_task(work) for work in (self._kill(), self._cut(), self._restart(restart, when))]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(one is None or isinstance(one, asyncio.CancelledError) for one in ended), ended

    async def _kill(self) -> None:
        while True:
            await asyncio.sleep(self._rng.uniform(1, 3))
            if self._members:
                how = self._rng.choice(_ENDS)
                with contextlib.suppress(ProcessLookupError):  # it was told to end before, and has ended just now
                    os.kill(self._rng.choice(list(self._members.values())).pid, how)
                self._note(f"ended by {how.name}")
                self._hire()

    def _note(self, what: str) -> None:
        self.happened[what] += 1
        self.faults.append(time.time())

    async def _cut(self) -> None:
        while True:
            await asyncio.sleep(self._rng.uniform(1, 5))
            self.happened["connections cut"] += await asyncio.to_thread(self._cut_some, self._rng.random())
            self.faults.append(time.time())

    def _cut_some(self, share: float) -> int:
        query = (
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid() AND random() < %s"
        )
        try:
            with psycopg.connect(self._job.store, autocommit=True) as connection:
                row = connection.execute(query, (share,)).fetchone()
                return int(row[0]) if row else 0
        except psycopg.OperationalError:  # it is just being restarted
            return 0

    async def _restart(self, restart: Callable[[str], None], modes: dict[int, str]) -> None:
        for after, mode in modes.items():
            while self.answered < after:
                await asyncio.sleep(0.05)
            began = time.time()
            await asyncio.to_thread(restart, mode)
            self.down.append((began, time.time()))
            self._note(f"server restarted ({mode})")
