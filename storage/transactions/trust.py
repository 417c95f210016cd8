"""What workers have found out about an endpoint, by model: one row, which failures seen by many are added up in."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, ColumnElement, and_, bindparam, case, literal_column, null, or_, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql import ClauseElement

from storage.records import TrustRecord
from storage.tables import trust
from storage.values import seconds as finite

from .database import Database
from .statements import Statement, bound


def load(db: Database, endpoint: str, model: str) -> TrustRecord | None:
    row = db.run(_LOAD, {"endpoint": endpoint, "model": model}).fetchone()
    return None if row is None else TrustRecord(*row)


def weigh(
    db: Database, endpoint: str, model: str, by: int, first: int, most: int, now: float, forget: float
) -> TrustRecord:
    """One statement, so that of those who say something at the same time each is counted."""
    values = {"endpoint": endpoint, "model": model, "points": first, "by": by, "most": most, "at": finite("now", now)}
    (row,) = db.run(_WEIGH, values | {"expires": 0.0, "old": now - finite("forget", forget)}).fetchall()
    return TrustRecord(*row)


def claim(db: Database, endpoint: str, model: str, seconds: float, now: float, forget: float) -> bool:
    """Whether this is the one that finds out: its row is new, or the last one's time is over."""
    values = {"endpoint": endpoint, "model": model, "at": finite("now", now), "old": now - finite("forget", forget)}
    time = db.time(now)
    values |= {"time": time, "expires": time + finite("seconds", seconds)}
    return bool(db.run(_CLAIM, values).fetchall())


_ROW = [trust.c[name] for name in ("endpoint", "model", "points", "at")]
_LOAD = Statement(
    select(*_ROW).where(trust.c.endpoint == bound(trust.c.endpoint), trust.c.model == bound(trust.c.model))
)
_zero: ColumnElement[int] = literal_column("0", BigInteger())
_is_forgotten = and_(trust.c.points <= _zero, trust.c.at < bound(trust.c.at, "old"))
_is_open = or_(trust.c.points.is_(None), _is_forgotten)


def _upsert(given: dict[str, Any], changed: dict[str, Any], where: Any = None) -> Statement:
    """Inserts the row, or changes the one that is there; gives the row where it did either."""
    forms: list[ClauseElement] = [
        dialect.insert(trust)
        .values(given)
        .on_conflict_do_update(index_elements=[trust.c.endpoint, trust.c.model], set_=changed, where=where)
        .returning(*_ROW)
        for dialect in (sqlite, postgresql)
    ]
    return Statement(forms[0], postgresql=forms[1], into=trust)


def _weighed() -> Statement:
    by, most = (bindparam(name, type_=BigInteger()) for name in ("by", "most"))
    is_gone = trust.c.points <= _zero
    points = case(
        (_is_open, bound(trust.c.points)),
        (is_gone, trust.c.points),
        (trust.c.points + by > most, most),
        else_=trust.c.points + by,
    )
    at = case((and_(is_gone, ~_is_forgotten), trust.c.at), else_=bound(trust.c.at))
    return _upsert({column.name: bound(column) for column in trust.columns}, {"points": points, "at": at})


def _claimed() -> Statement:
    is_free = trust.c.expires <= bound(trust.c.expires, "time")
    given = {column.name: bound(column) for column in trust.columns if column.name != "points"} | {"points": null()}
    return _upsert(given, {"expires": bound(trust.c.expires)}, and_(_is_open, is_free))


_WEIGH, _CLAIM = _weighed(), _claimed()
