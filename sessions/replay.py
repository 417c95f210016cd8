"""Recorded conversations sent again, through real sessions against the simulator on a turned clock, with their bill.

Each recorded turn goes through `Session.run` at its recorded time, with its recorded tools; the bill is set beside two
others for the very same requests: everything uncached, and the API's automatic top-level `cache_control`.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, aclosing
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

from sessions.core.cache import SECONDS, blocks, content_blocks, marked, text_of, without_marks
from sessions.core.prices import cost
from sessions.core.profiles import Profile, profile_for
from sessions.core.usage import Usage
from sessions.errors import ModelError
from sessions.importers.records import RecordedConversation, RecordedStep, RecordedTurn, Trigger
from sessions.manager import SessionManager
from sessions.player import Player, head_tokens, model_of, output_tokens, settings_for, turn_to
from sessions.session import Session
from sessions.simulator import Engine, Exchange, Request, Scripted, client
from sessions.testing import ManualClock

AFTERWARDS = 3600.0
"""Seconds that a session is left open after its last turn: what is spent on waiting is part of the bill."""


@dataclass(frozen=True, slots=True)
class Totals:
    """What a replay cost. USD where every price is known, else None; `recorded` and `sent` are prompt tokens.

    `usage` and `cost`: ours, requests made while idle included. `top_level`: the same requests with the API's automatic
    caching, 5 minutes. `uncached`: without any. `checked`: requests inside the lifetime of the one before; `broken`:
    those of them that did not read exactly what that one had read and written.
    """

    requests: int = 0
    refused: int = 0
    usage: Usage = field(default_factory=Usage)
    cost: Decimal | None = Decimal(0)
    top_level: Usage = field(default_factory=Usage)
    top_level_cost: Decimal | None = Decimal(0)
    uncached_cost: Decimal | None = Decimal(0)
    recorded: int = 0
    sent: int = 0
    checked: int = 0
    broken: int = 0

    def __add__(self, other: Totals) -> Totals:
        return Totals(
            self.requests + other.requests,
            self.refused + other.refused,
            self.usage + other.usage,
            _sum([self.cost, other.cost]),
            self.top_level + other.top_level,
            _sum([self.top_level_cost, other.top_level_cost]),
            _sum([self.uncached_cost, other.uncached_cost]),
            self.recorded + other.recorded,
            self.sent + other.sent,
            self.checked + other.checked,
            self.broken + other.broken,
        )


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
    wherever the recorder shortened its history by itself."""

    id: str
    model: str
    turns: tuple[ReplayTurn, ...]
    sessions: tuple[str, ...]

    @property
    def totals(self) -> Totals:
        """The whole bill."""
        return sum((turn.totals for turn in self.turns), start=Totals())

    @property
    def problems(self) -> tuple[str, ...]:
        """Everything that should not have happened."""
        return tuple(problem for turn in self.turns for problem in turn.problems)


Progress = Callable[[int, int], None]
"""Told how many model calls are done, of how many."""


def recordings(conversations: Iterable[RecordedConversation]) -> list[list[RecordedConversation]]:
    """The conversations of a file by recording: the segments between compactions share a system prompt and a clock."""
    found: dict[str, list[RecordedConversation]] = {}
    for conversation in conversations:
        found.setdefault(conversation.session, []).append(conversation)
    return [segments for segments in found.values() if any(segment.steps for segment in segments)]


async def replay(
    recording: RecordedConversation | Sequence[RecordedConversation],
    *,
    store: str | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Replay:
    """Plays one recording (a conversation, or its segments in order) through sessions in SQLite.

    `store`: where to keep them (default: a file that is removed at the end). Further `settings` go to `SessionManager`
    (`ttl=Fixed("1h")`, …). A refused request is told in the turn's `problems`; the replay goes on.
    """
    segments = [recording] if isinstance(recording, RecordedConversation) else list(recording)
    segments = [segment for segment in segments if segment.steps]
    if not segments:
        raise ValueError("the recording holds no reply of a model: there is nothing to replay")
    with ExitStack() as stack:
        if store is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="warmline-"))
            store = f"sqlite:///{Path(folder) / 'replay.db'}"
        stack.enter_context(warnings.catch_warnings())  # recordings are old, and so are their models
        warnings.filterwarnings("ignore", "The model '.*' is deprecated", DeprecationWarning)
        return await _Replaying(segments, progress).run(store, settings)


@dataclass(slots=True)
class _Row:
    """One request of ours and its rival. `output` is filled in when the model answers; `idle`: a zero-token request."""

    index: int
    started: float
    total: int
    usage: Usage
    rival: Usage
    problem: str | None = None
    checked: bool = False
    refused: bool = False
    idle: bool = False
    output: int = 0
    recorded: int = 0


