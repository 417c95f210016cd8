"""The manager: owns the store, the client and the background tasks, and hands out sessions."""

from __future__ import annotations

import json
import os
import uuid
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from hashlib import blake2b
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias, get_args

import anyio

from sessions.arguments import (
    check_choice,
    check_counts,
    check_names,
    check_switches,
    check_texts,
    duration,
    metadata_text,
    tool_list,
)
from sessions.background import Background
from sessions.batching import Batching
from sessions.changes import check_tools
from sessions.clock import Clock, SystemClock
from sessions.core.acceptable import check_acceptable
from sessions.core.incoming import Incoming
from sessions.core.plan import Warmth
from sessions.core.profiles import Profile, nearest_models, profile_for
from sessions.core.settings import Settings, make_settings
from sessions.core.transcript import encode, shown
from sessions.core.ttl import ExpectedCost, Policy
from sessions.core.usage import Usage
from sessions.errors import ConfigurationError, SessionNotFound, SessionsError, without_words
from sessions.flight import Air, Flight
from sessions.gate import WarmupGate
from sessions.history import RECENT_CALLS, History
from sessions.leases import Leases
from sessions.lifecycle import Lifecycle
from sessions.linting import Linter
from sessions.model.client import ModelClient
from sessions.model.profile_file import SIMULATOR, read_profile
from sessions.recovery import Recovery
from sessions.replies import Call, Cost, Reply, SessionInfo
from sessions.session import Session
from sessions.telemetry import end_call
from sessions.tending import Tending
from sessions.tool_round import InDoubt, check_in_doubt
from sessions.tools import Toolbox
from sessions.transcripts import TRANSCRIPT_BYTES, Transcripts
from sessions.translate import decoding, given, storage_errors
from storage import SessionExists, SessionMissing, SessionRecord, Store, Stored, open_store

CostsBy: TypeAlias = Literal["session", "owner", "day", "kind"]

SHARED_POINTS = 10_000
"""Points known to be warm that all sessions of a manager share; some 2 MB."""


