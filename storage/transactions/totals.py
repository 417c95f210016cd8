"""The ledger added up by the database: one row for each group, so that a large store is never loaded whole."""

from __future__ import annotations

import functools
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Integer, Numeric, Text, bindparam, case, cast, func, null, select
from sqlalchemy.sql import ClauseElement

from storage.errors import StoreDamaged
from storage.records import CallKind, GroupBy, Subtotal
from storage.tables import calls, sessions

from .database import Database
from .rows import SUMMED
from .statements import Statement

_DAY = 86_400
_COUNTS = ("calls", *SUMMED, "unpriced", "lost")


def totals(db: Database, by: GroupBy | None, session: str | None, owner: str | None) -> list[Subtotal]:
    """One for each group, kind and cause. Raises `StoreDamaged` for times or costs that are none any more."""
    values = {name: value for name, value in (("session", session), ("owner", owner)) if value is not None}
    query = _statement(by, session=session is not None, owner=owner is not None)
    return [_subtotal(by, *row) for row in db.run(query, values).fetchall()]


def _subtotal(by: GroupBy | None, key: Any, kind: CallKind, cause: str | None, *sums: Any) -> Subtotal:
    if by == "day":
        key = _day(key)
    counts = {name: int(value or 0) for name, value in zip(_COUNTS, sums[:-2], strict=True)}
    cost, lost_cost = (Decimal(value or 0) for value in sums[-2:])
    return Subtotal(key=key, kind=kind, cause=cause, **counts, cost=cost, lost_cost=lost_cost)


def _day(number: Any) -> str:
    try:
        return (date(1970, 1, 1) + timedelta(days=int(number))).isoformat()
    except (OverflowError, TypeError):
        raise StoreDamaged("the time of a stored call is none any more: restore a copy of the store") from None


@functools.cache
def _statement(by: GroupBy | None, *, session: bool, owner: bool) -> Statement:
    return Statement(
        _query(by, session, owner, cast(calls.c.started / _DAY, Integer), func.decimal_sum),
        postgresql=_query(by, session, owner, cast(func.floor(calls.c.started / _DAY), BigInteger), _numeric_sum),
    )


def _numeric_sum(text: ColumnElement[Any]) -> ColumnElement[Any]:
    return func.sum(cast(text, Numeric))


def _query(by: GroupBy | None, session: bool, owner: bool, day: ColumnElement[Any], decimal_sum: Any) -> ClauseElement:
    keys: dict[GroupBy | None, ColumnElement[Any]] = {
        "session": calls.c.session,
        "owner": sessions.c.owner,
        "day": day,
        None: cast(null(), Text),
    }
    key = keys[by].label("key")
    query = select(
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
    if by == "owner" or owner:
        query = query.join(sessions, sessions.c.id == calls.c.session)
    if session:
        query = query.where(calls.c.session == bindparam("session", type_=Text()))
    if owner:
        query = query.where(sessions.c.owner == bindparam("owner", type_=Text()))
    order = (key, calls.c.kind, calls.c.miss_cause)
    groups = [calls.c.kind, calls.c.miss_cause] if by is None else [key, calls.c.kind, calls.c.miss_cause]
    return query.group_by(*groups).order_by(*order[0 if by else 1 :])
