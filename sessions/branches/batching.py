"""Fan-outs at half price, as sessions and the recovery of a manager ask for them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any

from sessions.background import log
from sessions.branches.run import Branched, FanOut
from sessions.clock import within
from sessions.conversation.conversation import Conversation
from sessions.errors import BudgetExceeded, ConfigurationError, ModelError, SessionBusy
from sessions.model.batch_api import BatchClient
from sessions.runtime import Runtime
from sessions.turns.batched import Part, branch_id, key_of
from sessions.turns.outcome import Outcome
from storage import LeaseTaken

POLL = 30.0
"""Seconds between two looks at a batch."""
_OPEN = ("tool_use", "pause_turn")
"""A reply that ends so leaves the branch's turn open: `resume` goes on with it."""


class Batching:
    """The fan-outs of one manager. `live`: those that a call in this process looks after now."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.client = BatchClient(runtime.client)
        self.live: set[str] = set()

    async def send(
        self,
        source: Conversation,
        words: Sequence[list[dict[str, Any]]],
        key: str | None,
        poll: float,
        timeout: float | None,
    ) -> list[Branched]:
        """One branch per content, in batches, after a first one has written the shared prefix; waits for all.

        `poll` and `timeout` in seconds. Raises `TimeoutError`; then the batch goes on.
        """
        try:
            return await self._runtime.lifecycle.unless_ended(
                lambda: within(self._runtime.clock, timeout, lambda: self._sent(source, words, key, poll))
            )
        except TimeoutError:
            text = f"the batch had not ended after {timeout:g} seconds: it goes on"
            raise TimeoutError(f"{text}, and the same idempotency_key or manager.recover() collects it") from None

    async def _sent(
        self, source: Conversation, words: Sequence[list[dict[str, Any]]], key: str | None, poll: float
    ) -> list[Branched]:
        self.client.check()
        if (source.settings.params or {}).get("speed") == "fast":
            raise ConfigurationError('params["speed"]="fast" is not possible in a batch: use map()')
        group = uuid.uuid4().hex if key is None else _named(source.record.id, key)
        run = FanOut(self._runtime, self.client, group, len(words))
        with self._looking_after(group):
            await run.prepare(source, words)
            await run.finish(poll)
        return [await run.outcome(index) for index in range(run.of)]

    @contextmanager
    def _looking_after(self, group: str) -> Iterator[None]:
        self.live.add(group)
        try:
            yield
        finally:
            self.live.discard(group)

    async def collect(self, conversation: Conversation, part: Part, *, wait: bool) -> Outcome | None:
        """The reply of a branch that is in a batch, stored; `None` where the turn is to go on in real time.

        Waits for it, or raises `SessionBusy` where it is not there yet.
        """
        # With the caller's own conversation: what is stored now is to show there.
        run = FanOut(self._runtime, self.client, part.group, part.of, {part.index: conversation})
        whole = await run.load()
        if wait and whole:
            await run.finish(POLL, until=part.index)
        # A turn with words of its own does not wait: it only needs to know whether the reply is there.
        elif whole:
            await run.step()
        if part.index in run.pending:
            batch = run.pending[part.index].batch or "that is being made"
            text = f"the last words of this session are in the Message Batch {batch}: resume() waits for the reply"
            raise SessionBusy(text, holder="a Message Batch")
        outcome = run.outcomes.get(part.index)
        # What may succeed another time is asked for again in real time: the turn goes on.
        if isinstance(outcome, ModelError) and not outcome.retryable and wait:
            raise outcome
        return outcome if isinstance(outcome, Outcome) and outcome.stop_reason not in _OPEN and wait else None

    async def look(self, part: Part) -> dict[str, Branched]:
        """Goes on with a fan-out as far as it goes now, waiting for nobody; what came of it, by the branch's id."""
        if part.group in self.live or await self._is_being_processed(part):
            return {}
        run = FanOut(self._runtime, self.client, part.group, part.of, patience=0.0)
        try:
            if await run.load():
                await run.step()
        except (LeaseTaken, SessionBusy):
            pass  # another worker is at it
        except (ModelError, BudgetExceeded) as error:
            log.warning("a Message Batch could not be carried on, trying again: %s", error)
        return {branch_id(part.group, index): await run.outcome(index) for index in run.outcomes}

    async def _is_being_processed(self, part: Part) -> bool:
        """Whether nothing can be done now, as one look at the first branch's batch, or at this one's, tells."""
        first, key = branch_id(part.group, 0), key_of(part.group, part.of)
        known = part if part.batch else Part.of_row(await self._runtime.store.turn(first, key=key))
        if known is None or known.batch is None:
            return False
        batch = await self.client.look(known.batch)
        return batch is not None and batch.processing_status != "ended"


def _named(session: str, key: str) -> str:
    return blake2b(f"{session}\n{key}".encode(), digest_size=16).hexdigest()
