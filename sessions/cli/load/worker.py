"""A worker of `warmline load`: a process of its own with many conversations at once; prints what each turn took."""

from __future__ import annotations

import sys
import time
from collections import Counter
from dataclasses import dataclass, field, replace

import anyio
from anthropic import AsyncAnthropic
from pydantic import TypeAdapter

from sessions import Reply, Session, SessionManager, SessionsError
from sessions.core.profiles import profile_for
from sessions.simulator import filler
from sessions.translate import storage_errors
from storage import open_store

OWNER = "warmline load"
"""Whom the conversations belong to: they are deleted afterwards, and nobody else's."""


@dataclass(frozen=True, slots=True)
class Load:
    """What a worker does. `prefix`: tokens of the shared system prompt; `words`: tokens of each user message.

    `pause`: seconds between the turns of one conversation. `first_event`, `per_output_token`: the model's own seconds.
    """

    store: str
    base_url: str
    model: str
    conversations: int
    turns: int
    prefix: int
    words: int
    pause: float
    first_event: float
    per_output_token: float


@dataclass(slots=True)
class Took:
    """What a worker has seen. Times are seconds: `begun` and `ended` since the epoch, the others one for each turn.

    `overhead`: what a turn took beyond the model and the wait for another's warm-up; `model`: the model's time with
    HTTP and SDK, `ideal`: what it was told to take.
    """

    begun: float = 0.0
    ended: float = 0.0
    turns: list[float] = field(default_factory=list)
    overhead: list[float] = field(default_factory=list)
    model: list[float] = field(default_factory=list)
    ideal: list[float] = field(default_factory=list)
    waited: float = 0.0
    errors: Counter[str] = field(default_factory=Counter)
    writes: int = 0
    transactions: int = 0

    def note(self, reply: Reply, seconds: float, load: Load) -> None:
        """Takes in a finished turn."""
        model = sum((call.ended or call.started) - call.started for call in reply.calls)
        waited = sum(call.waited for call in reply.calls)
        self.turns.append(seconds)
        self.model.append(model)
        self.ideal.append(load.first_event * len(reply.calls) + load.per_output_token * reply.usage.output)
        self.waited += waited
        self.overhead.append(max(0.0, seconds - model - waited))


LOAD = TypeAdapter(Load)
TOOK = TypeAdapter(Took)


async def work(load: Load) -> Took:
    """All conversations of this worker."""
    took = Took()
    with storage_errors():
        store = open_store(load.store)
    async with (
        AsyncAnthropic(base_url=load.base_url, api_key="simulated") as client,
        SessionManager(store, client=client, profile=profile_for(load.model)) as manager,
    ):
        system = filler(max(3, load.prefix))
        held = [
            await manager.create(model=load.model, max_tokens=1000, system=system, owner=OWNER)
            for _ in range(load.conversations)
        ]
        await _converse(held[0], replace(load, turns=1), Took())  # what is made once is made now
        before = store.statistics()
        took.begun = time.time()
        async with anyio.create_task_group() as group:
            for session in held:
                group.start_soon(_converse, session, load, took)
        took.ended = time.time()
        after = store.statistics()
        took.writes, took.transactions = after.writes - before.writes, after.transactions - before.transactions
        for session in held:
            await session.delete()
    return took


async def _converse(session: Session, load: Load, took: Took) -> None:
    for number in range(load.turns):
        if number:
            await anyio.sleep(load.pause)
        start = time.perf_counter()
        try:
            reply = await session.send(f"{number} {filler(max(3, load.words))}")
        except SessionsError as error:
            took.errors[f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"] += 1
        else:
            took.note(reply, time.perf_counter() - start, load)


if __name__ == "__main__":
    sys.stdout.buffer.write(TOOK.dump_json(anyio.run(work, LOAD.validate_json(sys.argv[1]))))
