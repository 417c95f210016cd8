"""The simulator with a meter: what each request of a replay was charged, beside what others would pay for the same one.

`uncached` is the prompt's size. `automatic` is the API's top-level `cache_control`: one mark at the last block that can
carry one, under the same rules and with the same cache as the simulator's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from sessions.core.cache import (
    SECONDS,
    Point,
    blocks,
    can_mark,
    can_mark_tool,
    content_blocks,
    marked,
    text_of,
    without_marks,
)
from sessions.core.profiles import Profile, Ttl, profile_for
from sessions.core.usage import Usage
from sessions.simulator import Engine, Exchange
from sessions.simulator.prompt import charge
from sessions.simulator.prompt_cache import PromptCache

TTLS: tuple[Ttl, ...] = ("5m", "1h")


@dataclass(slots=True)
class Metered:
    """One request as it was sent. `started`: epoch seconds; `total`: tokens of the prompt; `recorded`: those of the
    recording; `session` counts the replay's sessions from 0.

    `usage` and `automatic` (by lifetime) are without output, which is filled in when the model answers. `idle`: a
    zero-token request. `checked`: it came within the lifetime of the one before; `problem` says what went wrong.
    """

    index: int
    session: int
    started: float
    total: int = 0
    usage: Usage = field(default_factory=Usage)
    automatic: Mapping[Ttl, Usage] = field(default_factory=dict)
    problem: str | None = None
    checked: bool = False
    refused: bool = False
    idle: bool = False
    output: int = 0
    recorded: int = 0


Sent: TypeAlias = Callable[[Metered, Mapping[str, Any]], None]
"""Told of a request and its body."""


class Automatic:
    """What top-level `cache_control` of one lifetime is charged for a series of requests."""

    def __init__(self, ttl: Ttl) -> None:
        self._ttl = ttl
        self._cache = PromptCache()

    def charge(
        self, body: Mapping[str, Any], points: Sequence[Point], sizes: Sequence[int], now: float, profile: Profile
    ) -> Usage:
        """The usage of one more request, without output."""
        last = _last_markable(body, points)
        if last is None or sizes[last] < profile.minimum_tokens:
            return Usage(input=sizes[-1])
        hit, usage = charge(points, sizes, [(last, self._ttl)], self._cache, now, profile)
        if hit is not None:
            self._cache.refresh(points[hit].digest, self._ttl, now)
        if hit != last:
            self._cache.write(points[last].digest, self._ttl, now)
        return usage


def _last_markable(body: Mapping[str, Any], points: Sequence[Point]) -> int | None:
    for at in range(len(points) - 1, -1, -1):
        tier, number, index = points[at].where
        if tier == "tools":
            markable = can_mark_tool(body["tools"][index])
        else:
            holder = body["system"] if tier == "system" else body["messages"][number]["content"]
            markable = can_mark(content_blocks(holder)[index])
        if markable:
            return at
    return None


class Meter(Engine):
    """The simulator; `rows` are the requests that it was sent."""

    def __init__(self, model: str, sent: Sent | None = None, profile: Profile | None = None) -> None:
        super().__init__(keep=8, profile=profile)
        self._sent = sent
        self.profile_of_model: Profile = replace(profile, name=model) if profile else profile_for(model)
        self.rows: list[Metered] = []
        self._session = -1
        self._automatic = {ttl: Automatic(ttl) for ttl in TTLS}
        self._points: Sequence[Point] = ()
        self._sizes: Sequence[int] = ()
        self._before: dict[int, tuple[float, Usage, float, bool]] = {}

    def row(self, index: int) -> Metered:
        """The row of an exchange."""
        return next(row for row in reversed(self.rows) if row.index == index)

    def new_session(self) -> None:
        """What is asked next does not follow what was asked before."""
        self._before.clear()
        self._session += 1

    def new_turn(self) -> None:
        """Words of the user come next: now models that keep only the last turn's thinking strip what is older."""
        if not self.profile_of_model.keeps_thinking:
            self._before.clear()

    def receive(self, body: Any, headers: Mapping[str, str], now: float, *, path: str = "/v1/messages") -> Exchange:
        exchange = super().receive(body, headers, now, path=path)
        row = Metered(index=exchange.index, session=self._session, started=now)
        self.rows.append(row)
        if exchange.error is not None or exchange.prompt is None:
            message = exchange.error["error"]["message"] if exchange.error else "the request failed"
            row.problem, row.refused = f"refused: {message}", True
            return exchange
        row.total, row.usage, row.idle = exchange.prompt.total, exchange.prompt.usage, body["max_tokens"] == 0
        if not row.idle:
            row.automatic = {
                ttl: self._charge(automatic, exchange.prompt.body, now) for ttl, automatic in self._automatic.items()
            }
        self._check(row, body)
        if self._sent is not None:
            self._sent(row, body)
        return exchange

    def measure(
        self, exchange: Exchange, body: Mapping[str, Any], profile: Profile
    ) -> tuple[Sequence[Point], Sequence[int]]:
        self._points, self._sizes = super().measure(exchange, body, profile)
        return self._points, self._sizes

    def _charge(self, automatic: Automatic, body: Mapping[str, Any], now: float) -> Usage:
        return automatic.charge(body, self._points, self._sizes, now, self.profile_of_model)

    def _check(self, row: Metered, body: Mapping[str, Any]) -> None:
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


def _inner_image(block: Mapping[str, Any]) -> bool:
    inner = block.get("content")
    return isinstance(inner, list) and any(isinstance(part, Mapping) and part.get("type") == "image" for part in inner)
