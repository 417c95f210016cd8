"""Sessions as they are listed, page by page: what their rows say, without their history."""

from __future__ import annotations

import json
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from sessions.conversation.opening import is_set_up
from sessions.core.settings import Settings
from sessions.core.usage import Usage
from sessions.translate import decoding
from storage import SessionRecord, Store
from storage.records import SessionState


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """A row of `SessionManager.list`. Times are seconds since the epoch; `cost` is USD.

    `state`: `idle`, `running`, `waiting` or `interrupted`. `parent`: the session that it is a branch, a fork or a
    subagent of.
    """

    id: str
    owner: str | None
    title: str | None
    metadata: dict[str, Any]
    model: str
    head: str | None
    created_at: float
    updated_at: float
    turns: int
    calls: int
    usage: Usage
    cost: Decimal
    unpriced: int = 0
    state: SessionState = "idle"
    parent: str | None = None


def session_info(row: SessionRecord) -> SessionInfo:
    """What a row says."""
    total = row.totals
    with decoding(f"session {row.id!r}"):
        metadata, model = json.loads(row.metadata), Settings.from_json(row.settings).model
    usage = Usage(total.input, total.cache_read, total.cache_write_5m, total.cache_write_1h, total.output)
    return SessionInfo(
        id=row.id,
        owner=row.owner,
        title=row.title,
        metadata=metadata,
        model=model,
        head=row.head,
        created_at=row.created_at,
        updated_at=row.updated_at,
        turns=total.turns,
        calls=total.calls,
        usage=usage,
        cost=total.cost,
        unpriced=total.unpriced,
        state=row.state,
        parent=row.forked_from,
    )


async def list_sessions(
    store: Store,
    *,
    owner: str | None,
    limit: int,
    before: str | None,
    search: str | None,
    state: SessionState | None,
    parent: str | None,
    branches: bool,
) -> list[SessionInfo]:
    """A page of sessions, newest first. Without `branches` those that were set up for our own requests are left out."""
    found = list[SessionInfo]()
    while True:
        rows = await store.list(
            owner=owner, limit=limit, before=before, search=search, state=state, parent=parent,
            branches=branches or parent is not None,
        )  # fmt: skip
        wanted = [session_info(row) for row in rows if branches or not is_set_up(row)]
        found += wanted
        if not len(wanted) < len(rows) == limit:
            return found
        # The page was full, and is not any more.
        before, limit = rows[-1].id, limit - len(wanted)
