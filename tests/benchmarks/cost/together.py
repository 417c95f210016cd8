"""Six first calls at the same moment with one system prompt: how often is the prefix written?"""

from __future__ import annotations

import warnings
from typing import Any

import anyio

from sessions import SessionManager, simulator
from sessions.core.profiles import Ttl
from sessions.simulator import Engine, Latency
from tests.benchmarks.cost.conversations import Conversation
from tests.benchmarks.cost.ours import POLICIES
from tests.benchmarks.cost.peers.door import Door
from tests.benchmarks.cost.scenarios import HEAD, settings, words
from tests.benchmarks.cost.theirs import module

CALLS = 6
LATENCY = Latency(first_event=0.5)
"""Real seconds: long enough that each request has been sent before any is answered."""


def ours(policy: str) -> int:
    """How many of our six wrote the prefix."""

    async def main() -> int:
        engine = Engine(lambda _: "Yes.")
        api = simulator.client(engine=engine, latency=LATENCY)
        async with SessionManager("sqlite://", client=api, **POLICIES[policy]) as manager:
            sessions = [await manager.create(**settings()) for _ in range(CALLS)]
            async with anyio.create_task_group() as tasks:
                for number, session in enumerate(sessions):
                    tasks.start_soon(session.send, words(f"at once {number}"))
        return _written(engine)

    return anyio.run(main)


def theirs(peer: str, ttl: Ttl) -> int:
    """How many of a peer's six wrote the prefix."""

    async def main() -> int:
        engine = Engine(lambda _: "Yes.")
        door = Door(engine, LATENCY)
        fixed: dict[str, Any] = {name: settings()[name] for name in ("model", "system", "tools")}
        async with anyio.create_task_group() as tasks:
            for number in range(CALLS):
                message = {"role": "user", "content": [{"type": "text", "text": words(f"at once {number}")}]}
                client = module(peer).Peer(Conversation(**fixed, messages=[message]), ttl, door)
                tasks.start_soon(client.ask, [message])
        return _written(engine)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return anyio.run(main)


def _written(engine: Engine) -> int:
    charged = [exchange.usage for exchange in engine.requests if exchange.usage is not None]
    if len(charged) < CALLS:
        raise AssertionError(f"{len(charged)} of {CALLS} requests were charged")
    return sum(usage.cache_write >= HEAD * 0.9 for usage in charged)
