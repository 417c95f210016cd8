"""What can be read of a session: its history, its records, what it is doing, what it has cost and will cost."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal
from typing import Any

from sessions.conversation.conversation import Conversation
from sessions.conversation.entries import Damage
from sessions.conversation.reading import cost_of_family, damage_of, entries_before, exported
from sessions.core.next_turn import CostForecast
from sessions.core.prices import prices_for
from sessions.core.settings import Settings
from sessions.core.transcript import Entry, copied
from sessions.following.events import PendingCall
from sessions.ledger import Call, ClearedResults, Compaction, Cost, clearings_of, compactions_of
from sessions.runtime import Runtime
from sessions.translate import decoding, storage_errors
from sessions.turns.handle import TurnInfo, turns_of
from sessions.upkeep.foreseeing import foreseen
from storage import Store
from storage.records import SessionState


class ReadableSession:
    """The half of a `Session` that changes nothing. Attributes never touch the store (`entries` says when it must)."""

    def __init__(self, runtime: Runtime, conversation: Conversation) -> None:
        self.runtime, self.conversation = runtime, conversation

    def __repr__(self) -> str:
        return f"<Session {self.id} of {self.owner or 'nobody'}, {self.conversation.length} entries>"

    @property
    def id(self) -> str:
        """The session's id."""
        return self.conversation.record.id

    @property
    def owner(self) -> str | None:
        """Whom it belongs to, as given on create."""
        return self.conversation.record.owner

    @property
    def title(self) -> str | None:
        """The title, as given."""
        return self.conversation.record.title

    @property
    def metadata(self) -> dict[str, Any]:
        """The caller's own data, as given."""
        return dict(json.loads(self.conversation.record.metadata))

    @property
    def head(self) -> str | None:
        """The id of the last entry; `None` for an empty conversation."""
        return self.conversation.head

    @property
    def settings(self) -> Settings:
        """Model, system prompt, tools and the rest."""
        return self.conversation.settings

    @property
    def created_at(self) -> float:
        """Seconds since the epoch."""
        return self.conversation.record.created_at

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The history as the API takes it, without markers; a fresh copy. See `entries`."""
        with storage_errors():
            return self.conversation.messages()

    @property
    def entries(self) -> list[Entry]:
        """The history as entries; a fresh copy.

        The one attribute beside `messages` that may read the store, in this thread: if the session was idle so long
        that its transcript had to make room for others (`transcript_bytes`). `export()` never blocks.
        """
        with storage_errors():
            return [replace(entry, content=copied(entry.content)) for entry in self.conversation.entries]

    @property
    def parent(self) -> str | None:
        """The session that it is a branch, a fork or a subagent of."""
        return self.conversation.record.forked_from

    @property
    def state(self) -> SessionState:
        """`idle`, `running`, `waiting` (for approvals or results), `interrupted`; as this process last heard of it."""
        return self.conversation.record.state

    @property
    def pending(self) -> tuple[PendingCall, ...]:
        """The tool calls that wait: for `approve` or `deny`, or (`by_caller`) for results in the next `send`."""
        return self.conversation.pending

    async def refresh(self) -> None:
        """Reads what others have written. While a turn of this process runs, it is known anyway."""
        with self.runtime.leases.alone(self.id) as is_alone, storage_errors():
            # What a turn stages and commits in this process must not be read over.
            if is_alone:
                self.runtime.lifecycle.check()
                await self.conversation.catch_up()

    # -- records --

    async def turns(self) -> list[TurnInfo]:
        """The turns as values, oldest first."""
        with storage_errors(), decoding(f"the turns of session {self.id!r}"):
            return await turns_of(self._store, self.id)

    async def entries_before(self) -> list[Entry]:
        """The entries that compactions have replaced, oldest first; empty where there was none."""
        with storage_errors():
            return await entries_before(self._store, self.id, self.conversation.entries)

    async def export(self) -> list[dict[str, Any]]:
        """The history as plain Messages JSON: what `append` of another session takes back with nothing changed."""
        with storage_errors():
            return await exported(self._store, self.id)

    async def verify(self) -> Damage | None:
        """Re-hashes what is stored, earlier chains included: the first entry that is not as written, or `None`."""
        with storage_errors():
            return await damage_of(self._store, self.id)

    async def calls(self) -> list[Call]:
        """The ledger: every request of this session, failed and cancelled ones too, in the order they were recorded."""
        with storage_errors():
            rows = await self._store.calls(self.id)
        with decoding(f"the calls of session {self.id!r}"):
            return [Call.of(row) for row in rows]

    async def compactions(self) -> list[Compaction]:
        """What each compaction of this session was expected to save, and what it has saved until now."""
        return compactions_of(await self.calls(), self._read_price)

    async def clearings(self) -> list[ClearedResults]:
        """What each clearing of tool results was expected to save, and what it has saved until now."""
        return clearings_of(await self.calls(), self._read_price)

    def _read_price(self, call: Call) -> Decimal | None:
        prices = prices_for(self.runtime.endpoint.profile_of(call.model), call.usage.total_input)
        return None if prices is None else prices.cache_read / 1_000_000

    async def cost(self, *, branches: bool = False) -> Cost:
        """What the session has cost, in USD, by kind of call. `branches`: with its forks and subagents, and theirs."""
        if not branches:
            return Cost.of(await self.calls())
        with storage_errors():
            return await cost_of_family(self._store, self.id)

    async def forecast(self) -> CostForecast:
        """What the next turn is expected to cost if it is sent now, in five minutes, in an hour; what waiting costs.

        Calculated from the history, from what is believed to be in the cache and from published prices; nothing is sent
        or written. Parks and refreshes that are to be expected until then are in it.
        """
        await self.refresh()
        with storage_errors():
            if not self.runtime.leases.is_held(self.id):
                await self.conversation.reload_calls()  # what has kept it warm is no change of the session
            return foreseen(self.conversation, self.runtime.forecaster, self.runtime.clock.now())

    @property
    def _store(self) -> Store:
        """Raises `ConfigurationError` in another process or event loop than the manager was entered in."""
        self.runtime.lifecycle.check()
        return self.runtime.store
