"""What an open session knows of its conversation: entries, prompt and warm points, read once and then kept up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sessions.conversation.entries import Written, begins_with_summary, read_entry, read_messages
from sessions.conversation.memory import Transcripts, size_of
from sessions.conversation.open_turns import OpenTurns
from sessions.conversation.pending import read_pending, state_after
from sessions.conversation.recent_calls import RECENT_CALLS, RecentCalls
from sessions.core.cleared import cleared_in
from sessions.core.gaps import Gaps
from sessions.core.prompt import Prompt, kept_text, text_digest
from sessions.core.settings import Settings
from sessions.core.transcript import Entry, tool_calls
from sessions.core.warmth import Warmth
from sessions.errors import ToolsChanged
from sessions.following.events import PendingCall
from sessions.ledger import Call
from sessions.model.endpoint import Endpoint
from sessions.tools import Toolbox
from sessions.translate import decoding
from storage import (
    CallRecord,
    Change,
    EntryRecord,
    HeadMoved,
    Lease,
    PromptRecord,
    SessionRecord,
    Store,
    Stored,
    TurnRecord,
)

_KEPT = ("settings", "title", "metadata", "gaps")


class Conversation:
    """The present chain of one session and the prompt it makes.

    `toolbox`: the tools that were bound to it here. `asked`: when the last request of a turn started (epoch seconds).
    `parked`: the 1-hour points written behind a 5-minute prefix, and when. `idle`: the newest parks and refreshes.
    """

    def __init__(
        self,
        store: Store,
        record: SessionRecord,
        endpoint: Endpoint,
        transcripts: Transcripts,
        warmth: Warmth,
        toolbox: Toolbox,
    ) -> None:
        self.toolbox = toolbox
        self._store, self._transcripts, self._warm = store, transcripts, warmth
        self._note_record(record)
        self.recent = RecentCalls(self._warm)
        self._saved_settings: str | None = None
        self._digest: tuple[Settings, str] | None = None
        self._gaps: tuple[str, Gaps] | None = None
        self._endpoint, self._url = endpoint, endpoint.url  # a client made later must not move the points
        self._entries: list[Entry] | None = []
        self._rows: list[EntryRecord] | None = None
        self._prompt: Prompt | None = None
        self.size = 0
        self._loaded = self._borrows = False
        self._committed = 0
        self._token: int | None = None
        self._open = OpenTurns(store, record.id)
        self._ids: set[str] = set()
        self._ids_of = 0
        self.pending: tuple[PendingCall, ...] = ()
        """The tool calls that wait at the end of the chain, as far as this process knows."""

    def new_prompt(self, settings: Settings, entries: Sequence[Entry]) -> Prompt:
        """The prompt that other settings or entries would make at this endpoint."""
        compacted = begins_with_summary(entries)
        profile = self._endpoint.profile_of(settings.model)
        cleared = cleared_in(settings, entries)
        prompt = Prompt(settings, profile, endpoint=self._url, compacted=compacted, cleared=cleared)
        prompt.extend(entries)
        return prompt

    @property
    def by_caller(self) -> frozenset[str]:
        """Names of the tools whose calls the caller answers."""
        return self.settings.by_caller

    def check_tools(self) -> None:
        """Raises `ToolsChanged` where a function that this conversation runs was not given."""
        missing = sorted(set(self.settings.local_tools) - set(self.toolbox.functions))
        if missing:
            raise ToolsChanged(
                f"this session runs the tool {missing[0]!r}, which was not given: "
                "open it with tools=[…], the same functions as on create"
            )

    @property
    def gaps(self) -> Gaps:
        """The past gaps between the user's turns."""
        if self._gaps is None or self._gaps[0] is not self.record.gaps:
            self._gaps = self.record.gaps, Gaps.read(self.record.gaps)
        return self._gaps[1]

    @property
    def entries(self) -> list[Entry]:
        """The present chain, staged entries included. If it was dropped, it is read again, in the caller's thread."""
        if self._entries is None:
            self._entries, self._rows = [read_entry(row) for row in self._undecoded()], None
        return self._entries

    def _undecoded(self) -> Sequence[EntryRecord]:
        if self._rows is None:
            self._rows = self._store.chain_now(self.record.id, self.head)
            self.size = size_of([row.content for row in self._rows])
            self._transcripts.touch(self)
        return self._rows

    def messages(self) -> list[dict[str, Any]]:
        """The present chain as the API takes it, a fresh copy: entries that nobody has asked for are only decoded."""
        if self._entries is None:
            return read_messages(self._undecoded())
        return [entry.message for entry in self._entries]

    @property
    def prompt(self) -> Prompt:
        """The prompt that settings and entries make, kept up; made anew when more is known of the endpoint."""
        if self._prompt is None or self._prompt.profile is not self._endpoint.profile_of(self.settings.model):
            self._prompt = self.new_prompt(self.settings, self.entries)
        return self._prompt

    @property
    def length(self) -> int:
        """How many entries the chain has, known without reading it."""
        present = self._rows if self._entries is None else self._entries
        return self._committed if present is None else len(present)

    @property
    def is_idle(self) -> bool:
        """Whether no work of this manager is under way on the session."""
        return not self._transcripts.is_held(self.record.id) and not self.has_staged

    def drop(self) -> None:
        """Gives the memory back, as if the session had just been opened; what is asked for later is read again."""
        self._entries, self._rows, self.size, self._loaded = None, None, 0, False
        self._forget_derived()
        self.recent = RecentCalls(self._warm)

    def _note_record(self, record: SessionRecord) -> None:
        self._shared = self._transcripts.settings(record.settings)
        self.record = replace(record, settings=self._shared.text)
        self.settings = self._shared.settings

    @property
    def head(self) -> str | None:
        """The last committed entry."""
        return self.record.head

    @property
    def last(self) -> Entry | None:
        """The last entry, staged ones included."""
        entries = self.entries
        return entries[-1] if entries else None

    @property
    def answered(self) -> int:
        """How many entries there are up to the newest reply; what lies behind it may never have been accepted."""
        entries = self.entries
        return next((count for count in range(len(entries), 0, -1) if entries[count - 1].role == "assistant"), 0)

    def use(self, settings: Settings) -> None:
        """Other settings: the prompt is made anew."""
        self.adopt(settings)
        self._forget_derived()

    def adopt(self, settings: Settings) -> None:
        """Settings that change nothing in the prompt."""
        self.settings = settings
        self.record = replace(self.record, settings=settings.to_json())

    def _forget_derived(self) -> None:
        self._prompt = None
        self._ids, self._ids_of = set(), 0

    async def catch_up(self, lease: Lease | None = None) -> None:
        """Brings the state up to what is stored: reads what is new, or all after somebody rewound or a write failed.

        A lease that is the next one after the last that was seen here proves that nobody has written since: tokens
        count the leases given, and every change of what is kept here needs one. Then nothing is read.
        """
        token = lease.token if lease is not None else None
        if self._loaded and token is not None and self._token == token - 1:
            self._token = token
            if self.record.state == "waiting":  # decisions need no lease: the turn may be open again
                self._open.forget()
        else:
            # Forgotten before the reads: where one of them fails, the next lease proves nothing.
            self._token = None
            self._open.forget()
            if not (self._loaded and await self._load_new()):
                await self.take(await self._store.read(self.record.id, calls=RECENT_CALLS))
            self._token = token
        self._transcripts.touch(self)

    async def take(self, stored: Stored) -> None:
        """Takes over what has just been read as a whole."""
        with decoding(f"session {stored.record.id!r}"):
            self._apply(stored.record, stored.entries, stored.calls, whole=True)
        await self._learn_settings()
        await self._learn_pending()
        self._transcripts.touch(self)

    async def _learn_pending(self) -> None:
        may_wait = self.record.state in ("waiting", "running")  # it runs, too, where something is queued behind calls
        self.pending = await read_pending(self._store, self.record.id, self.last, self.by_caller) if may_wait else ()

    async def _load_new(self) -> bool:
        """Reads what has come behind the known head; whether that is all that has changed."""
        record, known = await self._store.load(self.record.id), self.record.head
        # Other settings make another prompt, of which nothing that is kept here can be used.
        if record.settings != self.record.settings:
            return False
        if record.head == known:
            self._note_record(record)
            await self._learn_pending()
            return True
        if record.head is None or known is None:
            return False
        try:
            rows = await self._store.chain(record.id, record.head, after=known)
        except HeadMoved:
            # The known head is not on the chain any more: somebody rewound, or a summary stands in its place.
            return False
        newest = await self._recent_calls()
        with decoding(f"session {record.id!r}"):
            self._apply(record, rows, newest, whole=False)
        await self._learn_settings()
        await self._learn_pending()
        return True

    async def _learn_settings(self) -> None:
        """The settings that the newest call was made with, where they are not the present ones: for its diagnosis."""
        digest = self.recent.trail.calls[-1].settings if self.recent.trail.calls else None
        if digest in (None, self._settings_digest()) or digest in self.recent.settings:
            return
        text = await self._store.prompt(self.record.id, digest)
        if text is not None:
            self.recent.settings[digest] = self._transcripts.settings(text).settings

    async def _recent_calls(self) -> list[CallRecord]:
        return (await self._store.calls(self.record.id, limit=RECENT_CALLS, newest_first=True))[::-1]

    async def reload_calls(self) -> None:
        """Reads the newest calls again: somebody may have kept the prefix warm, which needs no lease."""
        known = {call.id for call in self.recent.trail.calls}
        for row in await self._recent_calls():
            if row.id not in known:
                self.learn(Call.of(row))

    def _settings_digest(self) -> str:
        if self._digest is None or self._digest[0] is not self.settings:
            self._digest = self.settings, text_digest(kept_text(self.settings))
        return self._digest[1]

    def _apply(
        self, record: SessionRecord, rows: Sequence[EntryRecord], calls: Sequence[CallRecord], *, whole: bool
    ) -> None:
        """All at once: a reader that is cancelled changes nothing."""
        # First, because it may raise: of a damaged row nothing is taken over.
        new = [] if whole else [read_entry(row) for row in rows]
        self._note_record(record)
        if whole:
            self._entries, self._rows, self.size = None, list(rows), 0
            self._forget_derived()
        else:
            self._extend(new)
        self.size += size_of([row.content for row in rows])
        self._committed, self._loaded = self.length, True
        for call in calls:
            self.learn(Call.of(call))

    def _extend(self, new: Sequence[Entry]) -> None:
        self.entries.extend(new)
        if self._prompt is not None:
            self._prompt.extend(new)

    def learn(self, call: Call) -> None:
        """Takes in what a call that reached the model shows about the cache."""
        profile = self._endpoint.profile_of(self.settings.model)
        self.recent.learn(call, self.settings, self._settings_digest(), unasked=profile.caches_unasked)

    @property
    def settings_record(self) -> PromptRecord:
        """The present settings as they are kept beside the calls made with them."""
        return PromptRecord(self.prompt.settings_digest, self.prompt.settings_text)

    @property
    def settings_to_keep(self) -> PromptRecord | None:
        """The same, unless they are borrowed."""
        return None if self._borrows else self.settings_record

    def borrow(self, settings: Settings) -> None:
        """Another session's settings, as long as this object lives: they are stored nowhere, and go with that one."""
        self.use(settings)
        self._borrows = True

    def unsaved_settings(self, calls: Sequence[CallRecord]) -> tuple[PromptRecord, ...]:
        """The present settings, where one of these calls is the first that was made with them, as far as is known."""
        record = self.settings_record
        return (record,) if record.digest != self._saved_settings and calls else ()

    def stage(self, written: Sequence[Written]) -> None:
        """Adds entries that the next commit will write."""
        new = [entry.entry for entry in written]
        if not self.entries and begins_with_summary(new):
            self._forget_derived()  # the prompt was made without the beta that a summary needs
        self._extend(new)
        self.size += size_of([entry.record.content for entry in written])

    def committed(self, change: Change) -> None:
        """The commit went through: the chain now ends at its head, and the session's row is as it says."""
        new: dict[str, Any] = {name: text for name in _KEPT if (text := getattr(change, name)) is not None}
        new["state"] = state_after(change, self.record.state)
        if (turn := change.turn) is not None:
            self._open.note(turn)
            if turn.sequence > self.record.totals.turns:
                new["totals"] = replace(self.record.totals, turns=turn.sequence)
        self.record = replace(self.record, head=change.head, updated_at=change.updated_at, **new)
        if change.prompts:
            self._saved_settings = change.prompts[-1].digest
        if change.head == (self.entries[-1].id if self.entries else None):
            self._committed = len(self.entries)
        elif change.head != change.expected_head or self.has_staged:
            self._rewind_to(change.head)
        self._transcripts.touch(self)

    def _rewind_to(self, head: str | None) -> None:
        """Goes back to an entry of the chain, or before the first one."""
        position = self.position(head)
        assert position >= 0
        self.size = self.size * position // len(self.entries) if position else 0
        del self.entries[position:]
        self._committed = len(self.entries)
        self._forget_derived()

    async def open_turn(self) -> TurnRecord | None:
        """The newest turn that never came to its end; read from the store once, then kept up."""
        return await self._open.newest()

    @property
    def tool_ids(self) -> set[str]:
        """The ids of all tool calls of the chain; costs what is new."""
        for entry in self.entries[self._ids_of :]:
            self._ids.update(str(block.get("id")) for block in tool_calls(entry.content))
        self._ids_of = len(self.entries)
        return self._ids

    def note(self, gaps: Gaps) -> str:
        """Takes over gaps that the next commit writes; gives their stored form."""
        text = gaps.text
        self._gaps, self.record = (text, gaps), replace(self.record, gaps=text)
        return text

    def withdraw_last(self) -> None:
        """The last entry leaves the chain with the next commit."""
        self.entries.pop()
        self._forget_derived()

    @property
    def is_kept(self) -> bool:
        """Whether the transcript is in memory as entries."""
        return self._entries is not None

    @property
    def is_loaded(self) -> bool:
        """Whether what is here is what is stored."""
        return self._loaded

    @property
    def has_staged(self) -> bool:
        """Whether there are entries that no commit has written yet."""
        return self.length != self._committed

    def roll_back(self) -> None:
        """A commit failed, or may have: what was staged is dropped and all is read again at the next turn."""
        del self.entries[self._committed :]
        self._loaded = False

    def position(self, entry: str | None) -> int:
        """How many entries of the chain lie up to this one; -1 if it is not on the chain."""
        if entry is None:
            return 0
        return next((number for number in range(len(self.entries), 0, -1) if self.entries[number - 1].id == entry), -1)
