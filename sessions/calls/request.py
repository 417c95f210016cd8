"""One paid request to the model, of whatever kind, as a value: what is sent, what its plan expects, its ledger row."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sessions.core.cache import text_of
from sessions.core.cleared import applied
from sessions.core.diagnosis import Miss
from sessions.core.incoming import Incoming
from sessions.core.plan import Plan
from sessions.core.prices import cost
from sessions.core.prompt import Prompt
from sessions.ledger import marks_of, usage_of
from storage import CallRecord
from storage.records import CallKind, CallStatus

if TYPE_CHECKING:
    from opentelemetry.trace import Span


@dataclass(slots=True)
class UnderWay:
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
    others_unanswered: tuple[UnderWay, ...] = ()
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
