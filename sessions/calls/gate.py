"""Who goes first: of requests that would write the same prefix at the same time one writes it, and the others read it.

A prefix can be read once the response that writes it has begun (prompt-caching page, September 2026). So a request
waits on the shortest cold prefix that somebody is already writing, then plans again. Within a process, who waits holds
nothing that others wait for, and nobody waits longer than the timeout: there is no deadlock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self, TypeAlias

import anyio

from sessions.background import Background, log
from sessions.clock import Clock, monotonic, within
from sessions.core.plan import Plan
from sessions.core.warmth import Alive, Warmth
from sessions.lifecycle import Lifecycle
from sessions.waiting import Renewal, until
from storage import StorageError, Store, Warmup

WRITES_NOTHING = 300.0
"""Seconds for which a point is not waited for after a response that wrote nothing there (it is below the minimum)."""
_MOST_THAT_WRITE_NOTHING = 1000
LEADER_SECONDS, RENEW_AFTER = 10.0, 3.0
"""How long the word that this process writes a point holds in the store, and how often it is renewed till it has."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 0.5
"""Seconds between two looks at what another process writes; each is twice as long as the one before."""


_Work: TypeAlias = Callable[[], Awaitable[None]]


@dataclass(eq=False, slots=True)
class _Queue:
    """A point that is being written: by whom, and who waits for it, first come first."""

    leader: Passage
    waiting: deque[tuple[Passage, anyio.Event]] = field(default_factory=deque)


