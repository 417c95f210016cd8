"""What a plan may count on: when the next request will come, what can be done until then, and whether that works."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from sessions.calls.trust import StoredTrust
from sessions.clock import Clock, monotonic
from sessions.core.cache import SECONDS, Where
from sessions.core.circumstances import Circumstances
from sessions.core.evidence import ENOUGH
from sessions.core.experience import REMEMBERED, Experience, Kind, Others, Seen
from sessions.core.gaps import NEVER, NONE, Gaps, Prior, forecast
from sessions.core.heads import kept_slots
from sessions.core.idle import why_no_zero_token
from sessions.core.idle_limits import Balance, HourLimit
from sessions.core.keeping import REFRESH_BEFORE
from sessions.core.prices import prices_for
from sessions.core.shared import SHARED, staying
from sessions.core.ttl import PARK_AFTER, Fixed, Policy
from sessions.core.warmth import Slot
from sessions.ledger import Call
from storage import Store

if TYPE_CHECKING:
    from sessions.conversation.conversation import Conversation

OWNER_SESSIONS = 10
"""Newest sessions of an owner that tell how long its gaps are, and whether it came back after parks."""
OWNERS = 10_000
"""Owners whose gaps are remembered, those read last."""
_NOBODY = ""
"Not the id of any session."
_MOSTLY = 0.5
"""The chance that a request is its turn's last from which on a session with tools counts as one that talks."""
READ_AGAIN = 600.0
"""Seconds after which it is read again what other workers have asked for."""


