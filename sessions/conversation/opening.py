"""How conversations are made, found, read and branched: what a manager, a fan-out and the recovery have in common."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from hashlib import blake2b
from typing import Any, Literal, TypeAlias

from sessions.arguments import metadata_text
from sessions.clock import Clock
from sessions.conversation.conversation import Conversation
from sessions.conversation.memory import Transcripts
from sessions.conversation.recent_calls import RECENT_CALLS
from sessions.conversation.settings_changes import check_tools
from sessions.core.settings import Settings
from sessions.core.transcript import encode
from sessions.core.warmth import Warmth
from sessions.errors import Conflict, SessionNotFound
from sessions.lifecycle import Lifecycle
from sessions.model.endpoint import Endpoint
from sessions.tools import Toolbox
from sessions.translate import decoding, storage_errors
from storage import SessionExists, SessionMissing, SessionRecord, Store, Stored

Purpose: TypeAlias = Literal["keep", "probe"]
SHARED_POINTS = 10_000
"""Points known to be warm that all sessions of a manager share; some 2 MB."""


class Conversations:
    """The conversations of one manager. `memory`: where their transcripts are kept; `warmth`: points that all share."""

    def __init__(
        self, store: Store, clock: Clock, lifecycle: Lifecycle, endpoint: Endpoint, memory: Transcripts, warmth: Warmth
    ) -> None:
        self._store, self._clock, self._lifecycle = store, clock, lifecycle
        self._endpoint, self.memory, self._warmth = endpoint, memory, warmth

    async def find(self, id: str, owner: str | None) -> SessionRecord:
        """The row of a session. Raises `SessionNotFound` if it is absent or of another owner (`None`: any)."""
        self._lifecycle.check()
        with _finding(id):
            record = await self._store.load(id)
        check_owner(record, owner)
        return record

    async def read(self, id: str, owner: str | None = None) -> Stored:
        """All that is stored of a session, and its newest calls. Raises `SessionNotFound` as `find` does."""
        with _finding(id):
            stored = await self._read(id)
        check_owner(stored.record, owner)
        return stored

    async def set_up(self, id: str, title: str, purpose: Purpose, settings: Settings) -> None:
        """An empty session that is nobody's, for the ledger of requests of ours; where there is one, that stays.

        `is_set_up` knows it by its name and purpose.
        """
        now, metadata = self._clock.now(), metadata_text({"purpose": purpose})
        try:
            await self._store.create(new_record(id, None, title, metadata, settings.to_json(), now))
        except SessionExists:
            return  # of an earlier time, or another worker's

    async def create(
        self,
        settings: Settings,
        toolbox: Toolbox,
        *,
        id: str | None,
        owner: str | None,
        title: str | None,
        metadata: str,
        parent: str | None,
    ) -> Conversation:
        """An empty one. `metadata`: JSON text; `parent`: the session that it is a subagent of.

        Raises `storage.SessionExists` for an `id` that is taken.
        """
        self._lifecycle.check()
        row = new_record(id or uuid.uuid4().hex, owner, title, metadata, settings.to_json(), self._clock.now())
        record = replace(row, forked_from=parent)
        await self._store.create(record)
        return await self.loaded(Stored(record, [], []), toolbox)

    async def open(self, id: str, toolbox: Toolbox) -> Conversation:
        """A conversation with these tools bound. Raises `storage.SessionMissing`."""
        return await self.loaded(await self._read(id), toolbox)

    async def bound(self, id: str, owner: str | None, toolbox: Toolbox, *, rebase: bool) -> Conversation:
        """A stored conversation with the caller's tools, which must be those that it was made with, unless `rebase`.

        Raises `SessionNotFound` as `find` does, and `ToolsChanged`.
        """
        stored = await self.read(id, owner)
        with decoding(f"session {id!r}"):
            settings = Settings.from_json(stored.record.settings)
        if not rebase:
            check_tools(settings, toolbox)
        with storage_errors():
            return await self.loaded(stored, toolbox)

    async def loaded(self, stored: Stored, toolbox: Toolbox) -> Conversation:
        """The conversation that has just been read, or made."""
        conversation = Conversation(self._store, stored.record, self._endpoint, self.memory, self._warmth, toolbox)
        await conversation.take(stored)
        return conversation

    async def fork(self, source: Conversation, at: str | None, *, id: str | None = None) -> Conversation:
        """A second conversation that shares the history up to entry `at`, or (`None`) starts before the first one.

        What the source knows to be warm the branch knows too. Raises `Conflict` if the source's tree has no such entry,
        and `storage.SessionExists` for an `id` that is taken.
        """
        self._lifecycle.check()
        settings, record = source.settings, source.record
        if at is not None and at != source.head:
            entry = await self._store.entry(record.id, at)
            if entry is None:
                raise Conflict(f"entry {at} is not an entry of session {record.id}: see session.entries")
            settings = replace(settings, unbound=min(settings.unbound, entry.depth))
        now = self._clock.now()
        branch = replace(
            new_record(id or uuid.uuid4().hex, record.owner, record.title, record.metadata, settings.to_json(), now),
            tree=record.tree,
            head=at,
            forked_from=record.id,
            base=at,
        )
        await self._store.create(branch)
        opened = await self.open(branch.id, source.toolbox)
        opened.recent.warmth.points |= source.recent.warmth.points
        return opened

    async def delete(self, id: str, owner: str | None) -> None:
        """Really deletes a session; entries that a fork still reaches stay. Raises `SessionNotFound`."""
        await self.find(id, owner)
        with storage_errors():
            await self._store.delete(id)

    async def _read(self, id: str) -> Stored:
        self._lifecycle.check()
        return await self._store.read(id, calls=RECENT_CALLS)


NAMES: dict[Purpose, str] = {"keep": "head-", "probe": "probe-"}
"""What the ids of sessions begin with that `Conversations.set_up` makes, by what they are for."""
_SET_UP = {prefix: metadata_text({"purpose": purpose}) for purpose, prefix in NAMES.items()}


def is_set_up(row: SessionRecord) -> bool:
    """Whether it is one of those that `Conversations.set_up` makes, in which nobody says anything."""
    purpose = _SET_UP.get(row.id.partition("-")[0] + "-")
    return purpose is not None and (row.owner, row.head, row.metadata) == (None, None, purpose)


def prewarmed_id(settings: Mapping[str, Any]) -> str:
    """The id of the empty session that prefixes with these settings, as they were given, are pre-warmed in.

    Raises `Malformed` naming the setting that is no JSON.
    """
    for setting, value in settings.items():
        encode([{setting: value}], where=setting)
    return f"prewarm-{blake2b(encode([settings]).encode(), digest_size=8).hexdigest()}"


def new_record(
    id: str, owner: str | None, title: str | None, metadata: str, settings: str, now: float
) -> SessionRecord:
    """The row of an empty session in a tree of its own. `metadata` and `settings`: JSON text."""
    return SessionRecord(
        id=id,
        tree=uuid.uuid4().hex,
        owner=owner,
        title=title,
        metadata=metadata,
        settings=settings,
        head=None,
        created_at=now,
        updated_at=now,
    )


@contextmanager
def _finding(id: str) -> Iterator[None]:
    with storage_errors():
        try:
            yield
        except SessionMissing as error:
            raise SessionNotFound(_not_found(id)) from error


def check_owner(record: SessionRecord, owner: str | None) -> None:
    """Raises `SessionNotFound` where the session belongs to somebody else; `None` does not check."""
    if owner is not None and record.owner != owner:
        raise SessionNotFound(_not_found(record.id))


def _not_found(id: str) -> str:
    return f"there is no session {id!r} for this owner: check the id (`warmline list` shows what there is)"
