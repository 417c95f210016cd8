"""A workload played through real sessions on one time line, against the bill of one simulator that they all share."""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio

from sessions import Session, SessionManager
from sessions.core.cache import Point, content_blocks
from sessions.core.profiles import Profile
from sessions.core.usage import Usage
from sessions.replay.meter import Metered, Sent
from sessions.replay.player import head_tokens, turn_to
from sessions.simulator import Engine, Exchange, Latency, Request, Scripted, client, filler
from sessions.testing import ManualClock
from tests.benchmarks.cost.spent import MODELS
from tests.benchmarks.cost.workloads import Step, Turn, Visit, Workload

FIRST_EVENT = 0.8
"""Seconds until an answer begins, and what it wrote can be read."""
AFTERWARDS = 2 * 3600.0
"""Seconds that the time line goes on after the last turn: what is spent on waiting is part of the bill."""
_LEASE = 7 * 86_400.0
"""Seconds. Renewals every 3 seconds of a turned clock cost too much."""
_START = 1_700_000_000.0
_TOOL = {
    "name": "look",
    "description": "Looks something up.",
    "input_schema": {"type": "object", "properties": {"for": {"type": "string"}}},
}


@dataclass(frozen=True, slots=True)
class Measured:
    """One request that asked the model. `points` and `sizes`: of its prompt, as the simulator measures it.

    `session`: its visit's number. `documents`: how many blocks are pinned.
    """

    session: int
    started: float
    points: Sequence[Point]
    sizes: Sequence[int]
    documents: int
    latest_reply: int | None

    @property
    def total(self) -> int:
        """Tokens of the prompt."""
        return self.sizes[-1]


@dataclass(frozen=True, slots=True)
class Played:
    """`usage`: the simulator's bill without output, `idle` what of it was spent while waiting, by kind of call how
    often. `clearings`: how often tool results were cleared. `requests`: those that asked the model, in order.
    `refreshes_shorter`: the simulator's rule."""

    usage: Usage
    ledger: Usage
    idle: Usage
    kinds: Mapping[str, int]
    requests: Sequence[Measured]
    profile: Profile
    refreshes_shorter: bool
    problems: tuple[str, ...] = ()
    clearings: int = 0


class Till(Engine):
    """The simulator; keeps what each request was: the model's answers come from the workload."""

    def __init__(self, workload: Workload, parks_survive: bool = True, told: Sent | None = None) -> None:
        super().__init__(self.replies, keep=8, keep_messages=2000, parks_survive=parks_survive)
        self._workload, self._told = workload, told
        self._visits = {visit.name: number for number, visit in enumerate(workload.visits)}
        self._measured: tuple[Sequence[Point], Sequence[int]] = ((), ())
        self.sent: list[Measured] = []
        self.idle = Usage()
        self.clearings = 0
        self.problems: list[str] = []
        self.summarized: list[str] = []
        """Visits that have just been compacted or cleared: what was left out is still to be read again."""
        self._cleared: dict[int, int] = {}

    def receive(self, body: Any, headers: Mapping[str, str], now: float, *, path: str = "/v1/messages") -> Exchange:
        exchange = super().receive(body, headers, now, path=path)
        if exchange.prompt is None:
            self.problems.append(f"refused: {exchange.error}")
        elif body.get("compaction"):
            self.summarized.append(str(content_blocks(body["messages"][-1]["content"])[-1]["text"]).split()[0])
        elif (asked := self._asked(body)) is None:
            self.idle += exchange.prompt.usage
        else:
            self._note_cleared(asked.number, exchange.prompt.edits or ())
            row = self._row(exchange.prompt.body, asked.number, now)
            self.sent.append(row)
            if self._told is not None:
                self._told(Metered(exchange.index, row.session, now, row.total), body)
        return exchange

    def _note_cleared(self, number: int, edits: Sequence[Mapping[str, Any]]) -> None:
        """Where more tool results are cleared than before, what they held is read again."""
        count = sum(edit["cleared_tool_uses"] for edit in edits)
        if count > self._cleared.get(number, 0):
            self._cleared[number] = count
            self.clearings += 1
            self.summarized.append(self._workload.visits[number].name)

    def measure(
        self, exchange: Exchange, body: Mapping[str, Any], profile: Profile
    ) -> tuple[Sequence[Point], Sequence[int]]:
        self._measured = super().measure(exchange, body, profile)
        return self._measured

    def _row(self, body: Mapping[str, Any], number: int, now: float) -> Measured:
        points, sizes = self._measured
        roles = [message["role"] for message in body["messages"]]
        replies = [at for at, point in enumerate(points) if _is_reply(point, roles)]
        documents = int(self._workload.visits[number].document is not None)
        return Measured(number, now, points, sizes, documents, replies[-1] if replies else None)

    def replies(self, request: Request) -> Scripted:
        """The model: what the workload says for this visit, turn and step."""
        asked = self._asked(request.body)
        if asked is None:
            return Scripted("Yes.")
        visit = self._workload.visits[asked.number]
        return _scripted(f"{visit.name} {asked.turn} {asked.step}", visit.turns[asked.turn].steps[asked.step])

    def _asked(self, body: Mapping[str, Any]) -> _Asked | None:
        """What a request is for: its last block names it. None: it is nobody's turn, but sent to keep or to find out
        something."""
        last = content_blocks(body["messages"][-1]["content"])[-1]
        if body["max_tokens"] == 0:
            return None
        if last["type"] == "tool_result":
            visit, turn, step = last["tool_use_id"].removeprefix("toolu_").split("_")
            return _Asked(self._visits[visit], int(turn), int(step) + 1)
        words = str(last["text"]).split(maxsplit=2)
        return _Asked(self._visits[words[0]], int(words[1]), 0) if words[0] in self._visits else None


