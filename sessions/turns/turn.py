"""One turn of a session: load, decide, act, commit. `send`, `stream`, `run` and `resume` all drive this loop."""

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
from sessions.model.failures import is_refused
from sessions.runtime import Runtime
from sessions.telemetry import inside, start_turn
from sessions.turns import states
from sessions.turns.asking import Asking
from sessions.turns.batched import Part
from sessions.turns.beginning import Beginning, Options
from sessions.turns.outcome import Event, Outcome, Step
from sessions.turns.refused import advise, step_back
from sessions.turns.stopping import Stop
from sessions.turns.tool_round import ToolRound
from sessions.turns.writer import CANCELLED, TurnWriter
from storage import TurnRecord


class Turn:
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
        self._stop = Stop(is_offered=options.streams)
        self._writer = TurnWriter(runtime, conversation)
        self._tools = ToolRound(self._writer, runtime.store, runtime.clock, self._stop, options.in_doubt)
        self._asking = Asking(runtime, self._writer, self._stop, streams=options.streams, branches=options.branches)
        self._beginning = Beginning(runtime, self._writer, self._tools, content, options)

    # -- driving --

    async def drive(self) -> AsyncGenerator[Event | Step | Outcome | Part]:
        """Everything that happens, as it happens; the last value is the `Outcome` (none if there was nothing to do).

        It is a `Part` where the turn's request is in a Message Batch: whoever drives the turn brings its reply in.
        """
        patience = 0.0 if self._options.recovering else None
        async with self._runtime.leases.hold(self.conversation.record.id, patience) as self._writer.hold:
            await self.conversation.catch_up(self._writer.hold.lease)
            if self._beginning.idle() >= PARK_AFTER:
                await self.conversation.reload_calls()
            self.conversation.check_tools()
            part = Part.of_row(await self.conversation.open_turn())
            if part is not None:
                yield part
                return
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
        try:
            async with aclosing(self._loop()) as happening:
                async for happened in happening:
                    yield happened
        except BaseException as error:
            with anyio.CancelScope(shield=True):
                await self._broke(error)
            raise
        finally:
            writer.end_spans()

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
        self._asking.own_marks = self._beginning.own_marks
        return begins

    def stop(self) -> None:
        """The user pressed stop: what runs is interrupted at its next await and closed truthfully."""
        self._stop.press()

    async def _loop(self) -> AsyncGenerator[Event | Step | Outcome]:
        while True:
            step = next_step(self.conversation.entries, await self._tools.read(), by_caller=self.conversation.by_caller)
            if self._stop.pressed and not isinstance(step, Finished):
                yield await self._stop_here()
                return
            if isinstance(step, Finished):
                await self._finish(step.stop_reason)
                yield self._writer.outcome()
                return
            if isinstance(step, RunTools):
                with inside(self._writer.span):
                    await self._tools.run(step)
            elif isinstance(step, SubmitResults):
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

    async def _finish(self, reason: str | None) -> None:
        last = self.conversation.last
        if self._writer.row.state == "running":
            reply = last.id if last is not None and last.role == "assistant" else self._writer.row.reply
            self._writer.row = states.ended(self._writer.row, reason, self._writer.now(), reply=reply)
            await self._writer.commit(turn=self._writer.row)

    async def _stop_here(self) -> Outcome:
        """The user pressed stop between two calls: finished tools keep their result, the rest is closed truthfully."""
        last = self.conversation.last
        if last is not None and last.role == "assistant" and tool_calls(last.content):
            content = close_open_calls(last, self._tools.journal, {})
            self._writer.stage("user", content)
        await self._writer.stopped()
        return self._writer.outcome(CANCELLED)
