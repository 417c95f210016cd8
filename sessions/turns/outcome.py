"""What a turn gives: the events and steps while it runs, and the outcome at its end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal

from sessions.core.transcript import Entry, copied
from sessions.core.usage import Usage
from sessions.following.events import Ended, PendingCall
from sessions.ledger import Call, total_cost
from sessions.turns.states import shown
from storage import TurnRecord

if TYPE_CHECKING:
    from anthropic.types import Message


@dataclass(frozen=True, slots=True)
class Event:
    """One event of the SDK's stream, or the result of a tool."""

    event: Any


@dataclass(frozen=True, slots=True)
class Step:
    """A part of a turn as `Session.run` gives it: a reply of the model, or the results of the tools it asked for.

    `content`: blocks. `usage` and `cost` (USD) are the call's, `None` for tool results.
    """

    kind: Literal["reply", "tool_results"]
    content: list[dict[str, Any]]
    entry: Entry | None = None
    stop_reason: str | None = None
    call: Call | None = None

    @property
    def text(self) -> str:
        """The text blocks, joined."""
        return text_in(self.content)

    @property
    def usage(self) -> Usage | None:
        """What the call read, wrote and produced."""
        return self.call.usage if self.call else None

    @property
    def cost(self) -> Decimal | None:
        """What the call cost, in USD."""
        return self.call.cost if self.call else None


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of a turn. `text` and `content` are the last message's; `usage`, `cost` and `calls` cover the turn.

    `raw`: the fields of the last message, beside its content, as they came. `pending`: tool calls that wait, for the
    user's approval or for results that the caller brings.
    """

    content: list[dict[str, Any]]
    stop_reason: str | None
    raw: Mapping[str, Any] = field(repr=False)
    calls: tuple[Call, ...]
    pending: tuple[PendingCall, ...] = field(default=(), kw_only=True)

    @property
    def message(self) -> Message:
        """The reply as the SDK's `Message`, made when it is asked for."""
        return message_of(self.raw, self.content, self.stop_reason)

    @property
    def text(self) -> str:
        """The text blocks of the last message, joined."""
        return text_in(self.content)

    @property
    def usage(self) -> Usage:
        """Tokens of all calls of the turn."""
        return sum((call.usage for call in self.calls), start=Usage())

    @property
    def cost(self) -> Decimal | None:
        """USD for all calls of the turn; `None` where no price is published."""
        return total_cost(self.calls)

    def to_dict(self) -> dict[str, Any]:
        """The outcome as plain JSON data.

        `cost` is a decimal number in a `str` (USD), or `None`; `usage` in tokens; `calls` the ids of the ledger's rows.
        """
        return {
            "text": self.text,
            "content": copied(self.content),
            "stop_reason": self.stop_reason,
            "usage": asdict(self.usage),
            "cost": None if self.cost is None else str(self.cost),
            "calls": [call.id for call in self.calls],
            "pending": [asdict(call) for call in self.pending],
        }

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        """For pydantic, and what stands on it: the value is taken as it is and written as `to_dict()`."""
        from pydantic_core import core_schema

        written = core_schema.plain_serializer_function_ser_schema(
            cls.to_dict, return_schema=core_schema.dict_schema(core_schema.str_schema(), core_schema.any_schema())
        )
        return core_schema.is_instance_schema(cls, serialization=written)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> Any:
        return {"type": "object", "title": cls.__name__}


def ended(row: TurnRecord, calls: Sequence[Call]) -> Ended:
    """How a turn ended, as its followers hear it; `calls` are those of the turn."""
    misses = [call.miss for call in calls if call.miss is not None]
    return Ended(
        state=shown(row),
        stop_reason=row.stop_reason,
        usage=sum((call.usage for call in calls), start=Usage()),
        cost=total_cost(calls),
        miss=max(misses, key=lambda miss: (miss.cost or 0, miss.tokens), default=None),
        error=row.error,
    )


def text_in(content: Iterable[Mapping[str, Any]]) -> str:
    """The text of content blocks, joined."""
    return "".join(str(block.get("text") or "") for block in content if block.get("type") == "text")


def message_of(raw: Mapping[str, Any], content: list[dict[str, Any]], stop_reason: str | None) -> Message:
    """The SDK's `Message` of a reply, from what arrived (or, after a restart, from what was stored).

    Blocks that the non-beta type does not know stay as they came.
    """
    from anthropic.types import Message

    usage = {"input_tokens": 0, "output_tokens": 0, **(raw.get("usage") or {})}
    whole = {
        **raw,
        "id": raw.get("id") or "",
        "type": "message",
        "role": "assistant",
        "model": raw.get("model") or "",
        "content": content,
        "stop_reason": stop_reason,
        "stop_sequence": raw.get("stop_sequence"),
        "usage": usage,
    }
    return Message.construct(**whole)
