"""The one way to make a paid request, of whatever kind: under way, judged, and written down as a row of the ledger."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import anyio

from sessions.calls.budgets import Budgets
from sessions.calls.judging import judge
from sessions.calls.request import Request, UnderWay
from sessions.clock import Clock
from sessions.conversation.conversation import Conversation
from sessions.core.asked_again import without_clearing, without_hours
from sessions.core.plan import Plan
from sessions.errors import ModelError, without_words
from sessions.ledger import Call
from sessions.model.client import ModelClient
from sessions.model.endpoint import Endpoint
from sessions.model.ends import tell_of_end
from sessions.telemetry import end_call, inside, start_call
from storage import CallRecord, Reservation, Store
from storage.records import CallKind, CallStatus

if TYPE_CHECKING:
    from opentelemetry.trace import Span

_FOR_FIVE_MINUTES_TOO = ("turn", "compact", "prewarm")
"""Kinds that are sent again for five minutes where an hour is refused: all others are sent for the sake of the hour."""
_JUDGED = ("turn", "prewarm", "park", "refresh")
"""Kinds whose misses are told. A compaction leaves the chain; when a batch was processed, and so what lived, is not
known."""


class Requests:
    """The requests of one manager: every one of them is sent, judged and written down here.

    So it is here, too, that an endpoint's refusals and answers are learnt, and that a request which was refused for a
    field that can be left out is sent again without it.
    """

    def __init__(self, client: ModelClient, endpoint: Endpoint, store: Store, clock: Clock, budgets: Budgets) -> None:
        self._client, self._endpoint, self._store, self._clock = client, endpoint, store, clock
        self._budgets = budgets
        self._under_way: dict[str, UnderWay] = {}

    # -- sending --

    def reservation(self, request: Request, conversation: Conversation) -> Reservation | None:
        """The room under the budgets that it needs before it is sent; `None` where there are none."""
        request.is_counted = True
        expected, max_tokens = request.plan.expected, request.body["max_tokens"]
        return self._budgets.reservation(conversation, request.kind, request.id, expected, max_tokens)

    def start(self, request: Request, conversation: Conversation, parent: Span | None = None) -> None:
        """It is sent now; `parent`: the span of its turn."""
        request.started = self._clock.now()
        tell_of_end(conversation.prompt.profile, request.started)
        request.span = start_call(request.kind, conversation.record.id, request.body, request.started, parent)

    @asynccontextmanager
    async def stream(self, request: Request, *, typed: bool = False) -> AsyncIterator[AsyncIterator[Any]]:
        """Sends it; iterating gives its events and fills `request.incoming`. Raises `ModelError`.

        `typed`: the events are read, and are the SDK's values.

        Whoever draws says `begun` at the first event.
        """
        async with AsyncExitStack() as stack:
            stack.enter_context(self._among_others(request))
            with inside(request.span):
                events = await self._opened(request, stack, typed=typed)
            yield events

    async def _opened(self, request: Request, stack: AsyncExitStack, *, typed: bool) -> AsyncIterator[Any]:
        while True:
            try:
                return await stack.enter_async_context(self._client.stream(request.body, request.incoming, typed=typed))
            except ModelError as error:
                if not self._is_changed_after(error, request):
                    raise

    async def answer(self, request: Request) -> None:
        """Sends one that does not stream, and waits for its answer. Raises `ModelError`."""
        with self._among_others(request), inside(request.span):
            message, request.incoming.request_id = await self._answered(request)
            # In here: outside it is no longer among those under way.
            self.begun(request)
        request.incoming.feed({"type": "message_start", "message": message})

    async def _answered(self, request: Request) -> tuple[dict[str, Any], str | None]:
        while True:
            try:
                return await self._client.send(request.body)
            except ModelError as error:
                if not self._is_changed_after(error, request):
                    raise

    def _is_changed_after(self, error: ModelError, request: Request) -> bool:
        """Whether a refused request is now without the field that was refused, to be sent again. Nothing was billed."""
        feature = self._endpoint.learn_refusal(error, request.kind, request.body, request.plan)
        if feature == "ttl" and request.kind in _FOR_FIVE_MINUTES_TOO:
            request.plan, request.body = without_hours(request.plan, request.body)
        elif feature == "clearing":
            request.plan, request.body = without_clearing(request.plan, request.body)
        elif feature == "diagnostics":
            request.body = {name: value for name, value in request.body.items() if name != "diagnostics"}
        else:
            return False
        # Lifetimes count from the start of the request that is answered (docs/provider.md, 2).
        request.started = self._clock.now()
        return True

    def begun(self, request: Request) -> None:
        """The response begins: from now on what it writes can be read by others."""
        request.first_event = self._clock.now()
        self._under_way[request.id].is_answered = True

    @contextmanager
    def _among_others(self, request: Request) -> Iterator[None]:
        """Holds it among those under way, and tells it which of them have no answer yet."""
        assert request.is_counted, "nothing is sent that was not set against the budgets"
        request.others_unanswered = tuple(other for other in self._under_way.values() if not other.is_answered)
        own = self._under_way[request.id] = UnderWay(tuple(mark.point for mark in request.plan.marks))
        try:
            yield
        finally:
            own.has_failed = not own.is_answered
            del self._under_way[request.id]

    # -- writing down --

    def end(
        self,
        request: Request,
        conversation: Conversation,
        status: CallStatus,
        *,
        turn: str | None = None,
        reply: str | None = None,
        error: str | None = None,
    ) -> tuple[CallRecord, Call]:
        """It has ended: its row of the ledger, judged and priced; its span ends with it. Nothing is stored yet.

        `reply`: the entry that it made, which is no part of the history yet.
        """
        ended = self._clock.now()
        miss = judge(conversation, request, turn=turn) if request.kind in _JUDGED else None
        if status == "ok":
            cause = miss.cause if miss is not None else None
            self._endpoint.learn_answer(request.kind, request.body["model"], request.plan, request.incoming, cause)
        record = request.record(
            conversation.record.id,
            status,
            conversation.prompt,
            ended=ended,
            turn=turn,
            reply=reply,
            error=error,
            miss=miss,
        )
        call = Call.of(record, request.plan)
        end_call(request.span, call)
        return record, call

    def fail(
        self, request: Request, conversation: Conversation, error: BaseException, *, turn: str | None = None
    ) -> tuple[CallRecord, Call]:
        """It failed, or was cancelled: as `end`, with what it is known to have cost."""
        self._client.cut_short(request.incoming, conversation.prompt.profile, error)
        status: CallStatus = "error" if isinstance(error, Exception) else "cancelled"
        return self.end(request, conversation, status, turn=turn, error=without_words(error))

    @asynccontextmanager
    async def outside_of_turns(
        self, conversation: Conversation, kind: CallKind, plan: Plan, body: dict[str, Any], *, waited: float = 0.0,
        asked_from: str | None = None,
    ) -> AsyncIterator[Request]:  # fmt: skip
        """A request that belongs to no turn, to be sent inside: where it fails or is cancelled, that is stored too.

        Raises `BudgetExceeded`; then it is not sent.
        """
        head = conversation.head if asked_from is None else asked_from
        now = self._clock.now()
        request = Request(
            id=uuid.uuid4().hex, kind=kind, body=body, plan=plan, planned=now, asked_from=head, waited=waited
        )
        if (reservation := self.reservation(request, conversation)) is not None:
            await self._budgets.take(reservation, kind)
        try:
            self.start(request, conversation)
            yield request
        except BaseException as error:
            record, _ = self.fail(request, conversation, error)
            with anyio.CancelScope(shield=True):
                # It may have been paid for: the ledger has it also where its caller is cancelled.
                await self._store.record(record, conversation.settings_to_keep)
            raise