@dataclass(frozen=True, slots=True)
class _Asked:
    """A visit's number, and which of its turns and steps."""

    number: int
    turn: int
    step: int


def _is_reply(point: Point, roles: Sequence[str]) -> bool:
    return point.where.tier == "messages" and roles[point.where.message] == "assistant"


def _scripted(name: str, step: Step) -> Scripted:
    later = step.seconds - FIRST_EVENT
    if not step.result:
        return Scripted([{"type": "text", "text": filler(step.reply, name)}], delay=max(0.0, later))
    asks = {"for": name, "because": "x" * max(0, 4 * (step.reply - 30))}
    use = {"type": "tool_use", "id": f"toolu_{name.replace(' ', '_')}", "name": _TOOL["name"], "input": asks}
    return Scripted([use], delay=max(0.0, later))


@dataclass(slots=True)
class _Tool:
    """The tool of all visits: takes its time, and gives a result of its size.

    `again`: tokens that are read again with the first result behind a summary, by those that are `summarized`.
    """

    workload: Mapping[str, Visit]
    clock: ManualClock
    summarized: list[str]
    again: int = 0
    name: str = "look"

    def to_dict(self) -> dict[str, Any]:
        """The definition as it is sent."""
        return dict(_TOOL)

    async def call(self, given: Any) -> str:
        """Runs it."""
        visit, turn, step = given["for"].split()
        asked = self.workload[visit].turns[int(turn)].steps[int(step)]
        await self.clock.sleep(asked.takes)
        return filler(asked.result + self.left_out(visit), given["for"])

    def left_out(self, visit: str) -> int:
        """Tokens that this visit reads again now."""
        if not self.again or visit not in self.summarized:
            return 0
        self.summarized.remove(visit)
        return self.again


Opens = Callable[[], AbstractAsyncContextManager[SessionManager]]
"""Gives a manager on the workload's store."""


class _Crowd:
    """Everybody who visits: each turn is begun at its time, whoever else is under way.

    `apart`: each visit has a manager of its own, for two hours after its last turn.
    """

    def __init__(
        self, workload: Workload, clock: ManualClock, model: str, opens: Opens, how: How, summarized: list[str]
    ) -> None:
        self._workload, self._clock, self._apart, self._opens = workload, clock, how.apart, opens
        visits = {visit.name: visit for visit in workload.visits}
        tool = _Tool(visits, clock, summarized, how.read_again)
        self._settings = {**head(model, workload.head, tool), "compact": how.compact}
        self._settings |= {"clear_tool_results": how.clears}
        self._open: dict[int, AsyncExitStack] = {}
        self._managers: dict[int, SessionManager] = {}
        self._sessions: dict[int, Session] = {}
        self._turns = [anyio.Lock() for _ in workload.visits]

    async def play(self) -> None:
        """From the first turn until two hours after the last."""
        if not self._apart:
            await self._manager(0)
        start, moments = self._clock.now(), sorted(self._moments(), key=lambda moment: moment[0])
        async with anyio.create_task_group() as tasks:
            for at, act in moments:
                await turn_to(self._clock, start + at)
                tasks.start_soon(act)
            await self._clock.advance(AFTERWARDS)
        for number in list(self._open):
            await self._leave(number)

    def _moments(self) -> Iterator[tuple[float, Callable[[], Coroutine[Any, Any, None]]]]:
        for number, visit in enumerate(self._workload.visits):
            for index, turn in enumerate(visit.turns):
                yield turn.at, partial(self._turn, number, index)
            if self._apart:
                last = visit.turns[-1]
                yield last.at + last.seconds + AFTERWARDS, partial(self._leave, number)

    async def _turn(self, number: int, index: int) -> None:
        visit = self._workload.visits[number]
        async with self._turns[number]:
            session = self._sessions.get(number)
            if session is None:
                manager = await self._manager(number if self._apart else 0)
                session = await manager.create(**self._settings, owner=visit.owner, context=_pinned(visit))
                self._sessions[number] = session
            await session.send(_words(visit.name, index, visit.turns[index]))

    async def _manager(self, number: int) -> SessionManager:
        if number not in self._managers:
            stack = self._open[number] = AsyncExitStack()
            self._managers[number] = await stack.enter_async_context(self._opens())
        return self._managers[number]

    async def _leave(self, number: int) -> None:
        await self._open.pop(number).aclose()


