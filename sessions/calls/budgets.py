"""What requests may cost: each is set against what its budgets leave, in the store, before it is sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from hashlib import blake2b

from sessions.budget import Budget
from sessions.clock import Clock
from sessions.conversation.conversation import Conversation
from sessions.core.prices import cost
from sessions.core.usage import Usage
from sessions.errors import BudgetExceeded
from storage import BudgetFull, Limit, Reservation, Store
from storage.records import CallKind

PATIENCE = 60.0
"""Seconds that a request waits for those under way to end, where they are expected to leave room for it."""
_PAUSE = 0.5
"""Seconds between two looks whether there is room."""
_LONGEST = {"batch": 24 * 3600.0}
"""Seconds after which a request that nothing was heard of counts for what was expected; an hour for other kinds."""
_IDLE = ("park", "refresh", "probe")


class Budgets:
    """The budgets of one manager.

    What others have under way counts for the most that it may cost (its expected input and `max_tokens` of output),
    the request itself for its expected input: so what is spent in the end is above a budget by one answer at most,
    however many are under way at the same time, and one that is alone goes on until the budget is used up.
    """

    def __init__(self, store: Store, clock: Clock, budgets: Sequence[Budget]) -> None:
        self._store, self._clock, self._budgets = store, clock, tuple(budgets)

    def reservation(
        self, conversation: Conversation, kind: CallKind, call: str, expected: Usage, max_tokens: int
    ) -> Reservation | None:
        """The room that a request needs; `None` where nothing limits it. `call`: the id of its row of the ledger."""
        if not self._budgets:
            return None
        prompt, batch = conversation.prompt, kind == "batch"

        def price(usage: Usage) -> Decimal:
            return cost(usage, prompt.profile, prompt.settings.params, batch=batch) or Decimal(0)

        now = self._clock.now()
        return Reservation(
            session=conversation.record.id,
            call=call,
            expected=price(expected),
            most=price(replace(expected, output=max_tokens)),
            now=now,
            until=now + _LONGEST.get(kind, 3600.0),
            limits=tuple(_limit(budget, conversation) for budget in self._budgets),
        )

    async def take(self, reservation: Reservation, kind: CallKind) -> None:
        """Takes the room for a request outside of turns. One for an idle conversation does not wait for it.

        Raises `BudgetExceeded`.
        """
        since = reservation.now
        while True:
            try:
                await self._store.reserve(reservation)
                return
            except BudgetFull as full:
                if kind in _IDLE:
                    raise self.exceeded(full, reservation) from full
                await self.wait(full, reservation, since)
            reservation = replace(reservation, now=self._clock.now())

    async def wait(self, full: BudgetFull, refused: Reservation, since: float) -> None:
        """A moment until it is asked again. Raises `BudgetExceeded` where what is under way will leave no room either.

        `since`: when it was asked for the first time (seconds since the epoch).
        """
        if not full.is_held or self._clock.now() >= since + PATIENCE:
            raise self.exceeded(full, refused) from full
        await self._clock.sleep(_PAUSE)

    def exceeded(self, full: BudgetFull, refused: Reservation) -> BudgetExceeded:
        """What its caller is told."""
        scopes = [limit.scope for limit in refused.limits]
        budget = self._budgets[scopes.index(full.scope)]
        when = "raise the budget" if full.frees is None else f"it frees in {full.frees - refused.now:,.0f} seconds"
        text = (
            f"the budget of {budget} has ${full.left} left, and the next request is expected to cost "
            f"${refused.expected} before its answer; {when}; all results are stored: resume() or send() goes on"
        )
        return BudgetExceeded(text, budget=budget, left=full.left, frees=full.frees)

    async def free(self, session: str, call: str) -> None:
        """A request for which there was room is not sent after all."""
        if self._budgets:
            await self._store.free(session, call)


def _limit(budget: Budget, conversation: Conversation) -> Limit:
    record = conversation.record
    name = {"owner": record.owner, "session": record.id, "manager": None}[budget.per]
    # A digest: an owner's name may be as long as a key of the store can be.
    digest = "" if name is None else blake2b(name.encode(), digest_size=16).hexdigest()
    return Limit(f"{budget.per} {budget.window:g} {digest}", budget.usd, budget.window)
