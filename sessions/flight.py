"""A model call on its way: what is sent, what the plan expects of it, and how it is written down meanwhile."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sessions.core.cache import Where, text_of
from sessions.core.diagnosis import Miss
from sessions.core.incoming import Incoming
from sessions.core.plan import Mark, Plan
from sessions.core.prices import cost
from sessions.core.prompt import Prompt
from sessions.replies import usage_of
from storage import CallRecord
from storage.records import CallKind

_NOWHERE = Where("messages", 0, 0)


def read_marks(points: str) -> tuple[Mark, ...]:
    """The marks behind stored points; where in the request they stood is not kept."""
    return tuple(Mark(slot, _NOWHERE, ttl, point, tokens) for slot, point, ttl, tokens in json.loads(points))


if TYPE_CHECKING:
    from opentelemetry.trace import Span


@dataclass(slots=True)
class Takeoff:
    """What others need to know of a call: the points it marks, whether it was answered, whether it ended without."""

    points: tuple[str, ...]
    is_answered: bool = False
    has_failed: bool = False


@dataclass(slots=True)
class Flight:
    """A model call on its way. `beside`: the calls of this manager that had no answer yet when it started."""

    id: str
    body: dict[str, Any]
    plan: Plan
    planned: float
    asked_from: str | None
    prompt_tokens: int
    started: float = 0.0
    first_event: float | None = None
    beside: tuple[Takeoff, ...] = ()
    span: Span | None = None
    kind: CallKind = "turn"
    waited: float = 0.0

    @classmethod
    def restored(cls, stored: Mapping[str, Any], kind: CallKind) -> Flight:
        """A call that was written down by `stored`; its body is not kept."""
        expected = stored["expected"]
        plan = Plan(read_marks(stored["points"]), usage_of(expected), expected["hit"])
        return cls(stored["id"], {"model": stored["model"]}, plan, stored["started"], None, 0, kind=kind)

    @property
    def facts(self) -> dict[str, Any]:
        """What is written down of a call in flight."""
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
        """The call in flight, as the turn's row keeps it until the reply is there."""
        return text_of(self.facts)

    @property
    def points(self) -> str:
        """What is marked, as it is stored."""
        return text_of([[mark.slot, mark.point, mark.ttl, mark.tokens] for mark in self.plan.marks])

    @property
    def _expected(self) -> dict[str, Any]:
        """The usage that the plan expects."""
        usage = self.plan.expected
        return {
            "input": usage.input,
            "read": usage.cache_read,
            "write_5m": usage.cache_write_5m,
            "write_1h": usage.cache_write_1h,
            "counters": usage.counters,
            "hit": self.plan.hit,
        }

    def record(
        self, session: str, kind: Any, status: Any, incoming: Incoming, prompt: Prompt, *, ended: float,
        turn: str | None = None, reply: str | None = None, error: str | None = None, miss: Miss | None = None,
    ) -> CallRecord:  # fmt: skip
        """The call's row of the ledger, with what has arrived of its reply so far. `reply`: its entry, where kept."""
        usage, settings = incoming.usage, prompt.settings
        return CallRecord(
            self.id,
            session,
            kind,
            settings.model,
            self.started or self.planned,
            status,
            turn,
            reply or self.asked_from,
            self.first_event,
            ended,
            incoming.request_id,
            incoming.message_id,
            usage.input,
            usage.cache_read,
            usage.cache_write_5m,
            usage.cache_write_1h,
            usage.output,
            usage.counters and incoming.started,
            text_of(self._expected),
            cost(usage, prompt.profile, settings.params, batch=kind == "batch"),
            self.points,
            self.waited,
            stop_reason=incoming.stop_reason,
            miss=miss.to_json() if miss else None,
            error=error,
            prompt=prompt.settings_digest,
            miss_cause=miss.cause if miss else None,
            miss_tokens=miss.tokens if miss else None,
            miss_cost=miss.cost if miss else None,
            estimated=incoming.is_estimated,
        )


class Air:
    """The model calls of one manager that are under way."""

    def __init__(self) -> None:
        self._takeoffs: dict[str, Takeoff] = {}

    @contextmanager
    def flying(self, flight: Flight) -> Iterator[None]:
        """Holds the call among those under way, and tells it which of them have no answer yet."""
        flight.beside = tuple(one for one in self._takeoffs.values() if not one.is_answered)
        own = self._takeoffs[flight.id] = Takeoff(tuple(mark.point for mark in flight.plan.marks))
        try:
            yield
        finally:
            own.has_failed = not own.is_answered
            del self._takeoffs[flight.id]

    def begins(self, flight: Flight, now: float) -> None:
        """The call's response begins: from now on what it writes can be read."""
        flight.first_event = now
        self._takeoffs[flight.id].is_answered = True
