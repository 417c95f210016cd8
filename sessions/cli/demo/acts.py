"""The four acts of the demo. What they print is what happened: the ledger's figures, the journal, a file of effects."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from decimal import Decimal

import anyio
import httpx2
from anyio.abc import Process
from rich.console import RenderableType
from rich.padding import Padding

from sessions import Call
from sessions.cli.demo import desk
from sessions.cli.demo.bill import priced, top_level, uncached
from sessions.cli.demo.job import DONE, JOB, Done, Job
from sessions.cli.terminal import console, dollars, plain_table
from sessions.cli.transcript import aside, below, lines, said, short
from sessions.core.profiles import profile_for
from sessions.core.usage import Usage
from sessions.errors import ModelError
from storage import ToolCallRecord, open_store

QUESTIONS = ("What is the weather in Paris and in Rome?", "And what is the weather in Oslo?")
CRASH = "Please reserve a seat to Vienna, and show me the seat_map for Vienna."
BRANCHES = tuple(f"What is the weather in {city}?" for city in desk.CITIES)
SLOW, QUICK = 60.0, 0.3
"""Seconds that the slow tool takes in the worker that is killed, and in the one that resumes."""
PATIENCE = 60.0
"""Seconds to wait for a worker to reach its tools."""


async def conversation(place: Job) -> str:
    """Two turns with tools; gives the session's id. The manager is closed behind it."""
    _heading(1, "A conversation with tools")
    async with place.manager() as manager:
        session = await manager.create(
            model=place.model,
            max_tokens=2048,
            system=desk.HANDBOOK,
            tools=desk.tools(place.bookings),
            title="The travel desk",
        )
        for question in QUESTIONS:
            before = len(session.entries)
            with console.status(f"[dim]{question}[/]"):
                reply = await session.send(question)
            for entry in session.entries[before:]:
                _print(*lines(entry))
            _print(below(reply.usage, dollars(reply.cost)))
        return session.id


async def crash(place: Job, session: str) -> None:
    """A worker is killed while one of two tools runs; a second worker resumes the turn."""
    _heading(2, "A worker is killed (SIGKILL) in the middle of a turn, another one resumes it")
    _print(said("you", CRASH, "bold cyan"))
    with console.status("[dim]a worker process works on it[/]"):
        async with await _worker(place.with_words(session, CRASH, SLOW)) as first:
            try:
                journal = await _slow_tool_runs(place, session, first)
            finally:
                with suppress(ProcessLookupError):
                    first.kill()
    _print(aside(f"worker {first.pid} killed: {_state(journal)}", "bold red"))
    before = await _last_usage(place, session)
    with console.status("[dim]a second worker process opens the session[/]"):
        async with await _worker(place.with_words(session, None, QUICK)) as second:
            done = await _result(second)
    _print(aside(f"worker {second.pid} opened the session and resumed the turn", "bold green"))
    _print(said("claude", done.text, "bold magenta"))
    kept = before.cache_read + before.cache_write
    rewritten = max(0, kept - done.usage.cache_read)
    count = len(place.bookings.read_text(encoding="utf-8").splitlines())
    _print(below(done.usage))
    _print(aside(f"cached before the kill {kept:,} tokens, of these rewritten {rewritten:,}", "green"))
    again = "was not run again" if count == 1 else "was run more than once"
    _print(aside(f"seats reserved: {count} (the finished tool {again})", "green"))


async def branches(place: Job, session_id: str) -> list[Call]:
    """Eight branches of one conversation at once; gives all calls of the demo."""
    _heading(3, f"{len(BRANCHES)} branches of one conversation, in parallel")
    async with place.manager() as manager:
        session = await manager.open(session_id, tools=desk.tools(place.bookings))
        with console.status("[dim]one branch leads, the others follow[/]"):
            replies = await session.map(BRANCHES)
        for city, reply in zip(desk.CITIES, replies, strict=True):
            _print(said(city, short(reply.text.splitlines()[-1]), "bold cyan"), below(reply.usage, dollars(reply.cost)))
        calls = await session.calls()
        for reply in replies:
            calls += await reply.session.calls()
        return calls


