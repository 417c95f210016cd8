"""Drives the rules: sends what they ask, waits for what is due, and keeps every result as soon as it is there."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import anyio

from sessions.clock import Clock, SystemClock, within
from sessions.core.incoming import Incoming
from sessions.core.prices import cost
from sessions.core.profiles import Profile, profile_for, unknown_model
from sessions.core.usage import Usage
from sessions.errors import ModelError
from sessions.model.client import ModelClient
from sessions.model.failures import status_of
from sessions.model.profile_file import Measured
from sessions.probe.bench import Ask, Bench, Finding, Rule, Seen, Steps, Unclear, Verdict
from sessions.probe.rules import RULES

REQUEST_SECONDS = 120.0
"""For which a request is waited for: the longest one asks for 2,048 tokens."""
_TICK = 1.0
"""Seconds between two looks at the clock while waiting, so that a person sees it run."""
_NOT_OURS = (401, 402, 403)
"""Nothing that a rule asks can be answered: the key, the account."""
_MISSING = {
    "counters": "the endpoint has no counters",
    "markers": "the endpoint does not honour markers",
    "1h": "the endpoint has no lifetime of an hour",
}
_AGAIN = (408, 409, 429)
"""Refused for now: that says nothing about the rule."""


@dataclass(slots=True)
class Result:
    """One rule with what was seen and found. `finding` is `None` until it is settled."""

    rule: Rule
    seen: list[Seen] = field(default_factory=list)
    finding: Finding | None = None

    @property
    def exchanges(self) -> list[Seen]:
        """Every request of the rule, those sent during another one too."""
        return [one for seen in self.seen for one in (seen, seen.during) if one is not None]

    def evidence(self, began: float) -> dict[str, Any]:
        """For the file: the finding and the usage of each request, in seconds since the probe began."""
        finding = self.finding or Finding("skipped", f"interrupted after {len(self.exchanges)} of its requests")
        return {
            "rule": self.rule.name,
            "says": self.rule.says,
            "verdict": finding.verdict,
            "found": finding.sentence,
            "changes": dict(finding.changes),
            "requests": [_row(seen, began) for seen in self.exchanges],
        }


def _row(seen: Seen, began: float) -> dict[str, Any]:
    row = {"what": seen.ask.what, "at": round(seen.started - began, 3), "status": seen.status}
    if seen.refused is not None:
        return row | {"refused": seen.refused}
    return row | {"usage": dict(seen.fields), "request_id": seen.request_id}


@dataclass(frozen=True, slots=True)
class Watcher:
    """Whom to tell: before each request, while waiting (seconds left, rules left), when a rule is settled."""

    asking: Callable[[Rule, Ask], None] = lambda rule, ask: None
    waiting: Callable[[float, int], None] = lambda seconds, rules: None
    settled: Callable[[Result], None] = lambda result: None


@dataclass(eq=False, slots=True)
class _Running:
    """A rule that has begun. `due`: when its next request may be sent."""

    result: Result
    steps: Steps
    label: str
    ask: Ask | None = None
    first: float | None = None

    @property
    def due(self) -> float:
        return 0.0 if self.first is None or self.ask is None else self.first + self.ask.at


class Probe:
    """Asks an endpoint the rules of the API and makes a `Profile` of what it finds.

    `client`: any of the SDK's async clients. `base`: the profile to start from; what is not settled stays as it is
    there. `other`: another model, for what must be apart. `quick`: leave out what must wait for a lifetime to pass.
    `limit`: USD at which it stops. `timeout`: seconds for each request; a rule that gets no answer is not settled.
    `wait`: how to let time pass, the clock's own `sleep` by default.

    After `run`, and after it was interrupted, `results` and `measured()` hold all that was found. `run` raises
    `ModelError` where nothing can be asked at all.
    """

    def __init__(
        self,
        client: Any,
        model: str,
        *,
        endpoint: str,
        base: Profile,
        other: str | None = None,
        quick: bool = False,
        limit: Decimal | None = None,
        timeout: float = REQUEST_SECONDS,
        clock: Clock = SystemClock(),  # noqa: B008 - it has no state
        wait: Callable[[float], Awaitable[None]] | None = None,
        watcher: Watcher = Watcher(),
        rules: Sequence[Rule] = RULES,
    ) -> None:
        self._client = ModelClient(client)
        self._model, self._other, self._endpoint = model, other, endpoint
        self._quick, self._limit, self._timeout = quick, limit, timeout
        self._clock, self._wait, self._watcher = clock, wait or clock.sleep, watcher
        self._left = list(rules)
        self._waiting: list[_Running] = []
        self._run_id = uuid.uuid4().hex[:12]
        self._began = clock.now()
        self.documented = documented(model)
        self.known = base
        self.scale = (base.characters_per_token, 3.0)
        self.results: list[Result] = []

    @property
    def usage(self) -> Usage:
        """What all requests together read, wrote and produced."""
        return sum((seen.usage for result in self.results for seen in result.exchanges), start=Usage())

    @property
    def spent(self) -> Decimal | None:
        """USD so far; `None` where no price is known."""
        prices = [cost(seen.usage, self._priced_as(seen)) for one in self.results for seen in one.exchanges]
        return None if any(price is None for price in prices) else sum((p for p in prices if p is not None), Decimal(0))

    @property
    def requests(self) -> int:
        """How many requests were sent, refused ones too."""
        return sum(len(result.exchanges) for result in self.results)

    def measured(self) -> Measured:
        """The profile as far as it is known, with the evidence."""
        at = datetime.fromtimestamp(self._began, UTC).isoformat(timespec="seconds")
        findings = [result.finding for result in self.results]
        complete = not self._left and all(one is not None and one.verdict != "skipped" for one in findings)
        profile = replace(self.known, name=self._model, known=True, source=f"measured at {self._endpoint}, {at}")
        evidence = tuple(result.evidence(self._began) for result in self.results)
        return Measured(profile, self._endpoint, at, complete, evidence)

    async def run(self) -> None:
        """Asks all rules. What must wait is begun first; the rest is asked meanwhile."""
        while self._left or self._waiting:
            if self._limit is not None and (self.spent or 0) > self._limit:
                self._give_up(f"the limit of ${self._limit:.2f} was reached")
                return
            now = self._clock.now()
            due = min(self._waiting, key=lambda one: one.due, default=None)
            if due is not None and due.due <= now:
                self._waiting.remove(due)
                await self._go_on(due)
            elif self._left:
                await self._begin(self._left.pop(0))
            elif due is not None:
                self._watcher.waiting(due.due - now, len(self._waiting))
                await self._wait(min(_TICK, due.due - now))

    def _give_up(self, reason: str) -> None:
        for running in self._waiting:
            running.steps.close()
            self._settle(running.result, Finding("skipped", reason))
        self._waiting.clear()
        while self._left:
            self._skip(self._left.pop(0), "skipped", reason)

    async def _begin(self, rule: Rule) -> None:
        missing = [need for need in rule.needs if not self._has(need)]
        if missing:
            self._skip(rule, "cannot tell", _MISSING[missing[0]])
            return
        if rule.waits and self._quick:
            self._skip(rule, "skipped", "it must wait for minutes (--quick)")
            return
        label = f"{self._run_id} {rule.name}"
        bench = Bench(self._model, self.documented, self.known, label, self.scale, self._other)
        result = Result(rule)
        self.results.append(result)
        await self._go_on(_Running(result, rule.steps(bench), label))

    def _has(self, need: str) -> bool:
        return "1h" in self.known.ttls if need == "1h" else bool(getattr(self.known, need))

    def _skip(self, rule: Rule, verdict: Verdict, reason: str) -> None:
        """It is not asked: the profile keeps what it has."""
        result = Result(rule)
        self.results.append(result)
        self._settle(result, Finding(verdict, reason))

    async def _go_on(self, running: _Running) -> None:
        """Runs a rule until it is settled or must wait."""
        result = running.result
        try:
            ask = running.ask or next(running.steps)
            while True:
                running.ask = ask
                if running.due > self._clock.now():
                    self._waiting.append(running)
                    return
                self._watcher.asking(result.rule, ask)
                seen = await self._ask(ask)
                running.first = seen.started if running.first is None else running.first
                result.seen.append(seen)
                ask = running.steps.send(seen)
        except StopIteration as end:
            self._settle(result, end.value)
        except Unclear as unclear:
            running.steps.close()
            self._settle(result, Finding("cannot tell", str(unclear), result.rule.cautious))

    def _settle(self, result: Result, finding: Finding) -> None:
        result.finding = finding
        self.known = replace(self.known, **finding.changes)
        self.scale = finding.scale or self.scale
        self._watcher.settled(result)

    def _priced_as(self, seen: Seen) -> Profile:
        model = seen.ask.body["model"]
        return self.known if model == self._model else profile_for(str(model))

    # -- one request -----------------------------------------------------------------------------------------------

    async def _ask(self, ask: Ask) -> Seen:
        """Raises `Unclear` where no answer comes in time, `ModelError` where none ever has."""
        try:
            return await within(self._clock, self._timeout, lambda: self._answered(ask))
        except TimeoutError as error:
            text = f"no answer came within {self._timeout:g} seconds"
            if self._is_new:
                raise ModelError(
                    f"{text}: is {self._endpoint} there? --timeout gives it more", retryable=True
                ) from error
            raise Unclear(f"{ask.what}: {text}") from error

    @property
    def _is_new(self) -> bool:
        """Whether the endpoint has answered nothing yet."""
        return not any(result.seen for result in self.results)

    async def _answered(self, ask: Ask) -> Seen:
        if ask.during is None:
            return await self._stream(ask) if ask.body.get("stream") else await self._send(ask)
        if not ask.together:
            return await self._stream(ask)
        return await self._both(ask, ask.during)

    async def _both(self, ask: Ask, other: Ask) -> Seen:
        """Two requests at the same time. What one of them raises is raised when both have ended."""
        found: dict[bool, Seen] = {}
        failed: list[Exception] = []

        async def send(one: Ask) -> None:
            try:
                found[one is ask] = await self._send(one)
            except (ModelError, Unclear) as error:
                failed.append(error)

        async with anyio.create_task_group() as group:
            group.start_soon(send, ask)
            group.start_soon(send, other)
        if failed:
            raise failed[0]
        return replace(found[True], during=found[False])

    async def _send(self, ask: Ask) -> Seen:
        started = self._clock.now()
        try:
            message, request_id = await self._client.send(ask.body)
        except ModelError as error:
            return self._refused(ask, started, error)
        incoming = Incoming(request_id=request_id)
        incoming.feed({"type": "message_start", "message": message})
        return self._seen(ask, started, incoming, message.get("content") or ())

    async def _stream(self, ask: Ask) -> Seen:
        """A streamed request; at its first event the other one is sent."""
        started, during = self._clock.now(), None
        incoming = Incoming()
        body = {name: value for name, value in ask.body.items() if name != "stream"}
        try:
            async with self._client.stream(body, incoming) as events:
                async for _ in events:
                    if ask.during is not None and during is None:
                        during = await self._send(ask.during)
        except ModelError as error:
            return self._refused(ask, started, error)
        return replace(self._seen(ask, started, incoming, incoming.content), during=during)

    def _seen(self, ask: Ask, started: float, incoming: Incoming, content: Sequence[Any]) -> Seen:
        message = {name: value for name, value in incoming.message.items() if name != "content"}
        return Seen(
            ask=ask,
            started=started,
            ended=self._clock.now(),
            status=200,
            usage=incoming.usage,
            fields=dict(incoming.usage_fields),
            message=message,
            content=tuple(content),
            request_id=incoming.request_id,
        )

    def _refused(self, ask: Ask, started: float, error: ModelError) -> Seen:
        """The endpoint's own words. Raises `Unclear` where it did not answer, `ModelError` where it never will."""
        status = status_of(error)
        if status in _NOT_OURS or (status in (None, 404) and self._is_new):
            raise error
        if status is None or status in _AGAIN or status >= 500 or status == 200:
            raise Unclear(f"{ask.what}: {error}")
        return Seen(ask, started, self._clock.now(), status, _words(error), request_id=error.request_id)


def _words(error: ModelError) -> str:
    """What the endpoint said, in one line."""
    cause = error.__cause__
    body = getattr(cause, "body", None)
    inner = body.get("error") if isinstance(body, Mapping) else None
    said = inner.get("message") if isinstance(inner, Mapping) else None
    return " ".join(str(said or getattr(cause, "message", "") or error).split())[:300]


def documented(model: str) -> Profile:
    """What Anthropic's documentation says of this model; of a model it does not know, what it says of all."""
    found = profile_for(model)
    if found.known:
        return found
    return replace(unknown_model(model), collapses_tools=True, ttls=("5m", "1h"), parks=True, prewarms=True)
