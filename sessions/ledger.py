"""The ledger as its readers see it: calls, and what they cost."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, TypeAlias

from sessions.core.cache import Where
from sessions.core.diagnosis import Miss
from sessions.core.plan import Plan
from sessions.core.usage import Usage
from sessions.core.warmth import Mark
from storage.records import CallRecord, Subtotal

Points: TypeAlias = tuple[tuple[str, str, str, int], ...]
_NOWHERE = Where("messages", 0, 0)


@dataclass(frozen=True, slots=True)
class Call:
    """One request to the model, as the ledger keeps it. Times are seconds since the epoch, `cost` is USD.

    `points`: what was marked, as (slot, point, lifetime, prefix tokens). `waited`: seconds at the gate. `cost` is
    `None` where no price is published. `entry`: the reply that the call made, or the head that it was asked from.
    `settings`: the digest of the settings that it was made with. `estimated`: the answer was cut or stopped before the
    API had said how long it is; its output is estimated from what had come. Of a compaction: `summarized`, the tokens
    that the summary stands for, and `saves`, what it was expected to save (USD), where it was made for that.

    With `clear_tool_results`: `cleared`, of how many tool uses the request left the results out, `cleared_tokens`, how
    many tokens the API says that these are, and `clearing`, how many of them it was the first to leave out; then
    `saves` is what that was expected to save, and `price` what it was expected to add to this request (USD).
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
    summarized: int = 0
    saves: Decimal | None = None
    cleared: int = 0
    cleared_tokens: int = 0
    clearing: int = 0
    price: Decimal | None = None

    @classmethod
    def of(cls, record: CallRecord, plan: Plan | None = None) -> Call:
        """Reads a row of the ledger. `plan`: that of a call which has just ended, so that its text is not read back."""
        planned = _planned(record) if plan is None else plan
        points = _points(record) if plan is None else _marked(plan)
        usage = Usage(
            input=record.input,
            cache_read=record.cache_read,
            cache_write_5m=record.cache_write_5m,
            cache_write_1h=record.cache_write_1h,
            output=record.output,
            counters=record.counters,
        )
        return cls(
            id=record.id,
            kind=record.kind,
            model=record.model,
            started=record.started,
            status=record.status,
            usage=usage,
            expected=planned.expected if planned else None,
            cost=record.cost,
            turn=record.turn,
            entry=record.entry,
            first_event=record.first_event,
            ended=record.ended,
            request_id=record.request_id,
            response_id=record.response_id,
            stop_reason=record.stop_reason,
            points=points,
            hit=planned.hit if planned else None,
            waited=record.waited,
            miss=Miss.from_json(record.miss) if record.miss else None,
            error=record.error,
            settings=record.prompt,
            estimated=record.estimated,
            summarized=planned.summarized if planned else 0,
            **{"saves": planned.saves if planned else None, **_clearing(record)},
        )


def _planned(record: CallRecord) -> Plan | None:
    """What a row says of the call's plan, without its marks; `None` where it says nothing."""
    stored = json.loads(record.expected) if record.expected else None
    if not stored:
        return None
    saves = stored.get("saves")
    return Plan(
        marks=(),
        expected=usage_of(stored),
        hit=stored.get("hit"),
        summarized=stored.get("summarized", 0),
        saves=None if saves is None else Decimal(saves),
    )


def _clearing(record: CallRecord) -> dict[str, Any]:
    """What a row says of tool results that were cleared."""
    if not record.expected or '"cleared"' not in record.expected:
        return {}
    stored = json.loads(record.expected)
    found = {name: stored.get(name, 0) for name in ("cleared", "cleared_tokens", "clearing")}
    money = {name: Decimal(stored[name]) for name in ("price", "saves") if name in stored}
    return found | money


def _points(record: CallRecord) -> Points:
    return tuple((one[0], one[1], one[2], one[3]) for one in json.loads(record.points))


def _marked(plan: Plan) -> Points:
    return tuple((mark.slot, mark.point, mark.ttl, mark.tokens) for mark in plan.marks)


def marks_of(points: Iterable[tuple[str, str, str, int]]) -> tuple[Mark, ...]:
    """The marks that were stored of a call; where in the request they stood is not kept."""
    return tuple(Mark(slot, _NOWHERE, ttl, point, tokens) for slot, point, ttl, tokens in points)  # type: ignore[arg-type]


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
class Compaction:
    """What one compaction has saved until now.

    `call`: its row of the ledger. `left_out`: tokens by which it has made each later prompt shorter. `requests`: those
    sent since, up to the next compaction. `saved`: USD that reading these tokens again would have cost, less the price
    of the compaction; less than 0 until it has paid, `None` where no price is published. What the model has read again
    because of it is in the price of its turns, and is not known here.
    """

    call: Call
    left_out: int
    requests: int
    saved: Decimal | None


def compactions_of(calls: Iterable[Call], read_price: Callable[[Call], Decimal | None]) -> list[Compaction]:
    """The compactions among the calls of one session, in order. `read_price`: USD for a cached token of a call."""
    found: list[Compaction] = []
    for call in calls:
        if call.kind == "compact" and call.status == "ok" and call.summarized:
            left_out = max(0, call.summarized - call.usage.output)
            found.append(Compaction(call, left_out, 0, None if call.cost is None else -call.cost))
        elif found and call.kind == "turn" and call.status == "ok":
            last, price = found[-1], read_price(call)
            saved = None if last.saved is None or price is None else last.saved + last.left_out * price
            found[-1] = replace(last, requests=last.requests + 1, saved=saved)
    return found


@dataclass(frozen=True, slots=True)
class ClearedResults:
    """What clearing tool results has saved until now.

    `call`: the first request without them. `left_out`: tokens by which they have made each later prompt shorter, as the
    API counts them. `requests`: those sent since. `saved`: USD that reading these tokens again would have cost, less
    what clearing them was expected to add to the first request; less than 0 until it has paid, `None` where no price
    is published.
    """

    call: Call
    left_out: int
    requests: int
    saved: Decimal | None


def clearings_of(calls: Iterable[Call], read_price: Callable[[Call], Decimal | None]) -> list[ClearedResults]:
    """The clearings among the calls of one session, in order. `read_price`: USD for a cached token of a call."""
    found: list[ClearedResults] = []
    cleared = 0
    for call in calls:
        if call.kind != "turn" or call.status != "ok":
            continue
        found = [_saved_more(one, call, read_price) if one.call.cleared <= call.cleared else one for one in found]
        if call.clearing:
            left_out = max(0, call.cleared_tokens - cleared)
            found.append(ClearedResults(call, left_out, 0, None if call.price is None else -call.price))
        cleared = call.cleared_tokens
    return found


def _saved_more(one: ClearedResults, call: Call, read_price: Callable[[Call], Decimal | None]) -> ClearedResults:
    price = read_price(call)
    saved = None if one.saved is None or price is None else one.saved + one.left_out * price
    return replace(one, requests=one.requests + 1, saved=saved)


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

    @classmethod
    def of_groups(cls, groups: Iterable[Subtotal], *, by_kind: bool) -> dict[str | None, Cost]:
        """What the store has added up, by the groups' keys or by kind of call."""
        found: dict[str | None, Cost] = {}
        for group in groups:
            key = group.kind if by_kind else group.key
            found[key] = found.get(key, cls()) + cls.of_group(group)
        return found

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