class _Meter(Engine):
    """The simulator, with a second one beside it that is sent the same requests with top-level `cache_control`."""

    def __init__(self, model: str) -> None:
        super().__init__(keep=8)
        self.profile_of_model: Profile = profile_for(model)
        self.rows: list[_Row] = []
        self._rival = Engine(keep=2)
        self._before: dict[int, tuple[float, Usage, float, bool]] = {}

    def row(self, index: int) -> _Row:
        """The row of an exchange."""
        return next(row for row in reversed(self.rows) if row.index == index)

    def new_session(self) -> None:
        """What is asked next does not follow what was asked before."""
        self._before.clear()

    def new_turn(self) -> None:
        """Words of the user come next: now models that keep only the last turn's thinking strip what is older."""
        if not self.profile_of_model.keeps_thinking:
            self._before.clear()

    def receive(self, body: Any, headers: Mapping[str, str], now: float, *, path: str = "/v1/messages") -> Exchange:
        exchange = super().receive(body, headers, now, path=path)
        if exchange.error is not None or exchange.prompt is None:
            message = exchange.error["error"]["message"] if exchange.error else "the request failed"
            self.rows.append(_Row(exchange.index, now, 0, Usage(), Usage(), f"refused: {message}", refused=True))
            return exchange
        usage = exchange.prompt.usage
        idle = body["max_tokens"] == 0
        rival = Usage() if idle else self._ask_rival(body, headers, now)
        row = _Row(exchange.index, now, exchange.prompt.total, usage, rival, idle=idle)
        self._check(row, body)
        self.rows.append(row)
        return exchange

    def _ask_rival(self, body: Mapping[str, Any], headers: Mapping[str, str], now: float) -> Usage:
        exchange = self._rival.receive(top_level(body), headers, now)
        if exchange.prompt is None:
            raise AssertionError(f"the same request with top-level cache_control was refused: {exchange.error}")
        self._rival.begin(exchange, now)
        self._rival.end(exchange, now)
        return exchange.prompt.usage

    def _check(self, row: _Row, body: Mapping[str, Any]) -> None:
        """Within the lifetime of the request before, this one reads exactly what that one read and wrote."""
        marks = marked(body)
        seconds = SECONDS[marks[-1][1]] if marks else 0
        images = any(block.get("type") == "image" or _inner_image(block) for _, block in blocks(body))
        session = hash(text_of([without_marks(block) for block in content_blocks(body["messages"][0]["content"])]))
        before = self._before.get(session)
        self._before[session] = (row.started, row.usage, seconds, images)
        if before is None:
            return
        started, usage, lifetime, had_images = before
        if row.started - started >= lifetime or images != had_images:
            return
        row.checked = True
        expected = usage.cache_read + usage.cache_write
        if row.usage.cache_read != expected:
            row.problem = f"read {row.usage.cache_read} tokens of the {expected} that were cached"


def top_level(body: Mapping[str, Any]) -> dict[str, Any]:
    """The request with the API's automatic caching in place of any markers."""
    bare = dict(body)
    for tier in ("tools", "system"):
        if isinstance(bare.get(tier), list):
            bare[tier] = [without_marks(block) for block in bare[tier]]
    bare["messages"] = [
        {**message, "content": [without_marks(block) for block in content_blocks(message["content"])]}
        for message in body["messages"]
    ]
    return {**bare, "cache_control": {"type": "ephemeral"}}


class _Replaying:
    """One recording on its way through the sessions."""

    def __init__(self, segments: Sequence[RecordedConversation], progress: Progress | None) -> None:
        self._segments = segments
        self._progress = progress
        self._steps = sum(len(segment.steps) for segment in segments)
        self._done = 0
        self._clock = ManualClock(start=segments[0].steps[0].at)
        self._meter = _Meter(model_of(segments))
        self._player = Player(self._clock, self._meter.profile_of_model)
        self._meter.script = self._answer
        self._taken = 0
        self._ids: list[str] = []
        self._create: Callable[[], Awaitable[Session]]
        self._session: Session
        self._head = 0

    async def run(self, store: str, options: Mapping[str, Any]) -> Replay:
        """Plays every segment and gives the bill."""
        settings = settings_for(self._segments, self._player)
        self._head = head_tokens(settings)
        longest = max(len(turn.steps) for segment in self._segments for turn in segment.turns)
        options = {"max_steps": longest + 1, **options}
        turns: list[ReplayTurn] = []
        async with (
            client(engine=self._meter, clock=self._clock, max_retries=0) as api,
            SessionManager(store, client=api, clock=self._clock, **options) as manager,
        ):
            for number, segment in enumerate(self._segments):
                self._create = partial(manager.create, **settings, title=segment.id)
                await self._new_session()
                turns += await self._play(segment, self._end(number))
        return Replay(self._segments[0].session, self._meter.profile_of_model.name, tuple(turns), tuple(self._ids))

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
        return ReplayTurn(segment.id, number, turn.steps[0].at, gap, turn.trigger, totals, tuple(problems))

    def _totals(self, row: _Row) -> Totals:
        if row.refused:
            return Totals(requests=1, refused=1)
        profile = self._meter.profile_of_model
        usage, rival = replace(row.usage, output=row.output), replace(row.rival, output=row.output)
        plain = Usage(input=0 if row.idle else row.total, output=row.output)
        return Totals(
            1,
            0,
            usage,
            cost(usage, profile),
            rival,
            cost(rival, profile),
            cost(plain, profile),
            row.recorded,
            0 if row.idle else row.total,
            int(row.checked),
            int(row.checked and row.problem is not None),
        )


def _size(step: RecordedStep) -> int:
    return step.usage.total_input if step.usage else 0


def _inner_image(block: Mapping[str, Any]) -> bool:
    inner = block.get("content")
    return isinstance(inner, list) and any(isinstance(one, Mapping) and one.get("type") == "image" for one in inner)


def _sum(costs: Iterable[Decimal | None]) -> Decimal | None:
    total = Decimal(0)
    for one in costs:
        if one is None:
            return None
        total += one
    return total
