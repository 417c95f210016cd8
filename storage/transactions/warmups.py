"""Who writes which point of the model's cache: at most one holder at a time, and only what is not known alive."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from storage.holders import Holder
from storage.records import Warmup
from storage.tables import warmups
from storage.values import seconds as finite

from . import statements as sql
from .database import Database
from .rows import read_holder, write_holder

SWEPT = 100
"""Rows that are no longer of use, removed each time that a new one comes."""

LONGEST_LIFE = 7200.0
"""Seconds that a point may be known alive: what claims more was written by a clock that is not ours (see `Holder`)."""

_COLUMNS = [column.name for column in warmups.columns]


def lead(db: Database, point: str, holder: Holder, seconds: float, now: float) -> Warmup:
    """Enters the point or locks its row first: of those who ask at the same time, one finds it free.

    A row that is of no use any more goes when a new one comes, so no table grows and nobody has to sweep it.
    """
    now = db.time(now)
    token = secrets.randbits(62)  # never one that a leader of the same point had before its row was removed
    values = {"point": point, "token": token, "expires": now + finite("seconds", seconds), "until": 0.0, "ttl": None}
    values["holder"] = write_holder(holder)
    (row,) = db.run(sql.ENTER_WARMUP, values).fetchall()
    cells = dict(zip(_COLUMNS, row, strict=True))
    if cells["token"] == token:
        db.run(sql.DELETE_WARMUPS, {"now": now, "latest": now + LONGEST_LIFE, "limit": SWEPT})
    elif (in_use := _in_use(cells, holder, now)) is not None:
        return in_use
    else:
        token = cells["token"] if cells["holder"] == values["holder"] else token
        db.run(sql.SET_WARMUP, values | {"token": token})
    return Warmup("leading", token=token, seconds_left=seconds, holder=holder)


def _in_use(cells: Mapping[str, Any], observer: Holder, now: float) -> Warmup | None:
    """What keeps the observer from leading: the point is known alive, or another live holder writes it."""
    if now < cells["until"] <= now + LONGEST_LIFE:
        return Warmup("warm", token=cells["token"], seconds_left=cells["until"] - now, ttl=cells["ttl"])
    other = read_holder(cells["holder"])
    if other is None or other == observer or not other.holds(cells["expires"], now, observer):
        return None
    return Warmup("taken", token=cells["token"], seconds_left=cells["expires"] - now, holder=other)


def led(db: Database, point: str, token: int, ttl: str | None, alive: float, now: float) -> None:
    """Says until when the point is alive, or takes its row away; either way those who wait for it hear of it."""
    if finite("alive", alive) > 0:
        db.run(sql.END_WARMUP, {"point": point, "token": token, "ttl": ttl, "until": db.time(now) + alive})
    else:
        db.run(sql.DELETE_WARMUP, {"point": point, "token": token})
    db.tell(point)
