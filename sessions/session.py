"""A conversation: send, stream, run, resume; branch it, read it, and see what it cost."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from sessions.arguments import (
    check_counts,
    check_key,
    check_switches,
    check_texts,
    listed,
    metadata_text,
    seconds,
    tool_list,
)
from sessions.changes import has_thinking, new_settings, prefix_changes, unbinds_thinking
from sessions.clock import within
from sessions.compaction import compact, earlier_chains
from sessions.core.plan import lost_tokens
from sessions.core.settings import Settings
from sessions.core.transcript import Entry, canonical, check_history, copied, encode, lift_marks, shown
from sessions.core.usage import Usage
from sessions.errors import (
    ConfigurationError,
    Conflict,
    InvalidHistory,
    ModelError,
    PrefixChange,
    SessionsError,
    ToolsChanged,
)
from sessions.history import Damage, History, Written, first_damage, make_entry, read_entry, read_messages
from sessions.leases import Hold
from sessions.model.failures import belongs_elsewhere
from sessions.replies import Call, Cost, Reply, Step
from sessions.streaming import Driver, ReplyStream
from sessions.tool_round import InDoubt, check_in_doubt
from sessions.tools import Toolbox
from sessions.translate import decoding, given, storage_errors
from sessions.turn import Options, Turn
from sessions.warming import prewarm
from storage import Change, SessionRecord

if TYPE_CHECKING:
    from sessions.manager import SessionManager

T = TypeVar("T")
Gap = float | int | timedelta | None


class Session:
    """One conversation of a manager. Get one from `SessionManager.create` or `SessionManager.open`.

    Attributes never touch the store (`entries` says when it must); every method but `stream` and `run` is a coroutine.
    """

    def __init__(self, manager: SessionManager, history: History, toolbox: Toolbox) -> None:
        self._manager = manager
        self._history = history
        self._toolbox = toolbox

    def __repr__(self) -> str:
        return f"<Session {self.id} of {self.owner or 'nobody'}, {self._history.length} entries>"

    # -- what is known without asking the store --

    @property
    def id(self) -> str:
        """The session's id."""
        return self._history.record.id

    @property
    def owner(self) -> str | None:
        """Whom it belongs to, as given on create."""
        return self._history.record.owner

    @property
    def title(self) -> str | None:
        """The title, as given."""
        return self._history.record.title

    @property
    def metadata(self) -> dict[str, Any]:
        """The caller's own data, as given."""
        found: dict[str, Any] = json.loads(self._history.record.metadata)
        return found

    @property
    def head(self) -> str | None:
        """The id of the last entry; `None` for an empty conversation."""
        return self._history.head

    @property
    def settings(self) -> Settings:
        """Model, system prompt, tools and the rest."""
        return self._history.settings

    @property
    def created_at(self) -> float:
        """Seconds since the epoch."""
        return self._history.record.created_at

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The history as the API takes it, without markers; a fresh copy. See `entries`."""
        with storage_errors():
            return self._history.messages()

    @property
    def entries(self) -> list[Entry]:
        """The history as entries; a fresh copy.

        The one attribute beside `messages` that may read the store, in this thread: if the session was idle so long
        that its transcript had to make room for others (`transcript_bytes`). `export()` never blocks.
        """
        with storage_errors():
            return [replace(entry, content=copied(entry.content)) for entry in self._history.entries]

    @property
    def _by_caller(self) -> frozenset[str]:
        """Names of the tools whose calls the caller answers."""
        names = (str(one["name"]) for one in self.settings.tools if "name" in one)
        return frozenset(names) - set(self.settings.local_tools)

    # -- turns --

    async def send(
        self,
        content: Any,
        *,
        expected_gap: Gap = None,
        idempotency_key: str | None = None,
        timeout: float | None = None,
    ) -> Reply:
        """One whole turn: stores the words, asks the model, runs its tools until it has answered.

        `content`: a str or content blocks. `expected_gap`: seconds (or a timedelta) until the user returns, if you know
        it. `idempotency_key`: the same key again gives the stored reply, or finishes that turn. `timeout`: seconds for
        the whole turn. Raises `ModelError`, `SessionBusy`, `StepLimitReached`, `LeaseLost`, `ToolsChanged`,
        `ConfigurationError`, `TimeoutError`; whatever is raised, the words are kept, except where the API refused them.
        """
        reply = await self._driver(content, expected_gap, idempotency_key, timeout).reply()
        if reply is None:
            raise SessionsError("the turn ended without a reply")  # pragma: no cover - a turn with words always replies
        return reply

    def stream(
        self,
        content: Any,
        *,
        expected_gap: Gap = None,
        idempotency_key: str | None = None,
        timeout: float | None = None,
    ) -> ReplyStream:
        """As `send`, as a stream: `async with session.stream(…) as stream: async for text in stream.text_stream: …`"""
        return ReplyStream(self._driver(content, expected_gap, idempotency_key, timeout, streams=True))

    async def run(
        self,
        content: Any,
        *,
        expected_gap: Gap = None,
        idempotency_key: str | None = None,
        timeout: float | None = None,
    ) -> AsyncGenerator[Step]:
        """As `send`, step by step: each reply of the model and each set of tool results, when it is stored."""
        driver = self._driver(content, expected_gap, idempotency_key, timeout)
        try:
            while (one := await driver.next()) is not None:
                if isinstance(one, Step):
                    yield one
        finally:
            await driver.close()

    async def resume(self, *, in_doubt: InDoubt = "report") -> Reply | None:
        """Finishes a turn that a crash, an error or a limit interrupted; `None` when there is nothing to finish.

        `in_doubt`: what to do with calls of tools that are not idempotent and may have taken effect: "report" tells
        the model so, "rerun" runs them again, "raise" raises `InDoubtToolCalls`.
        """
        check_in_doubt(in_doubt)
        self._check_tools()
        return await Driver(Turn(self, None, Options(in_doubt=in_doubt)), self._manager.clock, None).reply()

    def _driver(
        self, content: Any, gap: Gap, key: str | None, timeout: float | None, *, streams: bool = False
    ) -> Driver:
        self._check_tools()
        check_key(key)
        with given():
            words = canonical(content)
        options = Options(seconds("expected_gap", gap), key, streams=streams)
        manager = self._manager
        return Driver(Turn(self, words, options), manager.clock, seconds("timeout", timeout), manager._background)

    def _check_tools(self) -> None:
        missing = sorted(set(self.settings.local_tools) - set(self._toolbox.functions))
        if missing:
            raise ToolsChanged(
                f"this session runs the tool {missing[0]!r}, which was not given: "
                "open it with tools=[…], the same functions as on create"
            )

    # -- branches --

    async def fork(self, at: str | None = None) -> Session:
        """A second session that shares the history up to entry `at` (the head where `None`); nothing is copied.

        Raises `Conflict` if this session's tree has no such entry.
        """
        check_texts(at=at)
        return await self._fork(self.head if at is None else at)

    async def _fork(self, at: str | None, *, id: str | None = None) -> Session:
        """The same at an entry, or (`None`) before the first one."""
        with storage_errors():
            head, settings = at, self.settings
            if at is not None and at != self.head:
                entry = await self._manager._store.entry(self.id, at)
                if entry is None:
                    raise Conflict(f"entry {at} is not an entry of session {self.id}: see session.entries")
                settings = replace(settings, unbound=min(settings.unbound, entry.depth))
            now = self._manager.clock.now()
            record = self._history.record
            made = SessionRecord(
                id or uuid.uuid4().hex, record.tree, record.owner, record.title, record.metadata, settings.to_json(),
                head, now, now, forked_from=self.id, base=head,
            )  # fmt: skip
            await self._manager._store.create(made)
            branch = await self._manager._loaded(await self._manager._read(made.id), self._toolbox)
            branch._history.warmth.points |= self._history.warmth.points
            return branch

    async def rewind(self, to: str | None) -> None:
        """Moves the head back to an entry of the chain (`None`: before the first). What lies behind stays readable.

        Raises `Conflict` if the entry is not on the chain.
        """
        check_texts(to=to)
        async with self._exclusive() as commit:
            if self._history.position(to) < 0:
                raise Conflict(f"entry {to} is not on the chain of session {self.id}: see session.entries")
            depth = self._history.position(to)
            if self.settings.unbound > depth:
                settings = replace(self.settings, unbound=depth)
                await commit(head=to, settings=settings.to_json())
                self._history.use(settings)
            else:
                await commit(head=to)

    async def map(self, contents: Iterable[Any], *, limit: int | None = None) -> list[Reply]:
        """One branch per content from this head, in parallel; what they share is written to the cache once.

        This session does not move; each reply's `.session` is its branch. `limit`: how many run at the same time. If
        some fail, the others still finish; then the error of the first content that failed is raised.
        """
        self._check_tools()
        if limit is not None:
            check_counts(1, limit=limit)
        words = _canonical_all(contents)
        branches = [await self.fork() for _ in words]
        return await _fan_out(branches, words, limit)

    async def batch(
        self,
        contents: Iterable[Any],
        *,
        idempotency_key: str | None = None,
        poll: float = 30.0,
        timeout: float | None = None,
    ) -> list[Reply]:
        """As `map`, at half price and with time to wait: the branches' requests go out as Message Batches.

        The first one goes alone, so that what all share is written to the cache once, and the others follow. A batch
        takes minutes, at most 24 hours; `poll` is the longest time between two looks, `timeout` ends the waiting
        (`TimeoutError`), not the batch: the same `idempotency_key` and contents again, in any process, go on from
        there, and so does `manager.recover()`; nothing is sent twice. A reply that calls tools leaves its branch to
        `reply.session.resume()`. Raises `BatchIncomplete`, which holds all outcomes, if any request has no reply.
        """
        self._check_tools()
        if not seconds("poll", poll):
            raise ConfigurationError(f"poll must be a positive number of seconds, not {poll!r}")
        timeout = seconds("timeout", timeout)
        check_key(idempotency_key)
        words = _canonical_all(contents)
        if not words:
            return []

        async def send() -> list[Reply]:
            with storage_errors():
                return await self._manager._batching.send(self, words, idempotency_key, poll)

        try:
            return await self._manager._lifecycle.unless_ended(lambda: within(self._manager.clock, timeout, send))
        except TimeoutError:
            text = f"the batch had not ended after {timeout:g} seconds: it goes on"
            raise TimeoutError(f"{text}, and the same idempotency_key or manager.recover() collects it") from None

    async def append(self, messages: Iterable[Any]) -> None:
        """Imports history without calling the model: all messages are checked first, then all are written or none.

        `messages`: a list, or an object that holds one as `messages`. Thinking in it stays as it is; where the model
        binds thinking to its prefix, later calls ask the API to drop what belongs to another one.

        Raises `InvalidHistory` naming the message and the rule.
        """
        messages = _listed(messages)
        async with self._exclusive() as commit:
            with given(InvalidHistory):
                last, ids = self._history.last, self._history.tool_ids
                previous = [] if last is None else [{"role": last.role, "content": last.content}]
                found = check_history(messages, previous, count=len(self._history.entries), ids=ids)
            foreign = any(has_thinking(message["content"]) for message in found)
            if foreign and not self.settings.foreign:
                settings = replace(self.settings, foreign=True)
                await commit(written=self._chained(found), settings=settings.to_json())
                self._history.use(settings)
            else:
                await commit(written=self._chained(found))

    def _chained(self, messages: Sequence[dict[str, Any]]) -> list[Written]:
        last, written = self._history.last, list[Written]()
        for message in messages:
            content, _ = lift_marks(message["content"])
            pinned = [dict(block) for block in self.settings.context]
            if last is None and message["role"] == "user" and content[: len(pinned)] != pinned:
                content = [*self.settings.context, *content]
            one = make_entry(last, message["role"], content, self._manager.clock.now())
            written.append(one)
            last = one.entry
        return written

    # -- settings --

    async def update(self, *, rebase: bool = False, **changes: Any) -> None:
        """Changes settings (those of `create`, and `title`, `metadata`).

        What keeps the cached prefix is free. What breaks it raises `PrefixChange` naming the tokens that will be billed
        again, unless `rebase=True`. Warns (`PromptWarning`) of what in the new prompt silently breaks its cache.
        """
        title, metadata = changes.pop("title", None), changes.pop("metadata", None)
        check_switches(rebase=rebase)
        check_texts(title=title)
        metadata = None if metadata is None else metadata_text(metadata)
        toolbox = Toolbox(tool_list(changes["tools"])) if "tools" in changes else self._toolbox
        async with self._exclusive() as commit:
            with given():
                settings = new_settings(self.settings, changes, toolbox)
            self._manager._check(settings)
            broken = prefix_changes(self.settings, settings)
            entries = self._history.entries
            unbinds = unbinds_thinking(self.settings, settings, entries, self._manager._profile_of)
            if broken and entries and not rebase:
                raise self._prefix_change(broken, settings, unbinds)
            if unbinds:
                settings = replace(settings, unbound=len(entries))
            if broken:
                self._manager._linter.check(
                    settings, self.owner, metadata or self._history.record.metadata, self.settings
                )
            await commit(settings=settings.to_json(), title=title, metadata=metadata)
            self._history.use(settings)
            self._toolbox = toolbox

    def _prefix_change(self, broken: Sequence[str], settings: Settings, unbinds: bool) -> PrefixChange:
        history = self._history
        new = history.new_prompt(settings, history.entries)
        tokens = lost_tokens(history.prompt, new, history.warmth, self._manager.clock.now())
        price = f"makes about {tokens} cached tokens be billed again" if tokens else "breaks the cached prefix"
        also = ", and earlier thinking, which is bound to it, is no longer shown to the model" if unbinds else ""
        return PrefixChange(
            f"changing {', '.join(broken)} {price}{also}; pass rebase=True to accept that, or fork the session first",
            tokens=tokens,
        )

    async def instruct(self, text: str) -> None:
        """New instructions of the operator, from the next call on; the system prompt and its cached prefix stay.

        They go out behind the newest user message: as a `system` message where the model takes them there, elsewhere as
        a block of the user message that is marked as an instruction. Raises `ConfigurationError` for blank text.
        """
        if not isinstance(text, str) or not text.strip():
            raise ConfigurationError(f"text must be some text that is not blank, not {shown(text)}")
        with given():
            encode([{"type": "text", "text": text}], where="text")
        async with self._exclusive() as commit:
            settings = replace(self.settings, instructions=(*self.settings.instructions, text))
            await commit(settings=settings.to_json())
            self._history.adopt(settings)

    async def prewarm(self) -> Usage | None:
        """Writes the prefix to the cache with a zero-token request, so that the next turn starts warm.

        `None` if the prefix is below the model's minimum, already warm, or cannot be warmed with these settings.
        Raises `ModelError`.
        """
        with storage_errors():
            if self._manager._leases.is_held(self.id):
                return None  # a turn of this process is about to write the prefix itself
            async with self._manager._leases.hold(self.id) as hold:
                await self._history.refresh(hold.lease)
                return await self._healing(hold, lambda: prewarm(self._manager, self._history))

    async def _healing(self, hold: Hold, work: Callable[[], Awaitable[T]]) -> T:
        """The result; where thinking turns out to be bound to another prefix, that is stored and it is tried again."""
        try:
            return await work()
        except ModelError as error:
            if self.settings.foreign or not belongs_elsewhere(error):
                raise
        settings = replace(self.settings, foreign=True)
        now = self._manager.clock.now()
        change = Change(self.head, self.head, settings=settings.to_json(), updated_at=now)
        await self._commit(hold, change)
        self._history.use(settings)
        return await work()

    async def _commit(self, hold: Hold, change: Change) -> None:
        try:
            await self._manager._store.commit(hold.lease, change)
        except BaseException:
            self._history.discard()  # it may have gone through: what is stored is read again
            raise

    async def compact(self) -> Call:
        """Replaces the history by the API's own summary of it, as a new head on a new chain; gives the call that did.

        `entries` then shows the new chain and `entries_before()` the earlier ones; `fork(at=…)` an old entry goes on
        without the summary. Raises `ConfigurationError` where the platform has no compaction or a turn is open.
        """
        with storage_errors():
            async with self._manager._leases.hold(self.id) as hold:
                await self._history.refresh(hold.lease)
                summarize = lambda: compact(self._manager, self._history, hold.lease)  # noqa: E731
                return await self._manager._lifecycle.unless_ended(lambda: self._healing(hold, summarize))

    # -- records --

    async def entries_before(self) -> list[Entry]:
        """The entries that compactions have replaced, oldest first; empty where there was none."""
        with storage_errors():
            root = self._history.entries[0].id if self._history.entries else None
            chains = await earlier_chains(self._manager._store, self.id, root)
            return [read_entry(row) for rows in chains for row in rows]

    async def export(self) -> list[dict[str, Any]]:
        """The history as plain Messages JSON: what `append` of another session takes back with nothing changed."""
        with storage_errors():
            record = await self._manager._store.load(self.id)
            rows = await self._manager._store.chain(self.id, record.head)
        return read_messages(rows)

    async def verify(self) -> Damage | None:
        """Re-hashes the stored history, earlier chains included.

        `None` if every entry is as it was written, else the first that is not.
        """
        with storage_errors():
            store = self._manager._store
            record = await store.load(self.id)
            rows = await store.chain(self.id, record.head)
            chains = await earlier_chains(store, self.id, rows[0].id if rows else None)
        return next((damage for chain in (*chains, rows) if (damage := first_damage(chain)) is not None), None)

    async def calls(self) -> list[Call]:
        """The ledger: every request of this session, failed and cancelled ones too, in the order they were recorded."""
        with storage_errors():
            rows = await self._manager._store.calls(self.id)
        with decoding(f"the calls of session {self.id!r}"):
            return [Call.of(row) for row in rows]

    async def cost(self) -> Cost:
        """What the session has cost, in USD, by kind of call."""
        return Cost.of(await self.calls())

    async def delete(self) -> None:
        """Really deletes the session; entries that a fork still reaches stay."""
        await self._manager.delete(self.id)

    @asynccontextmanager
    async def _exclusive(self) -> AsyncIterator[Any]:
        """The lease and the newest state; gives a function that commits a change without a turn."""
        with storage_errors():
            async with self._manager._leases.hold(self.id) as hold:
                await self._history.refresh(hold.lease)

                async def commit(written: Sequence[Written] = (), head: Any = _KEEP, **fields: Any) -> None:
                    last = written[-1].entry.id if written else self.head
                    new_head = last if head is _KEEP else head
                    change = Change(
                        self.head,
                        new_head,
                        entries=tuple(one.record for one in written),
                        updated_at=self._manager.clock.now(),
                        **fields,
                    )
                    await self._commit(hold, change)
                    self._history.stage(written)
                    self._history.committed(change)

                yield commit


_KEEP: Any = object()


def _canonical_all(contents: Iterable[Any]) -> list[list[dict[str, Any]]]:
    with given():
        return [
            canonical(one, where=f"contents[{number}]")
            for number, one in enumerate(listed("contents", contents, "contents"))
        ]


def _listed(messages: Any) -> list[Any]:
    if isinstance(messages, Mapping):
        messages = messages.get("messages")
    if isinstance(messages, str | bytes) or not isinstance(messages, Iterable):
        raise InvalidHistory("append() takes a list of messages, or an object that holds one as 'messages'")
    return list(messages)


async def _fan_out(branches: Sequence[Session], words: Sequence[Any], limit: int | None) -> list[Reply]:
    """Runs one turn per branch; what they share is written once, by whoever comes first to the gate."""
    replies: dict[int, Reply] = {}
    errors: dict[int, Exception] = {}
    slots = anyio.Semaphore(limit or max(1, len(branches)))

    async def run(number: int) -> None:
        async with slots:
            try:
                turn = Turn(branches[number], words[number], Options(branches=True))
                reply = await Driver(turn, branches[number]._manager.clock, None).reply()
                assert reply is not None
                replies[number] = reply
            except Exception as error:
                errors[number] = error

    async with anyio.create_task_group() as group:
        for number in range(len(branches)):
            group.start_soon(run, number)
    if errors:
        raise errors[min(errors)]
    return [replies[number] for number in sorted(replies)]
