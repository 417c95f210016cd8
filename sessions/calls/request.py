"""One paid request to the model, of whatever kind: under way, judged, and written down as a row of the ledger."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import anyio

from sessions.background import log
from sessions.calls.budgets import Budgets
from sessions.clock import Clock
from sessions.conversation.conversation import Conversation
from sessions.core.asked_again import without_clearing, without_hours
from sessions.core.cache import text_of
from sessions.core.cleared import applied
from sessions.core.diagnosis import Asked, Miss, Past, diagnose, reason_of, was_edited
from sessions.core.incoming import Incoming
from sessions.core.plan import Plan
from sessions.core.prices import cost
from sessions.core.prompt import Prompt
from sessions.errors import ModelError, without_words
from sessions.ledger import Call, marks_of, usage_of
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


@dataclass(slots=True)
class _UnderWay:
    """What others need to know of a request: the points it marks, whether it was answered, whether it ended without."""

    points: tuple[str, ...]
    is_answered: bool = False
    has_failed: bool = False


@dataclass(slots=True)
class Request:
    """A request to the model: what is sent, what its plan expects, and what has come of it.

    `planned`, `started` and `first_event` are seconds since the epoch, `waited` seconds at the gate. `asked_from`: the
    head when it was planned. `others_unanswered`: the requests of this manager that had no answer yet when it started.
    """

    id: str
    kind: CallKind
    body: dict[str, Any]
    plan: Plan
    planned: float
    asked_from: str | None
    waited: float = 0.0
    started: float = 0.0
    first_event: float | None = None
    others_unanswered: tuple[_UnderWay, ...] = ()
    incoming: Incoming = field(default_factory=Incoming)
    span: Span | None = None
    is_counted: bool = False
    """Whether it was set against the budgets."""

    @classmethod
    def restored(cls, stored: Mapping[str, Any], kind: CallKind) -> Request:
        """One that was written down as `facts`; its body is not kept."""
        expected = stored["expected"]
        marks = marks_of(json.loads(stored["points"]))
        plan = Plan(marks, usage_of(expected), expected["hit"], cleared=expected.get("cleared"))
        return cls(
            id=stored["id"],
            kind=kind,
            body={"model": stored["model"]},
            plan=plan,
            planned=stored["started"],
            asked_from=None,
        )

    @property
    def facts(self) -> dict[str, Any]:
        """What is written down of it before it is sent."""
        return {
            "id": self.id,
            "model": self.body["model"],
            "started": self.planned,
            "expected": self._expected,
            "points": self.points,
            "waited": self.waited,
        }

    @property
    def stored(self) -> str:
        """The request in flight, as the turn's row keeps it until the reply is there."""
        return text_of(self.facts)

    @property
    def points(self) -> str:
        """What is marked, as it is stored."""
        return text_of([[mark.slot, mark.point, mark.ttl, mark.tokens] for mark in self.plan.marks])

    @property
    def _expected(self) -> dict[str, Any]:
        """The usage that the plan expects."""
        usage, plan = self.plan.expected, self.plan
        summary = {"summarized": plan.summarized, "saves": plan.saves and str(plan.saves)} if plan.summarized else {}
        return {
            **summary,
            **self._clearing,
            "input": usage.input,
            "read": usage.cache_read,
            "write_5m": usage.cache_write_5m,
            "write_1h": usage.cache_write_1h,
            "counters": usage.counters,
            "hit": self.plan.hit,
        }

    @property
    def _clearing(self) -> dict[str, Any]:
        """The tool results that are cleared, where any are, and what the API has said of it."""
        plan = self.plan
        if not plan.cleared:
            return {}
        told: dict[str, Any] = {"cleared": plan.cleared, "cleared_tokens": applied(self.incoming.message)[1]}
        if (new := plan.clearing) is not None:
            told |= {"clearing": new.results, "price": str(new.price), "saves": str(new.saves)}
        return told

    def record(
        self,
        session: str,
        status: CallStatus,
        prompt: Prompt,
        *,
        ended: float,
        turn: str | None = None,
        reply: str | None = None,
        error: str | None = None,
        miss: Miss | None = None,
    ) -> CallRecord:
        """Its row of the ledger, with what has arrived of its reply so far. `reply`: its entry, where kept."""
        incoming, settings = self.incoming, prompt.settings
        usage = incoming.usage
        return CallRecord(
            id=self.id,
            session=session,
            kind=self.kind,
            model=settings.model,
            # A request that was restored was sent by another process: all that is known is when it was planned.
            started=self.started or self.planned,
            status=status,
            turn=turn,
            entry=reply or self.asked_from,
            first_event=self.first_event,
            ended=ended,
            request_id=incoming.request_id,
            response_id=incoming.message_id,
            input=usage.input,
            cache_read=usage.cache_read,
            cache_write_5m=usage.cache_write_5m,
            cache_write_1h=usage.cache_write_1h,
            output=usage.output,
            # Counters that have not come are no zeros.
            counters=usage.counters and incoming.started,
            expected=text_of(self._expected),
            cost=cost(usage, prompt.profile, settings.params, batch=self.kind == "batch"),
            points=self.points,
            waited=self.waited,
            stop_reason=incoming.stop_reason,
            miss=miss.to_json() if miss else None,
            error=error,
            prompt=prompt.settings_digest,
            miss_cause=miss.cause if miss else None,
            miss_tokens=miss.tokens if miss else None,
            miss_cost=miss.cost if miss else None,
            estimated=incoming.is_estimated,
        )


