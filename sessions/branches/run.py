"""One fan-out in Message Batches, carried on from wherever it is.

What has been sent is always known from the store: a branch's words are stored before anything is sent, that it is
being sent before it is, and the batch's id as soon as there is one. Whoever finds a fan-out half-way goes on from
there, under the lease of its first branch; a batch that may have been made is looked for before another one is.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any, TypeAlias

import anyio
import anyio.lowlevel

from sessions.background import each, log
from sessions.branches.branch import BranchTurn, plan, store_words
from sessions.branches.conversations import Branches
from sessions.calls.request import Request
from sessions.conversation.conversation import Conversation
from sessions.conversation.leases import Hold
from sessions.errors import BudgetExceeded, ConfigurationError, ModelError, SessionBusy, without_words
from sessions.ledger import Call
from sessions.model.batch_api import BatchClient, in_batches, may_be_made
from sessions.runtime import Runtime
from sessions.turns import states
from sessions.turns.batched import Part, branch_id, key_of
from sessions.turns.outcome import Outcome
from storage import BudgetFull, LeaseTaken, Reservation, SessionMissing, TurnRecord

_FIRST_LOOK = 1.0
_AT_ONCE = 16
"""Branches written at the same time: their commits share a sync to the disk."""
_SKEW = 600.0
"""Seconds by which the API's clock may differ from ours when a batch is looked for."""
_ARRIVAL = 60.0
"""Seconds after which a batch that is not listed is taken never to have been made."""
_STUBBORN = 5
"""Looks in a row that may fail before waiting for a batch is given up."""
_ABANDONED = 600.0
"""Seconds after which branches whose first one is missing are taken for what a dead process left."""


Branched: TypeAlias = tuple[Conversation, Outcome] | ModelError
"""A branch with its reply, or why there is none."""


