"""Who follows which session from elsewhere, and what the workers that run the turns pass on to them.

Nothing here locks a session, and none of it need outlive a crash.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    ColumnElement,
    Integer,
    Text,
    and_,
    bindparam,
    cast,
    column,
    delete,
    func,
    literal_column,
    or_,
    select,
    tuple_,
)
from sqlalchemy.dialects import postgresql, sqlite

from storage.holders import LONGEST_LEASE
from storage.records import FollowerRecord, RelayRecord
from storage.tables import followers, relays
from storage.values import at_most, check, looks
from storage.values import seconds as finite

from .database import Database
from .rows import values as fields_of
from .statements import SERVER_TIME, Statement, bound

FOLLOWERS, RELAYS = "followers", "relays"
"""The names under which there is news of the one and of the other."""
LONGEST = LONGEST_LEASE
"""Seconds that somebody can say to follow: what claims more was written by a clock that is not ours (see `Holder`)."""
SWEPT = 100
"""Rows that are over, removed each time that somebody says to follow."""

_RELAY = ("session", "turn", "id", "content", "written")
_looks = looks({name: relays.c[name].type for name in _RELAY}, relays)


def follow(db: Database, session: str, reader: str, seconds: float, now: float) -> None:
    """As warm-ups: rows that are over go on the way, so the table does not grow and nobody has to sweep it."""
    now = db.time(now)
    expires = now + min(finite("seconds", seconds), LONGEST)
    db.run(_SWEEP, {"now": now, "latest": now + LONGEST, "limit": SWEPT})
    db.run(_FOLLOW, {"session": session, "reader": reader, "expires": expires})
    db.tell(FOLLOWERS)


def unfollow(db: Database, session: str, reader: str) -> None:
    db.run(_UNFOLLOW, {"session": session, "reader": reader})
    db.tell(FOLLOWERS)


def followed(db: Database, now: float) -> list[FollowerRecord]:
    rows = db.run(_FOLLOWED, {"now": now, "latest": finite("now", now) + LONGEST}).fetchall()
    return [FollowerRecord(*row) for row in rows]


def relay(db: Database, rows: Sequence[RelayRecord]) -> None:
    """By one statement that takes all rows as one JSON text: a parameter for each cell would cost more than they do."""
    if not rows:
        return
    cells = [fields_of(row, _RELAY) for row in rows]
    for row in cells:
        check(row, _looks)
    if db.again and db.run(_IS_RELAYED, cells[0]).fetchone() is not None:
        return
    db.run(_RELAY_ROWS, {"rows": json.dumps(cells, ensure_ascii=False)})
    db.tell(RELAYS)


def relayed(db: Database, session: str, turn: str, after: int, limit: int) -> list[RelayRecord]:
    values = {"session": session, "turn": turn, "after": after, "limit": at_most(limit)}
    return [RelayRecord(number, session, turn, *row) for number, *row in db.run(RELAYED, values).fetchall()]


def relayed_in(db: Database, places: Sequence[tuple[str, str, int]], limit: int) -> list[RelayRecord]:
    cells = [{"session": session, "turn": turn, "after": after} for session, turn, after in places]
    values = {"places": json.dumps(cells), "limit": at_most(limit)}
    return [RelayRecord(*row) for row in db.run(_RELAYED_IN, values).fetchall()]


def end_relays(db: Database, before: float) -> None:
    db.run(_END_RELAYS, {"before": before})


def _text(name: str) -> ColumnElement[Any]:
    return bindparam(name, type_=Text())


# Followers

_now, _latest = bound(followers.c.expires, "now"), bound(followers.c.expires, "latest")
_place = (followers.c.session == _text("session"), followers.c.reader == _text("reader"))
_key = tuple_(followers.c.session, followers.c.reader)


def _follow(dialect: Any) -> Any:
    values = {column.name: bound(column) for column in followers.columns}
    return (
        dialect.insert(followers)
        .values(values)
        .on_conflict_do_update(
            index_elements=[followers.c.session, followers.c.reader], set_={"expires": bound(followers.c.expires)}
        )
    )


def _followed(now: ColumnElement[Any], latest: ColumnElement[Any]) -> Any:
    is_live = (followers.c.expires > now, followers.c.expires <= latest)
    return select(followers).where(*is_live).order_by(followers.c.session, followers.c.reader)


_over = or_(followers.c.expires <= _now, followers.c.expires > _latest)
_swept = select(followers.c.session, followers.c.reader).where(_over).limit(bindparam("limit", type_=Integer()))
_swept_keys = _swept.with_for_update(skip_locked=True).cte("swept")
_FOLLOW = Statement(_follow(sqlite), postgresql=_follow(postgresql), into=followers)
_UNFOLLOW = Statement(delete(followers).where(*_place))
_SWEEP = Statement(delete(followers).where(_key.in_(select(_swept_keys.c.session, _swept_keys.c.reader))))
_server_latest = SERVER_TIME + literal_column(str(LONGEST))
_FOLLOWED = Statement(_followed(_now, _latest), postgresql=_followed(SERVER_TIME, _server_latest))


# Relays


def _relay_rows() -> Statement:
    """They come in their order, and so do the numbers that the database gives them."""
    each = func.json_each(_text("rows")).table_valued("value")
    cells = [func.json_extract(each.c.value, f"$.{name}") for name in _RELAY]
    kinds = [column(name, relays.c[name].type) for name in _RELAY]
    records = func.json_to_recordset(cast(_text("rows"), JSON)).table_valued(*kinds, name="given")
    given = records.render_derived(with_types=True)
    return Statement(
        relays.insert().from_select(_RELAY, select(*cells)),
        postgresql=relays.insert().from_select(_RELAY, select(*(given.c[name] for name in _RELAY))),
    )


_RELAY_ROWS = _relay_rows()
_of_turn = (relays.c.session == _text("session"), relays.c.turn == _text("turn"))
RELAYED = Statement(
    select(relays.c.number, relays.c.id, relays.c.content, relays.c.written)
    .where(*_of_turn, relays.c.number > bound(relays.c.number, "after"))
    .order_by(relays.c.number)
    .limit(bindparam("limit", type_=Integer()))
)


def _relayed_in(place: Any, session: ColumnElement[Any], turn: ColumnElement[Any], after: ColumnElement[Any]) -> Any:
    is_behind = (relays.c.session == session, relays.c.turn == turn, relays.c.number > after)
    rows = select(relays.c.number, *(relays.c[name] for name in _RELAY)).join_from(place, relays, and_(*is_behind))
    return rows.order_by(relays.c.number).limit(bindparam("limit", type_=Integer()))


_PLACE = (column("session", Text()), column("turn", Text()), column("after", BigInteger()))
_each = func.json_each(_text("places")).table_valued("value")
_given = func.json_to_recordset(cast(_text("places"), JSON)).table_valued(*_PLACE, name="given")
_given = _given.render_derived(with_types=True)
_RELAYED_IN = Statement(
    _relayed_in(_each, *(func.json_extract(_each.c.value, f"$.{cell.name}") for cell in _PLACE)),
    postgresql=_relayed_in(_given, *(_given.c[cell.name] for cell in _PLACE)),
)
_same = (relays.c[name] == bound(relays.c[name]) for name in ("id", "content", "written"))
_IS_RELAYED = Statement(select(relays.c.number).where(*_of_turn, *_same))
_ended = select(relays.c.number).where(relays.c.written < bound(relays.c.written, "before"))
_ended_rows = _ended.with_for_update(skip_locked=True).cte("ended")  # another process may be removing the same
_END_RELAYS = Statement(delete(relays).where(relays.c.number.in_(select(_ended_rows.c.number))))
