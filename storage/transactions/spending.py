"""What is spent and what may be, set against limits: room is taken before a request is sent, its ledger row settles it.

Nothing is written when a request has ended: what a reservation counts for is looked up in the ledger. One writer at a
time takes room, so that two never take the same.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from decimal import ROUND_CEILING, Decimal
from typing import Any
from zlib import crc32

from sqlalchemy import (
    JSON,
    BigInteger,
    ColumnElement,
    Float,
    Integer,
    Numeric,
    Text,
    and_,
    bindparam,
    case,
    cast,
    column,
    delete,
    func,
    literal_column,
    null,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.sql import ClauseElement

from storage.errors import BudgetFull, InvalidValue
from storage.records import Limit, Reservation
from storage.tables import calls, spending
from storage.values import dollars
from storage.values import seconds as finite

from .database import Database
from .statements import Statement, bound

UNITS = 10**12
"""Parts of a USD in which amounts are kept: whole numbers add up exactly in every database."""
MOST_USD = 1_000_000
"""The largest limit and the largest amount, in USD: the sum of what is under one limit fits into 64 bits."""
SLICES = 200
"""Parts of a window whose amounts may be added up: then they leave it together, with the newest of them."""
SWEEP_EACH = 64
"""Of so many reservations one tidies up: what has left its window goes, what has ended is added up."""
SWEPT = 500
"""Rows that are over, removed each time."""


def take_turns(db: Database) -> None:
    """From here to the end of the transaction nobody else takes room: asked with the first questions."""
    db.run(_TAKE_TURNS, {})


def reserve(db: Database, asked: Reservation) -> BudgetFull | None:
    """Takes room under all of the limits, or says which has none, and nothing is written; after `take_turns`.

    Given and not raised, so that the work of others in the same transaction goes on.
    """
    values = {
        "limits": json.dumps([_cells(limit, asked.now) for limit in asked.limits]),
        "session": asked.session,
        "call": asked.call,
        "expected": units("expected", asked.expected),
        "most": units("most", asked.most),
        "now": finite("now", asked.now),
        "until": finite("until", asked.until),
    }
    # Asked again where what was under way has ended between the two questions: ledger rows come without taking turns.
    full = None
    while full is None and db.run(_RESERVE, values).rowcount <= 0:
        # An earlier run of this transaction may have been committed (`Database.again`).
        if db.run(_IS_RESERVED, {"session": asked.session, "call": asked.call}).fetchone() is not None:
            return None
        full = _why(db, asked, values)
    if full is None and crc32(asked.call.encode()) % SWEEP_EACH == 0:
        _sweep(db, asked)
    return full


def free(db: Database, session: str, call: str) -> None:
    """The request is not sent after all."""
    db.run(_FREE, {"session": session, "call": call})


def settle(db: Database, session: str) -> None:
    """The session's ledger is about to go: what it has spent stays."""
    db.run(_SETTLE, {"session": session})


def units(name: str, usd: Decimal) -> int:
    """An amount as it is kept, rounded up. Raises `InvalidValue`."""
    dollars(name, usd)
    if not 0 <= usd <= MOST_USD:
        raise InvalidValue(f"{name} must be an amount from 0 to {MOST_USD:,} US dollars")
    return int((usd * UNITS).to_integral_value(ROUND_CEILING))


def _cells(limit: Limit, now: float) -> dict[str, Any]:
    if finite("window", limit.window) <= 0:
        raise InvalidValue("window must be more than no seconds")
    return {
        "scope": limit.scope,
        "usd": units("usd", limit.usd),
        "leaves": finite("now", now) + limit.window,
    }


def _why(db: Database, asked: Reservation, values: dict[str, Any]) -> BudgetFull | None:
    """Of the limits that have no room, the one that has it last; `None` where all have some by now."""
    rows = db.run(_COUNTED, {"limits": values["limits"], "now": values["now"]}).fetchall()
    refusals = []
    for limit in asked.limits:
        of_limit = [row[1:] for row in rows if row[0] == limit.scope]
        if (refusal := _refusal(limit, of_limit, values["expected"])) is not None:
            refusals.append(refusal)
    return max(refusals, key=lambda refusal: (refusal.frees is None, refusal.frees or 0.0), default=None)


def _refusal(limit: Limit, rows: Sequence[tuple[float, int, int]], expected: int) -> BudgetFull | None:
    """`rows`: when it leaves, what it counts for now, what it is expected to cost; in the order of leaving."""
    usd = units("usd", limit.usd)
    counted = sum(int(most) for _, most, _ in rows)
    if counted + expected <= usd:
        return None
    frees, behind = None, counted
    for leaves, most, _ in rows:
        behind -= int(most)
        if behind + expected <= usd:
            frees = leaves
            break
    likely = sum(int(amount) for _, _, amount in rows)
    left = Decimal(max(0, usd - counted)) / UNITS
    return BudgetFull(limit.scope, left, frees, is_held=likely + expected <= usd)


def _sweep(db: Database, asked: Reservation) -> None:
    """So that no limit has more rows than slices and requests of late, however long its window."""
    db.run(_SWEEP, {"now": asked.now, "limit": SWEPT})
    for limit in asked.limits:
        slices: dict[int, list[tuple[int, float, int]]] = {}
        for number, leaves, amount in db.run(_ENDED, {"scope": limit.scope}).fetchall():
            slices.setdefault(int(leaves * SLICES / limit.window), []).append((number, leaves, int(amount)))
        for rows in slices.values():
            if len(rows) > 1:
                db.run(_DELETE, {"numbers": json.dumps([number for number, _, _ in rows])})
                newest, amount = max(leaves for _, leaves, _ in rows), sum(amount for _, _, amount in rows)
                db.run(_INSERT_SUM, {"scope": limit.scope, "leaves": newest, "expected": amount})


