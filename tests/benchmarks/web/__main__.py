"""`python -m tests.benchmarks.web`: what `make bench-web` prints; smaller numbers for a quick look."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.benchmarks.speed.measures import Table, note
from tests.benchmarks.web.server import HOLD

ROOT = Path(__file__).parents[3]
PYTHONS = {"pydantic-ai": ROOT / ".venv-peers" / "bin" / "python"}
"""Of servers that live in an environment of their own."""
DELTAS = {"pydantic-ai": b'data: {"type":"text-delta"'}
"""How a line that brings a piece of the answer begins, where it is not `event: delta`."""


@dataclass
class Worker:
    """A server in a process of its own."""

    kind: str
    port: int
    process: psutil.Process

    @property
    def memory(self) -> int:
        """Bytes that are its own."""
        return int(self.process.memory_full_info().uss)

    @property
    def seconds(self) -> float:
        """Of processor time."""
        return sum(self.process.cpu_times()[:2])


@asynccontextmanager
async def started(kind: str, pace: float, tokens: int) -> AsyncIterator[Worker]:
    with tempfile.TemporaryDirectory(prefix="web", ignore_cleanup_errors=True) as folder, socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        listener.close()
        command = [
            str(PYTHONS.get(kind, sys.executable)),
            "-m",
            "tests.benchmarks.web.server",
            kind,
            folder,
            str(port),
            str(pace),
            str(tokens),
        ]
        process = await asyncio.create_subprocess_exec(*command, cwd=ROOT)
        try:
            worker = Worker(kind, port, psutil.Process(process.pid))
            while not await _is_up(worker):
                await asyncio.sleep(0.1)
            yield worker
        finally:
            process.kill()
            await process.wait()


async def _is_up(worker: Worker) -> bool:
    try:
        await asked(worker, "GET", "/health")
    except OSError:
        return False
    return True


# A client as small as can be: what is measured is the server, which shares the machine with it.


async def _opened(worker: Worker, method: str, path: str, body: Any = None, owner: str = "one") -> Any:
    data = b"" if body is None else json.dumps(body).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", worker.port)
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX-Owner: {owner}\r\n"
    kind = f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    writer.write(head.encode() + kind.encode() + data)
    return reader, writer


async def asked(worker: Worker, method: str, path: str, body: Any = None, owner: str = "one") -> Any:
    """One request; its JSON."""
    reader, writer = await _opened(worker, method, path, body, owner)
    answer = await reader.read()
    writer.close()
    head, _, rest = answer.partition(b"\r\n\r\n")
    if head.split()[1][:1] != b"2":
        raise RuntimeError(answer.decode())
    return json.loads(rest)


async def conversation(worker: Worker, owner: str = "one") -> str:
    """A conversation of this owner's, where the server has such."""
    if worker.kind != "ours":
        return owner  # it is told with the words
    return str((await asked(worker, "POST", "/api/sessions", {"agent": "helper", "title": "x"}, owner))["id"])


async def stream(worker: Worker, id: str, words: str, owner: str = "one") -> Any:
    """Says something; what comes of it as a stream."""
    if worker.kind == "bare":
        return await _opened(worker, "POST", "/chat", {"text": words})
    if worker.kind == "pydantic-ai":
        said = {"id": "m", "role": "user", "parts": [{"type": "text", "text": words}]}
        body = {"id": id, "trigger": "submit-message", "messages": [said]}
        return await _opened(worker, "POST", "/chat", body)
    body = {"id": "m", "content": [{"type": "text", "text": words}]}
    begun = await asked(worker, "POST", f"/api/sessions/{id}/turns", body, owner)
    return await _opened(worker, "GET", "/" + begun["events"], owner=owner)


@dataclass
class Seen:
    """What was seen of one answer, in seconds."""

    first: float
    length: float
    deltas: int


async def answer(worker: Worker, id: str, delay: float, owner: str = "one") -> Seen:
    await asyncio.sleep(delay)
    began = time.perf_counter()
    reader, writer = await stream(worker, id, "Tell me something.", owner)
    first, last, deltas = 0.0, 0.0, 0
    begins = DELTAS.get(worker.kind, b"event: delta")
    while line := await reader.readline():
        if line.startswith(begins):
            last = time.perf_counter()
            first, deltas = first or last, deltas + 1
    writer.close()
    if deltas < 2:
        raise RuntimeError(f"{worker.kind}: an answer of {deltas} pieces")
    return Seen(first - began, last - first, deltas)


