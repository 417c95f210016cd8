"""A page of sessions, newest updated first, with the filters that are asked for."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Integer,
    Text,
    and_,
    bindparam,
    func,
    literal_column,
    or_,
    select,
    union_all,
)
from sqlalchemy.sql import Select

from storage.records import SessionRecord, SessionState
from storage.tables import OPEN_TURN, QUEUED_TURN, entries, sessions, turns
from storage.values import at_most

from .database import Database
from .reading import load
from .rows import session_record
from .searching import IN_CONTENT, IN_METADATA, KEPT, as_written
from .statements import Statement, bound
from .states import state_of


def listing(
    db: Database, owner: str | None, limit: int, before: str | None, search: str | None, prefix: str | None,
    state: SessionState | None, parent: str | None, branches: bool,
) -> list[SessionRecord]:  # fmt: skip
    """Raises `SessionMissing` if `before`, the last session of the page before, is gone."""
    filters = {"owner": owner, "before": before, "words": search, "prefix": prefix, "state": state, "parent": parent}
    values: dict[str, Any] = {name: value for name, value in filters.items() if value is not None}
    query = page(frozenset(values), branches, state == "running")
    if before is not None:
        values["before_time"] = load(db, before).updated_at
    if search is not None:
        words = str(search).lower()
        values |= {"words": words, "written": as_written(words)}
    return [session_record(row) for row in db.run(query, values | {"limit": at_most(limit)}).fetchall()]


@functools.cache
def page(filters: frozenset[str], branches: bool = True, running: bool = False) -> Statement:
    """Its statement; `filters` names those that are asked for. Without `branches`, none whose parent is there.

    `running`: sessions that run are asked for, which are few: only such are looked at as have a turn that could.
    """
    query = select(sessions).order_by(sessions.c.updated_at.desc(), sessions.c.id.desc())
    for name, condition in _CONDITIONS.items():
        if name in filters:
            query = query.where(condition)
    if running:
        query = query.where(_may_run)
    if not branches:
        parents = sessions.alias("parents")
        has_parent = select(parents.c.id).where(parents.c.id == sessions.c.forked_from).exists()
        query = query.where(or_(sessions.c.forked_from.is_(None), ~has_parent))
    if "words" not in filters:
        return Statement(_with_states(query))
    return Statement(
        _with_states(query.where(_found(func.instr, func.words))),
        postgresql=_with_states(query.where(_found(func.strpos, _replaced))),
    )


def _with_states(query: Select[Any]) -> Select[Any]:
    """Looked for when the page is known, not for each session that might stand on it."""
    rows = query.limit(bindparam("limit", type_=Integer())).subquery("page")
    return select(rows, state_of(rows.c.id, rows.c.head)).order_by(rows.c.updated_at.desc(), rows.c.id.desc())


def _text(name: str) -> ColumnElement[Any]:
    return bindparam(name, type_=Text())


_before_time = bound(sessions.c.updated_at, "before_time")
_may_run = sessions.c.id.in_(union_all(*(select(turns.c.session).where(one) for one in (OPEN_TURN, QUEUED_TURN))))
_same_time = and_(sessions.c.updated_at == _before_time, sessions.c.id < _text("before"))
_CONDITIONS: dict[str, ColumnElement[bool]] = {
    "owner": sessions.c.owner == _text("owner"),
    "prefix": func.substr(sessions.c.id, 1, func.length(_text("prefix"))) == _text("prefix"),
    "before": or_(sessions.c.updated_at < _before_time, _same_time),
    "state": state_of(sessions.c.id, sessions.c.head) == _text("state"),
    "parent": sessions.c.forked_from == _text("parent"),
}


def _replaced(text: ColumnElement[Any], pattern: str) -> ColumnElement[Any]:
    return func.regexp_replace(text, pattern, KEPT, "g")


def _found(place: Callable[..., ColumnElement[int]], words: Callable[..., ColumnElement[Any]]) -> ColumnElement[bool]:
    """Whether the words stand in a session or in an entry of its tree; `place` and `words` are the database's own."""

    def has(text: ColumnElement[Any], searched: str) -> ColumnElement[bool]:
        return place(func.lower(text), _text(searched)) > literal_column("0")

    def says(json: Column[Any], pattern: str) -> ColumnElement[bool]:
        return and_(has(json, "written"), has(words(json, pattern), "written"))  # the quick look comes first

    said = select(entries.c.number).where(entries.c.tree == sessions.c.tree, says(entries.c.content, IN_CONTENT))
    named = (has(sessions.c.title, "words"), has(sessions.c.id, "words"), says(sessions.c.metadata, IN_METADATA))
    return or_(*named, said.exists())
