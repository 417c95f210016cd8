"""What happens in a turn, told to a front end that can only add: piece by piece, nothing twice, whatever is cut off.

Follower's events may come as snapshots, begin anew, or be replaced by what is stored. A front end of another project
builds its message out of what it is sent. So each entry is told once, what came of a reply that will not be stored is
declared void, and what a page has already is left out.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from sessions import (
    ApprovalNeeded,
    BlockStart,
    BlockStop,
    Delta,
    Ended,
    Entry,
    EntryStored,
    PendingCall,
    Restarted,
    Snapshot,
    ToolProgress,
    ToolResult,
    ToolSoFar,
    ToolStarted,
    Turn,
    TurnEvent,
    Usage,
    UsageKnown,
)

_SAID = {"text": "text", "thinking": "thinking"}
"""Types of blocks whose words are told as they come, with the field that has them."""
SERVER_CALLS = frozenset({"server_tool_use", "mcp_tool_use"})
"""Types of blocks that call a tool which the API runs itself."""
ASKED = SERVER_CALLS | {"tool_use"}
"""Types of blocks that call a tool."""
_COMPARED = ("type", "text", "thinking", "id", "name", "input", "tool_use_id", "content")
"""What a front end is told of a block: where the stored one has the same of these, nothing need be told anew."""


@dataclass(frozen=True, slots=True)
class ReplyBegun:
    """The model begins to answer. `step`: how many replies of the turn came before."""

    step: int


@dataclass(frozen=True, slots=True)
class Opened:
    """A block of the reply begins. `place` is its name in the turn, and the same whenever it is told."""

    place: str
    block: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class More:
    """More words of a block, or more of the JSON text of a call's input."""

    place: str
    block: Mapping[str, Any]
    text: str


@dataclass(frozen=True, slots=True)
class Closed:
    """A block is whole: as it is stored."""

    place: str
    block: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ReplyVoid:
    """What was told of the reply since it began is void. It may begin again, without another `ReplyBegun`."""


@dataclass(frozen=True, slots=True)
class ReplyStored:
    """The reply is whole, and durable."""


@dataclass(frozen=True, slots=True)
class Progress:
    """A tool says how far it is."""

    tool_use_id: str
    text: str


@dataclass(frozen=True, slots=True)
class Result:
    """A tool's result: `content` is that of its `tool_result` block."""

    tool_use_id: str
    content: Any
    is_error: bool


@dataclass(frozen=True, slots=True)
class Waiting:
    """These calls wait for the user's decision."""

    calls: tuple[PendingCall, ...]


@dataclass(frozen=True, slots=True)
class Used:
    """A model call has ended."""

    usage: Usage


@dataclass(frozen=True, slots=True)
class Over:
    """The turn has ended, or waits."""

    end: Ended


Piece: TypeAlias = (
    ReplyBegun | Opened | More | Closed | ReplyVoid | ReplyStored | Progress | Result | Waiting | Used | Over
)


@dataclass(slots=True)
class _Block:
    """A block of the reply under way, as far as it was told."""

    block: dict[str, Any]
    words: list[str] = field(default_factory=list)
    is_closed: bool = False

    @property
    def whole(self) -> dict[str, Any]:
        """The block, with what has come of it."""
        kind, words = self.block.get("type"), "".join(self.words)
        if kind in _SAID:
            return {**self.block, _SAID[kind]: words}
        if kind in ASKED and words:
            return {**self.block, "input": _input_of(words)}
        return self.block


