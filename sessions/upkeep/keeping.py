"""One keeper for a prefix that many sessions use: read once for all of them when none asks within the hour.

The worker that has claimed the prefix reads what all workers have asked for, decides (`core/heads`), and sends one
request for no tokens with the prefix alone. Where nobody is expected any more it ends, until somebody asks again.
"""

from __future__ import annotations

from collections.abc import Iterable

from sessions.background import log
from sessions.calls.forecaster import Forecaster
from sessions.calls.heads import point_of
from sessions.calls.zero_token import PLACEHOLDER, ZeroToken
from sessions.clock import Clock, within
from sessions.conversation.conversation import Conversation
from sessions.conversation.entries import Written, make_entry
from sessions.conversation.recent_calls import RECENT_CALLS
from sessions.core.cache import SECONDS
from sessions.core.experience import Others
from sessions.core.heads import due, ends_with, kept_slots, settings_of, wish_for_all
from sessions.core.idle import Ask, Rest
from sessions.core.settings import Settings
from sessions.core.warmth import Alive, Warmth
from sessions.errors import BudgetExceeded, ModelError
from sessions.ledger import Call, marks_of
from storage import SessionMissing, Store

USERS = 8
"""Sessions that used the prefix last: in their ledgers it is looked for how long its entry lives."""


class Keeping:
    """Keeps shared prefixes for one manager."""

    def __init__(self, store: Store, clock: Clock, forecaster: Forecaster, zero_token: ZeroToken) -> None:
        self._store, self._clock = store, clock
        self._forecaster, self._zero_token = forecaster, zero_token

    async def look_after(self, conversation: Conversation, point: str) -> float | None:
        """Reads the prefix again where that pays now; seconds until it is to be looked after again (`None`: never).

        `conversation`: that of the session which stands for it. Raises `ModelError`.
        """
        await self._forecaster.learn_anew(conversation)
        if not await self._borrow(conversation, point):
            return None  # nobody uses it any more, or here nothing of the kind can be sent
        uses = self._forecaster.uses(point, self._clock.now())
        await self._learn_entry(conversation, point, uses)
        warmth, at = conversation.recent.warmth, self._forecaster.circumstances(conversation, self._clock.now())
        wished = wish_for_all(conversation.prompt, point, warmth, uses, at)
        if isinstance(wished, Rest):
            return wished.again
        limit, name = self._forecaster.hour_limit, conversation.record.id
        if not limit.has_room(at.now, wished.price):
            log.info("%s is not kept warm: this hour's limit for idle requests is reached", name)
            return None
        limit.spend(at.now, wished.price)
        try:
            return await self._send(conversation, wished, point)
        except BudgetExceeded as error:
            log.info("%s is not kept warm: %s", name, error)
            return None

    async def _borrow(self, conversation: Conversation, point: str) -> bool:
        """Gives it the prompt that ends with the prefix, from a session that uses it."""
        profile = conversation.prompt.profile
        for user in self._forecaster.users(point)[:USERS]:
            try:
                settings = Settings.from_json((await self._store.load(user)).settings)
            except SessionMissing:
                continue
            for slot in kept_slots(settings, profile):
                alone, words = settings_of(settings, slot), self._words(settings) if slot == "context" else []
                prompt = conversation.new_prompt(alone, [written.entry for written in words])
                # Its settings may be others since it used it.
                if ends_with(prompt, slot, point):
                    conversation.borrow(alone)
                    conversation.stage(words)
                    return True
        return False

    def _words(self, settings: Settings) -> list[Written]:
        """The message that pinned context is part of; what is said behind it is neither sent nor stored."""
        content = [*settings.context, {"type": "text", "text": PLACEHOLDER}]
        return [make_entry(None, "user", content, self._clock.now())] if settings.context else []

    async def _learn_entry(self, conversation: Conversation, point: str, uses: Others) -> None:
        """How long the entry lives: from what is known here, and else from the ledgers of those who used it last.

        Who wrote it may be another worker; whoever used it since made it live on.
        """
        warmth, now = conversation.recent.warmth, self._clock.now()
        read = [call for call in conversation.recent.idle if call.status == "ok"]
        starts = [*uses.all, *(call.started for call in read)]
        entry = _living(warmth.find(point), starts, now)
        if entry is None:
            for session in self._forecaster.users(point)[:USERS]:
                rows = await self._store.calls(session, limit=RECENT_CALLS, newest_first=True)
                read += [Call.of(row) for row in rows if row.first_event is not None]
            entry = _living(_written(read, point), starts, now)
        if entry is not None:
            warmth.know(point, entry)

    async def _send(self, conversation: Conversation, ask: Ask, point: str) -> float | None:
        """Sends it, at most for as long as the entry lives: what the SDK sends again later would write it anew."""
        entry = conversation.recent.warmth.find(point)
        left = 0.0 if entry is None else max(0.0, entry.until - self._clock.now())
        try:
            call = await within(self._clock, left, lambda: self._zero_token.ask(conversation, "refresh", ask.plan))
        except ModelError:
            if self._forecaster.keeps(conversation):
                raise
            return None  # the endpoint takes none of these requests, which has been said when it was learnt
        if call.usage.counters and call.usage.cache_write > call.usage.cache_read:
            return None  # it was gone: what is known of its uses is not enough to keep it
        # What reads the longest of the prefixes that end here is named last.
        return due(call.started + SECONDS["1h"], ask.plan.marks[-1].slot) - self._clock.now()


def _living(entry: Alive | None, starts: Iterable[float], now: float) -> Alive | None:
    """The entry as requests with these starts left it, where it is one of an hour and alive."""
    used = None if entry is None else entry.used(starts)
    return used if used is not None and used.ttl == "1h" and now < used.until else None


def _written(calls: Iterable[Call], point: str) -> Alive | None:
    """The entry as the last of these calls left it that wrote it, or was sent to refresh it and found it."""
    for call in sorted(calls, key=lambda call: call.started, reverse=True):
        alone = Warmth()
        alone.learn(marks_of(call.points), None, call.usage, call.started)
        if (entry := alone.find(point)) is not None:
            return entry
        if call.kind == "refresh" and call.hit == point and call.usage.cache_read:
            return Alive("1h", call.started + SECONDS["1h"])
    return None


def kept_point(conversation: Conversation) -> str | None:
    """The point of the shared prefix that this session stands for; `None` for a conversation."""
    return point_of(conversation.record.id) if conversation.head is None else None
