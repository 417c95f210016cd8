"""One recording, or several in a row, played to the end and added up.

Each recorded turn goes through `Session.run` at its recorded time, with its recorded tools; the bill is set beside two
others for the very same requests: everything uncached, and the API's automatic top-level `cache_control`.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field, fields, replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

from sessions.core.prices import cost
from sessions.core.usage import Usage
from sessions.errors import ModelError
from sessions.importers.records import RecordedConversation, RecordedStep, RecordedTurn, Trigger
from sessions.manager import SessionManager
from sessions.replay.meter import TTLS, Meter, Metered, Sent
from sessions.replay.player import Player, head_tokens, later, model_of, output_tokens, settings_for, turn_to
from sessions.session import Session
from sessions.simulator import Request, Scripted, client
from sessions.testing import ManualClock

AFTERWARDS = 7200.0
"""Seconds that a session is left open after its last turn: what is spent on waiting is part of the bill."""

BETWEEN = 6 * 3600.0
"""Seconds from the end of one recording to the start of the next in a series, where the recorded times overlap."""

_LEASE = 7 * 86_400.0
"""Seconds. A replay shares its sessions with nobody; renewals every 3 seconds of a turned clock cost too much."""


@dataclass(frozen=True, slots=True)
class Totals:
    """What a replay cost. USD where every price is known, else None; `recorded` and `sent` are prompt tokens.

    `usage` and `cost`: ours, requests made while idle included; `idle` is what those alone used. `top_level` and
    `top_level_1h`: the same requests with the API's automatic caching, 5 minutes and 1 hour. `uncached`: without any.
    `checked`: requests inside the lifetime of the one before; `broken`: those of them that did not read exactly what
    that one had read and written.
    """

    requests: int = 0
    refused: int = 0
    usage: Usage = field(default_factory=Usage)
    idle: Usage = field(default_factory=Usage)
    idle_requests: int = 0
    cost: Decimal | None = Decimal(0)
    top_level: Usage = field(default_factory=Usage)
    top_level_1h: Usage = field(default_factory=Usage)
    top_level_cost: Decimal | None = Decimal(0)
    uncached_cost: Decimal | None = Decimal(0)
    recorded: int = 0
    sent: int = 0
    checked: int = 0
    broken: int = 0

    def __add__(self, other: Totals) -> Totals:
        names = [field.name for field in fields(self)]
        return Totals(**{name: _plus(getattr(self, name), getattr(other, name)) for name in names})


@dataclass(frozen=True, slots=True)
class ReplayTurn:
    """One turn: `conversation` is the segment's id, `number` counts its turns from 1, `at` is the first request's start
    (epoch seconds), `gap` the seconds since the start of the request before it (None for a session's first).

    `problems`: sentences, one for each request that was refused or did not read what it should have.
    """

    conversation: str
    number: int
    at: float
    gap: float | None
    trigger: Trigger
    totals: Totals
    problems: tuple[str, ...] = ()

    @property
    def usage(self) -> Usage:
        """What was read, written and left uncached, requests while idle after the turn included."""
        return self.totals.usage


@dataclass(frozen=True, slots=True)
class Replay:
    """One recording played to its end. `sessions`: the ids of its sessions in the store, one per segment, and one more
    wherever the recorder shortened its history by itself.

    `requests`: every request that was sent, in order.
    """

    id: str
    model: str
    turns: tuple[ReplayTurn, ...]
    sessions: tuple[str, ...]
    requests: tuple[Metered, ...] = ()

    @property
    def totals(self) -> Totals:
        """The whole bill."""
        return sum((turn.totals for turn in self.turns), start=Totals())

    @property
    def problems(self) -> tuple[str, ...]:
        """Everything that should not have happened."""
        return tuple(problem for turn in self.turns for problem in turn.problems)


@dataclass(frozen=True, slots=True)
class Series:
    """Recordings played one after the other by one manager. `billed` is the simulator's own bill, `ledger` what the
    ledgers of all sessions add up to: the two are equal, in every bucket."""

    replays: tuple[Replay, ...]
    billed: Usage
    ledger: Usage

    @property
    def totals(self) -> Totals:
        """The whole bill."""
        return sum((played.totals for played in self.replays), start=Totals())


Progress = Callable[[int, int], None]
"""Told how many model calls are done, of how many."""


def recordings(conversations: Iterable[RecordedConversation]) -> list[list[RecordedConversation]]:
    """The conversations of a file by recording: the segments between compactions share a system prompt and a clock."""
    by_recording: dict[str, list[RecordedConversation]] = {}
    for conversation in conversations:
        by_recording.setdefault(conversation.session, []).append(conversation)
    return [segments for segments in by_recording.values() if any(segment.steps for segment in segments)]


async def replay(
    recording: RecordedConversation | Sequence[RecordedConversation],
    *,
    store: str | None = None,
    progress: Progress | None = None,
    model: str | None = None,
    **settings: Any,
) -> Replay:
    """Plays one recording (a conversation, or its segments in order) through sessions in SQLite.

    `store`: where to keep them (default: a file that is removed at the end). `model`: in place of the recorded one.
    Further `settings` go to `SessionManager` (`ttl=Fixed("1h")`, …). A refused request is told in the turn's
    `problems`; the replay goes on.
    """
    segments = [recording] if isinstance(recording, RecordedConversation) else list(recording)
    series = await replay_series([segments], store=store, progress=progress, model=model, **settings)
    return series.replays[0]


async def replay_series(
    recorded: Sequence[Sequence[RecordedConversation]],
    *,
    store: str | None = None,
    progress: Progress | None = None,
    model: str | None = None,
    owner: str | None = None,
    sent: Sent | None = None,
    **settings: Any,
) -> Series:
    """Plays recordings one after the other with one manager, as sessions of one `owner`: what it learns, it keeps.

    Where recorded times overlap the later recording is moved. `model` answers all of them (default: the model of the
    first), under the manager's `profile` where one is given. `sent` is told of every accepted request, with its body.
    The rest is as in `replay`.
    """
    answered = [[segment for segment in segments if segment.steps] for segments in recorded]
    if not answered or not all(answered):
        raise ValueError("the recording holds no reply of a model: there is nothing to replay")
    meter = Meter(model or model_of(answered[0]), sent, settings.get("profile"))
    clock = ManualClock(start=answered[0][0].steps[0].at)
    longest = max(len(turn.steps) for segments in answered for segment in segments for turn in segment.turns)
    async with AsyncExitStack() as stack:
        if store is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="warmline-"))
            store = f"sqlite:///{Path(folder) / 'replay.db'}"
        stack.enter_context(warnings.catch_warnings())  # recordings are old, and so are their models
        warnings.filterwarnings("ignore", "The model '.*' is deprecated", DeprecationWarning)
        api = await stack.enter_async_context(client(engine=meter, clock=clock, max_retries=0))
        options = {"max_steps": longest + 1, **settings}
        manager = await stack.enter_async_context(SessionManager(store, client=api, clock=clock, **options))
        manager.runtime.leases.seconds, manager.runtime.leases.renew_after = 2 * _LEASE, _LEASE
        before = await _ledger(manager)
        replays = []
        for segments in answered:
            moved = _after(segments, clock.now())
            replays.append(await _Replaying(moved, meter, clock, progress).run(partial(manager.create, owner=owner)))
        return Series(tuple(replays), meter.bill().usage, _without(await _ledger(manager), before))


async def _ledger(manager: SessionManager) -> Usage:
    """What all rows of the store add up to, those among them that belong to no conversation."""
    return sum((cost.usage for cost in (await manager.costs("kind")).values()), start=Usage())


def _without(after: Usage, before: Usage) -> Usage:
    """What has been added."""
    names = [field.name for field in fields(Usage) if field.name != "counters"]
    return replace(after, **{name: getattr(after, name) - getattr(before, name) for name in names})


def _after(segments: Sequence[RecordedConversation], now: float) -> Sequence[RecordedConversation]:
    """The recording, moved to a later time where it begins before `now` (epoch seconds)."""
    start = segments[0].steps[0].at
    return segments if start >= now else later(segments, now + BETWEEN - start)


class _Replaying:
    """One recording on its way through the sessions."""

    def __init__(
        self, segments: Sequence[RecordedConversation], meter: Meter, clock: ManualClock, progress: Progress | None
    ) -> None:
        self._segments = segments
        self._progress = progress
        self._steps = sum(len(segment.steps) for segment in segments)
        self._done = 0
        self._clock = clock
        self._meter = meter
        self._player = Player(clock, meter.profile_of_model)
        self._meter.script = self._answer
        self._first = self._taken = len(meter.rows)
        self._ids: list[str] = []
        self._create: Callable[[], Awaitable[Session]]
        self._session: Session
        self._head = 0

    async def run(self, create: Callable[..., Awaitable[Session]]) -> Replay:
        """Plays every segment and gives the bill."""
        settings = settings_for(self._segments, self._player)
        self._head = head_tokens(settings)
        turns: list[ReplayTurn] = []
        for number, segment in enumerate(self._segments):
            self._create = partial(create, **settings, title=segment.id)
            await self._new_session()
            turns += await self._play(segment, self._end(number))
        name, model = self._segments[0].session, self._meter.profile_of_model.name
        return Replay(
            id=name,
            model=model,
            turns=tuple(turns),
            sessions=tuple(self._ids),
            requests=tuple(self._meter.rows[self._first :]),
        )

    async def _new_session(self) -> None:
        self._session = await self._create()
        self._ids.append(self._session.id)
        self._player.start(self._head)
        self._meter.new_session()

    def _end(self, number: int) -> float:
        """When the segment after this one begins (epoch seconds)."""
        following = self._segments[number + 1 : number + 2]
        return following[0].steps[0].at if following else float("inf")

    async def _play(self, segment: RecordedConversation, end: float) -> list[ReplayTurn]:
        answered = [turn for turn in segment.turns if turn.steps]
        starts = [turn.steps[0].at for turn in answered]
        turns: list[ReplayTurn] = []
        before: float | None = None
        for number, (turn, until) in enumerate(zip(answered, [*starts[1:], end], strict=True), 1):
            await turn_to(self._clock, starts[number - 1])
            await self._send(turn, until)
            while (rest := self._player.rest) is not None:
                await self._send(rest, until)
            last = self._clock.now() + AFTERWARDS if until == float("inf") else until
            await turn_to(self._clock, last)
            gap = None if before is None else turn.steps[0].at - before
            turns.append(self._turn(segment, number, turn, gap))
            before = turn.steps[-1].at
        return turns

    async def _send(self, turn: RecordedTurn, until: float) -> None:
        """One turn; a turn that was interrupted while its tools ran is left where the recording leaves it."""
        if self._player.rest is not None or self._player.needs_new_session(turn):
            await self._new_session()
        self._meter.new_turn()
        words = self._player.words(turn, until)
        try:
            async with aclosing(self._session.run(words)) as steps:
                async for step in steps:
                    if step.kind == "tool_results" and self._player.stops:
                        break
        except ModelError:
            if not any(row.refused for row in self._meter.rows[self._taken :]):
                raise  # not the simulator's refusal, which the turn's problems tell

    async def _answer(self, request: Request) -> Scripted:
        step = self._player.next
        row = self._meter.row(request.index)
        if step is not None:
            row.output, row.recorded = output_tokens(step), _size(step)
        scripted = await self._player.script(request, row.total)
        self._done += 1
        if self._progress:
            self._progress(min(self._done, self._steps), self._steps)
        return scripted

    def _turn(self, segment: RecordedConversation, number: int, turn: RecordedTurn, gap: float | None) -> ReplayTurn:
        rows, self._taken = self._meter.rows[self._taken :], len(self._meter.rows)
        totals = sum((self._totals(row) for row in rows), start=Totals())
        problems = [row.problem for row in rows if row.problem]
        if self._player.unrecorded:
            problems.append("the model was asked once more than recorded")
            self._player.unrecorded = 0
        return ReplayTurn(
            conversation=segment.id,
            number=number,
            at=turn.steps[0].at,
            gap=gap,
            trigger=turn.trigger,
            totals=totals,
            problems=tuple(problems),
        )

    def _totals(self, row: Metered) -> Totals:
        if row.refused:
            return Totals(requests=1, refused=1)
        profile = self._meter.profile_of_model
        usage = replace(row.usage, output=row.output)
        if row.idle:
            return Totals(usage=usage, cost=cost(usage, profile), idle=usage, idle_requests=1)
        five, hour = (replace(row.automatic[ttl], output=row.output) for ttl in TTLS)
        return Totals(
            requests=1,
            usage=usage,
            cost=cost(usage, profile),
            top_level=five,
            top_level_1h=hour,
            top_level_cost=cost(five, profile),
            uncached_cost=cost(Usage(input=row.total, output=row.output), profile),
            recorded=row.recorded,
            sent=row.total,
            checked=int(row.checked),
            broken=int(row.checked and row.problem is not None),
        )


def _size(step: RecordedStep) -> int:
    return step.usage.total_input if step.usage else 0


def _plus(left: Any, right: Any) -> Any:
    """The sum, None where either is unknown."""
    return None if left is None or right is None else left + right