class Pieces:
    """One turn's events as pieces. `known`: the entry that the front end has seen last, with all before it."""

    def __init__(self, known: str | None = None) -> None:
        self._known = known
        self.told: set[str] = set()  # ids of entries
        self._reply: dict[int, _Block] = {}
        self._step, self._has_begun = 0, False
        self._calls: dict[str, str] = {}  # tool_use_id by call_id
        self._asked: set[str] = set()
        self._answered: set[str] = set()
        self._waiting: set[str] = set()
        self._progress: dict[str, int] = {}

    def of(self, event: TurnEvent) -> Iterator[Piece]:
        """What an event adds."""
        if isinstance(event, Snapshot):
            yield from self._snapshot(event)
        elif isinstance(event, EntryStored):
            yield from self._entry(event.entry)
        elif isinstance(event, BlockStart | Delta | BlockStop):
            yield from self._block(event)
        elif isinstance(event, ToolStarted | ToolProgress | ToolResult):
            yield from self._tool(event)
        elif isinstance(event, ApprovalNeeded):
            yield from self._needed(event.calls)
        elif isinstance(event, Restarted):
            yield from self._void()
        elif isinstance(event, UsageKnown):
            yield Used(event.usage)
        elif isinstance(event, Ended):
            yield from self._void()  # nothing of it will be stored
            yield Over(event)

    def stored(self, entries: Iterable[Entry], pending: Sequence[PendingCall] = ()) -> Iterator[Piece]:
        """The entries of a turn, and the calls that wait behind them."""
        for entry in entries:
            yield from self._entry(entry)
        yield from self._needed(pending)

    # -- a snapshot, and what is stored --

    def _snapshot(self, event: Snapshot) -> Iterator[Piece]:
        yield from self._void()
        ids = [entry.id for entry in event.entries]
        seen = ids.index(self._known) + 1 if self._known in ids else 0
        self._known = None
        for entry in event.entries[:seen]:
            for _ in self._entry(entry):
                continue  # told before, elsewhere
        yield from self.stored(event.entries[seen:])
        for part in event.blocks:
            yield from self._opened(part.index, part.block)
            yield from self._more(part.index, part.input_json)
            if part.is_closed:
                yield from self._closed(part.index)
        for tool in event.tools:
            yield from self._tool_so_far(tool)
        yield from self._needed(event.pending)

    def _entry(self, entry: Entry) -> Iterator[Piece]:
        if entry.id in self.told:
            return
        self.told.add(entry.id)
        if entry.role == "assistant":
            yield from self._stored_reply(entry.content)
        elif entry.role == "user":
            for block in entry.content:
                if block.get("type") == "tool_result":
                    yield from self._result(block["tool_use_id"], block.get("content", ""), block.get("is_error"))
            self._answered.clear()

    def _stored_reply(self, content: Sequence[dict[str, Any]]) -> Iterator[Piece]:
        if self._reply and not self._is_as_told(content):
            yield from self._void()
        for index, block in enumerate(content):
            if index not in self._reply:
                yield from self._opened(index, block)
            if not self._reply[index].is_closed:
                yield from self._closed(index)
        self._reply.clear()
        self._step, self._has_begun = self._step + 1, False
        self._waiting.clear()
        yield ReplyStored()

    def _is_as_told(self, content: Sequence[Mapping[str, Any]]) -> bool:
        """Whether the reply that is stored is the one that came, block for block."""
        told = [self._reply[index].whole for index in sorted(self._reply)]
        return len(told) == len(content) and all(
            one.get(name) == other.get(name) for one, other in zip(told, content, strict=True) for name in _COMPARED
        )

    def _void(self) -> Iterator[Piece]:
        if self._reply:
            self._reply.clear()
            yield ReplyVoid()

    # -- the reply under way --

    def _place(self, index: int) -> str:
        return f"{self._step}-{index}"

    def _block(self, event: BlockStart | Delta | BlockStop) -> Iterator[Piece]:
        if isinstance(event, BlockStart):
            yield from self._opened(event.index, event.block)
        elif isinstance(event, BlockStop):
            yield from self._closed(event.index)
        elif event.kind in ("text", "thinking", "input_json"):
            yield from self._more(event.index, event.value)

    def _opened(self, index: int, block: Mapping[str, Any]) -> Iterator[Piece]:
        if not self._has_begun:
            self._has_begun = True
            yield ReplyBegun(self._step)
        kind = block.get("type")
        self._reply[index] = _Block(dict(block))
        if kind in ASKED:
            self._asked.add(str(block["id"]))
        yield Opened(self._place(index), block)
        if kind in _SAID:
            yield from self._more(index, block.get(_SAID[kind]))

    def _more(self, index: int, text: str | None) -> Iterator[Piece]:
        if text and index in self._reply:
            part = self._reply[index]
            part.words.append(text)
            yield More(self._place(index), part.block, text)

    def _closed(self, index: int) -> Iterator[Piece]:
        if index in self._reply:
            part = self._reply[index]
            part.is_closed = True
            yield Closed(self._place(index), part.whole)

    # -- tools --

    def _tool(self, event: ToolStarted | ToolProgress | ToolResult) -> Iterator[Piece]:
        if isinstance(event, ToolStarted):
            self._calls[event.call_id] = event.tool_use_id
        elif isinstance(event, ToolProgress):
            yield from self._said(event.call_id, event.text)
        else:
            yield from self._result(event.tool_use_id, event.content, event.is_error)

    def _tool_so_far(self, tool: ToolSoFar) -> Iterator[Piece]:
        self._calls[tool.call_id] = tool.tool_use_id
        for text in tool.progress[self._progress.get(tool.call_id, 0) :]:
            yield from self._said(tool.call_id, text)
        if tool.result is not None:
            yield from self._result(tool.tool_use_id, tool.result, tool.is_error)

    def _said(self, call_id: str, text: str) -> Iterator[Piece]:
        tool_use_id = self._calls.get(call_id)
        if tool_use_id is not None and tool_use_id not in self._answered:
            self._progress[call_id] = self._progress.get(call_id, 0) + 1
            yield Progress(tool_use_id, text)

    def _result(self, tool_use_id: str, content: Any, is_error: bool | None) -> Iterator[Piece]:
        # Words that close calls of the turn before are in this turn's first entry: they are no news of this one.
        if tool_use_id in self._asked and tool_use_id not in self._answered:
            self._answered.add(tool_use_id)
            yield Result(tool_use_id, content, bool(is_error))

    def _needed(self, calls: Sequence[PendingCall]) -> Iterator[Piece]:
        new = tuple(call for call in calls if not call.by_caller and call.call_id not in self._waiting)
        if new:
            self._waiting.update(call.call_id for call in new)
            yield Waiting(new)


async def pieces_of(turn: Turn, pieces: Pieces) -> AsyncGenerator[Piece]:
    """What happens in a turn, to its end. Raises `SessionsError` as `Turn.follow` does."""
    async with aclosing(turn.follow()) as events:
        async for event in events:
            for piece in pieces.of(event):
                yield piece


def _input_of(text: str) -> Any:
    """The input of a call; its text, where that is not whole."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def is_error_of_server(content: Any) -> bool:
    """Whether a tool of the API's gave an error, in a block of the reply itself."""
    return isinstance(content, dict) and str(content.get("type")).endswith("_error")


def text_of(content: Any) -> str:
    """What a tool gave, as text: its texts, or JSON of what else it is."""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(block.get("type") == "text" for block in content):
        return "\n".join(block["text"] for block in content)
    return json.dumps(content, ensure_ascii=False)
