"""Four workers on two machines share one PostgreSQL; they are killed, the server restarted, connections cut.

Nothing acknowledged is lost, nothing is answered twice, nobody is stuck, and the ledger is the bill. The seed is
printed; `WARMLINE_SEED` gives one, `WARMLINE_TURNS=2000` makes it the full run (two hundred conversations).
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import pytest

from sessions import Session, Usage
from sessions.conversation.leases import LEASE_SECONDS
from sessions.simulator import Engine, Exchange, Latency
from storage import Store, open_store
from tests.crash.outside import SYSTEM, bill, check_chain, conversation, effects, model_server, texts
from tests.crash.test_kills import check_told
from tests.crash.turns import number_of
from tests.crash.worker import MODEL, Job, script
from tests.servers import make_database, own_server

pytest.importorskip("psycopg", reason="no PostgreSQL driver: install the extra postgres")
from tests.crash.foreman import WORKERS, Foreman  # needs the driver

TURNS = int(os.environ.get("WARMLINE_TURNS", "200"))
FULL = pytest.mark.skipif("WARMLINE_TURNS" not in os.environ, reason="only where WARMLINE_TURNS is given")
EACH = 10
"""Turns of a conversation."""
AT_ONCE = 40
"""Conversations that go on at the same time."""
SLACK = 10.0
"""Seconds that a busy machine may take for what takes none."""

Pairs = list[tuple[Exchange, Exchange]]

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")


def session_of(exchange: Exchange) -> str:
    """The session that a request was about: the newest of its words say which message that was."""
    assert exchange.request is not None
    numbers = [number for message in exchange.request.messages if (number := number_of(message)) is not None]
    return f"s{numbers[-1] // 100}"


@pytest.mark.parametrize("way", ["straight", pytest.param("behind-a-pooler", marks=FULL)])
async def test_workers_of_a_back_end(way: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seed = int(os.environ.get("WARMLINE_SEED") or random.SystemRandom().randrange(10**6))
    with capsys.disabled():
        sys.stdout.write(f"\n{TURNS} turns, seed {seed}: ")
    engine = Engine(script, keep=1_000_000, keep_messages=10**7)
    names = {f"s{number}": range(100 * number, 100 * number + EACH) for number in range(TURNS // EACH)}
    with (
        own_server() as (server, control),
        model_server(engine, Latency(first_event=0.02, per_output_token=0.0005)) as url,
    ):
        store = make_database(server)
        await open_store(store).upgrade()
        job = Job(store, url, str(tmp_path), pause=0.02, seed=seed)
        await _create(job, names)
        began = time.time()
        async with Foreman(job, seed) as foreman:
            limit = asyncio.Semaphore(AT_ONCE)

            async def converse(session: str) -> None:
                async with limit:
                    await foreman.converse(session, list(names[session]))

            async with (
                foreman.trouble(lambda mode: control("-m", mode, "restart"), TURNS),
                asyncio.TaskGroup() as group,
            ):
                for session in names:
                    group.create_task(converse(session))
        seconds = time.time() - began
        found = bill(url)
        assert found["refused"] == 0, [one.error for one in engine.requests if one.state == "refused"]
        longest = _longest_silence(foreman, engine)
        together = _written_together(engine.requests)
        with capsys.disabled():
            sys.stdout.write(_figures(foreman, engine, job, seconds, longest, together))
        await _check(job, names, engine)
        assert longest <= LEASE_SECONDS + SLACK, f"a session was stuck for {longest:.1f} seconds"
        assert not together, f"a prefix was written by two workers at the same time: {together}"


async def _create(job: Job, names: Iterable[str]) -> None:
    async with job.manager() as manager:
        for name in names:
            await manager.create(
                model=MODEL, max_tokens=4000, system=SYSTEM, tools=job.tools(), id=name, thinking={"type": "adaptive"}
            )


async def _check(job: Job, names: dict[str, range], engine: Engine) -> None:
    by_session: dict[str, list[Exchange]] = {name: [] for name in names}
    for exchange in engine.requests:
        if exchange.usage is not None:
            by_session[session_of(exchange)].append(exchange)
    async with job.manager() as manager:
        ran = effects(job)
        for name, messages in names.items():
            session = await manager.open(name)
            _check_words(session, messages)
            check_told(session, ran)
            await check_chain(session)
            await _check_turns(manager.runtime.store, name, messages)
            await _check_ledger(session, by_session[name])


def _check_words(session: Session, messages: range) -> None:
    """Each message is there once, in order, and answered once."""
    turns = conversation(session)
    assert [number for number, _ in turns] == list(messages)
    for number, said in turns:
        answers = [text for text in texts(said) if text.startswith("answer")]
        assert answers == [f"answer to message {number}"], (number, answers)


async def _check_turns(store: Store, session: str, messages: range) -> None:
    rows = await store.turns(session)
    assert [row.key for row in rows] == [f"key {message}" for message in messages]
    assert {row.state for row in rows} == {"finished"}
    assert len({row.reply for row in rows}) == len(rows)


async def _check_ledger(session: Session, charged: list[Exchange]) -> None:
    """Finished calls are billed as they are written down; whatever else was billed has a row that says how it ended."""
    calls = await session.calls()
    by_request = {one.request_id: one for one in calls if one.status == "ok"}
    finished = [one for one in charged if one.request_id in by_request]
    assert len(finished) == len(by_request) == sum(one.status == "ok" for one in calls)
    for exchange in finished:
        assert by_request[exchange.request_id].usage == exchange.usage
    assert _sum(one.usage for one in finished) == _sum(one.usage for one in calls if one.status == "ok")
    assert len(charged) - len(finished) <= sum(one.status != "ok" for one in calls)


def _sum(usages: Iterable[Usage | None]) -> Usage:
    return sum((usage for usage in usages if usage is not None), Usage())


def _longest_silence(foreman: Foreman, engine: Engine) -> float:
    """The most seconds for which nothing was heard of a session that had something to do, the server being there."""
    for exchange in engine.requests:
        if exchange.request is None or not (exchange.body or {}).get("max_tokens"):
            continue  # refused at the door; or it keeps the prefix of a conversation that is at rest
        times = (exchange.started, exchange.began, exchange.ended)
        foreman.known[session_of(exchange)] += [one for one in times if one is not None]
    longest = 0.0
    for times in foreman.known.values():
        for before, after in pairwise(sorted(times)):
            away = sum(max(0.0, min(after, up) - max(before, down)) for down, up in foreman.down)
            longest = max(longest, after - before - away)
    return longest


def _written_together(requests: Iterable[Exchange]) -> Pairs:
    """Requests that wrote one prefix although the other's response had not begun, and neither's worker died of it."""
    writers: dict[str, list[Exchange]] = {}
    for exchange in requests:
        if exchange.state == "complete" and exchange.prompt is not None:
            for name, _ in exchange.prompt.writes:
                writers.setdefault(name, []).append(exchange)
    return [
        (before, after)
        for those in writers.values()
        for before, after in pairwise(sorted(those, key=lambda one: one.started))
        if after.started < (before.began or before.started)
    ]


def _figures(foreman: Foreman, engine: Engine, job: Job, seconds: float, longest: float, together: Pairs) -> str:
    states = Counter(one.state for one in engine.requests)
    happened = ", ".join(f"{count} {what}" for what, count in sorted(foreman.happened.items()))
    return (
        f"{WORKERS} workers, {TURNS // EACH} conversations in {seconds:.0f} s; {len(engine.requests)} requests"
        f" ({states['cut']} cut), {effects(job).total()} effects; {happened}; longest silence {longest:.1f} s;"
        f" {len(together)} prefixes written together\n"
    )
