"""What a follower of a turn is told: frozen values, and the view that they add up to.

Entries are durable, what comes between them is best effort: the sum of what a follower has seen, from its snapshot on,
always equals what is stored in the end.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from decimal import Decimal
from typing import Any, ClassVar, Literal, TypeAlias

from sessions.core.diagnosis import Miss
from sessions.core.transcript import Entry
from sessions.core.usage import Usage

TurnState: TypeAlias = Literal["queued", "running", "waiting", "interrupted", "finished", "cancelled", "failed"]
DeltaKind: TypeAlias = Literal["text", "thinking", "signature", "input_json", "citations", "compaction"]

_DELTAS: dict[str, tuple[DeltaKind, str]] = {
    "text_delta": ("text", "text"),
    "thinking_delta": ("thinking", "thinking"),
    "signature_delta": ("signature", "signature"),
    "input_json_delta": ("input_json", "partial_json"),
    "citations_delta": ("citations", "citation"),
}
"""Our kind of a delta, and the field that holds it, by the API's type."""
_LONGEST = 40
"""Characters of an id that are looked at."""
API_DELTAS = {kind: (type, name) for type, (kind, name) in _DELTAS.items()}


@dataclass(frozen=True, slots=True)
class PendingCall:
    """A tool call that waits: for the user's approval, or for a result that the caller brings (`by_caller`).

    `call_id` is the same after a restart, and what `approve` and `deny` take; `tool_use_id` is the model's.
    """

    call_id: str
    tool_use_id: str
    name: str
    input: Any
    by_caller: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnEvent:
    """One thing that happened in a turn. `id` orders the events of a turn, as text; `type` says what it is."""

    type: ClassVar[str]
    id: str = ""

    def to_json(self) -> str:
        """The event as JSON text: `type`, `id` and its own fields."""
        return _encode({"type": self.type, **_written(self)})

    @staticmethod
    def from_json(text: str) -> TurnEvent:
        """Reads what `to_json` wrote. Raises `ValueError` for anything else."""
        return event_of(json.loads(text))


@dataclass(frozen=True, slots=True)
class BlockSoFar:
    """A content block of the reply under way. `input_json`: the text of a tool's input as far as it has come."""

    index: int
    block: dict[str, Any]
    input_json: str = ""
    is_closed: bool = False