async def streaming(given: argparse.Namespace, kind: str, conversations: int, within: float) -> list[float | None]:
    """So many answers at once, which begin within so many seconds, one after the other."""
    async with started(kind, given.pace, given.tokens) as worker:
        await answer(worker, await conversation(worker), 0)  # what is loaded late is loaded
        ids = [await conversation(worker, str(number)) for number in range(conversations)]
        before, processor = worker.memory, worker.seconds
        tasks = [
            asyncio.create_task(answer(worker, id, within * place / conversations, str(place)))
            for place, id in enumerate(ids)
        ]
        await asyncio.sleep(within + 0.5)
        open_now = sum(not task.done() for task in tasks)
        memory = (worker.memory - before) / 1024 / max(open_now, 1)
        seen = await asyncio.gather(*tasks)
        processor = worker.seconds - processor
        note(f"{kind}, {conversations} answers: {open_now} open when memory was measured")
    firsts = sorted(one.first * 1000 for one in seen)
    rates = [(one.deltas - 1) / one.length for one in seen]
    pieces = sum(one.deltas for one in seen)
    p95 = firsts[int(len(firsts) * 0.95)]
    return [statistics.median(firsts), p95, statistics.median(rates), min(rates), memory, processor / pieces * 1e6]


async def idle(given: argparse.Namespace, kind: str) -> list[float | None]:
    """Followers of answers that do not come: what each takes in the server."""
    async with started(kind, given.pace, given.tokens) as worker:
        await answer(worker, await conversation(worker), 0)
        id = await conversation(worker)
        opened = []
        if worker.kind == "ours":
            opened.append(await stream(worker, id, HOLD))
        before = worker.memory
        for _ in range(given.followers):
            if worker.kind == "ours":
                opened.append(await _opened(worker, "GET", f"/api/sessions/{id}/turns/newest/events"))
            else:
                opened.append(await stream(worker, id, HOLD))
        if worker.kind == "ours":
            await asyncio.gather(*(reader.readuntil(b"event: snapshot") for reader, _ in opened))
        else:
            await asyncio.gather(*(reader.readuntil(b"\r\n\r\n") for reader, _ in opened))
        await asyncio.sleep(1)
        memory, processor = (worker.memory - before) / 1024 / given.followers, worker.seconds
        await asyncio.sleep(5)
        busy = (worker.seconds - processor) / 5 * 100
        for _, writer in opened:
            writer.close()
    return [memory, busy]


def _is_installed(kind: str) -> bool:
    if PYTHONS[kind].exists():
        return True
    print(f"{kind} is left out: it is not installed ({PYTHONS[kind].relative_to(ROOT)}, `make bench-web` does that)")
    return False


async def main(given: argparse.Namespace) -> None:
    print(
        f"of the first, {1000 * 0.05 + 8000 * given.pace:.0f} ms are the model's own: 50, and eight tokens in a piece"
    )
    kinds = ["bare", "ours", *(kind for kind in PYTHONS if _is_installed(kind))]
    columns = ["first, ms", "p95", "pieces/s", "slowest", "kB each", "processor µs/piece"]
    many, few = given.conversations, given.few
    for conversations, within in ((few, given.within * few / many), (many, given.within), (many, given.burst)):
        title = f"{conversations} answers at once through one worker, begun within {within:g} s"
        table = Table(f"{title}, {1 / given.pace:.0f} tokens/s each", columns)
        for kind in kinds:
            table.rows[kind] = await streaming(given, kind, conversations, within)
        print(f"\n{table.text()}", flush=True)
    table = Table(f"{given.followers} idle followers of one worker", ["kB each", "% of a core"])
    for kind in kinds:
        table.rows[kind] = await idle(given, kind)
    print(f"\n{table.text()}")


def run() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--conversations", type=int, default=500)
    parser.add_argument("--few", type=int, default=50, help="for a worker that is not busy")
    parser.add_argument("--within", type=float, default=20.0, help="seconds in which all begin, one after the other")
    parser.add_argument("--burst", type=float, default=5.0, help="the same, where they come faster than they can begin")
    parser.add_argument("--pace", type=float, default=0.06, help="seconds from one token to the next")
    parser.add_argument("--tokens", type=int, default=480)
    parser.add_argument("--followers", type=int, default=2000)
    given = parser.parse_args()
    cores, load = os.cpu_count(), os.getloadavg()[0]
    print(f"{platform.machine()}, {cores} cores, Python {platform.python_version()}, load {load:.1f}")
    began = time.time()
    asyncio.run(main(given))
    print(f"\nin {time.time() - began:.0f} s")


if __name__ == "__main__":
    run()
