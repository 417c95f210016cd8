"""What is done for conversations while nobody talks to them: a warm prefix is parked, a parked one refreshed.

Which session is due, and when, stands in the store, so that any live worker takes up the work of a dead one; a claim
gives it to one worker only. This module wakes when something falls due, decides with the policy, sends, and stops what
does not pay by its own evidence.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio

from sessions.background import log
from sessions.clock import monotonic, within
from sessions.core.cache import SECONDS, Where
from sessions.core.evidence import ENOUGH, IN_A_ROW, Asked, Trust, unreturned
from sessions.core.gaps import NEVER, NONE, TOOLS, Forecast, Gaps, forecast, human, known
from sessions.core.plan import Circumstances, Plan, plan_idle
from sessions.core.prices import prices_for
from sessions.core.steps import calls_of
from sessions.core.ttl import PARK_AFTER, REFRESH_BEFORE, Fixed, Outlook, chosen
from sessions.errors import ModelError
from sessions.ledger import Call
from sessions.tools import Toolbox
from sessions.warming import ask_nothing, obstacle
from storage import SessionMissing, StorageError, Store
from storage.records import CallKind

if TYPE_CHECKING:
    from sessions.history import History
    from sessions.manager import SessionManager

LOOK_EVERY = 10.0
"""Seconds between looks for what other workers have left, while this one is in use."""
LATE = 5.0
"""Seconds after which a due session counts as left by its worker."""
IN_USE = 300.0
"""Seconds after its last turn for which a worker keeps looking."""
AT_ONCE = 32
"""Idle requests under way at the same time."""
ASK_AGAIN = 5.0
"""Seconds until a store that could not be asked what is due is asked again."""
CLAIM = 60.0
"""Seconds after which a claimed session is offered to other workers again."""
FREE_PER_HOUR = 4_000_000.0
"""Plain input tokens' worth that may be spent on idle conversations in any hour, whatever the turns cost."""
SHARE_PER_HOUR = 0.5
"""What may be spent beyond that, as a share of what the turns of this manager cost in the same hour."""
OWNER_SESSIONS = 10
"""Newest sessions of an owner that tell how long its gaps are, and whether it came back after parks."""
OWNERS = 10_000