@dataclass(frozen=True, slots=True)
class ToolSoFar:
    """A tool call of this turn whose result is in no entry yet. `result`: its content, `None` while it runs."""

    call_id: str
    tool_use_id: str
    name: str
    input: Any
    progress: tuple[str, ...] = ()
    result: Any = None
    is_error: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot(TurnEvent):
    """All there is of the turn: what came before it is void, what comes after it adds to it.

    `entries`: those of this turn that are stored, its words first; `blocks`: the reply under way; `tools`: calls whose
    results are in no entry yet; `pending`: calls that wait.
    """

    type: ClassVar[Literal["snapshot"]] = "snapshot"
    state: TurnState
    entries: tuple[Entry, ...] = ()
    blocks: tuple[BlockSoFar, ...] = ()
    tools: tuple[ToolSoFar, ...] = ()
    pending: tuple[PendingCall, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockStart(TurnEvent):
    """A content block of the reply begins; `index` is its place in it."""

    type: ClassVar[Literal["block_start"]] = "block_start"
    index: int
    block: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta(TurnEvent):
    """More of a block. `value`: text, thinking, a signature or JSON text; an object for citations and compaction."""

    type: ClassVar[Literal["delta"]] = "delta"
    index: int
    kind: DeltaKind
    value: Any

    @property
    def text(self) -> str:
        """What was said, of a delta of kind "text"; empty for any other."""
        return str(self.value) if self.kind == "text" else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockStop(TurnEvent):
    """A content block is whole."""

    type: ClassVar[Literal["block_stop"]] = "block_stop"
    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolStarted(TurnEvent):
    """A tool runs from now on. `call_id` is what `ToolContext.call_id` is, `tool_use_id` the model's id."""

    type: ClassVar[Literal["tool_started"]] = "tool_started"
    call_id: str
    tool_use_id: str
    name: str
    input: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolProgress(TurnEvent):
    """A tool said how far it is (`ToolContext.progress`); nothing of it is stored."""

    type: ClassVar[Literal["tool_progress"]] = "tool_progress"
    call_id: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolResult(TurnEvent):
    """A tool has ended; `content` is that of its `tool_result` block."""

    type: ClassVar[Literal["tool_result"]] = "tool_result"
    call_id: str
    tool_use_id: str
    name: str
    content: Any
    is_error: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryStored(TurnEvent):
    """An entry is durable. It takes the place of the blocks, or of the tool results, that came before it."""

    type: ClassVar[Literal["entry"]] = "entry"
    entry: Entry


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalNeeded(TurnEvent):
    """The turn waits until these calls are decided."""

    type: ClassVar[Literal["approval_needed"]] = "approval_needed"
    calls: tuple[PendingCall, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Restarted(TurnEvent):
    """What has come since the last `entry` is void: the reply begins anew, here or in another worker."""

    type: ClassVar[Literal["restarted"]] = "restarted"


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageKnown(TurnEvent):
    """A model call of the turn has ended: what it used, and what it cost in USD (`None`: no price is published)."""

    type: ClassVar[Literal["usage"]] = "usage"
    usage: Usage
    cost: Decimal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended(TurnEvent):
    """The turn has ended, or waits for results or approvals. `usage` and `cost` (USD) are those of all its calls.

    `error`: what broke it, of an interrupted or failed one. `miss`: the dearest cache miss of the turn.
    """

    type: ClassVar[Literal["ended"]] = "ended"
    state: TurnState
    stop_reason: str | None = None
    usage: Usage = field(default_factory=Usage)
    cost: Decimal | None = None
    miss: Miss | None = None
    error: str | None = None


_KINDS: dict[Any, type[TurnEvent]] = {
    kind.type: kind
    for kind in (
        Snapshot, BlockStart, Delta, BlockStop, ToolStarted, ToolProgress, ToolResult, EntryStored, ApprovalNeeded,
        Restarted, UsageKnown, Ended,
    )
}  # fmt: skip


def event_of(stored: Any) -> TurnEvent:
    """The event that was written as this JSON data. Raises `ValueError` for anything else."""
    kind = _KINDS.get(stored.get("type")) if isinstance(stored, dict) else None
    if kind is None:
        raise ValueError(f"this is no event of a turn: {str(stored)[:80]!r}")
    return kind(**{name: _read(name, value) for name, value in stored.items() if name != "type"})


AT_REST = 9_999_999_000
"""The number that no event which is told while a turn runs gets to."""


def event_id(attempt: int, count: int) -> str:
    """The id of the event with this number in an attempt, which has the token of its lease; 0 while it is queued."""
    # Padded, so that texts have the order of their numbers.
    return f"{attempt:010d}.{count:010d}"


def is_another_attempt(before: str | None, now: str) -> bool:
    """Whether a turn has begun anew, here or in another worker, between two events."""
    known, _ = _numbers(before)
    return 0 < known < _numbers(now)[0]


def is_ahead(seen: str | None, newest: str, most: int) -> bool:
    """Whether an event that somebody saw comes behind the newest one of the same attempt, by no more than `most`."""
    (attempt, count), (known, last) = _numbers(seen), _numbers(newest)
    return attempt == known and last < count <= last + most


def is_of_rest(id: str | None) -> bool:
    """Whether it is of the snapshot or the end that are made of what is stored of a turn at rest."""
    return _numbers(id)[1] > AT_REST


def attempt_of(id: str | None) -> int:
    """In which attempt that event happened; 0 while it is queued, and where it is no id of ours."""
    return _numbers(id)[0]


def first_of(id: str) -> str:
    """The id that stands before all others of that event's attempt."""
    return event_id(_numbers(id)[0], 0)


def _numbers(id: str | None) -> tuple[int, int]:
    """Attempt and number of an event; zeros where it is no id of ours."""
    # Whoever follows may bring any text: `int` refuses one of thousands of digits.
    attempt, _, count = (id or "")[:_LONGEST].partition(".")
    return (int(attempt), int(count)) if attempt.isdecimal() and count.isdecimal() else (0, 0)


def _written(value: Any) -> Any:
    """Plain JSON data of a value; fields that say nothing are left out."""
    if isinstance(value, str | int | dict):
        return value
    if isinstance(value, Miss):
        return json.loads(value.to_json())
    if isinstance(value, Decimal):
        return str(value)
    if hasattr(value, "__dataclass_fields__"):
        named = [(name, getattr(value, name)) for name in _names(type(value))]
        return {name: _written(inner) for name, inner in named if inner is not None and inner != ()}
    return [_written(inner) for inner in value] if isinstance(value, tuple) else value


_NAMES: dict[type[Any], tuple[str, ...]] = {}


def _names(kind: type[Any]) -> tuple[str, ...]:
    if kind not in _NAMES:
        _NAMES[kind] = tuple(each.name for each in fields(kind))
    return _NAMES[kind]


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


_READ: dict[str, Any] = {
    # `_written` has left out the parent of a first entry, which has no default.
    "entry": lambda value: Entry(**{"parent": None, **value}),
    "entries": lambda values: tuple(Entry(**{"parent": None, **value}) for value in values),
    "blocks": lambda values: tuple(BlockSoFar(**value) for value in values),
    "tools": lambda values: tuple(
        ToolSoFar(**{**value, "progress": tuple(value.get("progress", ()))}) for value in values
    ),
    "pending": lambda values: tuple(PendingCall(**value) for value in values),
    "calls": lambda values: tuple(PendingCall(**value) for value in values),
    "usage": lambda value: Usage(**value),
    "cost": Decimal,
    "miss": lambda value: Miss.from_json(json.dumps(value)),
}
"""How a field is made of what was written, where that is not plain data."""


def _read(name: str, value: Any) -> Any:
    return _READ[name](value) if name in _READ else value


def of_stream(event: Mapping[str, Any], id: str = "") -> TurnEvent | None:
    """What a raw event of the API's stream tells a follower; `None` for one that says nothing of the content."""
    kind = event.get("type")
    if kind == "content_block_start":
        return BlockStart(id=id, index=int(event["index"]), block=dict(event["content_block"]))
    if kind == "content_block_stop":
        return BlockStop(id=id, index=int(event["index"]))
    if kind != "content_block_delta":
        return None
    index, delta = int(event["index"]), event["delta"]
    if delta.get("type") in _DELTAS:
        ours, name = _DELTAS[delta["type"]]
        return Delta(id=id, index=index, kind=ours, value=delta.get(name))
    if delta.get("type") == "compaction_delta":
        value = {name: part for name, part in delta.items() if name != "type"}
        return Delta(id=id, index=index, kind="compaction", value=value)
    return None
