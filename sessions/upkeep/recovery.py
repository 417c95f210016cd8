"""Turns whose worker has died are finished by one that lives: found by their lease, taken by the same lease.

A turn that its caller was told about (an error, a time limit, a stop) is left alone: it is `interrupted`, not orphaned.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, TypeAlias

from sessions.arguments import tool_list
from sessions.background import each, log
from sessions.branches.batching import POLL, Batching
from sessions.clock import monotonic
from sessions.conversation.conversation import Conversation
from sessions.core.settings import Settings
from sessions.core.transcript import encode, shown
from sessions.errors import ConfigurationError, ModelError, SessionBusy, SessionNotFound, SessionsError
from sessions.runtime import Runtime
from sessions.tools import Tool, Toolbox, is_tool, tool_of
from sessions.translate import storage_errors
from sessions.turns import states
from sessions.turns.batched import Part
from sessions.turns.beginning import Options
from sessions.turns.begun import run_queued
from sessions.turns.driver import Driver
from sessions.turns.loop import Loop
from sessions.turns.outcome import Outcome
from sessions.turns.tool_round import InDoubt
from storage import Change, SessionRecord, StorageError

EVERY = 5.0
"""Seconds between two looks for turns without a worker."""
_LONGEST = 300.0
"""Seconds after which a turn that could not be finished is tried again, at most; the first time after `EVERY`."""
_AT_ONCE = 8
_LOOK = 1000

Recovered: TypeAlias = dict[str, tuple[Conversation, Outcome] | SessionsError]
"""By session: the conversation and how its turn ended, or the error that it ended with."""

ToolsOf: TypeAlias = Callable[[str | None, dict[str, Any]], Iterable[Any] | Awaitable[Iterable[Any]]]
"""The tools of a session, by its owner and metadata."""


class Recovery:
    """Finishes the turns of dead workers for one manager.

    `tools`: those that it may run, or a function that is asked for those of each session. Raises `ConfigurationError`
    for what is neither.
    """

    def __init__(self, runtime: Runtime, batching: Batching, tools: Iterable[Any] | ToolsOf) -> None:
        self._runtime, self._batching = runtime, batching
        self._tools_of = _function(tools)
        self._tools = _by_definition(tools) if self._tools_of is None else {}
        self._later: dict[str, tuple[float, float]] = {}
        self._skipped: set[str] = set()
        self._groups: dict[str, str] = {}
        self._looked: set[str] = set()

    async def watch(self) -> None:
        """Looks now and then every few seconds, until no new turns are taken."""
        while self._runtime.lifecycle.takes_turns:
            try:
                await self.finish(in_doubt="report", patient=True)
            except SessionsError as error:
                log.warning("turns of workers that died could not be looked for, trying again: %s", error)
            await self._runtime.clock.sleep(EVERY)

    async def finish(self, *, in_doubt: InDoubt, patient: bool = False) -> Recovered:
        """Finishes what is left now; each session's reply, or the error that its turn ended with.

        `patient`: what failed a short while ago is left for later, and so are batches that were looked at.
        """
        recovered: Recovered = {}
        self._runtime.lifecycle.check()
        now = monotonic(self._runtime.clock)
        with storage_errors():
            ids = dict.fromkeys(await self._runtime.store.orphans(now=now, limit=_LOOK))
        self._later = {id: later for id, later in self._later.items() if later[0] > now or id in ids}
        self._groups = {id: group for id, group in self._groups.items() if id in ids}
        self._looked = {group for group in self._groups.values() if self._is_later(group)} if patient else set()
        due = [id for id in ids if not (patient and self._is_later(id)) and self._groups.get(id) not in self._looked]

        async def finish(id: str) -> None:
            recovered.update(await self._one(id, in_doubt))

        await each(due, finish, _AT_ONCE)
        return recovered

    def _is_later(self, name: str) -> bool:
        return self._later.get(name, (0.0, 0.0))[0] > monotonic(self._runtime.clock)

    async def _one(self, id: str, in_doubt: InDoubt) -> Recovered:
        try:
            with storage_errors():
                # Its row first: of a branch that waits for a batch the conversation need not be read.
                part = Part.of_row(await self._runtime.store.open_turn(id))
                if part is not None:
                    return await self._look(id, part)
            conversation = await self._opened(id)
            if conversation is None:
                return {}
            loop = Loop(self._runtime, conversation, None, Options(in_doubt=in_doubt, recovering=True))
            outcome = await Driver(self._runtime, loop, self._batching.collect).outcome()
            # What is queued behind it may have nobody else to run it.
            queued = await run_queued(self._runtime, conversation, self._batching.collect, recovering=True)
            outcome = queued or outcome
            return {} if outcome is None else {id: (conversation, outcome)}
        except (SessionBusy, SessionNotFound):
            return {}  # another worker was faster, or its user has come back, or deleted it
        except SessionsError as error:
            if self._runtime.lifecycle.is_ending:
                return {}  # the next worker goes on
            log.warning("the interrupted turn of session %s could not be finished: %s", id, error)
            if isinstance(error, ModelError) and error.retryable:
                self._wait(id)
            return {id: error}

    async def take_back(self, turns: Iterable[tuple[str, str]]) -> None:
        """These turns (session, turn) were not given up by their callers: they are left to recovery after all."""
        for session, turn in turns:
            try:
                await self._take_back(session, turn)
            except StorageError as error:
                log.warning("the turn of session %s stays interrupted, resume() goes on: %s", session, error)

    async def _take_back(self, session: str, turn: str) -> None:
        store, leases, now = self._runtime.store, self._runtime.leases, monotonic(self._runtime.clock)
        lease = await store.acquire(session, leases.holder, seconds=leases.seconds, now=now)
        row, head = await store.open_turn(session), (await store.load(session)).head
        # Whoever it belongs to has gone on with it meanwhile.
        if row is None or (row.id, row.state) != (turn, "interrupted"):
            await store.release(lease)
            return
        row = states.taken_back(row)
        await store.commit(lease, Change(head, head, turn=row, release=True, updated_at=self._runtime.clock.now()))

    async def _look(self, id: str, part: Part) -> Recovered:
        """A branch that waits for a Message Batch: its fan-out goes on, once in a while."""
        self._groups[id] = part.group
        if part.group in self._looked:
            return {}
        self._looked.add(part.group)
        self._later[part.group] = (monotonic(self._runtime.clock) + POLL, POLL)
        return dict(await self._batching.look(part))

    def _wait(self, id: str) -> None:
        delay = min(_LONGEST, 2 * self._later.get(id, (0.0, EVERY / 2))[1])
        self._later[id] = (monotonic(self._runtime.clock) + delay, delay)

    async def _opened(self, id: str) -> Conversation | None:
        """The conversation with its tools bound, or `None` where one of them was not given to the manager."""
        conversations = self._runtime.conversations
        # A turn of this process has it by now.
        if self._runtime.leases.is_held(id):
            return None
        record = await conversations.find(id, None)
        toolbox = await self._toolbox(record)
        if toolbox is not None:
            with storage_errors():
                return await conversations.open(id, toolbox)
        if id not in self._skipped:
            self._skipped.add(id)
            log.info("session %s has an interrupted turn, and tools that this manager was not given: left as it is", id)
        return None

    async def _toolbox(self, record: SessionRecord) -> Toolbox | None:
        """The functions with exactly the definitions that the session was made with."""
        settings = Settings.from_json(record.settings)
        if not settings.local_tools:
            return Toolbox()
        offered = self._tools if self._tools_of is None else await self._asked(self._tools_of, record)
        definitions = {str(definition.get("name")): encode([definition]) for definition in settings.tools}
        tools = [offered.get(definitions.get(name, "")) for name in settings.local_tools]
        return None if None in tools else Toolbox(tools)

    async def _asked(self, tools_of: ToolsOf, record: SessionRecord) -> dict[str, Tool]:
        try:
            given = tools_of(record.owner, json.loads(record.metadata))
            return _by_definition(await given if inspect.isawaitable(given) else given)
        except Exception as error:
            self._wait(record.id)
            raise ConfigurationError(f"the manager's function for tools failed: {error!r}") from error


def _function(given: Any) -> ToolsOf | None:
    """What is given as the manager's tools, where it is a function of owner and metadata; a tool alone is none."""
    if not callable(given) or isinstance(given, Iterable) or is_tool(given):
        return None
    try:
        inspect.signature(given).bind(None, {})
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            f"tools must be a list, or a function of a session's owner and metadata, not {shown(given)}"
        ) from error
    tools_of: ToolsOf = given
    return tools_of


def _by_definition(given: Any) -> dict[str, Tool]:
    """The functions among these tools; nobody has to run a server's, or those that the caller runs."""
    tools = [tool_of(one) for one in tool_list(given) if not isinstance(one, Mapping)]
    return {encode([tool.definition]): tool for tool in tools}
