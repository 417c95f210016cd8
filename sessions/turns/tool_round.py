"""The tools of a turn: which calls run, which are in doubt, and their journal."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import anyio

from sessions.arguments import check_choice
from sessions.clock import Clock
from sessions.conversation.pending import held_of, pending_calls
from sessions.core.steps import (
    INTERRUPTED,
    NOT_RUN_IN_BRANCH,
    RunTools,
    ToolCall,
    ToolRecord,
    call_id,
    calls_of,
    result_block,
)
from sessions.core.transcript import Entry, encode, tool_calls
from sessions.errors import InDoubtToolCalls
from sessions.following.events import PendingCall, ToolProgress, ToolResult, ToolSoFar, ToolStarted
from sessions.following.view import PROGRESS
from sessions.results import MAX_TOGETHER
from sessions.tools import Toolbox, ToolContext
from sessions.turns.stopping import Stop
from sessions.turns.writer import TurnWriter
from storage import DecisionRecord, Store, ToolCallRecord, TurnRecord

TOO_MUCH = "the tool ran, but its result is not shown: with those of the calls beside it, it is larger than"
DENIED = "not run: the user denied it"
CHANGED = "the user approved this call with another input, and it ran with:"
InDoubt = Literal["report", "rerun", "raise"]


def check_in_doubt(in_doubt: str) -> None:
    """Raises `ConfigurationError` for a word that is none of them."""
    check_choice("in_doubt", in_doubt, get_args(InDoubt))


class ToolRound:
    """Runs the calls of the last entry. Each start is durable before it happens, each result when it has happened."""

    def __init__(self, writer: TurnWriter, store: Store, clock: Clock, stop: Stop, in_doubt: InDoubt) -> None:
        self._writer, self._store, self._clock, self._stop, self._in_doubt = writer, store, clock, stop, in_doubt
        self._entry: str | None = None
        self.journal: dict[int, ToolRecord] = {}
        self._size = 0
        self._asked_for: TurnRecord | None = None
        self._inputs: dict[int, Any] = {}
        self._progress: dict[int, deque[str]] = {}
        self.held: frozenset[int] = frozenset()
        """The calls, by index, that wait for the user's approval."""
        self.inherited = False
        """Whether the last entry was there when this session was forked: its calls were another session's to run."""

    @property
    def _toolbox(self) -> Toolbox:
        """The tools bound now: they may have changed since the turn was asked for."""
        return self._writer.conversation.toolbox

    async def read(self) -> dict[int, ToolRecord]:
        """What the journal says of the last entry's calls; read from the store once, then kept up."""
        last = self._writer.conversation.last
        if last is None or last.role != "assistant" or not tool_calls(last.content):
            self.held = frozenset()
            return {}
        if self._entry != last.id:
            self._entry = last.id
            rows = await self._store.journal(self._writer.conversation.record.id, last.id)
            self.journal = {row.index: _tool_record(row) for row in rows}
            self._size = sum(len(row.content or "") for row in rows)
            self._inputs, self._progress, self.held = {}, {}, frozenset()
            self.inherited = await self._is_inherited(last)
            if self.inherited:  # a fork does not run calls that were open where it starts, or earlier
                for call in calls_of(last.content):
                    if call.name not in self._writer.conversation.by_caller and call.index not in self.journal:
                        result = result_block(call, NOT_RUN_IN_BRANCH, is_error=True)
                        self.journal[call.index] = ToolRecord(call.index, result)
            else:
                await self._read_decisions(last)
        return self.journal

    def held_before(self, row: TurnRecord) -> None:
        """The turn waits, or did, as its row says: its calls need their decisions whatever their tools say by now."""
        self._asked_for = row

    def held_text(self) -> str:
        """Which calls wait, as the turn's row keeps it."""
        return json.dumps({"entry": self._entry, "calls": sorted(self.held)})

    async def _read_decisions(self, last: Entry) -> None:
        """Which calls wait for the user, which were denied, and with what input those approved run."""
        before = held_of(self._asked_for, last)
        # Most turns end here, without a read.
        if not before and not self._toolbox.may_need_approval:
            return
        decisions = await self._decisions(last) if self._counts else {}
        held = set()
        for call in calls_of(last.content):
            decision = decisions.get(call.index)
            if decision is not None and decision.input is not None:
                self._inputs[call.index] = json.loads(decision.input)  # also of one that was started, and runs again
            if call.index in self.journal or call.name in self._writer.conversation.by_caller:
                continue
            if decision is None:
                if call.index in before or await self._toolbox.needs_approval(call, self._context(last, call)):
                    held.add(call.index)
            elif not decision.approved:
                reason = f"{DENIED}: {decision.reason}" if decision.reason else DENIED
                self.journal[call.index] = ToolRecord(call.index, result_block(call, reason, is_error=True))
        self.held = frozenset(held)

    @property
    def _counts(self) -> bool:
        """Whether what was decided still holds: not of a turn that was stopped, or passed over, while it waited."""
        row = self._asked_for
        return row is None or row.is_open or row.state == "waiting"

    async def _decisions(self, last: Entry) -> dict[int, DecisionRecord]:
        rows = await self._store.decisions(self._writer.conversation.record.id, last.id)
        return {row.index: row for row in rows}

    def pending(self, calls: Sequence[ToolCall]) -> tuple[PendingCall, ...]:
        """These calls of the last entry, for whoever decides or answers them."""
        last = self._writer.conversation.last
        return () if last is None else pending_calls(self._writer.conversation.record.id, last, calls, self.held)

    def undecided(self) -> tuple[PendingCall, ...]:
        """The calls of the last entry that wait for approval."""
        last = self._writer.conversation.last
        return self.pending([call for call in calls_of(last.content if last else ()) if call.index in self.held])

    def so_far(self) -> dict[str, ToolSoFar]:
        """The calls whose results are in no entry yet: those that run, and those that have ended."""
        last = self._writer.conversation.last
        if last is None or last.id != self._entry:
            return {}
        started = [call for call in calls_of(last.content) if call.index in self.journal]
        return {tool.call_id: tool for tool in (self._tool_so_far(last, call) for call in started)}

    def _tool_so_far(self, last: Entry, call: ToolCall) -> ToolSoFar:
        result = self.journal[call.index].result or {}
        return ToolSoFar(
            self._id_of(last, call),
            call.id,
            call.name,
            call.input,
            result=result.get("content"),
            is_error=bool(result.get("is_error")),
            progress=tuple(self._progress.get(call.index, ())),
        )

    def results(self) -> list[ToolResult]:
        """What all calls of the last entry gave, in call order."""
        last = self._writer.conversation.last
        if last is None:
            return []
        ended = [(call, self.journal[call.index].result) for call in calls_of(last.content)]
        return [self._told(last, call, result) for call, result in ended if result is not None]

    def _told(self, last: Entry, call: ToolCall, result: Mapping[str, Any]) -> ToolResult:
        return ToolResult(
            call_id=self._id_of(last, call),
            tool_use_id=call.id,
            name=call.name,
            content=result.get("content"),
            is_error=bool(result.get("is_error")),
        )

    def _id_of(self, last: Entry, call: ToolCall) -> str:
        return call_id(self._writer.conversation.record.id, last.id, call.index)

    def _context(self, last: Entry, call: ToolCall) -> ToolContext:
        record, id = self._writer.conversation.record, self._id_of(last, call)
        channel, said = self._writer.channel, self._progress.setdefault(call.index, deque(maxlen=PROGRESS))

        def tell(text: str) -> None:
            said.append(text)  # for who begins to follow later
            channel.publish(ToolProgress(call_id=id, text=text))

        return ToolContext(
            session_id=record.id,
            owner=record.owner,
            metadata=json.loads(record.metadata),
            turn_id=self._writer.turn_id,
            call_id=id,
            tell=tell,
        )

    async def _is_inherited(self, last: Entry) -> bool:
        record = self._writer.conversation.record
        if record.base is None or record.base == last.id:
            return record.base is not None
        return await self._store.has_ancestor(record.id, record.base, last.id)

    async def run(self, step: RunTools) -> None:
        """Runs them together; a failed commit ends them all."""
        last = self._writer.conversation.last
        assert last is not None
        again, reported = self._sort_doubtful(step.in_doubt)
        for call in reported:
            self._note(last, call, result_block(call, INTERRUPTED, is_error=True))
        starting = [*again, *step.fresh]
        self._writer.unsaved += [self._tool_row(last, call) for call in step.fresh]
        # Stored before any of them begins: a start without a result is in doubt, a call without a start never ran.
        self.journal.update({call.index: ToolRecord(call.index) for call in step.fresh})
        await self._writer.commit()
        if self._stop.pressed:
            return  # meanwhile: none of them begins, and the turn's loop closes them
        remaining = len(starting)
        failed: list[Exception] = []

        async def run_one(call: ToolCall) -> None:
            nonlocal remaining
            result = await self._run_one(last, call)
            remaining -= 1
            self._note(last, call, result)
            if remaining:  # the last result rides in the commit that submits them all
                try:
                    await self._writer.commit()
                except Exception as error:  # raised below, outside the group, which would wrap it
                    failed.append(error)
                    group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            # A stop ends the tools only: the turn's loop goes on, keeps what has ended and closes the rest.
            self._stop.scope = group.cancel_scope
            for call in starting:
                group.start_soon(run_one, call)
        self._stop.scope = None
        if failed:
            raise failed[0]

    async def _run_one(self, last: Entry, call: ToolCall) -> dict[str, Any]:
        """The result of one call, with the input as the user has changed it; the model is told of that."""
        is_changed = call.index in self._inputs
        call = replace(call, input=self._inputs[call.index]) if is_changed else call
        channel = self._writer.channel
        # Most turns are followed by nobody: what would be told of them is not even made.
        if channel.is_followed:
            id = self._id_of(last, call)
            channel.publish(ToolStarted(call_id=id, tool_use_id=call.id, name=call.name, input=call.input))
        result = await self._toolbox.run(call, self._clock, self._context(last, call))
        return _with_note(result, f"{CHANGED} {encode([call.input])[1:-1]}") if is_changed else result

    def _sort_doubtful(self, calls: Sequence[ToolCall]) -> tuple[list[ToolCall], list[ToolCall]]:
        """Which calls in doubt run again, and which are reported to the model as interrupted."""
        toolbox, mode = self._toolbox, self._in_doubt
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
        content = encode([result])
        if self._size + len(content) > MAX_TOGETHER:  # one request holds them all
            result = result_block(call, f"{TOO_MUCH} {MAX_TOGETHER:,} bytes", is_error=True)
            content = encode([result])
        self._size += len(content)
        self.journal[call.index] = ToolRecord(call.index, result)
        if self._writer.channel.is_followed:
            self._writer.channel.publish(self._told(last, call, result))
        row = self._tool_row(last, call)
        self._writer.unsaved.append(
            replace(row, ended=self._writer.now(), content=content, is_error=bool(result.get("is_error")))
        )

    def _tool_row(self, last: Entry, call: ToolCall) -> ToolCallRecord:
        return ToolCallRecord(
            session=self._writer.conversation.record.id,
            entry=last.id,
            index=call.index,
            tool_id=call.id,
            name=call.name,
            idempotent=self._toolbox.is_idempotent(call.name),
            started=self._writer.now(),
        )


def _with_note(result: dict[str, Any], note: str) -> dict[str, Any]:
    content = result["content"]
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else list(content)
    return {**result, "content": [{"type": "text", "text": note}, *blocks]}


def _tool_record(row: ToolCallRecord) -> ToolRecord:
    return ToolRecord(row.index, json.loads(row.content)[0] if row.content else None)
