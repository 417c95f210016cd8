"""What a session is doing, by its turns, as the statements that read sessions look it up."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, and_, case, func, literal_column, or_, select

from storage.tables import ANY_TURN, OPEN_TURN, QUEUED_TURN, turns

NEWEST_TURN = (turns.c.sequence.desc(), turns.c.number.desc())
"""Two may have one sequence: the later one counts."""


def state_of(session: ColumnElement[Any], head: ColumnElement[Any]) -> ColumnElement[Any]:
    """What a session's turns make of it, see `SessionRecord`: one that runs, else the newest that has begun.

    A summary is a turn's row too, written while another runs; and one that was stopped in the queue has never begun.
    What is queued behind a turn that waits does not hide that somebody is to decide. Where the head has moved on, by
    results that were appended or back, nothing is to be decided any more.
    """
    state, reason = turns.c.state, turns.c.stop_reason
    waits = or_(
        state == literal_column("'waiting'"),
        and_(state == literal_column("'finished'"), reason == literal_column("'tool_use'")),
    )
    found = case(
        (and_(waits, turns.c.reply.is_not_distinct_from(head)), literal_column("'waiting'")),
        (state == literal_column("'interrupted'"), literal_column("'interrupted'")),
    )
    of_session = turns.c.session == session
    one: ColumnElement[int] = literal_column("1")
    was_stopped = and_(state == literal_column("'cancelled'"), turns.c.entry.is_(None))
    has_begun = and_(state != literal_column("'queued'"), ~was_stopped)
    newest = select(found).where(
        of_session, ANY_TURN, has_begun, func.coalesce(reason, literal_column("''")) != literal_column("'compaction'")
    )
    runs = select(one).where(of_session, OPEN_TURN, state == literal_column("'running'")).exists()
    is_queued = select(one).where(of_session, QUEUED_TURN).exists()
    newest_state = newest.order_by(*NEWEST_TURN).limit(one).scalar_subquery()
    return case(
        (runs, literal_column("'running'")),
        (newest_state == literal_column("'waiting'"), literal_column("'waiting'")),
        (is_queued, literal_column("'running'")),
        else_=func.coalesce(newest_state, literal_column("'idle'")),
    )
