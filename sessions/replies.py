"""The values that a session gives back: replies, steps, calls and costs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from sessions.core.diagnosis import Miss
from sessions.core.plan import Plan
from sessions.core.transcript import Entry, copied
from sessions.core.usage import Usage
from storage.records import CallRecord, Subtotal

if TYPE_CHECKING:
    from anthropic.types import Message

    from sessions.session import Session


Points: TypeAlias = tuple[tuple[str, str, str, int], ...]


@dataclass(frozen=True, slots=True)
class Call:
    """One request to the model, as the ledger keeps it. Times are seconds since the epoch, `cost` is USD.

    `points`: what was marked, as (slot, point, lifetime, prefix tokens). `waited`: seconds at the gate. `cost` is
    `None` where no price is published. `entry`: the reply that the call made, or the head that it was asked from.
    `settings`: the digest of the settings that it was made with. `estimated`: the answer was cut or stopped before the
    API had said how long it is; its output is estimated from what had come.
    """

    id: str
    kind: str
    model: str
    started: float
    status: str
    usage: Usage
    expected: Usage | None
    cost: Decimal | None
    turn: str | None = None
    entry: str | None = None
    first_event: float | None = None
    ended: float | None = None
    request_id: str | None = None
    response_id: str | None = None
    stop_reason: str | None = None
    points: Points = ()
    hit: str | None = None
    waited: float = 0.0
    miss: Miss | None = None
    error: str | None = None
    settings: str | None = None
    estimated: bool = False

    @classmethod
    def of(cls, record: CallRecord, plan: Plan | None = None) -> Call:
        """Reads a row of the ledger. `plan`: that of a call which has just ended, so that its text is not read back."""
        expected, hit, points = _planned(record) if plan is None else (plan.expected, plan.hit, _marked(plan))
        return cls(
            record.id,
            record.kind,
            record.model,
            record.started,
            record.status,
            Usage(
                record.input,
                record.cache_read,
                record.cache_write_5m,
                record.cache_write_1h,
                record.output,
                record.counters,
            ),
            expected,
            record.cost,
            record.turn,
            record.entry,
            record.first_event,
            record.ended,
            record.request_id,
            record.response_id,
            record.stop_reason,
            points,
            hit,
            record.waited,
            Miss.from_json(record.miss) if record.miss else None,
            record.error,
            record.prompt,
            record.estimated,
        )


def _planned(record: CallRecord) -> tuple[Usage | None, str | None, Points]:
    """What a row says of the call's plan: the usage that was expected, the point to read, the points marked."""
    stored = json.loads(record.expected) if record.expected else None
    points = tuple((one[0], one[1], one[2], one[3]) for one in json.loads(record.points))
    return (usage_of(stored), stored.get("hit"), points) if stored else (None, None, points)


def _marked(plan: Plan) -> Points:
    return tuple((mark.slot, mark.point, mark.ttl, mark.tokens) for mark in plan.marks)


def usage_of(stored: Mapping[str, Any]) -> Usage:
    """Reads an expected usage as it is stored."""
    return Usage(stored["input"], stored["read"], stored["write_5m"], stored["write_1h"], counters=stored["counters"])


def total_cost(calls: Iterable[Call]) -> Decimal | None:
    """USD for these calls, or `None` where the price of one is not known."""
    total = Decimal(0)
    for call in calls:
        if call.cost is None:
            return None
        total += call.cost
    return total


@dataclass(frozen=True, slots=True)
class Loss:
    """What the misses of one cause add up to: calls, tokens billed again, and USD above what reading them costs."""

    calls: int = 0
    tokens: int = 0
    cost: Decimal = Decimal(0)

    def __add__(self, other: Loss) -> Loss:
        return Loss(self.calls + other.calls, self.tokens + other.tokens, self.cost + other.cost)


@dataclass(frozen=True, slots=True)
class Cost:
    """The bill of a session, or of many: USD in all and by kind of call, with the usage behind it.

    `unpriced`: calls of models without a published price, which the sums leave out. `losses`: what misses added to the
    bill, by cause.
    """

    total: Decimal = Decimal(0)
    by_kind: Mapping[str, Decimal] = field(default_factory=dict)
    usage: Usage = field(default_factory=Usage)
    calls: int = 0
    unpriced: int = 0
    losses: Mapping[str, Loss] = field(default_factory=dict)

    @property
    def loss(self) -> Loss:
        """What all misses added to the bill."""
        return sum(self.losses.values(), start=Loss())

    @classmethod
    def of(cls, calls: Iterable[Call]) -> Cost:
        """Adds up calls."""
        return sum((_of_call(call) for call in calls), start=cls())

    @classmethod
    def of_group(cls, group: Subtotal) -> Cost:
        """What the store has added up."""
        usage = Usage(group.input, group.cache_read, group.cache_write_5m, group.cache_write_1h, group.output)
        losses = {group.cause: Loss(group.calls, group.lost, group.lost_cost)} if group.cause else {}
        kinds: dict[str, Decimal] = {group.kind: group.cost} if group.unpriced < group.calls else {}
        return cls(group.cost, kinds, usage, group.calls, group.unpriced, losses)

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.total + other.total,
            _merged(self.by_kind, other.by_kind),
            self.usage + other.usage,
            self.calls + other.calls,
            self.unpriced + other.unpriced,
            _merged(self.losses, other.losses),
        )


def _of_call(call: Call) -> Cost:
    kinds = {} if call.cost is None else {call.kind: call.cost}
    miss = call.miss
    losses = {miss.cause: Loss(1, miss.tokens, miss.cost or Decimal(0))} if miss else {}
    return Cost(call.cost or Decimal(0), kinds, call.usage, 1, int(call.cost is None), losses)


def _merged(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    return {**one, **{name: one[name] + value if name in one else value for name, value in other.items()}}


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
class Reply:
    """The end of a turn. `text` and `content` are the last message's; `usage`, `cost` and `calls` cover the turn.

    `raw`: the fields of the last message, beside its content, as they came.
    """

    content: list[dict[str, Any]]
    stop_reason: str | None
    raw: Mapping[str, Any] = field(repr=False)
    calls: tuple[Call, ...]
    session: Session = field(repr=False)

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
        """The reply as plain JSON data, for a web framework to give out.

        `cost` is a decimal number in a `str` (USD), or `None`; `usage` in tokens; `calls` the ids of the ledger's rows.
        """
        return {
            "session": self.session.id,
            "text": self.text,
            "content": copied(self.content),
            "stop_reason": self.stop_reason,
            "usage": asdict(self.usage),
            "cost": None if self.cost is None else str(self.cost),
            "calls": [call.id for call in self.calls],
        }

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        """For pydantic, and what stands on it: a `Reply` is taken as it is and written as `to_dict()`."""
        from pydantic_core import core_schema

        written = core_schema.plain_serializer_function_ser_schema(
            cls.to_dict, return_schema=core_schema.dict_schema(core_schema.str_schema(), core_schema.any_schema())
        )
        return core_schema.is_instance_schema(cls, serialization=written)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> Any:
        return {"type": "object", "title": "Reply"}


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


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """A row of `SessionManager.list`. Times are seconds since the epoch; `cost` is USD."""

    id: str
    owner: str | None
    title: str | None
    metadata: dict[str, Any]
    model: str
    head: str | None
    created_at: float
    updated_at: float
    turns: int
    calls: int
    usage: Usage
    cost: Decimal
    unpriced: int = 0