def _words(visit: str, index: int, turn: Turn) -> str:
    return filler(turn.words, f"{visit} {index}") if turn.words > 8 else f"{visit} {index} and?"


def _pinned(visit: Visit) -> list[dict[str, Any]]:
    if visit.document is None:
        return []
    name, tokens = visit.document
    return [{"type": "text", "text": filler(tokens, name)}]


def head(model: str, tokens: int, tool: Any) -> dict[str, Any]:
    """Settings of sessions whose system prompt and tools are so many tokens."""
    bare: dict[str, Any] = {"model": model, "max_tokens": 64_000, "tools": [tool.to_dict()], "system": None}
    system = filler(tokens - head_tokens(bare), "system")
    return {**bare, "tools": [tool], "system": system}


@dataclass(frozen=True, slots=True)
class How:
    """How a workload is played. `policy`: a manager's settings. `apart`: each visit by a manager of its own.

    `parks_survive`: whether the simulator keeps a 1h entry that was written behind a 5m one. `sent` is told of every
    request that asks the model, with its body. `compact`, `clears` (tool results): settings of the sessions;
    `read_again`: tokens that the first tool result behind a summary, or behind what was cleared, has more.
    """

    policy: Mapping[str, Any]
    apart: bool = False
    parks_survive: bool = True
    sent: Sent | None = None
    compact: str | None = None
    clears: bool = False
    read_again: int = 0


async def _played(workload: Workload, read: float, how: How, store: str) -> Played:
    clock, till = ManualClock(start=_START), Till(workload, how.parks_survive, how.sent)

    @asynccontextmanager
    async def opens() -> AsyncIterator[SessionManager]:
        latency = Latency(first_event=FIRST_EVENT)
        async with client(engine=till, clock=clock, latency=latency, max_retries=0) as api:
            manager = SessionManager(store, client=api, clock=clock, **how.policy)
            manager.runtime.leases.seconds, manager.runtime.leases.renew_after = 2 * _LEASE, _LEASE
            async with manager:
                yield manager

    if how.apart:
        await _Crowd(workload, clock, MODELS[read], opens, how, till.summarized).play()
        async with opens() as manager:
            return await _told(manager, till, MODELS[read])
    async with opens() as manager:
        await _Crowd(workload, clock, MODELS[read], lambda: nullcontext(manager), how, till.summarized).play()
        return await _told(manager, till, MODELS[read])


async def _told(manager: SessionManager, till: Till, model: str) -> Played:
    """What the ledger and the simulator say."""
    costs = await manager.costs("kind")
    return Played(
        usage=till.bill().usage,
        ledger=sum((cost.usage for cost in costs.values()), start=Usage()),
        idle=till.idle,
        kinds={str(kind): cost.calls for kind, cost in costs.items()},
        requests=tuple(till.sent),
        profile=manager.runtime.endpoint.profile_of(model),
        refreshes_shorter=till.refreshes_shorter,
        problems=tuple(till.problems),
        clearings=till.clearings,
    )


def play(workload: Workload, read: float, how: How) -> Played:
    """Plays a workload at a read price. Raises `AssertionError` where the ledger is not the simulator's bill.

    A store that only one process can see is played faster: nobody has to look for what others have written.
    """
    with TemporaryDirectory(prefix="warmline-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        store = f"sqlite:///{Path(folder) / 'work.db'}" if how.apart else "sqlite://"
        played = anyio.run(_played, workload, read, how, store)
    if played.ledger != played.usage:
        raise AssertionError(f"{workload.name}, {how.policy}: billed {played.usage}, ledger {played.ledger}")
    return played
