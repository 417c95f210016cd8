"""An agent's process is killed at hundreds of random moments, and started again each time: nothing lost, nothing twice.

The seed is printed; `WARMLINE_SEED` gives one, `WARMLINE_KILLS` the number of kills.
"""

from __future__ import annotations

import os
import random
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from sessions import Session
from sessions.core.steps import INTERRUPTED, NOT_RUN
from sessions.simulator import Engine, Latency
from tests.crash.outside import (
    ROOT,
    bill,
    check_chain,
    conversation,
    create,
    effects,
    model_server,
    results_by_key,
    texts,
)
from tests.crash.worker import SESSION, Job, noted, script

KILLS = int(os.environ.get("WARMLINE_KILLS", "200"))
PARTS = 4
"""Sessions that the kills are shared among."""
LONGEST = 0.5
"""Seconds that a life may last: about two turns."""

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")


async def test_killed_at_random_moments_on_a_server(
    new_store: Callable[[], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A fifth of the kills, once more, on PostgreSQL."""
    await _killed(new_store(), KILLS // 5, PARTS, tmp_path, capsys)


@pytest.mark.parametrize("part", range(PARTS))
async def test_killed_at_random_moments(part: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kills = KILLS // PARTS + (part < KILLS % PARTS)
    await _killed(f"sqlite:///{tmp_path}/chat.db", kills, part, tmp_path, capsys)


async def _killed(store: str, kills: int, part: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seed = int(os.environ.get("WARMLINE_SEED") or random.SystemRandom().randrange(10**6))
    with capsys.disabled():
        sys.stdout.write(f"\n{kills} kills, seed {seed}: ")
    engine = Engine(script)
    with model_server(engine, Latency(first_event=0.005, per_output_token=0.0002)) as url:
        job = Job(store, url, str(tmp_path), 0.06, "never", kills, 10 * seed + part, LONGEST)
        await create(job)
        command = [sys.executable, "-W", "ignore", "-m", "tests.crash.worker", "lives", job.text]
        done = await anyio.run_process(command, cwd=ROOT, check=False)
        assert done.returncode == 0, done.stderr.decode()
        assert bill(url)["refused"] == 0, [one.error for one in engine.requests if one.state == "refused"]
        async with job.manager() as manager:
            session = await manager.open(SESSION)
            with capsys.disabled():
                sys.stdout.write(f"{_figures(job, session, engine)}\n")
            _check_words(job, session)
            _check_tools(job, session)
            await check_chain(session)
            await _check_ledger(session, engine)


def _figures(job: Job, session: Session, engine: Engine) -> str:
    found = Counter(words[1] for words in noted(job.notes) if words[0] == "found")
    where = ", ".join(f"{count} {what.replace('-', ' ')}" for what, count in found.most_common())
    cut = sum(one.state == "cut" for one in engine.requests)
    ran = effects(job).total()
    return f"{len(session.entries)} entries, {len(engine.requests)} requests ({cut} cut), {ran} effects; found {where}"


def _said(job: Job, *what: str) -> list[int]:
    return [int(words[1]) for words in noted(job.notes) if words[0] in what]


def _check_words(job: Job, session: Session) -> None:
    """What was acknowledged is there once, answered once, in its place; what was not is there at most once."""
    turns = conversation(session)
    order = [number for number, _ in turns]
    assert order == sorted(set(order)), "words are there twice, or out of order"
    assert set(_said(job, "heard", "answered")) <= set(order) <= set(_said(job, "say"))
    answered = set(_said(job, "answered"))
    for number, messages in turns:
        answers = [text for text in texts(messages) if text.startswith("answer")]
        assert answers == [f"answer to message {number}"] * len(answers[:1]), (number, answers)
        assert answers or number not in answered


def _check_tools(job: Job, session: Session) -> None:
    ran = effects(job)
    assert set(ran) <= set(results_by_key(session)), "a tool ran for a call that is not in the conversation"
    check_told(session, ran)


def check_told(session: Session, ran: Counter[str]) -> None:
    """Nothing ran twice that may not, and what the model was told of each call is true."""
    for call, text in results_by_key(session).items():
        assert call.startswith("look") or ran[call] <= 1, f"{call} took effect {ran[call]} times"
        assert text in (f"did {call}", INTERRUPTED, NOT_RUN), (call, text)
        assert ran[call] >= (text == f"did {call}"), f"{call} never took effect, and the model was told it did"
        assert not ran[call] or text != NOT_RUN, f"{call} took effect, and the model was told it was not run"


async def _check_ledger(session: Session, engine: Engine) -> None:
    """Every request that the server saw is in the ledger; whole replies with exactly what was billed."""
    calls = await session.calls()
    by_id = {one.request_id: one for one in calls if one.request_id}
    assert len(calls) >= len(engine.requests)
    for exchange in engine.requests:
        row = by_id.get(exchange.request_id)
        assert row is None or row.status != "ok" or row.usage == exchange.usage
