"""Who goes first: of requests that would write the same prefix at the same time one writes it, and the others read it.

A prefix can be read once the response that writes it has begun (prompt-caching page, September 2026). So a request
waits on the shortest cold prefix that somebody is already writing, then plans again. Within a process, who waits holds
nothing that others wait for, and nobody waits longer than the timeout: there is no deadlock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Collection
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Self, TypeAlias

import anyio

from sessions.background import Background, log
from sessions.clock import Clock, monotonic, within
from sessions.core.plan import Alive, Plan, Warmth
from sessions.lifecycle import Lifecycle
from storage import Holder, StorageError, Store, Warmup
from storage.watching import Watch

BARREN = 300.0
"""Seconds for which a point is not waited for after a response that wrote nothing there (it is below the minimum)."""
_MOST_BARREN = 1000
SECONDS, RENEW_AFTER = 10.0, 3.0
"""How long the word that this process writes a point holds in the store, and how often it is renewed till it has."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 0.5
"""Seconds between two looks at what another process writes; each is twice as long as the one before."""


_Work: TypeAlias = Callable[[], Awaitable[None]]


class _Line:
    """A point that is being written: by whom, and who waits for it, first come first."""

    def __init__(self, leader: Passage) -> None:
        self.leader = leader
        self.waiting: deque[tuple[Passage, anyio.Event]] = deque()


