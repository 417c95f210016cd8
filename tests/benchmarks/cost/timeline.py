"""A workload played through real sessions on one time line, against the bill of one simulator that they all share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import anyio

from sessions import Session, SessionManager
from sessions.core.cache import Point
from sessions.core.profiles import Profile
from sessions.core.usage import Usage
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
class Sent:
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
    often. `requests`: those that asked the model, in order. `refreshes_shorter`: the simulator's rule."""

    usage: Usage
    ledger: Usage
    idle: Usage
    kinds: Mapping[str, int]
    requests: Sequence[Sent]
    profile: Profile
    refreshes_shorter: bool
    problems: tuple[str, ...] = ()


class Till(Engine):
    """The simulator; keeps what each request was: the model's answers come from the workload."""

    def __init__(self, workload: Workload, parks_survive: bool = True) -> None:
        super().__init__(self.replies, keep=8, keep_messages=2000, parks_survive=parks_survive)
        self._workload = workload
        self._visits = {visit.name: number for number, visit in enumerate(workload.visits)}
        self._measured: tuple[Sequence[Point], Sequence[int]] = ((), ())
        self.sent: list[Sent] = []
        self.idle = Usage()
        self.problems: list[str] = []

    def receive(self, body: Any, headers: Mapping[str, str], now: float, *, path: str = "/v1/messages") -> Exchange:
        exchange = super().receive(body, headers, now, path=path)
        if exchange.prompt is None:
            self.problems.append(f"refused: {exchange.error}")
        elif body["max_tokens"] == 0:
            self.idle += exchange.prompt.usage
        else:
            self.sent.append(self._row(exchange.prompt.body, now))
        return exchange

    def measure(
        self, exchange: Exchange, body: Mapping[str, Any], profile: Profile
    ) -> tuple[Sequence[Point], Sequence[int]]:
        self._measured = super().measure(exchange, body, profile)
        return self._measured

    def _row(self, body: Mapping[str, Any], now: float) -> Sent:
        points, sizes = self._measured
        number = self._visits[_asked(body)[0]]
        roles = [message["role"] for message in body["messages"]]
        replies = [at for at, point in enumerate(points) if _is_reply(point, roles)]
        documents = int(self._workload.visits[number].document is not None)
        return Sent(number, now, points, sizes, documents, replies[-1] if replies else None)

    def replies(self, request: Request) -> Scripted:
        """The model: what the workload says for this visit, turn and step."""
        visit, turn, step = _asked(request.body)
        steps = self._workload.visits[self._visits[visit]].turns[turn].steps
        return _scripted(f"{visit} {turn} {step}", steps[step])


def _is_reply(point: Point, roles: Sequence[str]) -> bool:
    return point.where.tier == "messages" and roles[point.where.message] == "assistant"


def _asked(body: Mapping[str, Any]) -> tuple[str, int, int]:
    """Visit, turn and step that a request is for: its last block names them."""
    last = body["messages"][-1]["content"][-1]
    if last["type"] == "tool_result":
        visit, turn, step = last["tool_use_id"].removeprefix("toolu_").split("_")
        return visit, int(turn), int(step) + 1
    visit, turn, *_ = last["text"].split()
    return visit, int(turn), 0


def _scripted(name: str, step: Step) -> Scripted:
    later = step.seconds - FIRST_EVENT
    if not step.result:
        return Scripted([{"type": "text", "text": filler(step.reply, name)}], delay=max(0.0, later))
    asks = {"for": name, "because": "x" * max(0, 4 * (step.reply - 30))}
    use = {"type": "tool_use", "id": f"toolu_{name.replace(' ', '_')}", "name": _TOOL["name"], "input": asks}
    return Scripted([use], delay=max(0.0, later))


@dataclass(slots=True)
class _Tool:
    """The tool of all visits: takes its time, and gives a result of its size."""

    workload: Mapping[str, Visit]
    clock: ManualClock
    name: str = "look"

    def to_dict(self) -> dict[str, Any]:
        """The definition as it is sent."""
        return dict(_TOOL)

    async def call(self, given: Any) -> str:
        """Runs it."""
        visit, turn, step = given["for"].split()
        asked = self.workload[visit].turns[int(turn)].steps[int(step)]
        await self.clock.sleep(asked.takes)
        return filler(asked.result, given["for"])


