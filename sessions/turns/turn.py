"""One turn of a session: load, decide, act, commit. `send`, `stream`, `run` and `resume` all drive this loop."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import anyio

from sessions.conversation.conversation import History
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
from sessions.turns.writer import CANCELLED, Books
from storage import TurnRecord


class Turn:
    """Runs one turn of a conversation under its lease. `content`: the user's words; `None`: finish what is open."""

    def __init__(
        self,
        runtime: Runtime,
        history: History,
        content: list[dict[str, Any]] | None,
        options: Options,
    ) -> None:
        self._runtime, self.history = runtime, history
        self._options = options
        self._stop = Stop(is_offered=options.streams)
        self._books = Books(runtime, history)
        self._tools = ToolRound(self._books, runtime.store, runtime.clock, self._stop, options.in_doubt)
        self._asking = Asking(runtime, self._books, self._stop, streams=options.streams, branches=options.branches)
        self._beginning = Beginning(runtime, self._books, self._tools, content, options)

    # -- driving --

    async def drive(self) -> AsyncGenerator[Event | Step | Outcome | Part]:
        """Everything that happens, as it happens; the last value is the `Outcome` (none if there was nothing to do).

        It is a `Part` where the turn's request is in a Message Batch: whoever drives the turn brings its reply in.
        """
        patience = 0.0 if self._options.recovering else None
        async with self._runtime.leases.hold(self.history.record.id, patience) as self._books.hold:
            await self.history.refresh(self._books.hold.lease)
            if self._beginning.idle() >= PARK_AFTER:
                await self.history.recall()
            self.history.check_tools()
            part = Part.of_row(await self.history.open_turn())
            if part is not None:
                yield part
                return
            async with aclosing(self._under_lease()) as happening:
                async for one in happening:
                    yield one

    @property
    def has_words(self) -> bool:
        """Whether the turn has words of its own, or finishes what is open."""
        return self._beginning.has_words

    async def _under_lease(self) -> AsyncGenerator[Event | Step | Outcome]:
        if not await self._begin():
            if self._beginning.stored is not None:
                yield self._beginning.stored
            return
        books = self._books
        books.span = start_turn(self.history.record.id, self.history.settings.model, books.now())
        try:
            async with aclosing(self._loop()) as happening:
                async for one in happening:
                    yield one
        except BaseException as error:
            with anyio.CancelScope(shield=True):
                await self._broke(error)
            raise
        finally:
            books.end_spans()

    async def enlist(self, call: str) -> TurnRecord:
        """Stores the words of a turn whose request others send: `call` is what is known of it.

        A turn that waits already, or has its reply, stays as it is.
        """
        async with self._runtime.leases.hold(self.history.record.id) as self._books.hold:
            await self.history.refresh(self._books.hold.lease)
            found = await self._beginning.found()
            if found is not None and (found.call is not None or found.reply is not None or found.state == "finished"):
                return found
            if Part.of_row(await self.history.open_turn()) is not None:
                raise ConfigurationError("idempotency_key was used with other contents: choose a new key")
            await self._begin()
            if (last := self.history.last) is None or last.role == "assistant":
                return found or self._books.row  # the session has gone on in another way
            await self._asking.prepare()
            self._books.row = states.after(self._books.row, "asks", call=call)
            await self._books.commit(turn=self._books.row)
            return self._books.row

    async def _begin(self) -> bool:
        begins = await self._beginning.begin()
        self._asking.own_marks = self._beginning.own_marks
        return begins

    def stop(self) -> None:
        """The user pressed stop: what runs is interrupted at its next await and closed truthfully."""
        self._stop.press()

    async def _loop(self) -> AsyncGenerator[Event | Step | Outcome]:
        while True:
            step = next_step(self.history.entries, await self._tools.read(), by_caller=self.history.by_caller)
            if self._stop.pressed and not isinstance(step, Finished):
                yield await self._stop_here()
                return
            if isinstance(step, Finished):
                await self._finish(step.stop_reason)
                yield self._books.outcome()
                return
            if isinstance(step, RunTools):
                with inside(self._books.span):
                    await self._tools.run(step)
            elif isinstance(step, SubmitResults):
                self._books.stage("user", step.content)
                yield Step("tool_results", list(step.content), self.history.last)
            else:
                async with aclosing(self._asking.once()) as events:
                    async for one in events:
                        yield one
                        if isinstance(one, Outcome):
                            return

    # -- the end --

    async def _broke(self, error: BaseException) -> None:
        """The turn ends here: the ledger and the turn say how, in one commit; words and finished work are kept."""
        if not self.history.is_loaded or self._books.hold.released or self._books.row.state != "running":
            return  # a commit failed, or all is said: nothing may be written under this lease
        if isinstance(error, ModelError) and is_refused(error):
            await step_back(self._books, error)
            return
        if isinstance(error, ModelError):
            await advise(self._books, self._runtime.store, error)
        cancelled = not isinstance(error, Exception)
        recovering = self._options.recovering
        later = recovering and (cancelled or (isinstance(error, ModelError) and error.retryable))
        later |= cancelled and self._runtime.lifecycle.is_ending  # this worker was told to end, not the turn
        calls = self._books.failed_call(error)
        row = states.broken(self._books.row, named(error), self._books.now(), orphaned=later, recovering=recovering)
        self._books.row = row
        await self._books.commit(turn=row, calls=calls)
        if cancelled and not later:
            self._runtime.lifecycle.gave_up(self.history.record.id, row.id)

    async def _finish(self, reason: str | None) -> None:
        last = self.history.last
        if self._books.row.state == "running":
            reply = last.id if last is not None and last.role == "assistant" else self._books.row.reply
            self._books.row = states.ended(self._books.row, reason, self._books.now(), reply=reply)
            await self._books.commit(turn=self._books.row)

    async def _stop_here(self) -> Outcome:
        """The user pressed stop between two calls: finished tools keep their result, the rest is closed truthfully."""
        last = self.history.last
        if last is not None and last.role == "assistant" and tool_calls(last.content):
            content = close_open_calls(last, self._tools.journal, {})
            self._books.stage("user", content)
        await self._books.stopped()
        return self._books.outcome(CANCELLED)
