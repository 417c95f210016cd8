"""Which turn a caller means: the newest of a session, or the one with an id, or with an idempotency key."""

from __future__ import annotations

from sessions.conversation.pending import newest_turn
from sessions.runtime import Runtime
from sessions.translate import storage_errors
from storage import TurnRecord


async def find_turn(
    runtime: Runtime, session: str, id: str | None, key: str | None, owner: str | None
) -> TurnRecord | None:
    """Its row, as it was last written; `None` where there is none. `id` or `key` may be given, not both.

    The store is not asked for a turn that runs in this process and is named by its id. Raises `SessionNotFound` where
    the session is absent or of another owner (`None`: any).
    """
    runtime.lifecycle.check()
    row = None if id is None else _row_here(runtime, session, id, owner)
    if row is not None:
        return row
    await runtime.conversations.find(session, owner)
    with storage_errors():
        if id is None and key is None:
            return await newest_turn(runtime.store, session)
        return await runtime.store.turn(session, id=id, key=key)


def _row_here(runtime: Runtime, session: str, turn: str, owner: str | None) -> TurnRecord | None:
    """A turn that runs in this process, as it was last written, without a look into the store; `None` for others.

    Of another owner's it says nothing: the store is asked then, as for one that is absent.
    """
    channel = runtime.following.own(session, turn)
    return None if channel is None or owner not in (None, channel.owner) else channel.row
