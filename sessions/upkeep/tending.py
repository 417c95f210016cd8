"""What is done for conversations while nobody talks to them: a warm prefix is parked, a parked one refreshed.

Which session is due, and when, stands in the store, so that any live worker takes up the work of a dead one; a claim
gives it to one worker only. This module waits until something falls due, gathers what is known, asks `core/idle` what
to do, and sends it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import anyio

from sessions.background import log
from sessions.calls.forecaster import OWNER_SESSIONS, Forecaster
from sessions.calls.schedule import Schedule
from sessions.clock import Clock, monotonic, within
from sessions.conversation.leases import Leases
from sessions.core.cache import SECONDS
from sessions.core.evidence import ENOUGH, IN_A_ROW, Asked
from sessions.core.idle import Ask, Evidence, Facts, IdleKind, Rest, allowed, waits_for_server_tools, wish
from sessions.core.keeping import REFRESH_BEFORE
from sessions.core.plan import Plan
from sessions.errors import BudgetExceeded, ModelError
from sessions.ledger import Call
from sessions.runtime import Runtime
from sessions.tools import Toolbox
from sessions.upkeep.keeping import Keeping, kept_point
from sessions.upkeep.self_probe import self_probe_of
from storage import SessionMissing, StorageError, Store

if TYPE_CHECKING:
    from sessions.conversation.conversation import Conversation

LATE = 5.0
"""Seconds after which a due session counts as left by its worker."""
AT_ONCE = 32
"""Idle requests under way at the same time."""
ASK_AGAIN = 5.0
"""Seconds until a store that could not be asked what is due is asked again."""
CLAIM = 60.0
"""Seconds after which a claimed session is offered to other workers again."""


class Tending:
    """The idle work of one manager: `run` is what its schedule serves.

    `open_conversation`: opens a session's conversation. `ask`: sends a plan as a zero-token request; gives the call,
    which is in the ledger, or raises `ModelError`. `keep`: looks after the shared prefix with that point, which a
    session stands for; gives the seconds until it is to be looked after again. `find_out`: begins to find out whether
    parks of that model live.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        leases: Leases,
        forecaster: Forecaster,
        schedule: Schedule,
        *,
        open_conversation: Callable[[str], Awaitable[Conversation]],
        ask: Callable[[Conversation, IdleKind, Plan], Awaitable[Call]],
        keep: Callable[[Conversation, str], Awaitable[float | None]],
        find_out: Callable[[str], None],
    ) -> None:
        self._store, self._clock, self._leases = store, clock, leases
        self._forecaster, self._schedule = forecaster, schedule
        self._open_conversation, self._ask, self._keep, self._find_out = open_conversation, ask, keep, find_out
        self._at_work = 0

    # -- wait --

    async def run(self) -> None:
        """Looks after what falls due, until nothing is known to fall due any more."""
        try:
            # Asked again: leaving the group takes a moment, and what is named in it finds this still running.
            while self._schedule.next() is not None:
                async with anyio.create_task_group() as group:
                    while (moment := self._next()) is not None or self._at_work:
                        if not await self._schedule.wait(moment):
                            continue  # something has ended, or falls due before that
                        for session in await self._claimed():
                            self._at_work += 1
                            group.start_soon(self._guarded, session)
        finally:
            self._at_work = 0

    def _next(self) -> float | None:
        """When to look into the store next (epoch seconds); `None`: not before `wake` or the end of a request."""
        return None if self._at_work >= AT_ONCE else self._schedule.next()

    async def _claimed(self) -> list[str]:
        """The sessions to look after now. What fell due long ago, in a busy loop, is dropped when it is looked at."""
        room, own = AT_ONCE - self._at_work, self._schedule.take_due()
        try:
            claimed = await self._store.claim_due(
                self._leases.holder,
                now=self._clock.now(),
                limit=room,
                # A look for what others have left gives a worker that lives the time to come first.
                late=0.0 if own else LATE,
                seconds=CLAIM,
                lease_now=monotonic(self._clock),
            )
        except StorageError as error:
            log.warning("idle sessions cannot be looked after now: %s", error)
            if own:
                self._schedule.add(ASK_AGAIN)
            return []
        if len(claimed) == room:
            self._schedule.add(0.0)  # there may be more
        return claimed

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
            self._schedule.notify()

    async def _look_after(self, session: str) -> None:
        conversation = await self._open_conversation(session)
        point = kept_point(conversation)
        again = await (self._tended(conversation) if point is None else self._keep(conversation, point))
        # Only while the head is this one: a turn that has come meanwhile has said itself when the session is due.
        await self._store.tend(session, again, now=self._clock.now(), head=conversation.head)
        if again is not None:
            self._schedule.add(again)

    # -- gather, decide, act --

    async def _tended(self, conversation: Conversation) -> float | None:
        """Does what is wished for and allowed; seconds until this conversation is to be looked after again."""
        facts = await self._gather(conversation)
        if facts is not None and self._forecaster.is_unsettled(conversation) and facts.has_something_to_keep:
            self._find_out(conversation.settings.model)
        wished = Rest() if facts is None else wish(facts)
        if isinstance(wished, Rest):
            return wished.again
        # Other sessions are read for a wish to act only: most wishes are to let it lapse, and those cost no read.
        evidence, limit = await self._evidence(conversation), self._forecaster.hour_limit
        balance = self._forecaster.balance
        if not allowed(wished, evidence, limit, balance):
            if not limit.has_room(evidence.now, wished.price):
                log.info(
                    "session %s is not kept warm: this hour's limit for idle requests is reached",
                    conversation.record.id,
                )
            return wished.otherwise.again
        # Before it is sent: those that are decided at the same time share the limits.
        limit.spend(evidence.now, wished.price)
        balance.spend(evidence.now, wished.price)
        try:
            return await self._send(conversation, wished)
        except (BudgetExceeded, ModelError) as error:
            balance.save(evidence.now, wished.price)  # what was not answered was not billed
            if isinstance(error, ModelError):
                raise
            log.info("session %s is not kept warm: %s", conversation.record.id, error)
            return wished.otherwise.again

    async def _gather(self, conversation: Conversation) -> Facts | None:
        """What is known of this conversation; `None` where it is not looked after, or nothing may follow now."""
        now, asked = self._clock.now(), conversation.recent.asked
        if asked is None or not self._forecaster.tends(conversation) or waits_for_server_tools(conversation.last):
            return None
        turn = await self._store.open_turn(conversation.record.id)
        if turn is not None and turn.call is not None:
            return None  # a request is under way: what it leaves is looked after when it ends
        await self._forecaster.learn(conversation)
        return facts_of(conversation, self._forecaster, now, asked)

    async def _evidence(self, conversation: Conversation) -> Evidence:
        """What the newest sessions of this owner asked for, and what was sent while they were idle."""
        owner, ids = conversation.record.owner, [conversation.record.id]
        if owner is not None:
            rows = await self._store.list(owner=owner, limit=OWNER_SESSIONS)
            ids = list({*ids, *(row.id for row in rows)})
        requests: list[Asked] = []
        for id in ids:
            calls = await self._store.calls(id, limit=4 * IN_A_ROW, newest_first=True)
            requests += [
                Asked(session=id, started=call.started, idle=call.kind in ("park", "refresh"))
                for call in calls
                if call.status == "ok"
            ]
        return Evidence(self._clock.now(), requests)

    async def _send(self, conversation: Conversation, ask: Ask) -> float | None:
        """Sends it, at most for as long as what it reads lives: what the SDK sends again later would write it anew."""
        read = conversation.recent.warmth.find(ask.plan.hit or "")
        left = 0.0 if read is None else max(0.0, read.until - self._clock.now())
        try:
            call = await within(self._clock, left, lambda: self._ask(conversation, ask.kind, ask.plan))
        except ModelError:
            if self._forecaster.tends(conversation):
                raise
            return None  # the endpoint takes none of these requests, which has been said when it was learnt
        if call.usage.counters and call.usage.cache_read < ENOUGH * ask.plan.expected.cache_read:
            self._forecaster.doubt(conversation)  # it wrote what it was to read
        return call.started + SECONDS["1h"] - REFRESH_BEFORE - self._clock.now()


