"""What a plan may count on: when the next request will come, what can be done until then, and whether that works."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from sessions.background import log
from sessions.clock import Clock
from sessions.core.cache import SECONDS, Where
from sessions.core.evidence import ENOUGH, Trust
from sessions.core.gaps import NEVER, NONE, Gaps, forecast
from sessions.core.idle import Budget, why_no_zero_token
from sessions.core.plan import Circumstances
from sessions.core.prices import prices_for
from sessions.core.ttl import PARK_AFTER, REFRESH_BEFORE, Fixed, Policy
from sessions.ledger import Call
from sessions.model.endpoint import Endpoint
from storage import Store

if TYPE_CHECKING:
    from sessions.conversation.conversation import Conversation

OWNER_SESSIONS = 10
"""Newest sessions of an owner that tell how long its gaps are, and whether it came back after parks."""
OWNERS = 10_000
"""Owners whose gaps are remembered, those read last."""


class Forecaster:
    """What one manager expects of its conversations, and has seen. `tend`: whether idle ones are looked after.

    `policy`: what chooses lifetimes. `budget`: what turns and idle requests cost in the last hour.
    """

    def __init__(self, store: Store, clock: Clock, policy: Policy, endpoint: Endpoint, *, tend: bool) -> None:
        self.policy, self.budget = policy, Budget()
        self._store, self._clock, self._endpoint, self._tend = store, clock, endpoint, tend
        self._trust: dict[tuple[str, str], Trust] = {}
        self._owners: OrderedDict[str, tuple[float, Gaps]] = OrderedDict()

    def circumstances(self, conversation: Conversation, now: float, own_marks: tuple[Where, ...] = ()) -> Circumstances:
        """What the next plan of this conversation stands on."""
        prompt, told = conversation.prompt, conversation.gaps.told
        expected = forecast(
            conversation.gaps,
            self.owner_gaps(conversation),
            expected_gap=told,
            tools=bool(conversation.settings.local_tools),
        )
        return Circumstances(
            now=now,
            policy=self.policy,
            forecast=expected,
            prices=prices_for(prompt.profile, prompt.total),
            told=told is not None,
            own_marks=own_marks,
            # With tools most requests are not a turn's last: an hour behind a small addition costs less than a park.
            parks=self.can_park(conversation) and not conversation.settings.local_tools,
            lasting=self._lasts(conversation),
        )

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
        if any(ttl == "5m" for _, _, ttl, _ in call.points):
            until = call.started + PARK_AFTER
            return max(0.0, until - now) if now < call.started + SECONDS["5m"] else None
        return max(0.0, call.started + SECONDS["1h"] - REFRESH_BEFORE - now)

    async def learn_owner(self, owner: str | None) -> None:
        """Reads how long the gaps of this owner's sessions are, once in an hour."""
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
        usage = call.usage
        prices = prices_for(conversation.prompt.profile, usage.total_input)
        # Without a published price: a tenth of the input's, as with most models (docs/provider.md, 4).
        read = prices.read if prices else 0.1
        if self.tends(conversation):
            self.budget.earn(call.started, usage.input + usage.cache_read * read + usage.cache_write * 1.25)
        parked = conversation.recent.parked.get(call.hit or "")
        if parked is None or call.expected is None or not usage.counters or call.status != "ok":
            return
        # Sooner the 5-minute entry may have been alive, later the parked one has lapsed: neither says how parks fare.
        if max(parked, conversation.recent.asked or 0.0) + SECONDS["5m"] < call.started <= parked + SECONDS["1h"]:
            self._judge(conversation, alive=usage.cache_read >= ENOUGH * call.expected.cache_read)

    def doubt(self, conversation: Conversation) -> None:
        """An entry of this conversation was not there, although a park should have kept it."""
        self._judge(conversation, alive=False)

    def _judge(self, conversation: Conversation, *, alive: bool) -> None:
        trust = self._trust_in(conversation)
        before = trust.is_gone
        trust.saw(alive=alive)
        if trust.is_gone and not before:
            log.warning(
                "parked entries of %s do not live as they should: no more are made, lifetimes are chosen when writing",
                conversation.settings.model,
            )

    def _lasts(self, conversation: Conversation) -> bool:
        """Whether a 1-hour entry behind a 5-minute prefix is believed to outlive it."""
        return conversation.prompt.profile.parks and not self._trust_in(conversation).is_gone

    def _trust_in(self, conversation: Conversation) -> Trust:
        return self._trust.setdefault((self._endpoint.url, conversation.settings.model), Trust())
