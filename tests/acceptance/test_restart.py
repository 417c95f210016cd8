"""Leave the process, open the session again: the next request is byte for byte what it would have been."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from sessions import tool
from sessions.simulator import Request, Scripted, filler
from tests.sessions.world import World, call, chain_of_reads, create, everywhere


@tool
def look(n: int) -> str:
    """Looks."""
    return filler(50, f"seen{n}")


def script(request: Request) -> Scripted:
    """Thinks, and uses its tool in every other turn."""
    if request.results or request.turn % 2:
        return Scripted(f"answer {request.turn} ü\u2028 {filler(30)}", thinking=f"thought {request.turn}")
    content = [{"type": "text", "text": "I look."}, call("look", n=request.turn), call("look", n=-request.turn)]
    return Scripted(content, thinking=f"I need the tool {request.turn}")


async def _conversation(path: Path, turns: int, restarts: frozenset[int]) -> World:
    world = World(script, url=path)
    settings = {"id": "fixed", "tools": [look], "context": [{"type": "text", "text": filler(700)}]}
    async with world.manager() as manager:
        session = await create(manager, **settings)
        manager_of: Any = manager
        extra = []
        for number in range(turns):
            if number in restarts:
                extra.append(world.manager())
                manager_of = await extra[-1].__aenter__()
                session = await manager_of.open("fixed", tools=[look])
            await session.send(f"turn {number}: {filler(20 + number)}")
            await world.clock.advance(60)
        for one in extra:
            await one.__aexit__(None, None, None)
    return world


@pytest.mark.parametrize("turns", [3, 9, 24])
@everywhere
async def test_requests_are_the_same_with_and_without_a_restart(turns: int, tmp_path: Path) -> None:
    straight = await _conversation(tmp_path / "one.db", turns, frozenset())
    broken = await _conversation(tmp_path / "two.db", turns, frozenset(range(1, turns)))
    for number, (one, other) in enumerate(zip(straight.bodies, broken.bodies, strict=True)):
        assert json.dumps(one, ensure_ascii=False) == json.dumps(other, ensure_ascii=False), f"request {number}"
    chain_of_reads([one.usage for one in broken.requests if one.usage is not None])
    broken.check()


CHILD = """
    import asyncio, json, sys
    from sessions import simulator
    from sessions.simulator import Engine
    from sessions.testing import ManualClock
    from sessions import SessionManager
    from tests.acceptance.test_restart import look, script
    from tests.sessions.world import create
    from sessions.simulator import filler

    async def main(path, first, last):
        engine, clock = Engine(script, seed=7), ManualClock()
        engine._ids = first * 1000
        await clock.advance(60 * first)
        async with SessionManager(f"sqlite:///{path}", client=simulator.client(engine=engine, clock=clock),
                                  clock=clock) as manager:
            if first == 0:
                session = await create(manager, id="fixed", tools=[look])
            else:
                session = await manager.open("fixed", tools=[look])
            for number in range(first, last):
                await session.send(f"turn {number}")
                await clock.advance(60)
        for one in engine.requests:
            assert one.ok, one.error
            print(json.dumps(one.body, ensure_ascii=False))

    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
"""


def _child(path: Path, first: int, last: int) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(CHILD), str(path), str(first), str(last)],
        capture_output=True, text=True, encoding="utf-8", check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.split("\n") if line]


def test_another_process_sends_what_this_one_would_have_sent(tmp_path: Path) -> None:
    first = _child(tmp_path / "a.db", 0, 4)
    then = _child(tmp_path / "a.db", 4, 5)
    history = then[0]["messages"]
    last = first[-1]["messages"]
    plain = [json.dumps(_bare(one), ensure_ascii=False) for one in (last, history[: len(last)])]
    assert plain[0] == plain[1]
    assert then[0]["system"][0]["text"] == first[-1]["system"][0]["text"]
    assert then[0]["diagnostics"]["previous_message_id"] is not None
    assert list(then[0]) == list(first[-1])


def _bare(messages: list[Any]) -> list[Any]:
    return [
        {**m, "content": [{k: v for k, v in block.items() if k != "cache_control"} for block in m["content"]]}
        for m in messages
    ]