@dataclass(eq=False, repr=False, slots=True)
class Passage:
    """A request's way through the gate, and an async context manager around the request.

    `plan` is the one to send, made after all waiting; `waited` the seconds that took. `opened` is said when the
    response begins (`is_open`); a request that ends without it has failed, and the next in line leads. The other
    fields are the gate's own: the tokens that a wait must save (`minimum`), what to do before the first wait, when that
    began (`since`), the cold `points` of the plan, the queues that it leads, the points that it has `waited_for`, and
    the `token` of its word in the store.
    """

    gate: WarmupGate
    plan: Plan
    minimum: int
    before_waiting: _Work | None = None
    waited: float = 0.0
    is_open: bool = False
    since: float | None = None
    points: tuple[str, ...] = ()
    leads: dict[str, _Queue] = field(default_factory=dict)
    waited_for: set[str] = field(default_factory=set)
    token: int | None = None

    async def opened(self) -> None:
        """The response has begun, and what it wrote has been learnt: the others may go. Later calls do nothing."""
        if not self.is_open:
            self.is_open = True
            await self.gate.opened(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.gate.left(self)


class WarmupGate:
    """The gate of one manager. `timeout`: the most seconds that a request waits; 0 lets everybody through at once.

    `warmth` is what all sessions of the manager know to be warm. Other processes are met in the store.
    """

    def __init__(
        self, store: Store, clock: Clock, background: Background, lifecycle: Lifecycle, warmth: Warmth, timeout: float
    ) -> None:
        self._store, self._clock, self._warmth, self._timeout = store, clock, warmth, timeout
        self._lifecycle = lifecycle
        self._queues: dict[str, _Queue] = {}
        self._writes_nothing: dict[str, float] = {}
        self._led_in_store: dict[str, Passage] = {}
        self._renewal = Renewal(clock, background, self._led_in_store, self._renew, lambda: RENEW_AFTER)

    async def enter(self, plan: Callable[[], Plan], minimum: int, before_waiting: _Work | None = None) -> Passage:
        """Waits while others write what this request would write, at most until the timeout.

        `plan` is asked for the request's plan, again after each wait. `minimum`: the tokens that a wait must save.
        `before_waiting` is awaited once, before the first wait.
        """
        passage = Passage(self, plan(), minimum, before_waiting)
        if not self._timeout:
            return passage
        try:
            while not await self._passes(passage):
                passage.plan = plan()
        except BaseException:
            # Others may be waiting for what it was to write.
            await self.left(passage)
            raise
        if passage.since is not None:
            passage.waited = monotonic(self._clock) - passage.since
        return passage

    async def opened(self, passage: Passage) -> None:
        """The response of that request has begun: who waits for what it wrote may go."""
        now = self._clock.now()
        # Those in this process first, with no await between: the store may be slow, or fail.
        for point in passage.points:
            if not self._warmth.is_alive(point, now):
                self._note_that_nothing_is_written(point)
            if (queue := self._queues.pop(point, None)) is not None:
                self._release(point, queue)
        await self._end(passage)

    async def left(self, passage: Passage) -> None:
        """The request is over, or never came; where its response has not begun, the next one leads."""
        self._hand_over(passage)
        # Where the request was cancelled too: other processes would wait until its word in the store lapses.
        with anyio.CancelScope(shield=True):
            await self._end(passage)

    async def _passes(self, passage: Passage) -> bool:
        """Whether the request may go as it is planned. False: something has changed, so it plans again."""
        points = passage.points = self._worth_waiting_for(passage)
        written = next((queue for point in points if (queue := self._queue_of_another(point, passage))), None)
        # Who is going to wait leads nothing meanwhile: two requests can never wait for each other.
        self._hand_over(passage, keep=() if written else points)
        if written is None:
            self._lead(passage)
            return not points or not self._seconds_left(passage) or await self._leads_everywhere(passage, points[0])
        # Its patience is over: it goes on, and writes what the other one writes too.
        if not self._seconds_left(passage):
            return True
        if passage.since is None:
            await self._begin_to_wait(passage)  # which takes time: the queue may have gone
        else:
            await self._wait(passage, written)
        return False

    def _worth_waiting_for(self, passage: Passage) -> tuple[str, ...]:
        """The cold points of its plan, the shortest prefix first."""
        now = monotonic(self._clock)
        cold = [mark.point for mark in passage.plan.writes(passage.minimum) if mark.point not in passage.waited_for]
        return tuple(point for point in cold if self._writes_nothing.get(point, now) <= now)

    def _queue_of_another(self, point: str, passage: Passage) -> _Queue | None:
        queue = self._queues.get(point)
        return queue if queue is not None and queue.leader is not passage else None

    def _seconds_left(self, passage: Passage) -> float:
        spent = 0.0 if passage.since is None else monotonic(self._clock) - passage.since
        return max(0.0, self._timeout - spent)

    # -- within this process --

    def _lead(self, passage: Passage) -> None:
        for point in passage.points:
            passage.leads[point] = self._queues.setdefault(point, _Queue(passage))

    async def _begin_to_wait(self, passage: Passage) -> None:
        passage.since = monotonic(self._clock)
        if passage.before_waiting is not None:
            await passage.before_waiting()

    async def _wait(self, passage: Passage, queue: _Queue) -> None:
        place = passage, anyio.Event()
        queue.waiting.append(place)
        try:
            with suppress(TimeoutError):
                await within(self._clock, self._seconds_left(passage), place[1].wait)
        finally:
            # Whoever lets it go has taken it out already.
            with suppress(ValueError):
                queue.waiting.remove(place)

    def _hand_over(self, passage: Passage, keep: Collection[str] = ()) -> None:
        """What it leads is led by the next in line; nothing is left where nobody waits."""
        for point in [point for point in passage.leads if point not in keep]:
            queue = passage.leads.pop(point)
            if queue.waiting:
                queue.leader, turn = queue.waiting.popleft()
                queue.leader.leads[point] = queue
                turn.set()
            else:
                del self._queues[point]

    def _release(self, point: str, queue: _Queue) -> None:
        """Nobody has to wait for this point any more, also where it was led by another than who wrote it."""
        del queue.leader.leads[point]
        queue.leader.waited_for.add(point)
        for passage, turn in queue.waiting:
            passage.waited_for.add(point)
            turn.set()
        queue.waiting.clear()

    def _note_that_nothing_is_written(self, point: str) -> None:
        self._writes_nothing[point] = monotonic(self._clock) + WRITES_NOTHING
        if len(self._writes_nothing) > _MOST_THAT_WRITE_NOTHING:
            del self._writes_nothing[next(iter(self._writes_nothing))]

    # -- across processes --

    async def _leads_everywhere(self, passage: Passage, point: str) -> bool:
        """Whether no other process writes this point; else waits until it has, or until the timeout."""

        async def look() -> bool | None:
            if point in passage.waited_for:  # written in this process meanwhile
                return False
            if (answer := await self._answer(passage, point)) is not None:
                return answer
            if passage.since is None:
                await self._begin_to_wait(passage)
            return None if self._seconds_left(passage) else True

        def seconds_left() -> float:
            return self._seconds_left(passage)

        return await until(look, lambda: self._store.watch(point), self._clock, seconds_left, self._pauses(passage))

    def _pauses(self, passage: Passage) -> Iterator[float]:
        pause = _FIRST_PAUSE
        while True:
            yield min(pause, self._seconds_left(passage))
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _answer(self, passage: Passage, point: str) -> bool | None:
        """Whether the request may go now, or should plan again; `None` while another process writes the point."""
        warmup = await self._ask(point)
        if warmup is None:
            return True
        if warmup.state == "leading":
            passage.token = warmup.token
            self._led_in_store[point] = passage
            self._renewal.start()
            return True
        if warmup.state == "warm":
            self._learn(passage, point, warmup)
            return False
        return None

    def _learn(self, passage: Passage, point: str, warmup: Warmup) -> None:
        """Another process has written the point, or has found out (no `ttl`) that nothing is written there."""
        passage.waited_for.add(point)
        if warmup.ttl is None:
            self._note_that_nothing_is_written(point)
        else:
            lapses = self._clock.now() + warmup.seconds_left
            self._warmth.know(point, Alive("1h" if warmup.ttl == "1h" else "5m", lapses))

    async def _ask(self, point: str) -> Warmup | None:
        """`None` where the store fails: the gate only saves money, so the request goes on without it."""
        try:
            holder, now = self._lifecycle.holder, monotonic(self._clock)
            return await self._store.lead(point, holder, seconds=LEADER_SECONDS, now=now)
        except StorageError as error:
            log.warning("the store cannot say who warms a prefix, going on without: %s", error)
            return None

    async def _renew(self, point: str, passage: Passage) -> None:
        warmup = await self._ask(point)
        if warmup is None or warmup.state != "leading":
            return
        if (leader := self._led_in_store.get(point)) is not None:
            leader.token = warmup.token
        else:  # it ended just before: nobody leads
            await self._tell(point, warmup.token, written=passage.is_open)

    async def _end(self, passage: Passage) -> None:
        """Says in the store how it ended, if others were told there that this request writes."""
        # Taken off at once: both `opened` and `left` come here, and it is said once.
        token, passage.token = passage.token, None
        point = next((point for point, leader in self._led_in_store.items() if leader is passage), None)
        if point is not None and token is not None:
            # Before it is said: a renewal that is under way finds nobody leading, and says the end of its newer token.
            del self._led_in_store[point]
            await self._tell(point, token, written=passage.is_open)

    async def _tell(self, point: str, token: int, *, written: bool) -> None:
        now, known = self._clock.now(), self._warmth.find(point)
        ttl, alive = (None, WRITES_NOTHING) if known is None or known.until <= now else (known.ttl, known.until - now)
        try:
            await self._store.led(point, token, ttl=ttl, alive=alive if written else 0.0, now=monotonic(self._clock))
        except StorageError as error:
            # Whoever waits in another process looks again, and goes on when the word lapses.
            log.warning("the store cannot be told that a prefix is written: %s", error)