class Tending:
    """The idle work of one manager."""

    def __init__(self, manager: SessionManager, store: Store) -> None:
        self._manager = manager
        self._looks = store.is_shared
        self._due: list[float] = []
        self._changed = anyio.Event()
        self._in_use_until = -NEVER
        self._running, self._at_work = False, 0
        self._trust: dict[tuple[str, str], Trust] = {}
        self._owners: OrderedDict[str, tuple[float, Gaps]] = OrderedDict()
        self._spent: deque[tuple[float, float]] = deque()
        self._earned: deque[tuple[float, float]] = deque()

    # -- what a plan may count on --

    def circumstances(self, history: History, now: float, own_marks: tuple[Where, ...] = ()) -> Circumstances:
        """What the next plan of this conversation stands on."""
        prompt, told = history.prompt, history.gaps.told
        expected = forecast(
            history.gaps, self._owner(history), expected_gap=told, tools=bool(history.settings.local_tools)
        )
        prices = prices_for(prompt.profile, prompt.total)
        # With tools most requests are not a turn's last, and an hour behind a small addition costs less than a park.
        parks = self.can_park(history) and not history.settings.local_tools
        return Circumstances(
            now, self._manager.ttl, expected, prices, told is not None, own_marks,
            parks=parks, lasting=self._lasts(history),
        )  # fmt: skip

    def can_park(self, history: History) -> bool:
        """Whether what this conversation writes for 5 minutes may be parked later."""
        return self._tends(history) and self._lasts(history)

    def _lasts(self, history: History) -> bool:
        """Whether a 1-hour entry behind a 5-minute prefix is believed to outlive it."""
        return history.prompt.profile.parks and not self._trust_in(history).is_gone

    def _tends(self, history: History) -> bool:
        manager, profile = self._manager, history.prompt.profile
        if not manager.tend or isinstance(manager.ttl, Fixed) or "1h" not in profile.ttls or not profile.markers:
            return False
        return obstacle(history.settings, profile) is None

    def _trust_in(self, history: History) -> Trust:
        return self._trust.setdefault((self._manager.runtime.client.base_url or "", history.settings.model), Trust())

    async def learn_owner(self, owner: str | None) -> None:
        """Reads how long the gaps of this owner's sessions are, once in an hour."""
        now = self._manager.clock.now()
        if owner is None or (owner in self._owners and now - self._owners[owner][0] < SECONDS["1h"]):
            return
        rows = await self._manager.runtime.store.list(owner=owner, limit=OWNER_SESSIONS)
        ended = [row for row in rows if row.totals.turns and now - row.updated_at > 24 * SECONDS["1h"]]
        gaps = NONE.together(Gaps.read(row.gaps) for row in rows)
        for _ in ended:
            gaps = gaps.plus(NEVER)
        self._owners[owner] = (now, gaps)
        self._owners.move_to_end(owner)
        while len(self._owners) > OWNERS:
            self._owners.popitem(last=False)

    def _owner(self, history: History) -> Gaps:
        return self._owners.get(history.record.owner or "", (0.0, NONE))[1]

    # -- when --

    def due(self, history: History, call: Call) -> float | None:
        """Seconds until a conversation whose last request was this call is to be looked after; `None`: never."""
        if not self._tends(history) or not call.points or call.kind != "turn":
            return None
        now = self._manager.clock.now()
        if any(ttl == "5m" for _, _, ttl, _ in call.points):
            until = call.started + PARK_AFTER
            return max(0.0, until - now) if now < call.started + SECONDS["5m"] else None
        return max(0.0, call.started + SECONDS["1h"] - REFRESH_BEFORE - now)

    def wake(self, after: float | None) -> None:
        """Something falls due so many seconds from now (`None`: nothing, but the manager is in use)."""
        if not self._manager.tend:
            return
        now = self._manager.clock.now()
        rests = now >= self._in_use_until
        if self._looks:
            self._in_use_until = now + IN_USE
        if after is not None:
            heapq.heappush(self._due, now + after)
        if not self._running and self._next() is not None:
            self._running = True
            self._manager.runtime.background.start(self._run)
        elif self._running and ((self._looks and rests) or (after is not None and self._due[0] == now + after)):
            self._changed.set()

    async def _run(self) -> None:
        try:
            while self._next() is not None:
                async with anyio.create_task_group() as group:
                    while (moment := self._next()) is not None or self._at_work:
                        await self._wait(moment)
                        if moment is None or self._manager.clock.now() < moment:
                            continue  # something has ended, or falls due before that
                        for session in await self._claimed():
                            self._at_work += 1
                            group.start_soon(self._guarded, session)
        finally:
            self._running, self._at_work = False, 0

    def _next(self) -> float | None:
        """When to look into the store next (epoch seconds); `None`: not before `wake` or the end of a request."""
        if self._at_work >= AT_ONCE:
            return None
        now = self._manager.clock.now()
        own = self._due[0] if self._due else NEVER
        look = now + LOOK_EVERY if now < self._in_use_until else NEVER
        found = min(own, look)
        return None if found == NEVER else found

    async def _wait(self, moment: float | None) -> None:
        self._changed = anyio.Event()
        seconds = None if moment is None else max(0.0, moment - self._manager.clock.now())
        with suppress(TimeoutError):
            await within(self._manager.clock, seconds, self._changed.wait)

    async def _claimed(self) -> list[str]:
        """The sessions to look after now. What fell due long ago, in a busy loop, is dropped when it is looked at."""
        manager, now, room = self._manager, self._manager.clock.now(), AT_ONCE - self._at_work
        own = bool(self._due) and self._due[0] <= now
        while self._due and self._due[0] <= now:
            heapq.heappop(self._due)
        try:
            found = await manager.runtime.store.claim_due(
                manager.runtime.leases.holder,
                now=now,
                limit=room,
                late=0.0 if own else LATE,
                seconds=CLAIM,
                lease_now=monotonic(manager.clock),
            )
            if len(found) == room:
                heapq.heappush(self._due, now)  # there may be more
            return found
        except StorageError as error:
            log.warning("idle sessions cannot be looked after now: %s", error)
            if own:
                heapq.heappush(self._due, now + ASK_AGAIN)
            return []

    # -- what --

    async def _guarded(self, session: str) -> None:
        """One idle session; what goes wrong with it is logged, and harms no other."""
        try:
            await self._look_after(session)
        except SessionMissing:
            return  # deleted meanwhile
        except (ModelError, StorageError, TimeoutError) as error:
            log.warning("session %s could not be kept warm: %s", session, error)
        except Exception:
            log.exception("session %s could not be kept warm", session)
        finally:
            self._at_work -= 1
            self._changed.set()

    async def _look_after(self, session: str) -> None:
        manager = self._manager
        history = await manager.runtime.conversations.open(session, Toolbox())
        again = await self._tended(history)
        await manager.runtime.store.tend(session, again, now=manager.clock.now(), head=history.head)
        if again is not None:
            heapq.heappush(self._due, manager.clock.now() + again)
            self._changed.set()

    async def _tended(self, history: History) -> float | None:
        """Does what the policy chooses; seconds until this conversation is to be looked after again."""
        manager, now = self._manager, self._manager.clock.now()
        if history.asked is None or not self._tends(history) or await self._is_asking(history):
            return None
        if history.last is not None and history.last.stop_reason == "pause_turn":
            return None  # its server tools wait for their results: nothing may follow
        waited = now - history.asked
        await self.learn_owner(history.record.owner)
        prices = prices_for(history.prompt.profile, history.prompt.total)
        told = history.gaps.told is not None
        at = Circumstances(now, manager.ttl, self._forecast(history), prices, told)
        found = plan_idle(history.prompt, history.warmth, at, waited)
        if found is None:
            return None
        outlook, plan = found
        if chosen(manager.ttl, outlook) == "lapse" or not await self._may(history, outlook, plan):
            return self._until_refresh(outlook)
        return await self._send(history, outlook, plan)

    @staticmethod
    def _until_refresh(outlook: Outlook) -> float | None:
        """Seconds until an entry that lives an hour, shorter than the one that lapses now, can be refreshed."""
        left = outlook.kept_until - outlook.waited - REFRESH_BEFORE
        return left if left > 0 else None

    async def _is_asking(self, history: History) -> bool:
        """Whether a request of this conversation is under way: what it leaves is looked after when it ends."""
        turn = await self._manager.runtime.store.open_turn(history.record.id)
        return turn is not None and turn.call is not None

    def _forecast(self, history: History) -> Forecast:
        last = history.last
        calls = calls_of(last.content) if last is not None and last.role == "assistant" else []
        if any(call.name in history.settings.local_tools for call in calls):
            return TOOLS
        told = history.gaps.told
        return human(history.gaps, self._owner(history)) if told is None else known(told)

    async def _may(self, history: History, outlook: Outlook, plan: Plan) -> bool:
        """Whether the evidence and the limits allow what the policy wants."""
        parks = "park" in outlook.options
        if parks and not self.can_park(history):
            return False
        price = _weight(outlook, plan.expected.cache_read, plan.expected.cache_write_1h)
        if self._spent_on(history, outlook) + price > outlook.prefix * outlook.write_5m:
            return False
        return await self._in_a_row(history) < IN_A_ROW and self._affords(history, price)

    @staticmethod
    def _spent_on(history: History, outlook: Outlook) -> float:
        """What was spent since the last turn, in plain input tokens: never more than the rewrite it saves."""
        return sum(
            _weight(outlook, call.usage.cache_read, call.usage.cache_write_1h)
            for call in history.idle
            if call.started > (history.asked or 0.0)
        )

    def _affords(self, history: History, price: float) -> bool:
        """Whether this hour's limit leaves room for a request; what it costs is then taken from it."""
        self._forget_before(self._manager.clock.now() - SECONDS["1h"])
        limit = FREE_PER_HOUR + SHARE_PER_HOUR * sum(amount for _, amount in self._earned)
        if sum(amount for _, amount in self._spent) + price > limit:
            log.info("session %s is not kept warm: this hour's limit for idle requests is reached", history.record.id)
            return False
        self._spent.append((self._manager.clock.now(), price))
        return True

    def _forget_before(self, start: float) -> None:
        for book in (self._spent, self._earned):
            while book and book[0][0] < start:
                book.popleft()

    async def _in_a_row(self, history: History) -> int:
        """How many idle periods in a row this owner's newest sessions were kept warm for nothing."""
        store, owner = self._manager.runtime.store, history.record.owner
        ids = [history.record.id]
        if owner is not None:
            ids = list({*ids, *(row.id for row in await store.list(owner=owner, limit=OWNER_SESSIONS))})
        asked: list[Asked] = []
        for id in ids:
            rows = await store.calls(id, limit=4 * IN_A_ROW, newest_first=True)
            asked += [Asked(id, row.started, row.kind in ("park", "refresh")) for row in rows if row.status == "ok"]
        return unreturned(asked, self._manager.clock.now())

    async def _send(self, history: History, outlook: Outlook, plan: Plan) -> float | None:
        """Sends it, at most for as long as what it reads lives: what the SDK sends again later would write it anew."""
        clock, read = self._manager.clock, history.warmth.find(plan.hit or "")
        kind: CallKind = "park" if "park" in outlook.options else "refresh"
        left = 0.0 if read is None else max(0.0, read.until - clock.now())
        call = await within(clock, left, lambda: ask_nothing(self._manager.runtime, history, kind, plan))
        if call.usage.counters and call.usage.cache_read < ENOUGH * plan.expected.cache_read:
            self._doubt(history, alive=False)  # it wrote what it was to read
        return call.started + SECONDS["1h"] - REFRESH_BEFORE - self._manager.clock.now()

    # -- what it shows --

    def observe(self, history: History, call: Call) -> None:
        """Takes in a call of a turn, before its history does: whether it found what only a park had kept alive."""
        self.wake(None)
        usage = call.usage
        prices = prices_for(history.prompt.profile, usage.total_input)
        read = prices.read if prices else 0.1
        if self._tends(history):
            self._earned.append((call.started, usage.input + usage.cache_read * read + usage.cache_write * 1.25))
            self._forget_before(call.started - SECONDS["1h"])
        parked = history.parked.get(call.hit or "")
        if parked is None or call.expected is None or not usage.counters or call.status != "ok":
            return
        if max(parked, history.asked or 0.0) + SECONDS["5m"] < call.started <= parked + SECONDS["1h"]:
            self._doubt(history, alive=usage.cache_read >= ENOUGH * call.expected.cache_read)

    def _doubt(self, history: History, *, alive: bool) -> None:
        trust = self._trust_in(history)
        before = trust.is_gone
        trust.saw(alive=alive)
        if trust.is_gone and not before:
            log.warning(
                "parked entries of %s do not live as they should: no more are made, lifetimes are chosen when writing",
                history.settings.model,
            )


def _weight(outlook: Outlook, read: int, write_1h: int) -> float:
    """What a request costs in plain input tokens."""
    return read * outlook.read + write_1h * outlook.write_1h
