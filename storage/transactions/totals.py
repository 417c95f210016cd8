"""The ledger added up by the database: one row for each group, so that a large store is never loaded whole."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Float,
    Integer,
    Numeric,
    Select,
    Text,
    bindparam,
    case,
    cast,
    func,
    null,
    select,
)
from sqlalchemy.sql import ClauseElement

from storage.errors import StoreDamaged
from storage.records import CallKind, GroupBy, Subtotal
from storage.tables import calls, sessions

from .database import Database
from .rows import SUMMED
from .statements import Statement

_DAY = 86_400
_COUNTS = ("calls", *SUMMED, "unpriced", "lost")
_FILTERS: Mapping[str, ColumnElement[bool]] = {
    "session": calls.c.session == bindparam("session", type_=Text()),
    "owner": sessions.c.owner == bindparam("owner", type_=Text()),
    "since": calls.c.started >= bindparam("since", type_=Float()),
    "until": calls.c.started < bindparam("until", type_=Float()),
}


def totals(db: Database, by: GroupBy | None, kept: Mapping[str, Any]) -> list[Subtotal]:
    """One for each group, kind and cause, of the calls that are `kept` (a value for each filter).

    Raises `StoreDamaged` for times or costs that are none any more.
    """
    rows = db.run(_statement(by, frozenset(kept)), kept).fetchall()
    subtotals = [_subtotal(by, *row) for row in rows]
    return _merged(subtotals) if by == "agent" else subtotals


def _subtotal(by: GroupBy | None, key: Any, kind: CallKind, cause: str | None, *sums: Any) -> Subtotal:
    if by == "day":
        key = _day(key)
    elif by == "agent":
        key = _agent(key)
    counts = {name: int(value or 0) for name, value in zip(_COUNTS, sums[:-2], strict=True)}
    cost, lost_cost = (Decimal(value or 0) for value in sums[-2:])
    return Subtotal(key=key, kind=kind, cause=cause, **counts, cost=cost, lost_cost=lost_cost)


def _day(number: Any) -> str:
    try:
        return (date(1970, 1, 1) + timedelta(days=int(number))).isoformat()
    except (OverflowError, TypeError):
        raise StoreDamaged("the time of a stored call is none any more: restore a copy of the store") from None


def _agent(metadata: str) -> str | None:
    # Read here: what is no JSON would end a statement of PostgreSQL's, and sessions of one agent mostly have the same.
    try:
        found = json.loads(metadata)
    except (ValueError, RecursionError):
        return None
    agent = found.get("agent") if isinstance(found, dict) else None
    return agent if isinstance(agent, str) else None


def _merged(subtotals: Iterable[Subtotal]) -> list[Subtotal]:
    """One for each key, kind and cause, in the order of keys."""
    found: dict[tuple[str | None, CallKind, str | None], Subtotal] = {}
    for one in subtotals:
        place = one.key, one.kind, one.cause
        found[place] = _added(found[place], one) if place in found else one
    return sorted(found.values(), key=lambda one: (one.key or "", one.kind, one.cause or ""))


_SUMS = tuple(field.name for field in fields(Subtotal) if field.name not in ("key", "kind", "cause"))


def _added(one: Subtotal, other: Subtotal) -> Subtotal:
    return replace(one, **{name: getattr(one, name) + getattr(other, name) for name in _SUMS})


@functools.cache
def _statement(by: GroupBy | None, kept: frozenset[str]) -> Statement:
    return Statement(
        _query(by, kept, cast(calls.c.started / _DAY, Integer), func.decimal_sum),
        postgresql=_query(by, kept, cast(func.floor(calls.c.started / _DAY), BigInteger), _numeric_sum),
    )


def _numeric_sum(text: ColumnElement[Any]) -> ColumnElement[Any]:
    return func.sum(cast(text, Numeric))


def _query(by: GroupBy | None, kept: frozenset[str], day: ColumnElement[Any], decimal_sum: Any) -> ClauseElement:
    keys: dict[GroupBy | None, ColumnElement[Any]] = {
        "session": calls.c.session,
        "owner": sessions.c.owner,
        "day": day,
        "model": calls.c.model,
        "agent": sessions.c.metadata,
        None: cast(null(), Text),
    }
    key = keys[by].label("key")
    query: Select[Any] = select(
        key,
        calls.c.kind,
        calls.c.miss_cause,
        func.count().label("calls"),
        *(func.sum(calls.c[name]).label(name) for name in SUMMED),
        func.sum(case((calls.c.cost.is_(None), 1), else_=0)).label("unpriced"),
        func.sum(calls.c.miss_tokens).label("miss_tokens"),
        decimal_sum(calls.c.cost).label("cost"),
        decimal_sum(calls.c.miss_cost).label("miss_cost"),
    )
    if by in ("owner", "agent") or "owner" in kept:
        query = query.join(sessions, sessions.c.id == calls.c.session)
    query = query.where(*(_FILTERS[name] for name in sorted(kept)))
    order = (key, calls.c.kind, calls.c.miss_cause)
    groups = [calls.c.kind, calls.c.miss_cause] if by is None else [key, calls.c.kind, calls.c.miss_cause]
    return query.group_by(*groups).order_by(*order[0 if by else 1 :])
