"""Asking the model within a turn: plan, send, listen, and store what comes of it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Collection
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import anyio

from sessions.books import CANCELLED, Books
from sessions.compaction import make_room, obstacle, room_before
from sessions.core.cache import Where
from sessions.core.incoming import Incoming
from sessions.core.plan import Plan, make_plan, render
from sessions.core.steps import Finished, next_step
from sessions.core.transcript import Malformed, is_empty_reply, tool_calls
from sessions.errors import ContextFull, ModelError, StepLimitReached
from sessions.flight import Flight
from sessions.gate import Passage
from sessions.history import Written
from sessions.model.failures import belongs_elsewhere
from sessions.replies import Call, Reply, Step
from sessions.stopping import Stop
from sessions.telemetry import inside, start_call


@dataclass(frozen=True, slots=True)
class Event:
    """One event of the SDK's stream."""

    event: Any


class Asking:
    """The model calls of one turn. `own_marks`: where the user's words carried `cache_control`.

    `streams`: somebody reads the events. `branches` as in `Options`.
    """

    def __init__(self, books: Books, stop: Stop, *, streams: bool, branches: bool) -> None:
        self._books, self._stop, self._streams, self._branches = books, stop, streams, branches
        self._history, self._manager = books.history, books.manager
        self._calls = 0
        self._compacts = True  # until an attempt fails: each may be paid for
        self.own_marks: tuple[Where, ...] = ()

    def _plan(self) -> Plan:
        history = self._history
        at = self._manager._tending.circumstances(history, self._books.now(), self.own_marks)
        return make_plan(history.prompt, history.warmth, at)

    def _take_off(self, passage: Passage) -> Flight:
        history, manager, plan = self._history, self._manager, passage.plan
        prompt = history.prompt
        body = render(prompt, plan.marks)
        if prompt.profile.diagnostics and manager.diagnostics:
            body["diagnostics"] = {"previous_message_id": self._previous_message()}
        head = history.last.id if history.last else None
        return Flight(self._books.new_id(), body, plan, self._books.now(), head, prompt.total, waited=passage.waited)

    def _previous_message(self) -> str | None:
        for entry in reversed(self._history.entries):
            if entry.role == "assistant":
                return entry.message_id if entry.model == self._history.settings.model else None
        return None

    async def once(self) -> AsyncGenerator[Event | Step | Reply]:
        if self._calls >= self._manager.max_steps:
            raise StepLimitReached(
                f"the turn has made {self._calls} model calls (max_steps); all results are stored: "
                "resume() or send() goes on"
            )
        self._calls += 1
        await self.prepare()
        passage = await self._stop.unless(self._go_first_or_wait)
        if passage is None:
            return  # stopped while it waited: the turn's loop closes it
        try:
            async with passage:
                flight, incoming = await self._write_down(passage)
                async with aclosing(self._listen(flight, incoming, passage)) as events:
                    async for event in events:
                        if self._streams:
                            yield Event(event)
        except ModelError as error:
            if not await self._asks_to_drop(error):
                raise
            return
        if self._stop.pressed and not incoming.ended:
            await self._keep_partial(incoming)
            yield self._books.reply(CANCELLED)
            return
        call, reply = await self._receive(incoming)
        if reply is not None:
            yield reply
            return
        entry = self._history.last
        assert entry is not None
        yield Step("reply", list(entry.content), entry, entry.stop_reason, call)

    async def _write_down(self, passage: Passage) -> tuple[Flight, Incoming]:
        """The request, stored as the call in flight before it is sent, and what its reply will be collected in."""
        flight = self._books.flight = self._take_off(passage)
        incoming = self._books.incoming = Incoming()
        self._books.row = replace(self._books.row, call=flight.stored)
        await self._books.commit(turn=self._books.row)
        flight.started = self._books.now()
        flight.span = start_call("turn", self._books.session.id, flight.body, flight.started, self._books.span)
        return flight, incoming

    async def prepare(self) -> None:
        """What holds before every request, whoever sends it: instructions stand behind the words, and the window fits.

        Where the session was created with compact="auto", a summary makes room, at most one attempt a turn that fails.
        """
        instructions = self._history.settings.instructions
        if instructions and (last := self._history.last) is not None and last.role != "assistant":
            self._books.stage_instructions(instructions)
            self._history.adopt(replace(self._history.settings, instructions=()))
            self._books.settings = self._history.settings.to_json()
        if self._history.settings.compact == "auto" and self._compacts:
            await self._stop.unless(self._make_room)

    async def _make_room(self) -> None:
        count = room_before(self._history)
        if count is None or obstacle(self._history.settings, self._history.prompt.profile) is not None:
            return
        self._compacts = await make_room(self._books, count)
        if self._compacts:
            self.own_marks = tuple(mark._replace(message=mark.message - count + 1) for mark in self.own_marks)

    async def _go_first_or_wait(self) -> Passage:
        """The way through the gate. Who has to wait there has its words stored before."""
        minimum = 1 if self._branches else self._history.prompt.profile.minimum_tokens
        self._branches = False  # what comes after the first answer is this branch's own
        return await self._manager._gate.enter(self._plan, minimum, lambda: self._books.commit(turn=self._books.row))

    async def _asks_to_drop(self, error: ModelError) -> bool:
        """The API says that thinking belongs to another conversation: from now on it is asked to drop such blocks.

        The decision is stored, so it is taken once (preserved-thinking page, September 2026). True: ask again.
        """
        history = self._history
        if history.settings.foreign or not belongs_elsewhere(error):
            return False
        self._calls -= 1  # the request that is healed is no step of the turn
        record = self._books.failed_call("error", error)
        settings = replace(history.settings, foreign=True)
        self._books.row = replace(self._books.row, call=None)
        await self._books.commit(turn=self._books.row, calls=record, settings=settings.to_json())
        history.use(settings)
        return True

    async def _listen(self, flight: Flight, incoming: Incoming, passage: Passage) -> AsyncGenerator[Any]:
        """The stream's events. A stop interrupts the wait for the next one; the first opens the gate for others."""
        async with self._keeping(incoming), AsyncExitStack() as stack:
            stack.enter_context(self._manager._air.flying(flight))
            stream = self._manager._client.stream(flight.body, incoming, typed=self._streams)

            async def begin() -> Any:
                with inside(flight.span):
                    return await stack.enter_async_context(stream)

            events = await self._stop.unless(begin)
            while events is not None and not self._stop.pressed:
                event = await self._stop.unless(lambda: anext(events, None))
                if event is None:
                    return
                if flight.first_event is None:
                    self._manager._air.begins(flight, self._books.now())
                if incoming.started and not passage.is_open:
                    self._history.warmth.learn(flight.plan.marks, flight.plan.hit, incoming.usage, flight.started)
                    await passage.opened()
                yield event

    async def _receive(self, incoming: Incoming) -> tuple[Call, Reply | None]:
        """Decides what a reply means and stores it; a `Reply` where it is not appended and ends the turn."""
        reason, content = incoming.stop_reason, _unique_ids(incoming.reply, self._history.tool_ids)
        if reason is None:
            raise ModelError("the answer ended early, without a stop reason; resume() asks again", retryable=True,
                             request_id=incoming.request_id)  # fmt: skip
        if (name := incoming.unfinished_call) is not None and reason != "refusal":
            raise ModelError(self._unfinished(name, reason), request_id=incoming.request_id)
        if reason == "refusal" or is_empty_reply(content):
            self._check_limit(incoming, reason)
            return await self._end_without(content, reason)
        return await self._append(incoming, content, reason), None

    def _check_limit(self, incoming: Incoming, reason: str) -> None:
        """Raises `ModelError` where a limit was reached before the answer had begun."""
        if reason == "max_tokens":
            raise ModelError(
                f"max_tokens ({self._history.settings.max_tokens}) was reached before the answer began: "
                "raise it with update(max_tokens=…), then resume()",
                request_id=incoming.request_id,
            )
        if reason == "model_context_window_exceeded":
            raise ContextFull(request_id=incoming.request_id)

    @asynccontextmanager
    async def _keeping(self, incoming: Incoming) -> AsyncIterator[None]:
        """A reply that has come whole is paid: it is stored also where its caller is cancelled just then."""
        try:
            yield
        except BaseException as error:
            if incoming.ended and not isinstance(error, Exception):
                with anyio.CancelScope(shield=True), suppress(ModelError):  # what cannot be stored is the ledger's
                    await self._receive(incoming)
            raise

    def _unfinished(self, name: str, reason: str) -> str:
        if reason == "max_tokens":
            limit = self._history.settings.max_tokens
            return (
                f"max_tokens ({limit}) was reached inside the call of tool {name!r}: "
                "raise it with update(max_tokens=…), then resume()"
            )
        return f"the model's call of tool {name!r} came without a readable input object; resume() asks again"

    async def _append(self, incoming: Incoming, content: list[dict[str, Any]], reason: str) -> Call:
        books = self._books
        written = self._made(incoming, content, reason, output_tokens=incoming.usage.output)
        record = books.record("ok", reply=written.entry.id)
        books.add(written)
        step = next_step(self._history.entries, {}, by_caller=books.session._by_caller)
        over: dict[str, Any] = {"state": "finished", "ended": books.now()} if isinstance(step, Finished) else {}
        books.row = replace(books.row, reply=record.entry, call=None, stop_reason=reason, **over)
        after = self._manager._tending.due(self._history, books.calls[-1])
        await books.commit(turn=books.row, calls=(record,), tend_after=after, release=bool(over))
        self._manager._tending.wake(after)
        return books.calls[-1]

    async def _end_without(self, content: list[dict[str, Any]], reason: str) -> tuple[Call, Reply]:
        """A refusal or an empty answer is never appended, and ends the turn where it stands.

        The words leave the chain (they stay readable) where the model declines them: in the first request.
        """
        books = self._books
        is_declined = reason == "refusal" and books.row.reply is None
        record = books.record("ok")
        books.row = replace(
            books.row, state="finished", ended=books.now(), call=None, stop_reason=reason, reply=None,
            result=self._history.head,
        )  # fmt: skip
        if is_declined:
            await books.withdraw((record,))
        else:
            await books.commit(turn=books.row, calls=(record,))
        return books.calls[-1], books.reply(reason, content)

    async def _keep_partial(self, incoming: Incoming) -> None:
        """The user pressed stop: finished blocks and the text so far are the reply; thinking alone is not kept."""
        content = incoming.partial()
        written = None if is_empty_reply(content) else self._made(incoming, content, CANCELLED)
        reply = written.entry.id if written is not None else None
        self._manager._client.cut_short(incoming, self._history.prompt.profile)
        record = self._books.record("cancelled", reply=reply, error="stopped by the user")
        if written is not None:
            self._books.add(written)
            self._books.row = replace(self._books.row, reply=reply)
        await self._books.end("cancelled", CANCELLED, (record,))

    def _made(self, incoming: Incoming, content: list[dict[str, Any]], reason: str, **facts: Any) -> Written:
        """The entry of a reply whose call is still under way. Raises `ModelError` for what is no JSON text."""
        assert self._books.flight is not None
        facts |= {
            "stop_reason": reason,
            "prompt_tokens": incoming.prompt_tokens or None,
            "model": self._history.settings.model,
            "message_id": incoming.message_id,
            "call": self._books.flight.id,
        }
        try:
            return self._books.made("assistant", content, **facts)
        except Malformed as error:  # half of a surrogate pair
            text = f"the answer cannot be stored ({error}); resume() asks again"
            raise ModelError(text, retryable=True, request_id=incoming.request_id) from error


def _unique_ids(content: list[dict[str, Any]], earlier: Collection[str]) -> list[dict[str, Any]]:
    """Some servers repeat tool ids, which the API refuses to take back: a repeated one gets a suffix."""
    if not tool_calls(content):
        return content
    seen: set[Any] = set()
    found = []
    for block in content:
        if block.get("type") == "tool_use":
            number = 1
            given = block.get("id")
            while block.get("id") in seen or block.get("id") in earlier:
                number += 1
                block = {**block, "id": f"{given}_{number}"}
            seen.add(block.get("id"))
        found.append(block)
    return found
