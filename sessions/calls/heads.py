"""Prefixes that many sessions use, and when one of them is to be looked after: in the store, as a session of its own.

That session, `head-…`, is empty and nobody's. What the prefix says is not in it: it is read from a session that uses
it, and gone with those. A claim gives it to one worker of all that share the store, a live one takes it up after a dead
one, and its requests are rows of a ledger as all others are.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING

from sessions.background import Background, log
from sessions.calls.forecaster import Forecaster
from sessions.calls.schedule import Schedule
from sessions.clock import Clock, monotonic
from sessions.conversation.opening import NAMES, Conversations
from sessions.core.experience import PREFIXES, STALE
from sessions.core.gaps import NEVER
from sessions.core.heads import due, is_worth_keeping
from sessions.core.settings import make_settings
from sessions.core.shared import shared_places
from sessions.core.warmth import Slot
from sessions.ledger import Call
from storage import StorageError, Store

if TYPE_CHECKING:
    from sessions.conversation.conversation import Conversation

_PREFIX = NAMES["keep"]


def name_of(point: str) -> str:
    """The session that the requests for the prefix with this point belong to."""
    return f"{_PREFIX}{point}"


def point_of(session: str) -> str | None:
    """The point that a session of this name stands for; `None` for the name of any other session."""
    return session.removeprefix(_PREFIX) if session.startswith(_PREFIX) else None


class Heads:
    """Notes for one manager which shared prefixes are used, and says in the store when each is to be looked after."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        background: Background,
        conversations: Conversations,
        forecaster: Forecaster,
        schedule: Schedule,
    ) -> None:
        self._store, self._clock, self._background = store, clock, background
        self._conversations, self._forecaster, self._schedule = conversations, forecaster, schedule
        self._again: OrderedDict[str, float] = OrderedDict()

    def used(self, conversation: Conversation, call: Call) -> None:
        """A request of a turn has ended, and its conversation has learnt it: all that follows is in the background."""
        if call.kind != "turn" or call.status != "ok" or not (slots := self._forecaster.keeps(conversation)):
            return
        marked, now = {point for _, point, _, _ in call.points}, monotonic(self._clock)
        for slot, index in shared_places(conversation.prompt):
            point = conversation.prompt.points[index].digest
            if slot in slots and point in marked and self._again.get(point, -NEVER) <= now:
                self._holds_for(point, STALE)
                self._background.start(partial(self._look, conversation, slot, point))

    def _holds_for(self, point: str, seconds: float) -> None:
        """What is found out now is good for so long."""
        self._again[point] = monotonic(self._clock) + seconds
        self._again.move_to_end(point)
        while len(self._again) > PREFIXES:
            self._again.popitem(last=False)

    async def _look(self, conversation: Conversation, slot: Slot, point: str) -> None:
        """Whether it is worth to be kept; then it is to be looked after just before it lapses."""
        now, entry = self._clock.now(), conversation.recent.warmth.find(point)
        index = conversation.prompt.index.get(point)
        if entry is None or entry.ttl != "1h" or index is None or (after := due(entry.until, slot) - now) <= 0:
            return
        at = self._forecaster.circumstances(conversation, now)
        others = at.others(point)
        if others.tell and is_worth_keeping(conversation.prompt, index, others, at):
            self._holds_for(point, after)
            await self._arm(point, conversation.settings.model, after)

    async def _arm(self, point: str, model: str, after: float) -> None:
        """It is to be looked after so many seconds from now, by whichever worker claims it then."""
        name, settings = name_of(point), make_settings(model=model, max_tokens=1)
        try:
            await self._conversations.set_up(name, "shared prefix", "keep", settings)
            await self._store.tend(name, after, now=self._clock.now())
        except StorageError as error:
            log.warning("a shared prefix cannot be kept warm now: %s", error)
            self._again.pop(point, None)
        else:
            self._schedule.wake(after)
