"""The variants of a conversation, and where each leaves the one that is looked at."""

from __future__ import annotations

from collections.abc import Sequence

from sessions import Session, SessionInfo, SessionNotFound
from sessions.web.chats import PURPOSE, Chats
from sessions.web.models import Branch

MOST = 100
"""The newest ones of a conversation, and of the one that it is a branch of."""


async def branches_of(chats: Chats, session: Session, own: Sequence[str]) -> list[Branch]:
    """The sessions that share entries with this one: its own branches, where it came from, and others of that.

    `own`: the ids of its entries.
    """
    infos = await chats.manager.list(parent=session.id, limit=MOST)
    if session.parent is not None:
        infos += await chats.manager.list(parent=session.parent, limit=MOST)
    ids = [info.id for info in infos if info.id != session.id and _is_variant(info)]
    found: dict[tuple[str, ...], Branch] = {}
    for id in filter(None, dict.fromkeys((session.parent, *ids))):
        try:
            branch = await chats.read(id)
        except SessionNotFound:
            continue  # deleted meanwhile, or its parent was
        # Of several that hold the same, as two workers leave them that edit at once, one is enough.
        if theirs := tuple(entry.id for entry in branch.entries):
            found.setdefault(theirs, _compared(own, theirs, branch, session))
    return list(found.values())


def _is_variant(info: SessionInfo) -> bool:
    """What a conversation has beside it for a purpose of ours, such as its title, is nothing to walk to."""
    return PURPOSE not in info.metadata


def _compared(own: Sequence[str], theirs: Sequence[str], branch: Session, session: Session) -> Branch:
    pairs = enumerate(zip(own, theirs, strict=False))
    shared = next((place for place, (one, other) in pairs if one != other), min(len(own), len(theirs)))
    return Branch(
        session=branch.id,
        entry=own[shared - 1] if shared else None,
        next=theirs[shared] if shared < len(theirs) else None,
        of=own[shared] if shared < len(own) else None,
        created_at=branch.created_at,
        is_parent=branch.id == session.parent,
        is_child=branch.parent == session.id,
    )
