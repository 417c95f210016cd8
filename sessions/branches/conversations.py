"""The conversations of one fan-out: which of them are there, how they are made, and opened again in another process."""

from __future__ import annotations

from collections.abc import Mapping

from sessions.conversation.conversation import Conversation
from sessions.runtime import Runtime
from sessions.tools import Toolbox
from sessions.turns.batched import branch_id
from storage import SessionExists, SessionMissing, SessionRecord


class Branches:
    """The branches of one fan-out, by their number. `known`: those that are open already."""

    def __init__(self, runtime: Runtime, group: str, of: int, known: Mapping[int, Conversation] | None = None) -> None:
        self._store, self._conversations = runtime.store, runtime.conversations
        self._group, self._of = group, of
        self._known: dict[int, Conversation] = dict(known or {})

    async def base(self, source: Conversation) -> str | None:
        """Where they start: at the head, or where those do that an earlier call with the same key has made."""
        for index in range(self._of - 1, -1, -1):
            if (record := await self._record(index)) is not None:
                return record.base
        return source.head

    async def is_there(self, index: int) -> bool:
        """Whether it was made, and not deleted."""
        return await self._record(index) is not None

    async def make(self, index: int, source: Conversation, base: str | None) -> Conversation:
        """The branch, made unless it is there: by an earlier call with the same key, or by one at the same time.

        It knows what the source knows to be warm.
        """
        branch = self._known[index] = await self._made(index, source, base)
        branch.recent.warmth.points.update(source.recent.warmth.points)
        return branch

    async def get(self, index: int) -> Conversation:
        """One of the branches; opened without tools where it was not made here. Raises `storage.SessionMissing`."""
        if index not in self._known:
            self._known[index] = await self._conversations.open(branch_id(self._group, index), Toolbox())
        return self._known[index]

    async def _made(self, index: int, source: Conversation, base: str | None) -> Conversation:
        id = branch_id(self._group, index)
        if (branch := await self._opened(id, source.toolbox)) is not None:
            return branch
        try:
            return await self._conversations.fork(source, base, id=id)
        except SessionExists:
            if (branch := await self._opened(id, source.toolbox)) is None:
                raise
            return branch

    async def _opened(self, id: str, toolbox: Toolbox) -> Conversation | None:
        try:
            return await self._conversations.open(id, toolbox)
        except SessionMissing:
            return None

    async def _record(self, index: int) -> SessionRecord | None:
        try:
            return await self._store.load(branch_id(self._group, index))
        except SessionMissing:
            return None
