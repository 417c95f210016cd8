"""Which sessions want something done while nobody talks to them: those due for tending, and those left by the dead."""

from __future__ import annotations

from typing import Any

from storage.holders import LONGEST_LEASE, Holder
from storage.values import at_most
from storage.values import seconds as finite

from . import statements as sql
from .database import Database, Steps
from .rows import read_holder, write_holder


def tend(db: Database, session: str, after: float | None, now: float, head: str | None) -> Steps[None]:
    """`after`: seconds from the time that leases go by, or never; with `head`, only while that is the head."""
    time = db.ask_time(now)
    yield
    due = None if after is None else time() + finite("after", after)
    values = {"session": session, "tend_at": due}
    db.run(sql.TEND, values) if head is None else db.run(sql.TEND_AT_HEAD, values | {"of_head": head})


def claim_due(
    db: Database, holder: Holder, now: float, limit: int, late: float, seconds: float, lease_now: float
) -> list[str]:
    """Moves the time of those that are due, and gives them."""
    now, lease_now = db.time(now), db.time(lease_now)
    due, again = now - finite("late", late), now + finite("seconds", seconds)
    values: dict[str, Any] = {"due": due, "again": again, "limit": at_most(limit), "lease_holder": write_holder(holder)}
    values |= {"now": lease_now, "latest": lease_now + LONGEST_LEASE}
    rows = db.run(sql.CLAIM_DUE, values).fetchall()
    return [id for (id,) in rows]


def orphans(db: Database, now: float, limit: int) -> list[str]:
    """Sessions by the age of their oldest turn that runs or is in the queue, each once."""
    now, here = db.time(now), Holder.current()
    orphaned: dict[str, None] = {}
    rows = db.run(sql.RUNNING, {}).fetchall() + db.run(sql.ALL_QUEUED, {}).fetchall()
    for _, session, text, expires in sorted(rows):
        holder = read_holder(text)
        if holder is None or not holder.holds(expires, now, here):
            orphaned[session] = None
    return list(orphaned)[: at_most(limit)]
