"""Another variant of a turn: other words, or another answer. What was there stays as a branch.

First the conversation as it is gets a branch, then its head moves back, then the new turn begins. Whatever ends between
these steps, or comes between them, loses nobody's words: the head moves only from where the branch ends, and the same
request again goes on from there.
"""

from __future__ import annotations

from typing import Any

import anyio

from sessions import Conflict, Entry, OwnedManager, Session, SessionNotFound
from sessions.web.problems import Refused

STOPPING = 10.0
"""Seconds in which an answer under way must have stopped. A worker that cannot be heard takes 3."""
_LOOKED_AT = 5
"""The newest branches among which the one of an earlier try is looked for."""
_MOVED = "these words are not in the conversation any more: load it again"


async def words_at(manager: OwnedManager, session: Session, entry: str) -> Entry:
    """The user's words with this id, which are to be replaced. Raises `Conflict`, and `Refused` for other entries."""
    words = next((one for one in session.entries if one.id == entry), None)
    words = words or await _left_behind(manager, session, entry)
    if words is None:
        raise Conflict(_MOVED)
    if not are_words(words):
        raise Refused(409, "only the user's own words can be edited")
    return words


async def words_of(manager: OwnedManager, session: Session, turn: str | None) -> Entry:
    """The words of this turn, or the newest. Raises `Conflict` where they are gone, and `Refused` for none."""
    if turn is None:
        words = next((one for one in reversed(session.entries) if are_words(one)), None)
        if words is None:
            raise Refused(409, "nothing has been said in this conversation yet")
        return words
    found = next((one for one in await session.turns() if one.id == turn), None)
    if found is None or found.entry is None:
        raise Refused(409, "there is no such answer to ask for again")
    return await words_at(manager, session, found.entry)


def are_words(entry: Entry) -> bool:
    """Whether an entry is what the user said, and not only what tools gave."""
    return entry.role == "user" and any(block["type"] != "tool_result" for block in entry.content)


def asked_in(words: Entry, session: Session) -> list[dict[str, Any]]:
    """The blocks that the user sent: without the session's context, and without results of calls they left open."""
    blocks = [block for block in words.content if block["type"] != "tool_result"]
    context = [dict(block) for block in session.settings.context]
    return blocks[len(context) :] if context and blocks[: len(context)] == context else blocks


async def go_before(manager: OwnedManager, session: Session, words: Entry) -> None:
    """Moves the head to before these words; the conversation as it is stays as a branch.

    Raises `Conflict` where somebody else has moved it meanwhile; then it stays where they have moved it.
    """
    await _stop(manager, session)
    await session.refresh()
    if all(one.id != words.id for one in session.entries):
        if session.head == words.parent:
            return  # an earlier try has come this far
        raise Conflict(_MOVED)
    siblings = await manager.list(parent=session.id, limit=_LOOKED_AT)
    if all(info.head != session.head for info in siblings):
        await session.fork()
    # Where somebody was faster the branch stays: they may have relied on it.
    await session.rewind(words.parent, expected=session.head)


async def _stop(manager: OwnedManager, session: Session) -> None:
    """Stops the answer under way; words that wait in line are nobody's to throw away."""
    turn = await manager.turn(session.id)
    if turn is None or turn.state not in ("queued", "running", "waiting"):
        return
    if turn.state == "queued":
        raise Refused(409, "another message waits for its answer: stop that one first")
    with anyio.move_on_after(STOPPING) as scope:
        await turn.stop()
    if scope.cancelled_caught:
        raise Refused(409, "the answer under way has not stopped yet: try again")


async def _left_behind(manager: OwnedManager, session: Session, entry: str) -> Entry | None:
    """Words that an earlier try has moved the head away from, and got no further: a branch has them, just behind it."""
    for info in await manager.list(parent=session.id, limit=_LOOKED_AT):
        try:
            branch = await manager.open(info.id)
        except SessionNotFound:
            continue  # deleted meanwhile
        words = next((one for one in branch.entries if one.id == entry), None)
        if words is not None and words.parent == session.head:
            return words
    return None