class Passage:
    """A request's way through the gate, and an async context manager around the request.

    `plan` is the one to send, made after all waiting; `waited` the seconds that took. `opened` is said when the
    response begins; a request that ends without it has failed, and the next in line leads.
    """

    def __init__(self, gate: WarmupGate, plan: Plan, minimum: int, before_waiting: _Work | None) -> None:
        self._gate = gate
        self.plan = plan
        self.waited = 0.0
        self.is_open = False
        self._minimum, self._before_waiting = minimum, before_waiting
        self._since: float | None = None
        self._seen: set[str] = set()
        self._points: tuple[str, ...] = ()
        self._lines: dict[str, _Line] = {}
        self._token: int | None = None

    async def opened(self) -> None:
        """The response has begun, and what it wrote has been learnt: the others may go. Later calls do nothing."""
        if not self.is_open:
            self.is_open = True
            await self._gate._opened(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._gate._left(self)


class WarmupGate:
    """The gate of one manager. `timeout`: the most seconds that a request waits; 0 lets everybody through at once.

    `warmth` is what all sessions of the manager know to be warm. Other processes are met in the store.
    """

    def __init__(
        self, store: Store, clock: Clock, background: Background, lifecycle: Lifecycle, warmth: Warmth, timeout: float
    ) -> None:
        self._store, self._clock, self._warmth, self._timeout = store, clock, warmth, timeout
        self._background, self._lifecycle = background, lifecycle
        self._lines: dict[str, _Line] = {}
        self._barren: dict[str, float] = {}
        self._elsewhere: dict[str, Passage] = {}
        self._renewing = False

    @property
    def _holder(self) -> Holder:
        return self._lifecycle.holder

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
            await self._left(passage)
            raise
        if passage._since is not None:
            passage.waited = monotonic(self._clock) - passage._since
        return passage

    async def _passes(self, passage: Passage) -> bool:
        """Whether the request may go as it is planned. False: something has changed, so it plans again."""
        points = passage._points = self._worth_waiting_for(passage)
        written = next((line for point in points if (line := self._line_of_another(point, passage))), None)
        self._hand_over(passage, keep=() if written else points)
        if written is None:
            self._lead(passage)
            return not points or not self._seconds_left(passage) or await self._leads_everywhere(passage, points[0])
        if not self._seconds_left(passage):
            return True
        if passage._since is None:
            await self._begin_to_wait(passage)  # which takes time: the line may have gone
        else:
            await self._wait(passage, written)
        return False

    def _worth_waiting_for(self, passage: Passage) -> tuple[str, ...]:
        """The cold points of its plan, the shortest prefix first."""
        now = monotonic(self._clock)
        cold = (mark.point for mark in passage.plan.writes(passage._minimum))
        return tuple(point for point in cold if point not in passage._seen and self._barren.get(point, now) <= now)

    def _line_of_another(self, point: str, passage: Passage) -> _Line | None:
        line = self._lines.get(point)
        return line if line is not None and line.leader is not passage else None

    def _seconds_left(self, passage: Passage) -> float:
        spent = 0.0 if passage._since is None else monotonic(self._clock) - passage._since
        return max(0.0, self._timeout - spent)

    # -- within this process --

    def _lead(self, passage: Passage) -> None:
        for point in passage._points:
            passage._lines[point] = self._lines.setdefault(point, _Line(passage))

    async def _begin_to_wait(self, passage: Passage) -> None:
        passage._since = monotonic(self._clock)
        if passage._before_waiting is not None:
            await passage._before_waiting()

    async def _wait(self, passage: Passage, line: _Line) -> None:
        place = passage, anyio.Event()
        line.waiting.append(place)
        try:
            with suppress(TimeoutError):
                await within(self._clock, self._seconds_left(passage), place[1].wait)
        finally:
            with suppress(ValueError):
                line.waiting.remove(place)

    def _hand_over(self, passage: Passage, keep: Collection[str] = ()) -> None:
        """What it leads is led by the next in line; nothing is left where nobody waits."""
        for point in [point for point in passage._lines if point not in keep]:
            line = passage._lines.pop(point)
            if line.waiting:
                line.leader, turn = line.waiting.popleft()
                line.leader._lines[point] = line
                turn.set()
            else:
                del self._lines[point]

    async def _opened(self, passage: Passage) -> None:
        now = self._clock.now()
        for point in passage._points:
            if not self._warmth.is_alive(point, now):
                self._leave_barren(point)
            if (line := self._lines.pop(point, None)) is not None:
                self._let_go(point, line)
        await self._end(passage)

    def _let_go(self, point: str, line: _Line) -> None:
        """Nobody has to wait for this point any more, also where it was led by another than who wrote it."""
        del line.leader._lines[point]
        line.leader._seen.add(point)
        for one, turn in line.waiting:
            one._seen.add(point)
            turn.set()
        line.waiting.clear()

    def _leave_barren(self, point: str) -> None:
        self._barren[point] = monotonic(self._clock) + BARREN
        if len(self._barren) > _MOST_BARREN:
            del self._barren[next(iter(self._barren))]

    async def _left(self, passage: Passage) -> None:
        """The request is over, or never came; where its response has not begun, the next one leads."""
        self._hand_over(passage)
        with anyio.CancelScope(shield=True):
            await self._end(passage)

    # -- across processes --

    async def _leads_everywhere(self, passage: Passage, point: str) -> bool:
        """Whether no other process writes this point; else waits until it has, or until the timeout."""
        pause, watch = _FIRST_PAUSE, None
        with ExitStack() as stack:
            while True:
                is_live = watch is not None and watch.is_live  # before the look: what comes after it is heard
                if (answer := await self._answer(passage, point)) is not None:
                    return answer
                if passage._since is None:
                    await self._begin_to_wait(passage)
                if not (left := self._seconds_left(passage)):
                    return True
                watch = watch or stack.enter_context(self._store.watch(point))
                await self._pause(watch if is_live else None, pause, left)
                pause = min(2 * pause, _LONGEST_PAUSE)
                if point in passage._seen:
                    return False

    async def _answer(self, passage: Passage, point: str) -> bool | None:
        """Whether the request may go now, or should plan again; `None` while another process writes the point."""
        found = await self._ask(point)
        if found is None:
            return True
        if found.state == "leading":
            self._leads_in_store(passage, point, found.token)
            return True
        if found.state == "warm":
            self._hear(passage, point, found)
            return False
        return None

    async def _pause(self, watch: Watch | None, seconds: float, left: float) -> None:
        """Until there is news of the point, where the store tells it, or until another look is worth its price."""
        if watch is None:
            await self._clock.sleep(min(seconds, left))
            return
        with suppress(TimeoutError):
            await within(self._clock, min(watch.pause, left), watch.news)

    def _hear(self, passage: Passage, point: str, found: Warmup) -> None:
        """Another process has written the point, or has found out (no `ttl`) that nothing is written there."""
        passage._seen.add(point)
        if found.ttl is None:
            self._leave_barren(point)
        else:
            until = self._clock.now() + found.seconds_left
            self._warmth.know(point, Alive("1h" if found.ttl == "1h" else "5m", until))

    async def _ask(self, point: str) -> Warmup | None:
        """`None` where the store fails: the gate only saves money, so the request goes on without it."""
        try:
            return await self._store.lead(point, self._holder, seconds=SECONDS, now=monotonic(self._clock))
        except StorageError as error:
            log.warning("the store cannot say who warms a prefix, going on without: %s", error)
            return None

    def _leads_in_store(self, passage: Passage, point: str, token: int) -> None:
        passage._token = token
        self._elsewhere[point] = passage
        if not self._renewing:
            self._renewing = True
            self._background.start(self._renew)

    async def _renew(self) -> None:
        try:
            while self._elsewhere:
                await self._clock.sleep(RENEW_AFTER)
                for point, passage in list(self._elsewhere.items()):
                    await self._renew_one(point, passage)
        finally:
            self._renewing = False

    async def _renew_one(self, point: str, passage: Passage) -> None:
        found = await self._ask(point)
        if found is None or found.state != "leading":
            return
        if (leader := self._elsewhere.get(point)) is not None:
            leader._token = found.token
        else:  # it ended just before: nobody leads
            await self._tell(point, found.token, written=passage.is_open)

    async def _end(self, passage: Passage) -> None:
        """Says in the store how it ended, if others were told there that this request writes."""
        token, passage._token = passage._token, None
        point = next((point for point, one in self._elsewhere.items() if one is passage), None)
        if point is not None and token is not None:
            del self._elsewhere[point]
            await self._tell(point, token, written=passage.is_open)

    async def _tell(self, point: str, token: int, *, written: bool) -> None:
        now, known = self._clock.now(), self._warmth.find(point)
        ttl, alive = (None, BARREN) if known is None or known.until <= now else (known.ttl, known.until - now)
        try:
            await self._store.led(point, token, ttl=ttl, alive=alive if written else 0.0, now=monotonic(self._clock))
        except StorageError as error:
            log.warning("the store cannot be told that a prefix is written: %s", error)
