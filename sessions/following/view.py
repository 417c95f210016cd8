"""What a turn looks like to somebody who follows it: its events, added up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from sessions.core.incoming import Incoming
from sessions.core.transcript import Entry, copied
from sessions.following.events import (
    API_DELTAS,
    ApprovalNeeded,
    BlockSoFar,
    BlockStart,
    BlockStop,
    Delta,
    Ended,
    EntryStored,
    PendingCall,
    Restarted,
    Snapshot,
    ToolProgress,
    ToolResult,
    ToolSoFar,
    ToolStarted,
    TurnEvent,
    TurnState,
)

PROGRESS = 100
"""Texts that are kept of what one tool says while it runs."""


def _to_stream(event: BlockStart | Delta | BlockStop) -> dict[str, Any]:
    """The API's event that `of_stream` would make this of."""
    if isinstance(event, BlockStart):
        return {"type": "content_block_start", "index": event.index, "content_block": event.block}
    if isinstance(event, BlockStop):
        return {"type": "content_block_stop", "index": event.index}
    if event.kind == "compaction":
        delta = {"type": "compaction_delta", **event.value}
    else:
        type, name = API_DELTAS[event.kind]
        delta = {"type": type, name: event.value}
    return {"type": "content_block_delta", "index": event.index, "delta": delta}


@dataclass(slots=True)
class View:
    """What a turn looks like to a follower: the events seen so far, added up.

    `reply`: the reply under way, `None` between two; `tools` by their call id.
    """

    state: TurnState = "running"
    entries: list[Entry] = field(default_factory=list)
    reply: Incoming | None = None
    tools: dict[str, ToolSoFar] = field(default_factory=dict)
    pending: tuple[PendingCall, ...] = ()

    def copy(self) -> View:
        """The same, sharing nothing that changes."""
        return View.of(self.snapshot(""))

    @classmethod
    def of(cls, snapshot: Snapshot) -> Self:
        """The view that a snapshot shows."""
        view = cls(
            snapshot.state,
            list(snapshot.entries),
            tools={tool.call_id: tool for tool in snapshot.tools},
            pending=snapshot.pending,
        )
        for part in snapshot.blocks:
            view._feed({"type": "content_block_start", "index": part.index, "content_block": copied(part.block)})
            if part.input_json:
                view._feed(_to_stream(Delta(index=part.index, kind="input_json", value=part.input_json)))
            if part.is_closed:
                view._feed(_to_stream(BlockStop(index=part.index)))
        return view

    def snapshot(self, id: str) -> Snapshot:
        """All of it as one event; it shares nothing with the view."""
        return Snapshot(
            id=id,
            state=self.state,
            entries=tuple(replace(entry, content=copied(entry.content)) for entry in self.entries),
            blocks=tuple(self._blocks()),
            tools=tuple(self.tools.values()),
            pending=self.pending,
        )

    def _blocks(self) -> Iterable[BlockSoFar]:
        if self.reply is None:
            return
        for index, block in sorted(self.reply.blocks.items()):
            is_closed = index in self.reply.closed
            yield BlockSoFar(index, copied(block), self.reply.input_so_far(index), is_closed)

    def hear(self, event: Mapping[str, Any]) -> None:
        """Takes in a raw event, one that `of_stream` makes something of."""
        self._feed(event)

    def add(self, event: TurnEvent) -> None:
        """Takes in what happened."""
        if isinstance(event, BlockStart | Delta | BlockStop):
            self._feed(_to_stream(event))
        elif isinstance(event, Snapshot):
            other = View.of(event)
            self.state, self.entries, self.reply = other.state, other.entries, other.reply
            self.tools, self.pending = other.tools, other.pending
        elif isinstance(event, EntryStored):
            self.entries.append(event.entry)
            # The entry holds what they were: the reply itself, or the results of its calls.
            self.reply, self.tools = None, {}
        elif isinstance(event, Restarted):
            # The entries stay: they are durable, whoever goes on with the turn.
            self.state, self.reply, self.tools, self.pending = "running", None, {}, ()
        elif isinstance(event, ToolStarted):
            self.tools[event.call_id] = ToolSoFar(event.call_id, event.tool_use_id, event.name, event.input)
        elif isinstance(event, ToolProgress | ToolResult):
            self._add_tool(event)
        elif isinstance(event, ApprovalNeeded):
            self.pending = event.calls
        elif isinstance(event, Ended):  # what has come and is in no entry is not kept
            self.state, self.reply, self.tools = event.state, None, {}

    def _add_tool(self, event: ToolProgress | ToolResult) -> None:
        tool = self.tools.get(event.call_id)
        if isinstance(event, ToolResult):
            tool = tool or ToolSoFar(event.call_id, event.tool_use_id, event.name, None)
            self.tools[event.call_id] = replace(tool, result=event.content, is_error=event.is_error)
        elif tool is not None:
            self.tools[event.call_id] = replace(tool, progress=(*tool.progress, event.text)[-PROGRESS:])

    def _feed(self, event: Mapping[str, Any]) -> None:
        if self.reply is None:
            self.reply = Incoming()
        self.reply.feed(event)