def facts_of(conversation: Conversation, forecaster: Forecaster, now: float, asked: float) -> Facts:
    """What is known at a moment of a conversation whose last request started at `asked` (seconds since the epoch)."""
    return Facts(
        now=now,
        waited=now - asked,
        prompt=conversation.prompt,
        warmth=conversation.recent.warmth,
        policy=forecaster.policy,
        last=conversation.last,
        # Calls that wait for an approval run no tool: a human is to come back.
        local_tools=() if conversation.pending else conversation.settings.local_tools,
        gaps=conversation.gaps,
        owner_gaps=forecaster.owner_gaps(conversation),
        can_park=forecaster.can_park(conversation),
        spent=[call.usage for call in conversation.recent.idle if call.started > asked],
        prior=forecaster.prior(conversation, now),
        others=forecaster.others(conversation, now),
        keeps=forecaster.keeps(conversation),
    )


def tending_of(runtime: Runtime) -> Tending:
    """The idle work of a manager; conversations are opened without their tools, since none is called."""
    return Tending(
        runtime.store,
        runtime.clock,
        runtime.leases,
        runtime.forecaster,
        runtime.schedule,
        open_conversation=lambda session: runtime.conversations.open(session, Toolbox()),
        ask=runtime.zero_token.ask,
        keep=Keeping(runtime.store, runtime.clock, runtime.forecaster, runtime.zero_token).look_after,
        find_out=self_probe_of(runtime).begin,
    )
