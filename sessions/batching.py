"""Fan-outs at half price, as sessions and the recovery of a manager ask for them; `batch_run` carries each of them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from sessions.background import log
from sessions.batch_part import Part, branch_id, key_of
from sessions.batch_run import Run
from sessions.errors import BatchIncomplete, ConfigurationError, ModelError, SessionBusy
from sessions.model.batch_api import BatchClient
from sessions.replies import Reply
from storage import LeaseTaken

if TYPE_CHECKING:
    from sessions.manager import SessionManager
    from sessions.session import Session

POLL = 30.0
"""Seconds between two looks at a batch."""
_OPEN = ("tool_use", "pause_turn")
"""A reply that ends so leaves the branch's turn open: `resume` goes on with it."""


class Batching:
    """The fan-outs of one manager. `live`: those that a call in this process looks after now."""

    def __init__(self, manager: SessionManager) -> None:
        self._manager = manager
        self.client = BatchClient(manager._client)
        self.live: set[str] = set()

    async def send(
        self, session: Session, words: Sequence[list[dict[str, Any]]], key: str | None, poll: float
    ) -> list[Reply]:
        """One branch per content, in batches, after a first one has written the shared prefix; waits for replies."""
        self.client.check()
        if (session.settings.params or {}).get("speed") == "fast":
            raise ConfigurationError('params["speed"]="fast" is not possible in a batch: use map()')
        group = uuid.uuid4().hex if key is None else _named(session.id, key)
        run = Run(self._manager, self.client, group, len(words))
        with self._looking_after(group):
            await run.prepare(session, words)
            await run.finish(poll)
        results = [await run.outcome(index) for index in range(run.of)]
        replies = [one for one in results if isinstance(one, Reply)]
        if len(replies) == len(results):
            return replies
        errors = [one for one in results if isinstance(one, ModelError)]
        text = f"{len(errors)} of {len(results)} requests of the batch have no reply; the first: {errors[0]}"
        raise BatchIncomplete(text, results=results, retryable=any(one.retryable for one in errors))

    @contextmanager
    def _looking_after(self, group: str) -> Iterator[None]:
        self.live.add(group)
        try:
            yield
        finally:
            self.live.discard(group)

    async def bring_in(self, session: Session, part: Part, *, wait: bool) -> Reply | None:
        """The reply of a branch that is in a batch, stored; `None` where the turn is to go on in real time.

        Waits for it, or raises `SessionBusy` where it is not there yet.
        """
        run = Run(self._manager, self.client, part.group, part.of, {part.index: session})
        whole = await run.load()
        if wait and whole:
            await run.finish(POLL, until=part.index)
        elif whole:
            await run.step()
        if part.index in run.pending:
            batch = run.pending[part.index].batch or "that is being made"
            text = f"the last words of this session are in the Message Batch {batch}: resume() waits for the reply"
            raise SessionBusy(text, holder="a Message Batch")
        outcome = run.outcomes.get(part.index)
        if isinstance(outcome, ModelError) and not outcome.retryable and wait:
            raise outcome
        return outcome if isinstance(outcome, Reply) and outcome.stop_reason not in _OPEN and wait else None

    async def look(self, part: Part) -> dict[str, Reply | ModelError]:
        """Goes on with a fan-out as far as it goes now, waiting for nobody; the outcomes that came of it, by branch."""
        if part.group in self.live or await self._is_being_processed(part):
            return {}
        run = Run(self._manager, self.client, part.group, part.of, patience=0.0)
        try:
            if await run.load():
                await run.step()
        except (LeaseTaken, SessionBusy):
            pass  # another worker is at it
        except ModelError as error:
            log.warning("a Message Batch could not be carried on, trying again: %s", error)
        return {branch_id(part.group, index): outcome for index, outcome in run.outcomes.items()}

    async def _is_being_processed(self, part: Part) -> bool:
        """Whether nothing can be done now, as one look at the first branch's batch, or at this one's, tells."""
        first, key = branch_id(part.group, 0), key_of(part.group, part.of)
        known = part if part.batch else Part.of_row(await self._manager._store.turn(first, key=key))
        if known is None or known.batch is None:
            return False
        batch = await self.client.look(known.batch)
        return batch is not None and batch.processing_status != "ended"


def _named(session: str, key: str) -> str:
    return blake2b(f"{session}\n{key}".encode(), digest_size=16).hexdigest()