async def bill(place: Job, calls: Sequence[Call]) -> None:
    """What it cost, beside what the same requests cost uncached and with one top-level `cache_control`."""
    _heading(4, "The bill")
    profile = profile_for(place.model)
    known = {call.request_id: call.usage for call in calls if call.request_id}
    sent = place.recorder.read(known)
    ours = [one.usage for one in sent]
    rows = {
        "uncached": uncached(sent),
        "top-level cache_control": top_level(sent, profile),
        "warmline": ours,
    }
    _print(_table({name: (usages, priced(usages, profile)) for name, usages in rows.items()}))
    if place.base_url is not None:
        await _compare(place.base_url, sum(ours, start=Usage()))


def _table(rows: Mapping[str, tuple[Sequence[Usage], Decimal | None]]) -> RenderableType:
    table = plain_table("", ">read", ">written", ">uncached", ">answers", ">USD", ">")
    whole = rows["uncached"][1]
    for name, (usages, price) in rows.items():
        total = sum(usages, start=Usage())
        tokens = [f"{n:,}" for n in (total.cache_read, total.cache_write, total.input, total.output)]
        share = f"{price / whole:.0%}" if price is not None and whole else ""
        style = "bold green" if name == "warmline" else ""
        table.add_row(name, *tokens, "unknown" if price is None else f"{price:.5f}", share, style=style)
    return Padding(table, (0, 0, 0, 2), expand=False)


async def _compare(base_url: str, ledger: Usage) -> None:
    """The simulator's own bill must be ours to the token."""
    async with httpx2.AsyncClient() as http:
        charged = (await http.get(f"{base_url}/_simulator/bill")).json()
    theirs = Usage(*(charged[name] for name in ("input", "cache_read", "cache_write_5m", "cache_write_1h", "output")))
    if theirs != ledger:
        raise ModelError(f"the ledger ({ledger}) is not what the simulator charged ({theirs})")
    counted = f"{charged['charged']} requests, {charged['refused']} refused"
    _print(aside(f"{counted}; the ledger is the simulator's bill, exactly", "dim"))


async def _worker(job: Job) -> Process:
    command = [sys.executable, "-m", "sessions.cli.demo.worker", JOB.dump_json(job).decode()]
    return await anyio.open_process(command, stdout=subprocess.PIPE, stderr=None)


async def _result(worker: Process) -> Done:
    assert worker.stdout is not None
    printed = b"".join([chunk async for chunk in worker.stdout])
    if await worker.wait() != 0:
        raise ModelError(f"the worker ended with {worker.returncode}")
    return DONE.validate_json(printed)


async def _slow_tool_runs(place: Job, session: str, worker: Process) -> list[ToolCallRecord]:
    """The turn's journal, once the slow tool runs and nothing else does."""
    began = time.time()
    store = open_store(place.store)
    await store.open()
    try:
        while time.time() < began + PATIENCE:
            rows = [row for row in await store.journal(session) if row.started >= began]
            if [row.name for row in rows if row.ended is None] == ["seat_map"]:
                return rows
            if worker.returncode is not None:
                raise ModelError(f"the worker ended with {worker.returncode} before it could be killed")
            await anyio.sleep(0.02)
        raise ModelError(f"the worker did not reach its tools within {PATIENCE:g} seconds")
    finally:
        await store.close()


def _state(journal: Sequence[ToolCallRecord]) -> str:
    return ", ".join(f"{row.name} {'was running' if row.ended is None else 'had finished'}" for row in journal)


async def _last_usage(place: Job, session_id: str) -> Usage:
    """What the newest finished call read and wrote."""
    async with place.manager() as manager:
        session = await manager.open(session_id)
        return [call for call in await session.calls() if call.status == "ok"][-1].usage


def _heading(number: int, text: str) -> None:
    console.print(f"\n[bold]{number}  {text}[/]")


def _print(*parts: RenderableType) -> None:
    for part in parts:
        console.print(part)