class SessionManager:
    """Creates, opens, lists and deletes sessions. Use it as an async context manager.

    `store`: "sqlite:///path", "sqlite://" (memory), "postgresql://…" or a `storage.Store`. `client`: any of the SDK's
    async clients; `None` makes `AsyncAnthropic()` at the first call. `profile`: what the model and endpoint support,
    where the built-in tables are wrong: a `Profile` for every model, or the path of a file that `warmline probe` wrote
    (for models other than its own it says what the endpoint does). `ttl`: a policy, `ExpectedCost()` or
    `Fixed("5m" | "1h")`. `max_steps`: model calls in one turn. `busy_timeout`: seconds to wait for a session that
    somebody else uses. `diagnostics`: ask the API why a cache was missed, on every call. `tend`: keep idle
    conversations warm where that is expected to pay, in the background while this manager is in use. `warmup`: requests
    that would write the same prefix at the same time wait until one has, each at most `warmup_timeout` seconds.
    `tools`: functions that `recover` may run. `recover`: do that in the background, every few seconds, so that turns of
    workers that died are finished by those that live. Raises `ConfigurationError` for a wrong setting.
    """

    def __init__(
        self,
        store: str | Store = "sqlite:///sessions.db",
        *,
        client: Any = None,
        profile: Profile | str | os.PathLike[str] | None = None,
        ttl: Policy = ExpectedCost(),  # noqa: B008 - a frozen value
        clock: Clock = SystemClock(),  # noqa: B008 - it has no state
        tend: bool = True,
        warmup: bool = True,
        warmup_timeout: float = 30.0,
        recover: bool = False,
        diagnostics: bool = True,
        max_steps: int = 100,
        busy_timeout: float = 60.0,
        transcript_bytes: int = TRANSCRIPT_BYTES,
        tools: Iterable[Any] = (),
    ) -> None:
        if isinstance(ttl, type) or not isinstance(ttl, Policy):
            raise ConfigurationError(f"ttl must be a policy such as Fixed('1h') or ExpectedCost(), not {shown(ttl)}")
        if not all(callable(getattr(clock, name, None)) for name in ("now", "sleep")):
            raise ConfigurationError(f"clock must have now() and sleep(), as SystemClock() does, not {shown(clock)}")
        if not isinstance(profile, Profile | str | os.PathLike | None):
            raise ConfigurationError(f"profile must be a Profile or the path of a file, not {shown(profile)}")
        check_switches(tend=tend, warmup=warmup, recover=recover, diagnostics=diagnostics)
        check_counts(1, max_steps=max_steps)
        check_counts(0, transcript_bytes=transcript_bytes)
        warmup_timeout = duration("warmup_timeout", warmup_timeout)
        busy_timeout = duration("busy_timeout", busy_timeout)
        if not isinstance(store, str) and not hasattr(store, "commit"):
            raise ConfigurationError(f"store must be a URL such as 'sqlite:///chat.db', or a Store, not {shown(store)}")
        with storage_errors():
            self._database: Store = open_store(store) if isinstance(store, str) else store
        self._client = ModelClient(client)
        self._profile = profile if isinstance(profile, Profile) else None
        self._measured = read_profile(profile) if isinstance(profile, str | os.PathLike) else None
        self.ttl, self.clock = ttl, clock
        self.tend, self.warmup, self.warmup_timeout, self.recovers = tend, warmup, warmup_timeout, recover
        self.diagnostics, self.max_steps, self.busy_timeout = diagnostics, max_steps, busy_timeout
        self._background = Background()
        self._air = Air()
        self._lifecycle = Lifecycle(clock)
        self._leases = Leases(self._database, clock, self._background, self._lifecycle, busy_timeout)
        self._tending = Tending(self)
        self._transcripts = Transcripts(transcript_bytes, self._leases.is_held)
        self._warmth = Warmth(limit=SHARED_POINTS)
        timeout = warmup_timeout if warmup else 0.0
        self._gate = WarmupGate(self._database, clock, self._background, self._lifecycle, self._warmth, timeout)
        self._warned: set[str] = set()
        self._batching = Batching(self)
        self._recovery = Recovery(self, tool_list(tools))
        self._linter = Linter(clock, self._profile_of, self._client.characters_per_token)

    async def __aenter__(self) -> Self:
        with storage_errors():
            await self._database.open()
        self._lifecycle.enter()
        if self.recovers:
            self._background.start(self._recovery.watch)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lifecycle.is_inherited:
            return  # what there is to close belongs to the process that this one is a copy of
        self._lifecycle.check()
        with anyio.CancelScope(shield=True):
            try:
                await self.drain()
                await self._recovery.take_back(self._lifecycle.taken_along(error))
                await self._background.close()
            finally:
                self._lifecycle.leave()
                await self._database.close()

    @property
    def _store(self) -> Store:
        """Every public call passes here: raises `ConfigurationError` in another process or event loop than entered."""
        self._lifecycle.check()
        return self._database

    async def drain(self, seconds: float = 0.0) -> None:
        """No new turns; those under way get `seconds` to end, then they are left to recovery. For a worker's SIGTERM.

        A turn that is left stops at its next durable point: what has come is stored, its `send` raises `SessionsError`,
        and any live worker's `recover` (or `resume`) goes on with it, as after a kill. Leaving the `async with` block
        does the same with no time to end. What needs no new turn still works until then.
        """
        seconds = duration("seconds", seconds)
        self._lifecycle.check()
        await self._lifecycle.end(seconds)

    async def create(
        self,
        *,
        model: str,
        max_tokens: int,
        system: Any = None,
        tools: Iterable[Any] = (),
        context: Any = (),
        thinking: Mapping[str, Any] | None = None,
        tool_choice: Mapping[str, Any] | None = None,
        output_config: Mapping[str, Any] | None = None,
        owner: str | None = None,
        title: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        compact: str | None = None,
        id: str | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> Session:
        """A new, empty session. Nothing is sent.

        `context`: content blocks that open the first user message and have a breakpoint of their own. `params`: any
        other request field of the SDK, sent as given on every call. Raises `ConfigurationError` saying which setting
        is wrong; then nothing is stored. Warns (`PromptWarning`) of what in the prompt silently breaks its cache.
        """
        check_texts(title=title)
        check_names(owner=owner, id=id)
        toolbox = Toolbox(tool_list(tools))
        with given():
            settings = make_settings(
                model=model, max_tokens=max_tokens, system=system, tools=toolbox.definitions, context=context,
                thinking=thinking, tool_choice=tool_choice, output_config=output_config, params=params, compact=compact,
                local_tools=tuple(toolbox.functions),
            )  # fmt: skip
        self._check(settings)
        now, text = self.clock.now(), metadata_text(metadata)
        self._linter.check(settings, owner, text)
        name = id or uuid.uuid4().hex
        record = SessionRecord(name, uuid.uuid4().hex, owner, title, text, settings.to_json(), None, now, now)
        with storage_errors():
            await self._store.create(record)
            return await self._loaded(Stored(record, [], []), toolbox)

    async def prewarm(self, **settings: Any) -> Usage | None:
        """Writes the prefix of sessions that do not exist yet, with a zero-token request: what `create` would share.

        Takes the settings of `create`. The ledger row belongs to an empty session of its own, `prewarm-…`, which every
        call with the same settings uses again. `None` if the prefix is below the model's minimum, known to be warm, or
        cannot be warmed with these settings. Raises `ModelError`, and `ConfigurationError` as `create` does.
        """
        if "id" in settings:
            raise ConfigurationError("prewarm() names its session itself: leave out id")
        tools = tool_list(settings.pop("tools", None) or ())
        settings |= {"tools": Toolbox(tools).definitions}
        with given():
            for one, value in settings.items():
                encode([{one: value}], where=one)
            content = encode([settings])
        name = f"prewarm-{blake2b(content.encode(), digest_size=8).hexdigest()}"
        try:
            session = await self.open(name, tools=tools)
        except SessionNotFound:
            try:
                session = await self.create(**{"title": "pre-warmed", **settings, "tools": tools, "id": name})
            except ConfigurationError as error:
                if not isinstance(error.__cause__, SessionExists):
                    raise
                session = await self.open(name, tools=tools)  # another worker was faster
        return await session.prewarm()

    async def open(
        self, id: str, *, owner: str | None = None, tools: Iterable[Any] = (), rebase: bool = False
    ) -> Session:
        """A stored session. Give the same function tools as on create; without them it can be read and branched.

        Raises `SessionNotFound` if it is absent or belongs to another owner (`owner=None` does not check), and
        `ToolsChanged` if the tools' definitions differ from the stored ones (`rebase=True` stores the new ones).
        """
        check_names(id=id, owner=owner)
        check_switches(rebase=rebase)
        tools = tool_list(tools)
        toolbox = Toolbox(tools)
        with _finding(id):
            stored = await self._read(id)
        _check_owner(stored.record, owner)
        with decoding(f"session {id!r}"):
            settings = Settings.from_json(stored.record.settings)
        if not rebase:
            check_tools(settings, toolbox)
        with storage_errors():
            session = await self._loaded(stored, toolbox)
        if rebase and toolbox.definitions:
            await session.update(tools=tools, rebase=True)
        return session

    async def list(
        self, *, owner: str | None = None, limit: int = 50, before: str | None = None, search: str | None = None
    ) -> list[SessionInfo]:
        """Sessions, newest first, with totals. `before`: the id of the last one of the page before."""
        check_names(owner=owner)
        with storage_errors():
            rows = await self._store.list(owner=owner, limit=limit, before=before, search=search)
        return [_info(row) for row in rows]

    async def costs(
        self, by: CostsBy, *, session: str | None = None, owner: str | None = None
    ) -> dict[str | None, Cost]:
        """The ledger of all sessions (or of one, or of one owner's) in groups, with what misses added to each.

        `by`: "session" (their ids), "owner" (`None`: nobody), "day" (UTC, "2026-11-30") or "kind" of call. The store
        adds up: no calls are loaded. Raises `SessionNotFound`.
        """
        check_choice("by", by, get_args(CostsBy))
        check_names(session=session, owner=owner)
        if session is not None:
            await self._find(session, owner)
        with storage_errors():
            groups = await self._store.totals(None if by == "kind" else by, session=session, owner=owner)
        found: dict[str | None, Cost] = {}
        for group in groups:
            key = group.kind if by == "kind" else group.key
            found[key] = found.get(key, Cost()) + Cost.of_group(group)
        return found

    async def delete(self, id: str, *, owner: str | None = None) -> None:
        """Really deletes a session; entries that a fork still reaches stay. Raises `SessionNotFound`."""
        check_names(id=id, owner=owner)
        await self._find(id, owner)
        with storage_errors():
            await self._store.delete(id)

    async def recover(self, *, in_doubt: InDoubt = "report") -> dict[str, Reply | SessionsError]:
        """Finishes the turns whose worker died, in whatever process: each session's reply, or the error it ended with.

        Sessions whose tools were not all given to the manager (`tools`, the same functions as on create) are left for
        `resume`, and so are turns that ended with an error which their caller saw. Of several workers that recover at
        the same time each turn is finished by one. `in_doubt`: see `Session.resume`.
        """
        check_in_doubt(in_doubt)
        return await self._recovery.finish(in_doubt=in_doubt)

    async def _record_failed(
        self, flight: Flight, history: History, kind: str, incoming: Incoming, error: BaseException
    ) -> None:
        """A request outside of turns failed or was cancelled: that is a row of the ledger too."""
        status = "error" if isinstance(error, Exception) else "cancelled"
        ended, text = self.clock.now(), without_words(error)
        self._client.cut_short(incoming, history.prompt.profile, error)
        row = flight.record(history.record.id, kind, status, incoming, history.prompt, ended=ended, error=text)
        end_call(flight.span, Call.of(row))
        with anyio.CancelScope(shield=True):
            await self._store.record(row, history.settings_record)

    async def _find(self, id: str, owner: str | None) -> SessionRecord:
        with _finding(id):
            record = await self._store.load(id)
        _check_owner(record, owner)
        return record

    async def _read(self, id: str) -> Stored:
        return await self._store.read(id, calls=RECENT_CALLS)

    async def _loaded(self, stored: Stored, toolbox: Toolbox) -> Session:
        return Session(self, await self._history_of(stored), toolbox)

    async def _history_of(self, stored: Stored) -> History:
        endpoint = self._client.base_url or ""
        history = History(self._store, stored.record, self._profile_of, endpoint, self._transcripts, self._warmth)
        await history.take(stored)
        return history

    def _profile_of(self, model: str) -> Profile:
        if self._measured is not None:
            return self._measured.profile_of(model, self._client.base_url)
        if self._profile is not None:
            return replace(self._profile, name=model)
        return profile_for(model, self._client.base_url)

    def _check_endpoint(self) -> None:
        """Warns once where the profile was measured at another endpoint than the one that is talked to."""
        measured, ours = self._measured, self._client.base_url
        if measured is None or ours is None or self._client.characters_per_token is not None:
            return
        if measured.endpoint.rstrip("/") != ours.rstrip("/") and measured.endpoint not in self._warned:
            self._warned.add(measured.endpoint)
            where = "on the simulator" if measured.endpoint == SIMULATOR else f"at {measured.endpoint}"
            warnings.warn(
                f"the profile was measured {where} on {measured.measured_at}, and this client talks to {ours}: "
                "measure that with `warmline probe --base-url`",
                stacklevel=4,
            )

    def _check(self, settings: Settings) -> None:
        self._client.check_params(settings.params or {})
        with given():
            check_acceptable(settings, self._client.base_url)
        self._check_endpoint()
        profile = self._profile_of(settings.model)
        if not profile.known and settings.model not in self._warned:
            self._warned.add(settings.model)
            near = nearest_models(settings.model)
            hint = f" (did you mean {' or '.join(near)}?)" if near else ""
            warnings.warn(
                f"nothing is known about the model {settings.model!r}{hint}: its name is sent as it is, with cautious "
                f"assumptions (minimum prefix {profile.minimum_tokens} tokens, no pre-warming); "
                "pass SessionManager(profile=…) if you know better",
                stacklevel=3,
            )


@contextmanager
def _finding(id: str) -> Iterator[None]:
    with storage_errors():
        try:
            yield
        except SessionMissing as error:
            raise SessionNotFound(_not_found(id)) from error


def _check_owner(record: SessionRecord, owner: str | None) -> None:
    if owner is not None and record.owner != owner:
        raise SessionNotFound(_not_found(record.id))


def _not_found(id: str) -> str:
    return f"there is no session {id!r} for this owner: check the id (`warmline list` shows what there is)"


def _info(row: SessionRecord) -> SessionInfo:
    total = row.totals
    with decoding(f"session {row.id!r}"):
        metadata, model = json.loads(row.metadata), Settings.from_json(row.settings).model
    usage = Usage(total.input, total.cache_read, total.cache_write_5m, total.cache_write_1h, total.output)
    return SessionInfo(
        row.id, row.owner, row.title, metadata, model, row.head,
        row.created_at, row.updated_at, total.turns, total.calls, usage, total.cost, total.unpriced,
    )  # fmt: skip