def _text(name: str) -> ColumnElement[Any]:
    return bindparam(name, type_=Text())


def _limits(name: str) -> tuple[Any, Any]:
    """The given limits as rows, as each dialect reads them from one JSON text."""
    kinds = (column("scope", Text()), column("usd", BigInteger()), column("leaves", Float()))
    given = func.json_to_recordset(cast(_text("limits"), JSON)).table_valued(*kinds, name=name)
    return func.json_each(_text("limits")).table_valued("value", name=name), given.render_derived(with_types=True)


def _of_json(each: Any) -> dict[str, ColumnElement[Any]]:
    return {name: func.json_extract(each.c.value, f"$.{name}") for name in ("scope", "usd", "leaves")}


_now, _expected = bound(spending.c.until, "now"), bound(spending.c.expected, "expected")
_ledger = and_(calls.c.session == spending.c.session, calls.c.id == spending.c.call)
_cost = func.round(cast(calls.c.cost, Numeric) * literal_column(str(UNITS)))
_paid = func.coalesce(cast(_cost, BigInteger), literal_column("0"))  # what has no price counts as nothing
_ended = or_(spending.c.call.is_(None), calls.c.id.is_not(None))
_final = case((calls.c.id.is_not(None), _paid), else_=spending.c.expected)
_counted = case((and_(~_ended, spending.c.until > _now), spending.c.most), else_=_final)
_with_ledger = spending.outerjoin(calls, _ledger)


def _reserve(given: Any, cells: Any, other: Any, others: Any) -> ClauseElement:
    """One row for each limit, unless one of them has less left than is expected."""
    zero: ColumnElement[int] = literal_column("0")
    present = and_(spending.c.scope == others["scope"], spending.c.leaves > _now)
    taken = select(func.coalesce(func.sum(_counted), zero)).select_from(_with_ledger).where(present).scalar_subquery()
    is_full = select(literal_column("1")).select_from(other).where(_expected + taken > others["usd"]).exists()
    values = {
        "scope": cells["scope"],
        "session": _text("session"),
        "call": _text("call"),
        "leaves": cells["leaves"],
        "until": bound(spending.c.until),
        "expected": _expected,
        "most": bound(spending.c.most),
    }
    return spending.insert().from_select([*values], select(*values.values()).select_from(given).where(~is_full))


def _counted_rows(cells: Any, given: Any) -> ClauseElement:
    names = select(cells["scope"]).select_from(given)
    rows = select(spending.c.scope, spending.c.leaves, _counted, _final).select_from(_with_ledger)
    return rows.where(spending.c.scope.in_(names), spending.c.leaves > _now).order_by(spending.c.leaves)


(_each, _given), (_each_other, _other) = _limits("given"), _limits("other")
_RESERVE = Statement(
    _reserve(_each, _of_json(_each), _each_other, _of_json(_each_other)),
    postgresql=_reserve(_given, _given.c, _other, _other.c),
)
_COUNTED = Statement(
    _counted_rows(_of_json(_each), _each),
    postgresql=_counted_rows(_given.c, _given),
)
# Of a file there is one writer anyway. One lock for the whole store: of several, two could be waited for in a circle.
_TAKE_TURNS = Statement(
    text("-- one writer at a time"),
    postgresql=select(func.pg_advisory_xact_lock(func.hashtext("warmline spending"), literal_column("0"))),
)
_this_call = and_(spending.c.session == _text("session"), spending.c.call == _text("call"))
_IS_RESERVED = Statement(select(spending.c.number).where(_this_call))
_in_ledger = select(calls.c.id).where(calls.c.session == _text("session"), calls.c.id == _text("call")).exists()
_FREE = Statement(delete(spending).where(_this_call, ~_in_ledger))
_paid_for = select(_paid).where(_ledger).scalar_subquery()
_SETTLE = Statement(
    update(spending)
    .where(spending.c.session == _text("session"))
    .values(expected=func.coalesce(_paid_for, spending.c.expected), until=literal_column("0"))
    .values(session=null(), call=null())
)
_over = select(spending.c.number).where(spending.c.leaves <= _now).limit(bindparam("limit", type_=Integer()))
_SWEEP = Statement(delete(spending).where(spending.c.number.in_(_over)))
_ENDED = Statement(
    select(spending.c.number, spending.c.leaves, _final)
    .select_from(_with_ledger)
    .where(spending.c.scope == _text("scope"), _ended)
)
_numbers = func.json_each(_text("numbers")).table_valued("value")
_texts = func.json_array_elements_text(cast(_text("numbers"), JSON)).table_valued("value")
_DELETE = Statement(
    delete(spending).where(spending.c.number.in_(select(_numbers.c.value))),
    postgresql=delete(spending).where(spending.c.number.in_(select(cast(_texts.c.value, BigInteger)))),
)
_INSERT_SUM = Statement(
    spending.insert().values(
        scope=bound(spending.c.scope),
        leaves=bound(spending.c.leaves),
        until=literal_column("0"),
        expected=_expected,
        most=literal_column("0"),
    ),
)