class Requests:
    """The requests of one manager: every one of them is sent, judged and written down here.

    So it is here, too, that an endpoint's refusals and answers are learnt, and that a request which was refused for a
    field that can be left out is sent again without it.
    """

    def __init__(self, client: ModelClient, endpoint: Endpoint, store: Store, clock: Clock, budgets: Budgets) -> None:
        self._client, self._endpoint, self._store, self._clock = client, endpoint, store, clock
        self._budgets = budgets
        self._under_way: dict[str, _UnderWay] = {}

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
        own = self._under_way[request.id] = _UnderWay(tuple(mark.point for mark in request.plan.marks))
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


def judge(conversation: Conversation, request: Request, *, turn: str | None = None) -> Miss | None:
    """What it lost of the cache, or `None`; before its reply is added to the history, and before it is learnt.

    An error in the diagnosis is logged; it never fails the turn.
    """
    try:
        miss = _miss(conversation, request, turn)
    except Exception:
        log.exception("call %s of session %s could not be judged", request.id, conversation.record.id)
        return None
    if miss is not None:
        log.info("session %s: %s (%s)", conversation.record.id, miss.sentence, miss.cause)
    return miss


def _miss(conversation: Conversation, request: Request, turn: str | None) -> Miss | None:
    incoming = request.incoming
    # Before the answer begins nothing is said of the cache (docs/provider.md, 12).
    if request.first_event is None or not incoming.started:
        return None
    prompt, started = conversation.prompt, request.started or request.planned
    asked = Asked(
        prompt=prompt,
        points=tuple(mark.point for mark in request.plan.marks),
        usage=incoming.usage,
        started=started,
        first_event=request.first_event,
        turn=turn,
        latest=max([call.started for call in conversation.recent.trail.calls], default=0.0),
        reason=reason_of(incoming.message),
        # What is cleared here stays the same until more is: it explains nothing.
        edited=was_edited(incoming.message) and not prompt.cleared,
        beside=tuple(other.points for other in request.others_unanswered if not other.has_failed),
    )
    past = conversation.recent.trail.before(prompt, started, lambda entry: _is_on_chain(conversation, entry))
    if past is not None and _cleared_since(conversation, past):
        past = replace(past, covered=min(past.covered, request.plan.expected.cache_read))
    return diagnose(asked, past, lambda call: _prompt_of(conversation, call))


def _cleared_since(conversation: Conversation, past: Past) -> bool:
    """Whether more tool results are cleared now than when that call was made: then what stands behind the first of them
    is written anew, as planned."""
    settings, prompt = conversation.recent.settings.get(past.settings or ""), conversation.prompt
    return (
        bool(prompt.cleared)
        and past.settings != prompt.settings_digest
        and (settings is None or settings.cleared != conversation.settings.cleared)
    )


def _is_on_chain(conversation: Conversation, entry: str | None) -> bool:
    """Whether a call with this entry belongs to the present chain; `None`: one made before the first message."""
    if entry is None:
        return all(entry.role != "assistant" for entry in conversation.entries)
    return conversation.position(entry) > 0


def _prompt_of(conversation: Conversation, past: Past) -> Prompt | None:
    """The prompt of an earlier call on this chain; `None` if its settings are not known."""
    settings = conversation.recent.settings.get(past.settings or "")
    if settings is None:
        return None
    count = max(0, conversation.position(past.entry))
    if count and conversation.entries[count - 1].call == past.id:
        count -= 1  # the entry is the reply that the call made
    return conversation.new_prompt(settings, conversation.entries[:count])