class Forecaster:
    """What one manager expects of its conversations, and has seen. `tend`: whether idle ones are looked after.

    `policy`: what chooses lifetimes. `hour_limit`: what turns and idle requests cost in the last hour. `balance`: what
    idle requests of sessions cost beyond what they saved. `trust`: how far parks are relied on. `given`: what was
    learnt of gaps elsewhere, for a store that shows nothing yet.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        policy: Policy,
        trust: StoredTrust,
        *,
        tend: bool,
        given: Mapping[Kind, Prior] | None = None,
    ) -> None:
        self.policy, self.trust = policy, trust
        self.hour_limit, self.balance = HourLimit(), Balance()
        self._store, self._clock, self._tend = store, clock, tend
        self._owners: OrderedDict[str, tuple[float, Gaps]] = OrderedDict()
        self._experience, self._own = Experience(given), OrderedDict[str, None]()
        self._read_at, self._read_to = -NEVER, 0

    def circumstances(
        self, conversation: Conversation, now: float, own_marks: tuple[Where, ...] = (), *, turns: int | None = None
    ) -> Circumstances:
        """What the next plan of this conversation stands on. `turns`: with the one that the plan is for, if it is for
        a turn."""
        prompt, told = conversation.prompt, conversation.gaps.told
        prior, tools = self.prior(conversation, now, turns), bool(conversation.settings.local_tools)
        owner, lasting = self.owner_gaps(conversation), self._lasts(conversation)
        unsettled = self.is_unsettled(conversation)
        tended = self.tends(conversation) and not unsettled and not conversation.recent.was_left_alone(now)
        return Circumstances(
            now=now,
            policy=self.policy,
            forecast=forecast(conversation.gaps, owner, expected_gap=told, tools=tools, prior=prior),
            prices=prices_for(prompt.profile, prompt.total),
            told=told is not None,
            own_marks=own_marks,
            # Where most requests are not a turn's last, an hour behind a small addition costs less than a park.
            parks=tended and lasting and (not tools or prior.last_of_turn > _MOSTLY),
            lasting=None if unsettled else lasting,
            tended=tended,
            others=self.others(conversation, now),
            keeps=self.keeps(conversation),
        )

    def prior(self, conversation: Conversation, now: float, turns: int | None = None) -> Prior:
        """What is known beforehand of the gap that follows so many turns (`None`: those it has had)."""
        turns = conversation.record.totals.turns if turns is None else turns
        return self._experience.prior(conversation.prompt.settings_digest, turns, now)

    def keeps(self, conversation: Conversation) -> tuple[Slot, ...]:
        """The slots whose prefixes are kept for all sessions that use them, where that pays."""
        if not self._tend or isinstance(self.policy, Fixed):
            return ()
        return kept_slots(conversation.settings, conversation.prompt.profile)

    def uses(self, point: str, now: float) -> Others:
        """How all sessions use a prefix."""
        return self._experience.others(point, _NOBODY, now)

    def users(self, point: str) -> list[str]:
        """The sessions that used a prefix, those that did so last first."""
        return self._experience.users(point)

    def others(self, conversation: Conversation, now: float) -> Callable[[str], Others]:
        """How other sessions use a prefix of this conversation, by its point."""
        session = conversation.record.id
        return cache(lambda point: self._experience.others(point, session, now))

    def can_park(self, conversation: Conversation) -> bool:
        """Whether what this conversation writes for 5 minutes may be parked later."""
        return self.tends(conversation) and self._lasts(conversation)

    def tends(self, conversation: Conversation) -> bool:
        """Whether this conversation is looked after while nobody talks to it."""
        profile = conversation.prompt.profile
        if not self._tend or isinstance(self.policy, Fixed) or "1h" not in profile.ttls or not profile.markers:
            return False
        return why_no_zero_token(conversation.settings, profile) is None

    def due(self, conversation: Conversation, call: Call) -> float | None:
        """Seconds until a conversation whose last request was this call is to be looked after; `None`: never."""
        if not self.tends(conversation) or not call.points or call.kind != "turn":
            return None
        now = self._clock.now()
        # A park reads what is still alive: once the five minutes are over it would write all of it anew.
        park = max(0.0, call.started + PARK_AFTER - now) if now < call.started + SECONDS["5m"] else None
        if any(ttl == "5m" for _, _, ttl, _ in call.points):
            return park
        refresh = max(0.0, call.started + SECONDS["1h"] - REFRESH_BEFORE - now)
        # Whether it could have been parked is found out by then, so that the next one may be.
        return park if park is not None and self.is_unsettled(conversation) else refresh

    def is_unsettled(self, conversation: Conversation) -> bool:
        """Whether it is to be found out, before it is relied on, that what this conversation parks would live."""
        return conversation.prompt.profile.parks and self.trust.is_unsettled(conversation.settings.model)

    async def learn(self, conversation: Conversation) -> None:
        """Reads what the next plans of this conversation stand on, where that has not been read of late."""
        await self._learn_from_all()
        await self._learn_owner(conversation.record.owner)
        if conversation.prompt.profile.parks:
            await self.trust.learn(conversation.settings.model)

    async def learn_anew(self, conversation: Conversation) -> None:
        """As `learn`, with what other workers have asked for up to now."""
        self._read_at = -NEVER
        await self.learn(conversation)

    async def _learn_from_all(self) -> None:
        before, now = self._read_at, monotonic(self._clock)
        if now - before < READ_AGAIN:
            return
        self._read_at = now  # before it is read: of turns that begin at the same time one reads
        try:
            rows = await self._store.activity(after=self._read_to, limit=REMEMBERED)
        except BaseException:
            self._read_at = before
            raise
        self._read_to = rows[-1].number if rows else self._read_to
        self._experience.take_in(
            Seen(row.session, row.turn, row.prompt, row.started, _shared(json.loads(row.points)))
            for row in rows
            if row.id not in self._own
        )

    async def _learn_owner(self, owner: str | None) -> None:
        now = self._clock.now()
        if owner is None or (owner in self._owners and now - self._owners[owner][0] < SECONDS["1h"]):
            return
        rows = await self._store.list(owner=owner, limit=OWNER_SESSIONS)
        # Who has not come back for a day counts as somebody who never does.
        ended = [row for row in rows if row.totals.turns and now - row.updated_at > 24 * SECONDS["1h"]]
        gaps = NONE.together(Gaps.read(row.gaps) for row in rows)
        for _ in ended:
            gaps = gaps.plus(NEVER)
        self._owners[owner] = (now, gaps)
        # Reading again leaves a known owner where it was, among those to be forgotten first.
        self._owners.move_to_end(owner)
        while len(self._owners) > OWNERS:
            self._owners.popitem(last=False)

    def owner_gaps(self, conversation: Conversation) -> Gaps:
        """The gaps between the turns of the owner's sessions, as far as they have been read."""
        return self._owners.get(conversation.record.owner or "", (0.0, NONE))[1]

    def observe(self, conversation: Conversation, call: Call) -> None:
        """Takes in a call of a turn, before its history does: whether it found what only a park had kept alive."""
        if call.kind == "turn" and call.turn is not None and call.status == "ok":
            self._take_in(conversation, call)
        usage = call.usage
        if self.tends(conversation):
            self._settle(conversation, call)
        parked = conversation.recent.parked.get(call.hit or "")
        if parked is None or call.expected is None or not usage.counters or call.status != "ok":
            return
        # Sooner the 5-minute entry may have been alive, later the parked one has lapsed: neither says how parks fare.
        if max(parked, conversation.recent.asked or 0.0) + SECONDS["5m"] < call.started <= parked + SECONDS["1h"]:
            alive = usage.cache_read >= ENOUGH * call.expected.cache_read
            self.trust.judge(conversation.settings.model, alive=alive)

    def _settle(self, conversation: Conversation, call: Call) -> None:
        """Counts what a call cost, and what it was spared by requests that were sent while nobody talked."""
        usage, prices = call.usage, prices_for(conversation.prompt.profile, call.usage.total_input)
        # Without a published price: a tenth of the input's, as with most models (docs/provider.md, 4).
        read, write = (prices.read, prices.write_5m) if prices else (0.1, 1.25)
        cost = usage.input + usage.cache_read * read + usage.cache_write * write
        self.hour_limit.earn(call.started, cost)
        self.balance.earn(call.started, cost)
        asked = conversation.recent.asked or call.started
        kept = [one.started for one in conversation.recent.idle if one.started > asked]
        if kept and call.started > asked + SECONDS["5m"] and call.started <= kept[-1] + SECONDS["1h"]:
            others, _ = staying(
                conversation.prompt, conversation.recent.warmth, self.circumstances(conversation, call.started)
            )
            self.balance.save(call.started, max(0, usage.cache_read - others) * (write - read))

    def _take_in(self, conversation: Conversation, call: Call) -> None:
        assert call.turn is not None
        request = Seen(
            conversation.record.id,
            call.turn,
            conversation.prompt.settings_digest,
            call.started,
            _shared(call.points),
            # Turns that other workers have run count too.
            number=conversation.record.totals.turns,
            since=conversation.recent.asked,
        )
        self._experience.take_in([request])
        self._own[call.id] = None
        while len(self._own) > OWNERS:
            self._own.popitem(last=False)

    def doubt(self, conversation: Conversation) -> None:
        """An entry of this conversation was not there, although a park should have kept it."""
        self.trust.judge(conversation.settings.model, alive=False)

    def _lasts(self, conversation: Conversation) -> bool:
        """Whether a 1-hour entry behind a 5-minute prefix is believed to outlive it."""
        return conversation.prompt.profile.parks and self.trust.lasts(conversation.settings.model)


def _shared(points: Iterable[Sequence[Any]]) -> tuple[str, ...]:
    """The points, of those that a request marked, which other sessions may use too."""
    return tuple(point for slot, point, _, _ in points if slot in SHARED)
