"""The tools of a turn: which calls run, which are in doubt, and their journal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import anyio

from sessions.arguments import check_choice
from sessions.clock import Clock
from sessions.core.steps import (
    INTERRUPTED,
    NOT_RUN_IN_BRANCH,
    RunTools,
    ToolCall,
    ToolRecord,
    calls_of,
    result_block,
)
from sessions.core.transcript import Entry, encode, tool_calls
from sessions.errors import InDoubtToolCalls
from sessions.results import MAX_TOGETHER
from sessions.tools import Toolbox
from sessions.turns.stopping import Stop
from sessions.turns.writer import TurnWriter
from storage import Store, ToolCallRecord

TOO_MUCH = "the tool ran, but its result is not shown: with those of the calls beside it, it is larger than"
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
            return {}
        if self._entry != last.id:
            self._entry = last.id
            rows = await self._store.journal(self._writer.conversation.record.id, last.id)
            self.journal = {row.index: _tool_record(row) for row in rows}
            self._size = sum(len(row.content or "") for row in rows)
            self.inherited = await self._is_inherited(last)
            if self.inherited:  # a fork does not run calls that were open where it starts, or earlier
                for call in calls_of(last.content):
                    if call.name not in self._writer.conversation.by_caller and call.index not in self.journal:
                        result = result_block(call, NOT_RUN_IN_BRANCH, is_error=True)
                        self.journal[call.index] = ToolRecord(call.index, result)
        return self.journal

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
        self.journal.update({call.index: ToolRecord(call.index) for call in step.fresh})
        await self._writer.commit()
        remaining = len(starting)
        failed: list[Exception] = []

        async def run_one(call: ToolCall) -> None:
            nonlocal remaining
            result = await self._toolbox.run(call, self._clock)
            remaining -= 1
            self._note(last, call, result)
            if remaining:  # the last result rides in the commit that submits them all
                try:
                    await self._writer.commit()
                except Exception as error:  # raised below, outside the group, which would wrap it
                    failed.append(error)
                    group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            self._stop.scope = group.cancel_scope
            for call in starting:
                group.start_soon(run_one, call)
        self._stop.scope = None
        if failed:
            raise failed[0]

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


def _tool_record(row: ToolCallRecord) -> ToolRecord:
    return ToolRecord(row.index, json.loads(row.content)[0] if row.content else None)