class FanOut:
    """One fan-out, as far as it is known here: `pending` are the parts without an outcome."""

    def __init__(
        self,
        runtime: Runtime,
        client: BatchClient,
        group: str,
        of: int,
        branches: dict[int, Conversation] | None = None,
        *,
        patience: float | None = None,
    ) -> None:
        self._runtime, self._client, self._store = runtime, client, runtime.store
        self.group, self.of, self._patience = group, of, patience
        self._key = key_of(group, of)
        self._branches = Branches(runtime, group, of, branches)
        self._rows: dict[int, TurnRecord] = {}
        self._lead = 0
        self.pending: dict[int, Part] = {}
        self.outcomes: dict[int, Outcome | ModelError] = {}

    # -- what is there --

    async def prepare(self, source: Conversation, words: Sequence[list[dict[str, Any]]]) -> None:
        """Makes the branches and stores their words.

        Branch 0 is written last: where it exists, all were written, so a missing one was deleted.
        """
        first = branch_id(self.group, 0)
        whole = await self._store.turn(first, key=self._key) is not None
        if not whole and await self._store.turns(first, limit=1):
            raise ConfigurationError("idempotency_key was used with another number of contents: choose a new key")
        base = await self._branches.base(source)

        async def write(index: int) -> None:
            if whole and not await self._branches.is_there(index):
                return
            branch = await self._branches.make(index, source, base)
            part = Part(self.group, index, self.of)
            self._know(index, await store_words(self._runtime, branch, words[index], self._key, part.stored))

        await self._each(range(1, self.of), write)
        await write(0)

    async def load(self) -> bool:
        """Reads how far each branch is; False where the fan-out was never made whole, and so never sent."""

        async def one(index: int) -> None:
            row = await self._store.turn(branch_id(self.group, index), key=self._key)
            if row is not None:
                self._know(index, row)

        await self._each(range(self.of), one)
        if 0 in self._rows or any(not part.waits for part in self.pending.values()):
            return True
        for index in list(self.pending):
            if self._rows[index].started < self._runtime.clock.now() - _ABANDONED:
                await self._give_up(index, "the fan-out was never sent: resume() asks")
        return False

    def _know(self, index: int, row: TurnRecord) -> None:
        self._rows[index] = row
        part = Part.of_row(row)
        if part is None:
            self.pending.pop(index, None)
        else:
            self.pending[index] = part

    async def _turn(self, index: int) -> BranchTurn:
        return BranchTurn(self._runtime, await self._branches.get(index), self._rows[index], self._patience)

    async def _each(self, indexes: Iterable[int], work: Callable[[int], Awaitable[None]]) -> None:
        """Does it for all of these. A branch that is gone is left out, and so is one that somebody else has, where
        nobody waits."""

        async def unless_taken(index: int) -> None:
            try:
                await work(index)
            except SessionMissing:
                self.pending.pop(index, None)
            except (LeaseTaken, SessionBusy):
                if self._patience is None:
                    raise

        await each(indexes, unless_taken, _AT_ONCE)

    # -- going on --

    async def finish(self, poll: float, *, until: int | None = None) -> None:
        """Goes on until every part has its outcome, or that one; looks at first often, then every `poll` seconds."""
        delay, failures = min(_FIRST_LOOK, poll), 0
        while not self._is_done(until):
            before = dict(self.pending)
            try:
                await self.step()
                failures = 0
            except ModelError as error:
                failures += 1
                if not error.retryable or failures == _STUBBORN:
                    raise
                log.warning("a Message Batch could not be asked for, trying again: %s", error)
            if self.pending != before:
                delay = min(_FIRST_LOOK, poll)
            elif not self._is_done(until):
                await self._runtime.clock.sleep(delay)
                delay = min(2 * delay, poll)

    def _is_done(self, until: int | None) -> bool:
        return not self.pending if until is None else until not in self.pending

    async def step(self) -> bool:
        """Does what can be done now: finds what was being sent, takes in what has ended, sends what waits.

        True once nothing is pending.
        """
        lost = [index for index, part in self.pending.items() if part.is_lost]
        if lost:
            await self._find(lost)
        for batch in sorted({part.batch for part in self.pending.values() if part.batch is not None}):
            await self._collect(batch)
        if self.pending and all(part.waits for part in self.pending.values()):
            await self._send()
        return not self.pending

    @asynccontextmanager
    async def _leading(self) -> AsyncIterator[Hold]:
        """The lease of the first branch: under it nobody else sends or looks for anything of this fan-out."""
        self._lead = min(self._rows)
        async with self._runtime.leases.hold(branch_id(self.group, self._lead), self._patience) as hold:
            # Again, under the lease: another process may have sent or found them meanwhile.
            await self.load()
            yield hold

    # -- sending --

    async def _send(self) -> None:
        """Sends what waits: the first one alone, if it writes what all share; later all the others."""
        async with self._leading() as lead:
            waiting = sorted(index for index, part in self.pending.items() if part.waits)
            if len(waiting) < len(self.pending) or not waiting:
                return  # another process was faster
            await self._learn_from_the_first(waiting)
            requests: dict[int, Request] = {}
            for index in waiting:
                requests[index] = plan(self._runtime, await self._branches.get(index), alone=self.of == 1)
                if index == 0 and len(waiting) > 1 and requests[0].plan.expected.cache_write:
                    break
                # A plan awaits nothing: many thousands in a row would hold up all that runs beside them.
                await anyio.lowlevel.checkpoint()
            for chunk in in_batches({index: request.body for index, request in requests.items()}):
                await self._send_chunk(chunk, {index: requests[index] for index in chunk}, lead)

    async def _learn_from_the_first(self, waiting: Sequence[int]) -> None:
        """What the first one wrote can be read by the others."""
        if 0 in waiting:
            return
        rows = await self._store.calls(branch_id(self.group, self._lead))
        for index in waiting:
            for row in rows:
                (await self._branches.get(index)).learn(Call.of(row))

    async def _send_chunk(self, chunk: Sequence[int], requests: dict[int, Request], lead: Hold) -> None:
        sending, asked = uuid.uuid4().hex, self._runtime.clock.now()

        refusals: list[BudgetExceeded] = []

        async def announce(index: int) -> None:
            request = requests[index]
            part = replace(self.pending[index], sending=sending, size=len(chunk), asked=asked)
            part = replace(part, head=request.asked_from, flight=request.facts)
            reserve = self._runtime.requests.reservation(request, await self._branches.get(index))
            try:
                await self._change(index, part, hold=lead, reserve=reserve)
            except BudgetFull as full:
                if reserve is not None and not full.is_held:
                    refusals.append(self._runtime.budgets.exceeded(full, reserve))

        await self._each(chunk, announce)
        ready = [index for index in chunk if index in self.pending and self.pending[index].sending == sending]
        if not ready:
            # What is under way may leave room for the others when it has ended: they wait for it.
            if refusals and all(part.waits for part in self.pending.values()):
                raise refusals[0]
            return
        try:
            batch = await self._client.make([(requests[index].id, requests[index].body) for index in ready])
        except ConfigurationError:
            await self._each(ready, lambda index: self._hold_back(index, lead))
            raise
        except ModelError as error:
            # One that may have been made stays announced: `_find` looks for it before another is sent.
            if not may_be_made(error):
                await self._refused(ready, error, lead)
            raise

        async def note(index: int) -> None:
            await self._change(index, replace(self.pending[index], batch=batch), hold=lead)

        await self._each(ready, note)

    async def _refused(self, chunk: Sequence[int], error: ModelError, lead: Hold) -> None:
        """The API made no batch: what it may take later waits again, the rest is left to its caller."""

        async def one(index: int) -> None:
            if error.retryable:
                await self._hold_back(index, lead)
            else:
                self.outcomes[index] = error
                await self._give_up(index, without_words(error), hold=lead)

        await self._each(chunk, one)

    async def _change(self, index: int, part: Part, *, hold: Hold, reserve: Reservation | None = None) -> None:
        """Writes another part into a branch's row."""
        await self._put(index, states.waiting(self._rows[index], part.stored), hold, reserve)

    async def _hold_back(self, index: int, hold: Hold) -> None:
        """Its request is known not to have arrived: it waits again, and the room that it had is free."""
        part = self.pending[index]
        await self._change(index, part.held_back(), hold=hold)
        await self._runtime.budgets.free(branch_id(self.group, index), part.custom_id or "")

    async def _give_up(self, index: int, why: str, *, hold: Hold | None = None) -> None:
        """A branch's request is not to be sent: its turn is left to whoever resumes it."""
        part = self.pending[index]
        await self._put(index, states.after(self._rows[index], "breaks", error=why), hold)
        await self._runtime.budgets.free(branch_id(self.group, index), part.custom_id or "")

    async def _put(self, index: int, row: TurnRecord, hold: Hold | None, reserve: Reservation | None = None) -> None:
        """Writes a branch's row; the first branch is held by whoever sends."""
        turn = BranchTurn(self._runtime, await self._branches.get(index), row, self._patience)
        self._know(index, await turn.put(self.pending[index], hold if index == self._lead else None, reserve))

    # -- finding --

    async def _find(self, lost: Sequence[int]) -> None:
        """Looks for batches that were being made when their process ended, or whose answer was lost."""
        async with self._leading() as lead:
            lost = [index for index in lost if index in self.pending and self.pending[index].is_lost]
            for sending in {self.pending[index].sending for index in lost}:
                ours = [index for index in lost if self.pending[index].sending == sending]
                batch = self._known_to_a_sibling(sending) or await self._listed(ours)
                if batch is None:
                    continue

                async def settle_one(index: int, batch: str = batch) -> None:
                    if batch:
                        await self._change(index, replace(self.pending[index], batch=batch), hold=lead)
                    else:
                        await self._hold_back(index, lead)

                await self._each(ours, settle_one)

    def _known_to_a_sibling(self, sending: str | None) -> str | None:
        return next((part.batch for part in self.pending.values() if part.sending == sending and part.batch), None)

    async def _listed(self, lost: Sequence[int]) -> str | None:
        """The id of the batch that holds these; "" if there is none, `None` while it cannot be told.

        A batch does not show its requests' names before it has ended, so one of that time, no larger, may be theirs.
        """
        part, now = self.pending[lost[0]], self._runtime.clock.now()
        names = {self.pending[index].custom_id for index in lost}
        known = {part.batch for part in self.pending.values()}
        undecided = False
        for batch in await self._client.since(part.asked - _SKEW):
            counts = batch.request_counts
            size = counts.processing + counts.succeeded + counts.errored + counts.canceled + counts.expired
            if size > part.size or batch.id in known:
                continue
            if batch.processing_status != "ended":
                undecided = True
                continue
            async with aclosing(self._client.results(batch.id)) as results:
                async for name, _ in results:
                    if name in names:
                        return str(batch.id)
        return None if undecided or now < part.asked + _ARRIVAL else ""

    # -- taking in --

    async def _collect(self, batch: str) -> None:
        """Takes in the results of a batch that has ended."""
        ended_batch = await self._client.look(batch)
        if ended_batch is not None and ended_batch.processing_status != "ended":
            return
        ended = ended_batch.ended_at.timestamp() if ended_batch is not None and ended_batch.ended_at else None
        mine = {part.custom_id: index for index, part in self.pending.items() if part.batch == batch}
        results: dict[int, dict[str, Any]] = {}
        if ended_batch is not None:
            async with aclosing(self._client.results(batch)) as given:
                async for name, result in given:
                    if name in mine:
                        results[mine.pop(name)] = result
                    if len(results) >= _AT_ONCE:
                        await self._store_results(results, ended)
                        results = {}
        await self._store_results(results, ended)

        async def lose(index: int) -> None:
            self.outcomes[index] = await (await self._turn(index)).settle()
            await self._reload(index)

        await self._each(mine.values(), lose)

    async def _store_results(self, results: dict[int, dict[str, Any]], ended: float | None) -> None:
        async def one(index: int) -> None:
            outcome = await (await self._turn(index)).store_result(results[index], ended)
            if outcome is not None:
                self.outcomes[index] = outcome
            await self._reload(index)

        await self._each(results, one)

    async def _reload(self, index: int) -> None:
        row = await self._store.turn(branch_id(self.group, index), key=self._key)
        if row is None:
            self.pending.pop(index, None)
        else:
            self._know(index, row)

    async def outcome(self, index: int) -> Branched:
        """A branch with its reply, or the error that says why there is none, also where another process took it in."""
        outcome, row = self.outcomes.get(index), self._rows.get(index)
        if outcome is None and row is not None:
            outcome = await (await self._turn(index)).stored()
        if isinstance(outcome, Outcome):
            return await self._branches.get(index), outcome
        why = row.error if row is not None and row.error else "its branch was deleted, or has gone on in another way"
        return outcome or ModelError(f"request {index} of the batch has no reply: {why}", retryable=False)