@dataclass(slots=True)
class _Crowd:
    """Everybody who visits: each turn is begun at its time, whoever else is under way."""

    workload: Workload
    clock: ManualClock
    managers: Sequence[SessionManager]
    model: str
    sessions: dict[str, Session] = field(default_factory=dict)
    turns: dict[str, anyio.Lock] = field(default_factory=dict)

    async def play(self) -> None:
        start = self.clock.now()
        moments = sorted(
            ((turn.at, number, index) for number, visit in enumerate(self.workload.visits)
             for index, turn in enumerate(visit.turns))
        )  # fmt: skip
        tool = _Tool({visit.name: visit for visit in self.workload.visits}, self.clock)
        settings = head(self.model, self.workload.head, tool)
        async with anyio.create_task_group() as tasks:
            for at, number, index in moments:
                await turn_to(self.clock, start + at)
                tasks.start_soon(self._turn, number, index, settings)
            await self.clock.advance(AFTERWARDS)

    async def _turn(self, number: int, index: int, settings: Mapping[str, Any]) -> None:
        visit = self.workload.visits[number]
        async with self.turns.setdefault(visit.name, anyio.Lock()):
            session = self.sessions.get(visit.name)
            if session is None:
                manager = self.managers[number % len(self.managers)]
                session = await manager.create(**settings, owner=visit.owner, context=_pinned(visit))
                self.sessions[visit.name] = session
            await session.send(_words(visit.name, index, visit.turns[index]))


def _words(visit: str, index: int, turn: Turn) -> str:
    return filler(turn.words, f"{visit} {index}") if turn.words > 8 else f"{visit} {index} and?"


def _pinned(visit: Visit) -> list[dict[str, Any]]:
    if visit.document is None:
        return []
    name, tokens = visit.document
    return [{"type": "text", "text": filler(tokens, name)}]


def head(model: str, tokens: int, tool: Any) -> dict[str, Any]:
    """Settings of sessions whose system prompt and tools are so many tokens."""
    bare: dict[str, Any] = {"model": model, "max_tokens": 8192, "tools": [tool.to_dict()], "system": None}
    system = filler(tokens - head_tokens(bare), "system")
    return {**bare, "tools": [tool], "system": system}


async def _played(
    workload: Workload, read: float, policy: Mapping[str, Any], store: str, apart: bool, parks_survive: bool
) -> Played:
    clock, till = ManualClock(start=_START), Till(workload, parks_survive)
    async with AsyncExitStack() as stack:
        managers = []
        for _ in range(len(workload.visits) if apart else 1):
            api = client(engine=till, clock=clock, latency=Latency(first_event=FIRST_EVENT), max_retries=0)
            await stack.enter_async_context(api)
            manager = SessionManager(store, client=api, clock=clock, **policy)
            manager.runtime.leases.seconds, manager.runtime.leases.renew_after = 2 * _LEASE, _LEASE
            managers.append(await stack.enter_async_context(manager))
        await _Crowd(workload, clock, managers, MODELS[read]).play()
        costs = await managers[0].costs("kind")
        ledger = sum((cost.usage for cost in costs.values()), start=Usage())
        kinds = {str(kind): cost.calls for kind, cost in costs.items()}
        bill = till.bill().usage
        profile = managers[0].runtime.endpoint.profile_of(MODELS[read])
        return Played(
            bill, ledger, till.idle, kinds, tuple(till.sent), profile, till.refreshes_shorter, tuple(till.problems)
        )


def play(
    workload: Workload,
    read: float,
    policy: Mapping[str, Any],
    *,
    store: str = "sqlite://",
    apart: bool = False,
    parks_survive: bool = True,
) -> Played:
    """Plays a workload at a read price with a manager's settings.

    `apart`: each visit has a manager of its own on the one store, which has to be a file then. `parks_survive`: whether
    the simulator keeps a 1h entry that was written behind a 5m one. Raises `AssertionError` where the ledger is not
    the simulator's bill.
    """
    played = anyio.run(_played, workload, read, policy, store, apart, parks_survive)
    if played.ledger != played.usage:
        raise AssertionError(f"{workload.name}, {policy}: billed {played.usage}, ledger {played.ledger}")
    return played
