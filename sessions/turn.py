"""One turn of a session: load, decide, act, commit. `send`, `stream`, `run` and `resume` all drive this loop."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, replace
from decimal import Decimal
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import anyio

from sessions import compaction
from sessions.client import status_of
from sessions.core.cache import Where
from sessions.core.incoming import Incoming
from sessions.core.plan import Circumstances, make_plan, render
from sessions.core.prices import cost, prices_for
from sessions.core.steps import (
    INTERRUPTED,
    NOT_RUN_IN_BRANCH,
    Finished,
    RunTools,
    SubmitResults,
    ToolCall,
    ToolRecord,
    calls_of,
    close_open_calls,
    next_step,
    result_block,
)
from sessions.core.transcript import Entry, encode, is_empty_reply, lift_marks, tool_calls
from sessions.core.ttl import expect
from sessions.errors import ConfigurationError, InDoubtToolCalls, ModelError, StepLimitReached
from sessions.flight import Flight
from sessions.history import Written, make_entry
from sessions.leases import Hold
from sessions.replies import Call, Reply, Step, message_of
from storage import CallRecord, Change, ToolCallRecord, TurnRecord

if TYPE_CHECKING:
    from sessions.session import Session

T = TypeVar("T")
InDoubt = Literal["report", "rerun", "raise"]
_MISSING = "usage is what was expected: the process ended before the reply was stored"
_ANOTHER_CONVERSATION = "bound to a different conversation"
CANCELLED = "cancelled"
"""The stop reason of a reply that the user stopped."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event of the SDK's stream."""

    event: Any


@dataclass(frozen=True, slots=True)
class Options:
    """How a turn was asked for. `expected_gap`: seconds until the user returns."""

    expected_gap: float | None = None
    key: str | None = None
    in_doubt: InDoubt = "report"


