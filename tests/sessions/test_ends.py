"""A model whose last day has been announced: who uses it is told, once in a process."""

from __future__ import annotations

import logging

import pytest

from sessions.model import ends
from sessions.testing import ManualClock
from tests.sessions.world import World, create

BEFORE, AFTER = 1_795_000_000.0, 1_801_000_000.0


@pytest.mark.filterwarnings("ignore:.* is deprecated")  # newer SDKs say so of older models
@pytest.mark.parametrize(
    ("now", "sentence"),
    [
        (BEFORE, "the model claude-opus-4-5 is deprecated: it ends on 22 January 2027"),
        (AFTER, "the model claude-opus-4-5 has ended on 22 January 2027: requests to it are refused"),
    ],
)
async def test_who_uses_it_is_told_once(
    now: float, sentence: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ends, "_told", set())
    world = World()
    world.clock = ManualClock(start=now)
    for _ in range(2):
        async with world.manager(tend=False) as manager:
            for model in ("claude-opus-4-5", "claude-opus-5"):
                session = await create(manager, model=model)
                await session.send("one")
                await session.send("two")
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(told) == 1
    assert told[0].startswith(sentence)
    assert "update(model=…)" in told[0]
