"""One turn of a session: load, decide, act, commit. All that asks the model drives this loop."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import anyio

from sessions.conversation.conversation import Conversation
from sessions.core.steps import Finished, RunTools, SubmitResults, close_open_calls, next_step
from sessions.core.transcript import tool_calls
from sessions.core.ttl import PARK_AFTER
from sessions.errors import ConfigurationError, ModelError, named
from sessions.following.events import ApprovalNeeded
from sessions.following.view import View
from sessions.model.failures import is_refused
from sessions.runtime import Runtime
from sessions.telemetry import inside, start_turn
from sessions.turns import states
from sessions.turns.asking import Asking
from sessions.turns.batched import Part
from sessions.turns.beginning import Beginning, Options
from sessions.turns.outcome import Event, Outcome, Step, ended
from sessions.turns.refused import advise, step_back
from sessions.turns.stopping import Stop
from sessions.turns.tool_round import ToolRound
from sessions.turns.writer import CANCELLED, TurnWriter
from storage import TurnRecord


class Loop:
    """Runs one turn of a conversation under its lease. `content`: the user's words; `None`: finish what is open."""

    def __init__(
        self,
        runtime: Runtime,
        conversation: Conversation,
        content: list[dict[str, Any]] | None,
        options: Options,
    ) -> None:
        self._runtime, self.conversation = runtime, conversation
        self._options = options
        self._stop = Stop()
        self.error: BaseException | None = None
        """Why it is being closed, where whoever drives it knows."""
        self._writer = TurnWriter(runtime, conversation, options.begun)
        self._tools = ToolRound(self._writer, runtime.store, runtime.clock, self._stop, options.in_doubt)
        self._asking = Asking(runtime, self._writer, self._stop, streams=options.streams, branches=options.branches)
        self._beginning = Beginning(runtime, self._writer, self._tools, content, options)

    # -- driving --

    async def drive(self) -> AsyncGenerator[Event | Step | Outcome | Part]:
        """Everything that happens, as it happens; the last value is the `Outcome` (none if there was nothing to do).

        It is a `Part` where the turn's request is in a Message Batch: whoever drives the turn brings its reply in.
        """
        options = self._options
        patience = 0.0 if options.recovering and options.patience is None else options.patience
        async with self._runtime.leases.hold(self.conversation.record.id, patience) as self._writer.hold:
            await self.conversation.catch_up(self._writer.hold.lease)
            # Idle conversations are looked after no sooner than that: most turns save this read.
            if self._beginning.idle() >= PARK_AFTER:
                await self.conversation.reload_calls()
            # Under the lease, on the newest settings: another process may have bound other tools.
            if not self._stop.pressed:  # else none of them runs
                self.conversation.check_tools()
            part = Part.of_row(await self.conversation.open_turn())
            if part is not None:
                yield part
                return
            # Closed here, in this task and under the lease: left to itself it would end at any time, or after it.
            async with aclosing(self._under_lease()) as happening:
                async for happened in happening:
                    yield happened

    @property
    def has_words(self) -> bool:
        """Whether the turn has words of its own, or finishes what is open."""
        return self._beginning.has_words

    async def _under_lease(self) -> AsyncGenerator[Event | Step | Outcome]:
        if not await self._begin():
            if self._beginning.stored is not None:
                yield self._beginning.stored
            return
        writer = self._writer
        writer.span = start_turn(self.conversation.record.id, self.conversation.settings.model, writer.now())
        self._begin_telling()
        try:
            async with aclosing(self._loop()) as happening:
                async for happened in happening:
                    yield happened
        except BaseException as error:
            writer.channel.error = self.error or error
            with anyio.CancelScope(shield=True):
                # How it ended is written also where its caller is cancelled: else it would look like a dead worker's.
                await self._broke(error)
            raise
        finally:
            writer.end_spans()
            self._end_telling()

    # -- who reads along --

    def _begin_telling(self) -> None:
        """From now on the turn can be stopped by others than the one who drives it, and followed once it is durable."""
        writer, hold = self._writer, self._writer.hold
        self.conversation.pending = ()
        channel = writer.channel = self._runtime.following.channel(self.conversation.record.id, writer.row.id)
        channel.open(writer.row, self.stop)
        writer.view = self._view
        # Heard from here on, and then looked at once: a wish may have come with the lease, before the row was known.
        hold.asked_to_stop = self._asked_to_stop
        self._asked_to_stop(hold.lease.stop)

    def _asked_to_stop(self, turn: str | None) -> None:
        """Somebody, in whatever process, has asked that this turn (or an earlier one) be stopped."""
        if turn == self._writer.row.id and not self._stop.pressed:
            self.stop()

    def _end_telling(self) -> None:
        writer = self._writer
        if writer.channel.is_followed and writer.row.state != "running":  # else it is left to recovery
            writer.channel.end(ended(writer.row, writer.calls))
        self._runtime.following.gone(writer.channel)

    def _view(self) -> View:
        """What there is of the turn now: stored entries, the reply under way, calls whose results are in no entry."""
        writer, conversation = self._writer, self.conversation
        # Up to the head: what is staged is not durable, and may still be dropped.
        last = conversation.position(conversation.head)
        asking = writer.request.incoming if writer.request is not None and writer.is_asking else None
        return View(
            state=writer.row.state,
            entries=conversation.entries[self._first() : last],
            reply=asking if asking is not None and asking.started else None,
            tools=self._tools.so_far(),
        ).copy()

    def _first(self) -> int:
        """The place of the turn's first entry: behind all where its words have left the chain."""
        conversation, row = self.conversation, self._writer.row
        if row.entry is None:
            return max(conversation.position(row.base), 0)
        place = conversation.position(row.entry)
        return place - 1 if place > 0 else len(conversation.entries)

    async def store_words(self, call: str) -> TurnRecord:
        """Stores the words of a turn whose request others send: `call` is what is known of it.

        A turn that waits already, or has its reply, stays as it is.
        """
        async with self._runtime.leases.hold(self.conversation.record.id) as self._writer.hold:
            await self.conversation.catch_up(self._writer.hold.lease)
            keyed = await self._beginning.found()
            if keyed is not None and (keyed.call is not None or keyed.reply is not None or keyed.state == "finished"):
                return keyed
            if Part.of_row(await self.conversation.open_turn()) is not None:
                raise ConfigurationError("idempotency_key was used with other contents: choose a new key")
            await self._begin()
            if (last := self.conversation.last) is None or last.role == "assistant":
                return keyed or self._writer.row  # the session has gone on in another way
            await self._asking.prepare()
            self._writer.row = states.after(self._writer.row, "asks", call=call)
            await self._writer.commit(turn=self._writer.row)
            return self._writer.row

    async def _begin(self) -> bool:
        begins = await self._beginning.begin()
        self._asking.own_marks, self._asking.max_cost = self._beginning.own_marks, self._beginning.max_cost
        return begins

    def stop(self) -> None:
        """The user pressed stop: what runs is interrupted at its next await and closed truthfully."""
        self._stop.press()

    async def _loop(self) -> AsyncGenerator[Event | Step | Outcome]:
        while True:
            journal = await self._tools.read()
            by_caller, held = self.conversation.by_caller, self._tools.held
            step = next_step(self.conversation.entries, journal, by_caller=by_caller, held=held)
            # A turn at its end is not stopped any more; one that would begin to wait for approvals is.
            if self._stop.pressed and (held or not isinstance(step, Finished)):
                yield await self._stop_here()
                return
            if isinstance(step, Finished):
                await self._finish(step)
                self.conversation.pending = self._tools.pending(step.waiting_for)
                yield self._writer.outcome(pending=self.conversation.pending)
                return
            if isinstance(step, RunTools):
                with inside(self._writer.span):
                    await self._tools.run(step)
            elif isinstance(step, SubmitResults):
                for result in self._tools.results() if self._options.streams else ():
                    yield Event(result)
                # Written with the next request's row (`Asking`), before that is sent: one commit for both.
                self._writer.stage("user", step.content)
                yield Step("tool_results", list(step.content), self.conversation.last)
            else:
                async with aclosing(self._asking.once()) as events:
                    async for happened in events:
                        yield happened
                        if isinstance(happened, Outcome):
                            return

    # -- the end --

    async def _broke(self, error: BaseException) -> None:
        """The turn ends here: the ledger and the turn say how, in one commit; words and finished work are kept."""
        if not self.conversation.is_loaded or self._writer.hold.released or self._writer.row.state != "running":
            return  # a commit failed, or all is said: nothing may be written under this lease
        if isinstance(error, ModelError) and is_refused(error):
            await step_back(self._writer, error)
            return
        if isinstance(error, ModelError):
            await advise(self._writer, self._runtime.store, error)
        cancelled = not isinstance(error, Exception)
        recovering = self._options.recovering
        later = recovering and (cancelled or (isinstance(error, ModelError) and error.retryable))
        later |= cancelled and self._runtime.lifecycle.is_ending  # this worker was told to end, not the turn
        calls = self._writer.failed_call(error)
        row = states.broken(self._writer.row, named(error), self._writer.now(), orphaned=later, recovering=recovering)
        self._writer.row = row
        await self._writer.commit(turn=row, calls=calls)
        if cancelled and not later:
            self._runtime.lifecycle.gave_up(self.conversation.record.id, row.id)

    async def _finish(self, step: Finished) -> None:
        last, row = self.conversation.last, self._writer.row
        # The commit of its last reply has ended it.
        if row.state != "running":
            return
        if self._tools.held:
            row = states.waits(row, self._tools.held_text(), self._writer.now())
        else:
            reply = last.id if last is not None and last.role == "assistant" else row.reply
            row = states.ended(row, step.stop_reason, self._writer.now(), reply=reply)
        self._writer.row = row
        await self._writer.commit(turn=row)
        if self._tools.held:
            calls = [call for call in self._tools.pending(step.waiting_for) if not call.by_caller]
            # After the commit: who hears of it may decide at once, in any process.
            self._writer.channel.publish(ApprovalNeeded(calls=tuple(calls)))

    async def _stop_here(self) -> Outcome:
        """The user pressed stop between two calls: finished tools keep their result, the rest is closed truthfully."""
        last = self.conversation.last
        if last is not None and last.role == "assistant" and tool_calls(last.content):
            content = close_open_calls(last, self._tools.journal, {})
            self._writer.stage("user", content)
        await self._writer.stopped()
        return self._writer.outcome(CANCELLED)
