"""Leases: who may write to a session, and who comes next."""

from __future__ import annotations

from collections.abc import Sequence

from storage.errors import LeaseGone, LeaseTaken
from storage.holders import Holder
from storage.records import Lease
from storage.values import seconds as finite
from storage.watching import topic

from . import statements as sql
from .database import Database, Steps
from .rows import moving, read_holder, read_queue, write_holder, write_queue


def acquire(
    db: Database, session: str, holder: Holder, seconds: float, now: float, queue: float
) -> Steps[Lease | LeaseTaken]:
    """The lease, or why it is not to be had: given and not raised, so that a place in the queue is kept."""
    locked = db.run(sql.LOCK, {"session": session})
    time = db.ask_time(now)
    yield
    row, now, seconds = moving(locked, session), time(), finite("seconds", seconds)
    present = read_holder(row["lease_holder"])
    waiting = _waiting(row["lease_queue"], holder, now)
    taken = present is not None and present != holder and present.holds(row["lease_expires"], now, holder)
    others = [(waiter, until) for waiter, until in waiting if waiter != holder]
    if taken or (present != holder and waiting and waiting[0][0] != holder):
        if queue:
            place = next((n for n, (waiter, _) in enumerate(waiting) if waiter == holder), len(others))
            others.insert(place, (holder, now + finite("queue", queue)))
        if others or row["lease_queue"]:
            _set_queue(db, session, others)
        ahead = present if taken and present is not None else waiting[0][0]
        return LeaseTaken(session, ahead, row["lease_expires"] if taken else waiting[0][1])
    if row["lease_queue"]:
        _set_queue(db, session, others)
    lease = Lease(session, row["lease_token"] + 1, holder, now + seconds, row["stop"])
    values = {"session": session, "lease_token": lease.token, "lease_expires": lease.expires}
    db.run(sql.SET_LEASE, values | {"lease_holder": write_holder(holder)})
    return lease


def _waiting(text: str | None, observer: Holder, now: float) -> list[tuple[Holder, float]]:
    """Who stands in line, first come first: those whose place has not lapsed and whose process is still there."""
    return [
        (waiter, until)
        for waiter, until in read_queue(text)
        if until > now and (waiter == observer or waiter.holds(until, now, observer))
    ]


def _set_queue(db: Database, session: str, queue: Sequence[tuple[Holder, float]]) -> None:
    db.run(sql.SET_QUEUE, {"session": session, "lease_queue": write_queue(queue)})


def renew(db: Database, lease: Lease, seconds: float, now: float) -> Steps[Lease]:
    """The lease for `seconds` more. Raises `LeaseGone`: its token is not the newest, or it was given back."""
    time = db.ask_time(now)
    yield
    expires = time() + finite("seconds", seconds)
    values = {"session": lease.session, "lease_token": lease.token, "expires": expires}
    row = db.run(sql.RENEW, values).fetchone()
    if row is None:
        raise LeaseGone(lease.session, lease.token)
    return Lease(lease.session, lease.token, lease.holder, expires, row[0])


def release(db: Database, lease: Lease) -> Steps[None]:
    """Gives it back; on a server the same statement tells those in line. One that is gone already is no error."""
    db.run(sql.RELEASE, {"session": lease.session, "lease_token": lease.token, "topic": topic(lease.session)})
    yield