class Turn:
    """Runs one turn of a session under its lease. `content`: the user's words, or `None` to finish what is open."""

    def __init__(self, session: Session, content: list[dict[str, Any]] | None, options: Options) -> None:
        self._session = session
        self._manager = session._manager
        self._history = session._history
        self._content: list[dict[str, Any]] | None = None
        self._marked: tuple[int, ...] = ()
        if content is not None:
            self._content, self._marked = lift_marks(content)
        self._options = options
        self._hold: Hold
        self._row: TurnRecord
        self._stored: Reply | None = None
        self._calls: list[Call] = []
        self._made = 0
        self._flight: Flight | None = None
        self._incoming: Incoming | None = None
        self._pending: list[Written] = []
        self._unsaved: list[ToolCallRecord] = []
        self._journal: dict[int, ToolRecord] = {}
        self._journal_entry: str | None = None
        self._own_marks: tuple[Where, ...] = ()
        self._scope: anyio.CancelScope | None = None
        self._stopped = False

    # -- driving --

    async def drive(self) -> AsyncGenerator[Event | Step | Reply]:
        """Everything that happens, as it happens; the last value is the `Reply` (none if there was nothing to do)."""
        async with self._manager._leases.hold(self._session.id) as self._hold:
            await self._history.refresh()
            self._session._check_tools()
            if not await self._begin():
                if self._stored is not None:
                    yield self._stored
                return
            try:
                async with aclosing(self._loop()) as happening:
                    async for one in happening:
                        yield one
            except BaseException as error:
                with anyio.CancelScope(shield=True):
                    await self._broke(error)
                raise

    def stop(self) -> None:
        """The user pressed stop: what runs is interrupted at its next await and closed truthfully."""
        self._stopped = True
        if self._scope is not None:
            self._scope.cancel()

    async def _loop(self) -> AsyncGenerator[Event | Step | Reply]:
        while True:
            step = next_step(self._history.entries, await self._read_journal(), by_caller=self._session._by_caller)
            if self._stopped and not isinstance(step, Finished):
                yield await self._stop_here()
                return
            if isinstance(step, Finished):
                await self._finish(step.stop_reason)
                yield self._reply()
                return
            if isinstance(step, RunTools):
                await self._run_tools(step)
            elif isinstance(step, SubmitResults):
                self._stage(make_entry(self._history.last, "user", step.content, self._now()))
                yield Step("tool_results", list(step.content), self._history.last)
            else:
                async with aclosing(self._call()) as events:
                    async for one in events:
                        yield one
                        if isinstance(one, Reply):
                            return

    def _now(self) -> float:
        return self._manager.clock.now()

    # -- the beginning --

    async def _begin(self) -> bool:
        """Finds or makes the turn's row and stages the words. False: nothing is left to do, or the reply is stored."""
        digest = _digest(self._content) if self._content is not None else None
        found = await self._found(digest)
        if found is not None and (stored := await self._stored_reply(found)) is not None:
            self._stored = stored
            return False
        open_turn = await self._manager._store.open_turn(self._session.id)
        if open_turn is not None and (open_turn.call is not None or open_turn.state == "running"):
            open_turn = await self._settle(open_turn)
            found = open_turn if found is not None and found.id == open_turn.id else found
        journal = await self._read_journal()
        if self._content is None and (self._is_finished(journal) or await self._was_stopped()):
            if open_turn is not None:
                await self._close_row(open_turn)
            return False
        known = open_turn if self._content is None else found
        continued = known is not None and known.entry is not None and self._history.position(known.entry) > 0
        self._row = self._new_row(known if continued or self._content is not None else None, digest)
        if continued:
            rows = await self._manager._store.calls(self._session.id)
            self._calls = [Call.of(row) for row in rows if row.turn == self._row.id]
        if self._content is not None and not continued:
            await self._make_room(self._content)
            self._stage_words(self._content)
        return True

    async def _make_room(self, words: list[dict[str, Any]]) -> None:
        """Compacts before the window is exceeded, where the session was created with compact="auto"."""
        history = self._history
        if history.settings.compact != "auto" or not compaction.is_due(history, words):
            return
        if compaction.obstacle(history) is None:
            await compaction.compact(self._manager, history, self._hold.lease)

    async def _found(self, digest: str | None) -> TurnRecord | None:
        """The turn that was sent with this idempotency key."""
        if not self._options.key:
            return None
        found = await self._manager._store.turn(self._session.id, key=self._options.key)
        if found is not None and found.digest != digest:
            raise ConfigurationError(
                f"idempotency_key {self._options.key!r} was used with other content: choose a new key"
            )
        return found

    async def _was_stopped(self) -> bool:
        """Whether the chain ends where the user stopped the last turn: that turn is over."""
        newest = await self._manager._store.turns(self._session.id, limit=1)
        return bool(newest) and newest[0].state == "cancelled" and newest[0].result == self._history.head

    def _is_finished(self, journal: dict[int, ToolRecord]) -> bool:
        step = next_step(self._history.entries, journal, by_caller=self._session._by_caller)
        return isinstance(step, Finished)

    async def _close_row(self, row: TurnRecord) -> None:
        await self._commit(turn=replace(row, state="finished", ended=self._now(), call=None))

    def _new_row(self, known: TurnRecord | None, digest: str | None) -> TurnRecord:
        token = self._hold.lease.token
        if known is not None:
            return replace(known, state="running", ended=None, error=None, call=None, token=token)
        return TurnRecord(
            uuid.uuid4().hex,
            self._session.id,
            self._history.record.totals.turns + 1,
            "running",
            self._options.key,
            digest,
            started=self._now(),
            base=self._ground(),
            token=token,
        )

    def _ground(self) -> str | None:
        """Where the head goes back to if the turn fails for its content: before all words without an answer."""
        return next((entry.id for entry in reversed(self._history.entries) if entry.role == "assistant"), None)

    def _stage_words(self, words: list[dict[str, Any]]) -> None:
        """The user's words behind the chain, with what they leave open closed before them."""
        history = self._history
        while (last := history.last) is not None and last.stop_reason == "pause_turn":
            history.drop_last()  # the paused reply leaves the chain with the commit of the words
        waiting: list[str] = []
        while (last := history.last) is not None and last.role == "system":
            waiting[:0] = [str(block.get("text")) for block in last.content]  # they go behind the newest words again
            history.drop_last()
        ground = self._ground()
        content = self._closed(last, words) if last is not None and last.role == "assistant" else words
        if last is None and history.settings.context:
            content = [*history.settings.context, *content]
        written = make_entry(last, "user", content, self._now())
        marked = [words[index] for index in self._marked]
        self._own_marks = tuple(
            Where("messages", len(history.entries), index)
            for index, block in enumerate(content)
            if any(block is one for one in marked)
        )
        self._stage(written)
        self._row = replace(self._row, base=ground, entry=written.entry.id)
        self._stage_instructions(waiting)

    def _stage_instructions(self, texts: Sequence[str]) -> None:
        """The operator's instructions as a message of their own behind the newest user message."""
        if texts:
            content = [{"type": "text", "text": text} for text in texts]
            self._stage(make_entry(self._history.last, "system", content, self._now()))

    def _closed(self, last: Entry, words: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The words behind results for every open call; results that answer no call are refused."""
        ids = [str(block["id"]) for block in tool_calls(last.content)]
        results = {str(one["tool_use_id"]): one for one in words if one["type"] == "tool_result"}
        if unknown := sorted(set(results) - set(ids)):
            raise ConfigurationError(f"tool_result {unknown[0]} answers no open tool call of this session")
        closed = close_open_calls(last, self._journal, results, in_branch=self._history.record.base == last.id)
        return [*closed, *(one for one in words if one["type"] != "tool_result")]

    async def _settle(self, row: TurnRecord) -> TurnRecord:
        """The turn's process ended; a call in flight becomes a row of the ledger with what it should have cost."""
        settled = replace(row, state="interrupted", call=None)
        if row.call is None:
            await self._commit(turn=settled)
            return settled
        record = _expected_record(json.loads(row.call), row)
        await self._commit(turn=settled, calls=(replace(record, cost=self._price(Call.of(record).usage)),))
        return settled

    async def _stored_reply(self, row: TurnRecord) -> Reply | None:
        """The reply of a turn that has finished, without a call; `None` while there is something left to do."""
        if row.state not in ("finished", "cancelled"):
            return None
        calls = [Call.of(one) for one in await self._manager._store.calls(self._session.id) if one.turn == row.id]
        content: list[dict[str, Any]] = []
        if row.reply is not None and (entry := await self._manager._store.entry(self._session.id, row.reply)):
            content = json.loads(entry.content)
        last = calls[-1] if calls else None
        raw = {"id": last.response_id if last else None, "model": last.model if last else None}
        message = message_of(raw | {"usage": _api_usage(last)}, content, row.stop_reason)
        return Reply(content, row.stop_reason, message, tuple(calls), self._session)

    # -- committing --

    def _stage(self, written: Written) -> None:
        self._history.stage([written])
        self._pending.append(written)

    async def _commit(
        self,
        *,
        turn: TurnRecord | None = None,
        calls: Sequence[CallRecord] = (),
        head: str | None = None,
        back: bool = False,
        settings: str | None = None,
    ) -> None:
        """Writes all that is pending in one transaction. `back`: the head goes to `head`, without pending entries."""
        pending, unsaved = tuple(self._pending), tuple(self._unsaved)
        if back and (texts := self._instructions_behind(head)):
            waiting = replace(self._history.settings, instructions=(*texts, *self._history.settings.instructions))
            self._history.adopt(waiting)
            settings = waiting.to_json()
        entries = () if back else tuple(one.record for one in pending)
        new_head = head if back else entries[-1].id if entries else self._history.head
        change = Change(
            expected_head=self._history.head,
            head=new_head,
            entries=entries,
            calls=tuple(calls),
            tool_calls=unsaved,
            turn=turn,
            settings=settings,
            updated_at=self._now(),
        )
        try:
            await self._manager._store.commit(self._hold.lease, change)
        except BaseException as error:
            if not _was_done(error):
                self._history.discard()
                raise
            self._written(new_head, pending, unsaved)
            raise
        self._written(new_head, pending, unsaved)

    def _instructions_behind(self, head: str | None) -> tuple[str, ...]:
        """Instructions that leave the chain with the words of a failed turn: they wait for the next one."""
        leaving = self._history.entries[self._history.position(head) :]
        return tuple(str(block.get("text")) for entry in leaving if entry.role == "system" for block in entry.content)

    def _written(self, head: str | None, pending: Sequence[Written], unsaved: Sequence[ToolCallRecord]) -> None:
        self._pending = [one for one in self._pending if not any(one is other for other in pending)]
        self._unsaved = [one for one in self._unsaved if not any(one is other for other in unsaved)]
        if head != self._history.head or self._history.has_staged:
            self._history.committed(head)

    async def _broke(self, error: BaseException) -> None:
        """The turn ends here: the ledger and the turn say how, in one commit; words and finished work are kept."""
        if not self._history.is_loaded:
            return  # a commit failed: nothing may be written under this lease
        cancelled = not isinstance(error, Exception)
        state: Any = "interrupted"
        calls: tuple[CallRecord, ...] = ()
        refused = isinstance(error, ModelError) and self._is_refused(error)
        if self._flight is not None:
            calls = (self._record("cancelled" if cancelled else "error", error=str(error) or type(error).__name__),)
            self._learn(calls[0])
        row = replace(self._row, state="failed" if refused else state, ended=self._now(), call=None, error=_text(error))
        await self._commit(turn=row, calls=calls, head=self._row.base, back=refused)
        self._flight = None

    @staticmethod
    def _is_refused(error: ModelError) -> bool:
        """The API refused the request itself, and this turn's content can be the cause."""
        if status_of(error) not in (400, 413):
            return False
        text = str(error).lower()
        return not any(word in text for word in ("credit balance", "billing", "workspace"))

    # -- calling the model --

    def _take_off(self) -> Flight:
        history, manager = self._history, self._manager
        now = self._now()
        prompt = history.prompt
        history.warmth.forget(now)
        tools = bool(history.settings.tools)
        at = Circumstances(
            now,
            manager.ttl,
            expect(self._options.expected_gap, tools=tools),
            prices_for(prompt.profile, prompt.total),
            self._options.expected_gap is not None,
            self._own_marks,
        )
        plan = make_plan(prompt, history.warmth, at)
        body = render(prompt, plan.marks)
        if prompt.profile.diagnostics and manager.diagnostics:
            body["diagnostics"] = {"previous_message_id": self._previous_message()}
        head = history.last.id if history.last else None
        return Flight(uuid.uuid4().hex, body, plan, now, head, prompt.total)

    def _previous_message(self) -> str | None:
        for entry in reversed(self._history.entries):
            if entry.role == "assistant":
                return entry.message_id if entry.model == self._history.settings.model else None
        return None

    async def _call(self) -> AsyncGenerator[Event | Step | Reply]:
        if self._made >= self._manager.max_steps:
            raise StepLimitReached(
                f"the turn has made {self._made} model calls (max_steps); all results are stored: "
                "resume() or send() goes on"
            )
        self._made += 1
        instructions = self._history.settings.instructions
        if instructions and (last := self._history.last) is not None and last.role != "assistant":
            self._stage_instructions(instructions)
            self._history.adopt(replace(self._history.settings, instructions=()))
        flight = self._flight = self._take_off()
        self._row = replace(self._row, call=flight.stored)
        settings = self._history.settings.to_json() if instructions else None
        await self._commit(turn=self._row, settings=settings)
        incoming = self._incoming = Incoming()
        flight.started = self._now()
        try:
            async with aclosing(self._listen(flight, incoming)) as events:
                async for event in events:
                    yield Event(event)
        except ModelError as error:
            if not await self._asks_to_drop(error):
                raise
            return
        if self._stopped and not incoming.ended:
            await self._keep_partial(incoming)
            yield self._reply(CANCELLED)
            return
        call, reply = await self._receive(incoming)
        if reply is not None:
            yield reply
            return
        entry = self._history.last
        assert entry is not None
        yield Step("reply", list(entry.content), entry, entry.stop_reason, call)

    async def _asks_to_drop(self, error: ModelError) -> bool:
        """The API says that thinking belongs to another conversation: from now on it is asked to drop such blocks.

        The decision is stored, so it is taken once (preserved-thinking page, September 2026). True: ask again.
        """
        history = self._history
        drops = history.prompt.profile.drops_bound_thinking and not history.settings.foreign
        if not drops or status_of(error) != 400 or _ANOTHER_CONVERSATION not in str(error):
            return False
        record = self._record("error", error=str(error))
        self._learn(record)
        self._flight = None
        settings = replace(history.settings, foreign=True)
        self._row = replace(self._row, call=None)
        await self._commit(turn=self._row, calls=(record,), settings=settings.to_json())
        history.use(settings)
        return True

    async def _listen(self, flight: Flight, incoming: Incoming) -> AsyncGenerator[Any]:
        """The stream's events. A stop interrupts the wait for the next one."""
        async with AsyncExitStack() as stack:
            stream = self._manager._client.stream(flight.body, incoming)
            events = await self._unless_stopped(lambda: stack.enter_async_context(stream))
            while events is not None and not self._stopped:
                event = await self._unless_stopped(lambda: anext(events, None))
                if event is None:
                    return
                if flight.first_event is None:
                    flight.first_event = self._now()
                yield event

    async def _unless_stopped(self, work: Callable[[], Awaitable[T]]) -> T | None:
        """The result, or `None` when the user pressed stop while it was waited for."""
        result: T | None = None
        if not self._stopped:
            with anyio.CancelScope() as self._scope:
                result = await work()
            self._scope = None
        return result

    async def _receive(self, incoming: Incoming) -> tuple[Call, Reply | None]:
        """Decides what a reply means and stores it; a `Reply` where it is not appended and ends the turn."""
        reason, content = incoming.stop_reason, _unique_ids(incoming.reply)
        if reason is None:
            raise ModelError("the answer ended early, without a stop reason; resume() asks again", retryable=True,
                             request_id=incoming.request_id)  # fmt: skip
        if (name := incoming.unfinished_call) is not None and reason != "refusal":
            raise ModelError(self._unfinished(name, reason), request_id=incoming.request_id)
        if reason == "refusal" or is_empty_reply(content):
            return await self._refused(incoming, content, reason)
        return await self._append(incoming, content, reason), None

    def _unfinished(self, name: str, reason: str) -> str:
        if reason == "max_tokens":
            limit = self._history.settings.max_tokens
            return (
                f"max_tokens ({limit}) was reached inside the call of tool {name!r}: "
                "raise it with update(max_tokens=…), then resume()"
            )
        return f"the model's call of tool {name!r} came without a readable input object; resume() asks again"

    async def _append(self, incoming: Incoming, content: list[dict[str, Any]], reason: str) -> Call:
        record = self._record("ok")
        usage = incoming.usage
        written = make_entry(
            self._history.last,
            "assistant",
            content,
            self._now(),
            stop_reason=reason,
            prompt_tokens=incoming.prompt_tokens or None,
            output_tokens=usage.output,
            model=self._history.settings.model,
            message_id=incoming.message_id,
            call=record.id,
        )
        record = replace(record, entry=written.entry.id)
        self._learn(record)
        self._stage(written)
        self._flight = None
        self._row = replace(self._row, reply=written.entry.id, call=None, stop_reason=reason)
        if isinstance(next_step(self._history.entries, {}, by_caller=self._session._by_caller), Finished):
            self._row = replace(self._row, state="finished", ended=self._now())
        await self._commit(turn=self._row, calls=(record,))
        return self._calls[-1]

    async def _refused(self, incoming: Incoming, content: list[dict[str, Any]], reason: str) -> tuple[Call, Reply]:
        """A refusal or an empty answer is never appended, and the turn's words leave the chain (they stay readable)."""
        record = self._record("ok")
        self._learn(record)
        self._flight = None
        self._row = replace(self._row, state="finished", ended=self._now(), call=None, stop_reason=reason, reply=None)
        await self._commit(turn=self._row, calls=(record,), head=self._row.base, back=True)
        return self._calls[-1], self._reply(reason, content)

    async def _keep_partial(self, incoming: Incoming) -> None:
        """The user pressed stop: finished blocks and the text so far are the reply; thinking alone is not kept."""
        record = self._record("cancelled", error="stopped by the user")
        content = incoming.partial()
        if not is_empty_reply(content):
            written = make_entry(
                self._history.last,
                "assistant",
                content,
                self._now(),
                stop_reason=CANCELLED,
                prompt_tokens=incoming.prompt_tokens or None,
                model=self._history.settings.model,
                message_id=incoming.message_id,
                call=record.id,
            )
            record = replace(record, entry=written.entry.id)
            self._stage(written)
            self._row = replace(self._row, reply=written.entry.id)
        self._learn(record)
        self._flight = None
        await self._end("cancelled", CANCELLED, (record,))

    async def _end(self, state: Any, reason: str | None, calls: Sequence[CallRecord] = ()) -> None:
        last = self._history.last
        self._row = replace(self._row, state=state, ended=self._now(), call=None, stop_reason=reason)
        if state == "cancelled":
            self._row = replace(self._row, result=last.id if last else None)
        await self._commit(turn=self._row, calls=calls)

    async def _finish(self, reason: str | None) -> None:
        last = self._history.last
        if self._row.state == "running":
            if last is not None and last.role == "assistant":
                self._row = replace(self._row, reply=last.id)
            await self._end("finished", reason)

    # -- the ledger --

    def _price(self, usage: Any) -> Decimal | None:
        settings = self._history.settings
        return cost(usage, self._history.prompt.profile, settings.params)

    def _record(self, status: Any, *, error: str | None = None) -> CallRecord:
        assert self._flight is not None
        incoming, prompt = self._incoming or Incoming(), self._history.prompt
        return self._flight.record(
            self._session.id, "turn", status, incoming, prompt, ended=self._now(), turn=self._row.id, error=error
        )

    def _learn(self, record: CallRecord) -> None:
        call = Call.of(record)
        self._calls.append(call)
        self._history.learn(call)

    def _reply(self, reason: str | None = None, content: list[dict[str, Any]] | None = None) -> Reply:
        last = self._history.last
        if content is None:
            content = list(last.content) if last and last.role == "assistant" and self._row.reply == last.id else []
            reason = reason or (last.stop_reason if last else None)
        if reason != CANCELLED and last is not None and any(one.get("type") == "tool_use" for one in content):
            reason = "tool_use"
        raw = dict(self._incoming.message) if self._incoming else {}
        if self._incoming:
            raw["usage"] = self._incoming.usage_fields
        return Reply(content, reason, message_of(raw, content, reason), tuple(self._calls), self._session)

    # -- tools --

    async def _read_journal(self) -> dict[int, ToolRecord]:
        """What the journal says of the last entry's calls; read from the store once, then kept up."""
        last = self._history.last
        if last is None or last.role != "assistant" or not tool_calls(last.content):
            return {}
        if self._journal_entry != last.id:
            self._journal_entry = last.id
            rows = await self._manager._store.journal(self._session.id, last.id)
            self._journal = {row.index: _tool_record(row) for row in rows}
            if self._history.record.base == last.id:  # a fork does not run the calls that were open where it starts
                for call in calls_of(last.content):
                    if call.name not in self._session._by_caller and call.index not in self._journal:
                        result = result_block(call, NOT_RUN_IN_BRANCH, is_error=True)
                        self._journal[call.index] = ToolRecord(call.index, result)
        return self._journal

    async def _run_tools(self, step: RunTools) -> None:
        """Runs the calls together. Each start is durable before it happens, each result when it has happened."""
        last = self._history.last
        assert last is not None
        again, reported = self._sort_doubtful(step.in_doubt)
        for call in reported:
            self._note(last, call, result_block(call, INTERRUPTED, is_error=True))
        starting = [*again, *step.fresh]
        self._unsaved += [self._tool_row(last, call) for call in step.fresh]
        self._journal.update({call.index: ToolRecord(call.index) for call in step.fresh})
        await self._commit()
        remaining = len(starting)
        failed: list[Exception] = []

        async def run(call: ToolCall) -> None:
            nonlocal remaining
            result = await self._session._toolbox.run(call, self._manager.clock)
            remaining -= 1
            self._note(last, call, result)
            if remaining:  # the last result rides in the commit that submits them all
                try:
                    await self._commit()
                except Exception as error:  # raised below, outside the group, which would wrap it
                    failed.append(error)
                    group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            self._scope = group.cancel_scope
            for call in starting:
                group.start_soon(run, call)
        self._scope = None
        if failed:
            raise failed[0]

    def _sort_doubtful(self, calls: Sequence[ToolCall]) -> tuple[list[ToolCall], list[ToolCall]]:
        """Which calls in doubt run again, and which are reported to the model as interrupted."""
        toolbox, mode = self._session._toolbox, self._options.in_doubt
        doubtful = [call for call in calls if not toolbox.is_idempotent(call.name)]
        if doubtful and mode == "raise":
            names = ", ".join(f"{call.name} ({call.id})" for call in doubtful)
            raise InDoubtToolCalls(
                f"these tool calls may or may not have taken effect: {names}; "
                'call resume(in_doubt="report") or resume(in_doubt="rerun")',
                calls=[(call.name, call.id) for call in doubtful],
            )
        again = [call for call in calls if call not in doubtful or mode == "rerun"]
        return again, [call for call in calls if call not in again]

    def _note(self, last: Entry, call: ToolCall, result: dict[str, Any]) -> None:
        self._journal[call.index] = ToolRecord(call.index, result)
        row = self._tool_row(last, call)
        self._unsaved.append(
            replace(row, ended=self._now(), content=encode([result]), is_error=bool(result.get("is_error")))
        )

    def _tool_row(self, last: Entry, call: ToolCall) -> ToolCallRecord:
        idempotent = self._session._toolbox.is_idempotent(call.name)
        return ToolCallRecord(self._session.id, last.id, call.index, call.id, call.name, idempotent, self._now())

    async def _stop_here(self) -> Reply:
        """The user pressed stop between two calls: finished tools keep their result, the rest is closed truthfully."""
        last = self._history.last
        if last is not None and last.role == "assistant" and tool_calls(last.content):
            content = close_open_calls(last, self._journal, {})
            self._stage(make_entry(last, "user", content, self._now()))
        await self._end("cancelled", CANCELLED)
        return self._reply(CANCELLED)


def _was_done(error: BaseException) -> bool:
    """Whether a commit went through although its task was cancelled (see `storage.threads.outcome`)."""
    return isinstance(error, asyncio.CancelledError) and error.__cause__ is None


def _tool_record(row: ToolCallRecord) -> ToolRecord:
    return ToolRecord(row.index, json.loads(row.content)[0] if row.content else None)


def _digest(content: Any) -> str:
    return blake2b(encode(content).encode(), digest_size=16).hexdigest()


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _api_usage(call: Call | None) -> dict[str, Any]:
    usage = call.usage if call else None
    if usage is None:
        return {}
    return {
        "input_tokens": usage.input,
        "cache_read_input_tokens": usage.cache_read,
        "cache_creation_input_tokens": usage.cache_write,
        "output_tokens": usage.output,
    }


def _expected_record(flight: dict[str, Any], row: TurnRecord) -> CallRecord:
    expected = flight["expected"]
    return CallRecord(
        flight["id"],
        row.session,
        "turn",
        flight.get("model", ""),
        flight["started"],
        "error",
        row.id,
        row.entry,
        input=expected["input"],
        cache_read=expected["read"],
        cache_write_5m=expected["write_5m"],
        cache_write_1h=expected["write_1h"],
        counters=expected["counters"],
        points=flight["points"],
        error=_MISSING,
    )


def _unique_ids(content: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Some servers repeat a tool id within one reply, which the API refuses to take back: later ones get a suffix."""
    seen: set[str] = set()
    found = []
    for block in content:
        if block.get("type") == "tool_use" and block.get("id") in seen:
            number = next(n for n in range(2, len(content) + 2) if f"{block['id']}_{n}" not in seen)
            block = {**block, "id": f"{block['id']}_{number}"}
        if block.get("type") == "tool_use":
            seen.add(str(block.get("id")))
        found.append(block)
    return found
