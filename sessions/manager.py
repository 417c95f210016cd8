"""The manager: owns the store, the client and the background tasks, and hands out sessions."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
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
    moment,
    tool_list,
)
from sessions.branches.batching import Batching
from sessions.budget import Budget
from sessions.calls.trust import TrustMode
from sessions.clock import Clock, SystemClock
from sessions.conversation.conversation import Conversation
from sessions.conversation.linting import Linter
from sessions.conversation.memory import TRANSCRIPT_BYTES
from sessions.conversation.opening import prewarmed_id
from sessions.core.profiles import Profile
from sessions.core.settings import make_settings
from sessions.core.transcript import shown
from sessions.core.ttl import ExpectedCost, Policy
from sessions.core.usage import Usage
from sessions.errors import ConfigurationError, SessionNotFound, SessionsError
from sessions.ledger import Cost
from sessions.listing import SessionInfo, list_sessions
from sessions.runtime import Limits, assembled
from sessions.session import Reply, Session, Turn
from sessions.tools import Toolbox
from sessions.translate import caller_errors, storage_errors
from sessions.turns.finding import find_turn
from sessions.turns.outcome import Outcome
from sessions.turns.tool_round import InDoubt, check_in_doubt
from sessions.upkeep.recovery import Recovery, ToolsOf
from sessions.upkeep.tending import tending_of
from storage import SessionExists, Store
from storage.records import SessionState

CostsBy: TypeAlias = Literal["session", "owner", "day", "kind", "model", "agent"]


class SessionManager:
    """Creates, opens, lists and deletes sessions. Use it as an async context manager.

    `store`: "sqlite:///path", "sqlite://" (memory), "postgresql://…" or a `storage.Store`. `client`: any of the SDK's
    async clients; `None` makes `AsyncAnthropic()` at the first call. `profile`: what the model and endpoint support,
    where the built-in tables are wrong: a `Profile` for every model, or the path of a file that `warmline probe` wrote
    (for models other than its own it says what the endpoint does). `ttl`: a policy, `ExpectedCost()` or
    `Fixed("5m" | "1h")`. `max_steps`: model calls in one turn. `busy_timeout`: seconds to wait for a session that
    somebody else uses. `diagnostics`: ask the API why a cache was missed, on every call. `tend`: keep idle
    conversations warm where that is expected to pay, in the background while this manager is in use. `trust`: whether a
    1-hour entry behind a 5-minute prefix outlives it, which is inferred and kept in the store once it is known:
    "probe" finds out with three small requests before it is relied on, "assume" relies on it until requests show
    otherwise, "never" does not; `None` is "probe" where idle conversations are tended on an endpoint that was not
    measured, else (and at the simulator) "assume". `warmup`: requests that would write the same prefix at the same time
    wait until one has, each at most `warmup_timeout` seconds. `tools`: functions that `recover` may run, or a function,
    also async, that gives those of a session from its owner and metadata. `recover`: do that in the background, every
    few seconds, so that turns of workers that died are finished by those that live. `budgets`: `Budget` values; a
    request for which one of them has no room is not sent (`BudgetExceeded`), and idle requests then do not happen.
    `prior`: the path of a file that `warmline fit --write` made: what users' gaps are expected to be until the store
    shows them, in the place of what is shipped.
    Raises `ConfigurationError` for a wrong setting.

    `model_names`: Anthropic's or Bedrock's name of a model, by a name of your own for it, such as the ARN of an
    inference profile or a deployment: requests have your name, facts and prices are those of the model.
    """

    def __init__(
        self,
        store: str | Store = "sqlite:///sessions.db",
        *,
        client: Any = None,
        profile: Profile | str | os.PathLike[str] | None = None,
        model_names: Mapping[str, str] | None = None,
        ttl: Policy = ExpectedCost(),  # noqa: B008 - a frozen value
        clock: Clock = SystemClock(),  # noqa: B008 - it has no state
        tend: bool = True,
        prior: str | os.PathLike[str] | None = None,
        trust: TrustMode | None = None,
        warmup: bool = True,
        warmup_timeout: float = 30.0,
        recover: bool = False,
        diagnostics: bool = True,
        max_steps: int = 100,
        busy_timeout: float = 60.0,
        transcript_bytes: int = TRANSCRIPT_BYTES,
        tools: Iterable[Any] | ToolsOf = (),
        budgets: Iterable[Budget] = (),
    ) -> None:
        check_switches(tend=tend, warmup=warmup, recover=recover, diagnostics=diagnostics)
        check_counts(1, max_steps=max_steps)
        check_counts(0, transcript_bytes=transcript_bytes)
        warmup_timeout = duration("warmup_timeout", warmup_timeout)
        busy_timeout = duration("busy_timeout", busy_timeout)
        self.ttl, self.clock = ttl, clock
        self.tend, self.warmup, self.warmup_timeout, self.recovers = tend, warmup, warmup_timeout, recover
        self.diagnostics, self.max_steps, self.busy_timeout = diagnostics, max_steps, busy_timeout
        self.runtime = assembled(
            store,
            clock,
            client,
            profile,
            ttl,
            model_names=model_names,
            limits=Limits(max_steps, diagnostics),
            budgets=budgets,
            tend=tend,
            prior=prior,
            trust=trust,
            warmup_timeout=warmup_timeout if warmup else 0.0,
            busy_timeout=busy_timeout,
            transcript_bytes=transcript_bytes,
        )
        if tend:
            self.runtime.schedule.serve(tending_of(self.runtime).run)
        self._batching = Batching(self.runtime)
        self._recovery = Recovery(self.runtime, self._batching, tools)
        endpoint, model = self.runtime.endpoint, self.runtime.client
        self._linter = Linter(clock, endpoint.profile_of, model.characters_per_token)

    async def __aenter__(self) -> Self:
        with storage_errors():
            await self.runtime.store.open()
        self.runtime.lifecycle.enter()
        if self.recovers:
            self.runtime.background.start(self._recovery.watch)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.runtime.lifecycle.is_inherited:
            return  # what there is to close belongs to the process that this one is a copy of
        self.runtime.lifecycle.check()
        with anyio.CancelScope(shield=True):
            try:
                await self.drain()
                await self._recovery.take_back(self.runtime.lifecycle.taken_along(error))
                await self.runtime.following.close()
                await self.runtime.background.close()
            finally:
                self.runtime.lifecycle.leave()
                await self.runtime.store.close()

    @property
    def _store(self) -> Store:
        """Raises `ConfigurationError` in another process or event loop than the manager was entered in."""
        self.runtime.lifecycle.check()
        return self.runtime.store

    async def drain(self, seconds: float = 0.0) -> None:
        """No new turns; those under way get `seconds` to end, then they are left to recovery. For a worker's SIGTERM.

        A turn that is left stops at its next durable point: what has come is stored, its `send` raises `SessionsError`,
        and any live worker's `recover` (or `resume`) goes on with it, as after a kill. Leaving the `async with` block
        does the same with no time to end. What needs no new turn still works until then.
        """
        seconds = duration("seconds", seconds)
        self.runtime.lifecycle.check()
        await self.runtime.lifecycle.end(seconds)

    @property
    def takes_turns(self) -> bool:
        """Whether new turns are taken: not once `drain` was called."""
        return self.runtime.lifecycle.takes_turns

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
        clear_tool_results: bool = False,
        id: str | None = None,
        params: Mapping[str, Any] | None = None,
        parent: str | None = None,
    ) -> Session:
        """A new, empty session. Nothing is sent.

        `context`: content blocks that open the first user message and have a breakpoint of their own. `params`: any
        other request field of the SDK, sent as given on every call. `compact`: "auto" summarizes the history before the
        window is full, "cheapest" also at a new turn where that is cheaper than carrying on. `clear_tool_results`: the
        API leaves old tool results out of what the model sees, many at a time, where that is cheaper. `parent`: the
        session that this one is a subagent of; its owner has this one too, where no other is given. Raises
        `ConfigurationError` saying which setting is wrong, and `SessionNotFound` for the parent; then nothing is
        stored. Warns (`PromptWarning`) of what in the prompt silently breaks its cache.
        """
        check_texts(title=title)
        check_names(owner=owner, id=id, parent=parent)
        toolbox = Toolbox(tool_list(tools))
        if parent is not None:
            owner = (await self.runtime.conversations.find(parent, owner)).owner
        with caller_errors():
            settings = make_settings(
                model=model, max_tokens=max_tokens, system=system, tools=toolbox.definitions, context=context,
                thinking=thinking, tool_choice=tool_choice, output_config=output_config, params=params, compact=compact,
                clear_tool_results=clear_tool_results, local_tools=tuple(toolbox.functions),
            )  # fmt: skip
        self.runtime.endpoint.check(settings)
        text = metadata_text(metadata)
        self._linter.check(settings, owner, text)
        with storage_errors():
            return self._session(
                await self.runtime.conversations.create(
                    settings, toolbox, id=id, owner=owner, title=title, metadata=text, parent=parent
                )
            )

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
        with caller_errors():
            name = prewarmed_id(settings)
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
        session = self._session(await self.runtime.conversations.bound(id, owner, toolbox, rebase=rebase))
        if rebase and toolbox.definitions:
            await session.update(tools=tools, rebase=True)
        return session

    async def list(
        self,
        *,
        owner: str | None = None,
        limit: int = 50,
        before: str | None = None,
        search: str | None = None,
        state: SessionState | None = None,
        parent: str | None = None,
        branches: bool = False,
    ) -> list[SessionInfo]:
        """Sessions, newest first, with totals. `before`: the id of the last one of the page before.

        `state`: only those that are `idle`, `running`, `waiting` or `interrupted`. Forks, branches of `map` and
        `batch`, and subagents have a parent: they are listed with `branches=True`, or those of one `parent`. So are the
        empty sessions (`probe-…`, `head-…`) whose ledgers have requests that belong to no conversation.
        """
        check_names(owner=owner, parent=parent)
        check_switches(branches=branches)
        if state is not None:
            check_choice("state", state, get_args(SessionState))
        with storage_errors():
            return await list_sessions(
                self._store, owner=owner, limit=limit, before=before, search=search, state=state, parent=parent,
                branches=branches,
            )  # fmt: skip

    async def turn(
        self, session_id: str, turn_id: str | None = None, *, key: str | None = None, owner: str | None = None
    ) -> Turn | None:
        """The newest turn of a session, in whatever worker and state; `None` without one.

        One that was taken out of the queue is not it: another one may still run.
        `turn_id`: the one with this id; `key`: the one that was begun with this idempotency key. Raises as `open`. The
        store is not asked for a turn that runs in this process and is named by its id.
        """
        check_names(session_id=session_id, turn_id=turn_id, key=key, owner=owner)
        if turn_id is not None and key is not None:
            raise ConfigurationError("turn() takes a turn's id or its key, not both")
        row = await find_turn(self.runtime, session_id, turn_id, key, owner)

        async def reply_of(outcome: Outcome) -> Reply:
            return Reply.of(outcome, await self.open(session_id, owner=owner))

        return None if row is None else Turn(self.runtime, row, reply_of)

    def for_owner(self, owner: str) -> OwnedManager:
        """The same manager with every call limited to that owner: nothing of another's can be named through it.

        Raises `ConfigurationError` for no owner, `None` or "": what a request that nobody signed would give.
        """
        return OwnedManager(self, owner)

    async def costs(
        self,
        by: CostsBy,
        *,
        session: str | None = None,
        owner: str | None = None,
        since: float | None = None,
        until: float | None = None,
    ) -> dict[str | None, Cost]:
        """The ledger of all sessions (or of one, or of one owner's) in groups, with what misses added to each.

        `by`: "session" (their ids), "owner" (`None`: nobody), "day" (UTC, "2026-11-30"), "kind" of call, "model", or
        "agent" (what the session's `metadata` has under that name; `None`: nothing). `since`, `until`: of calls that
        started then or later, and before then, in seconds since the epoch. The store adds up: no calls are loaded.
        Raises `SessionNotFound`.
        """
        check_choice("by", by, get_args(CostsBy))
        check_names(session=session, owner=owner)
        since, until = moment("since", since), moment("until", until)
        if session is not None:
            await self.runtime.conversations.find(session, owner)
        with storage_errors():
            groups = await self._store.totals(
                None if by == "kind" else by, session=session, owner=owner, since=since, until=until
            )
        return Cost.of_groups(groups, by_kind=by == "kind")

    async def delete(self, id: str, *, owner: str | None = None) -> None:
        """Really deletes a session; entries that a fork still reaches stay. Raises `SessionNotFound`."""
        check_names(id=id, owner=owner)
        await self.runtime.conversations.delete(id, owner)

    async def recover(self, *, in_doubt: InDoubt = "report") -> dict[str, Reply | SessionsError]:
        """Finishes the turns whose worker died, in whatever process: each session's reply, or the error it ended with.

        Sessions whose tools were not all given to the manager (`tools`, the same functions as on create) are left for
        `resume`, and so are turns that ended with an error which their caller saw. Of several workers that recover at
        the same time each turn is finished by one. `in_doubt`: see `Session.resume`.
        """
        check_in_doubt(in_doubt)
        recovered = await self._recovery.finish(in_doubt=in_doubt)
        return {
            id: found if isinstance(found, SessionsError) else Reply.of(found[1], self._session(found[0]))
            for id, found in recovered.items()
        }

    def _session(self, conversation: Conversation) -> Session:
        return Session(self.runtime, self._batching, self._linter, conversation)


class OwnedManager:
    """A manager for one owner, see `SessionManager.for_owner`: its methods are the manager's, without `owner`."""

    def __init__(self, manager: SessionManager, owner: str) -> None:
        check_names(owner=owner)
        if not owner:
            raise ConfigurationError(f"for_owner() needs an owner, not {shown(owner)}: without one nothing is limited")
        self._manager, self.owner = manager, owner

    async def create(self, **settings: Any) -> Session:
        """As `SessionManager.create`. A `parent` must be this owner's."""
        if settings.setdefault("owner", self.owner) != self.owner:
            raise ConfigurationError(f"this manager makes sessions of {self.owner!r} only: leave out owner")
        return await self._manager.create(**settings)

    async def open(self, id: str, *, tools: Iterable[Any] = (), rebase: bool = False) -> Session:
        """As `SessionManager.open`. Raises `SessionNotFound` for a session of somebody else."""
        return await self._manager.open(id, owner=self.owner, tools=tools, rebase=rebase)

    async def turn(self, session_id: str, turn_id: str | None = None, *, key: str | None = None) -> Turn | None:
        """As `SessionManager.turn`. Raises `SessionNotFound` for a session of somebody else."""
        return await self._manager.turn(session_id, turn_id, key=key, owner=self.owner)

    async def list(
        self,
        *,
        limit: int = 50,
        before: str | None = None,
        search: str | None = None,
        state: SessionState | None = None,
        parent: str | None = None,
        branches: bool = False,
    ) -> list[SessionInfo]:
        """As `SessionManager.list`. Raises `SessionNotFound` where `before` names a session of somebody else."""
        if before is not None:
            await self._manager.runtime.conversations.find(before, self.owner)
        return await self._manager.list(
            owner=self.owner, limit=limit, before=before, search=search, state=state, parent=parent, branches=branches
        )

    async def costs(
        self, by: CostsBy, *, session: str | None = None, since: float | None = None, until: float | None = None
    ) -> dict[str | None, Cost]:
        """As `SessionManager.costs`. Raises `SessionNotFound` for a session of somebody else."""
        return await self._manager.costs(by, session=session, owner=self.owner, since=since, until=until)

    async def delete(self, id: str) -> None:
        """As `SessionManager.delete`. Raises `SessionNotFound` for a session of somebody else."""
        await self._manager.delete(id, owner=self.owner)
