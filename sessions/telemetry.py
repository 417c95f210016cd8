"""OpenTelemetry, where the application has set it up: a span for each turn and each call, and metrics of the cache.

Nothing is imported, started or counted before some provider is configured; then the global one is used, under the name
`warmline`. `gen_ai.*` names are those of the conventions for generative AI (November 2026) and of the span that the SDK
itself makes inside a call's. No words of a conversation go out, and no owner.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sessions.core.usage import Usage
from sessions.ledger import Call, total_cost
from storage import TurnRecord

if TYPE_CHECKING:
    from opentelemetry.metrics import Meter, MeterProvider
    from opentelemetry.trace import Span, Tracer, TracerProvider

SCOPE = "warmline"
_PROVIDER = {"gen_ai.provider.name": "anthropic"}
_SHARES = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0]
_INPUT = "gen_ai.client.inference.usage."


def start_turn(session: str, model: str, now: float) -> Span | None:
    """The span of a turn that begins at `now` (seconds since the epoch), inside the caller's; `None`: no tracing."""
    tracer = _tracer()
    if tracer is None:
        return None
    about = {"gen_ai.operation.name": "invoke_agent", "gen_ai.conversation.id": session, "gen_ai.request.model": model}
    return tracer.start_span("warmline.turn", attributes=_PROVIDER | about, start_time=_nanoseconds(now))


def end_turn(span: Span | None, row: TurnRecord, calls: Sequence[Call], now: float) -> None:
    """The turn is over for now: what its calls used and cost, and how it stands."""
    if span is None:
        return
    usage = sum((call.usage for call in calls), start=Usage())
    about = {
        "warmline.turn.id": row.id,
        "warmline.turn.number": row.sequence,
        "warmline.turn.state": row.state,
        "warmline.turn.calls": len(calls),
        "warmline.misses": sum(call.miss is not None for call in calls),
    }
    span.set_attributes(_of_usage(usage) | about)
    if (price := total_cost(calls)) is not None:
        span.set_attribute("warmline.cost", float(price))
    if row.stop_reason is not None:
        span.set_attribute("gen_ai.response.finish_reasons", [row.stop_reason])
    _fail(span, row.error)
    span.end(_nanoseconds(now))


def start_call(kind: str, session: str, body: Mapping[str, Any], now: float, parent: Span | None = None) -> Span | None:
    """The span of a model call, inside `parent` or the caller's own."""
    tracer = _tracer()
    if tracer is None:
        return None
    from opentelemetry.trace import set_span_in_context

    about = {
        "gen_ai.operation.name": "chat",
        "gen_ai.conversation.id": session,
        "gen_ai.request.model": body["model"],
        "gen_ai.request.max_tokens": body["max_tokens"],
        "warmline.call.kind": kind,
    }
    context = None if parent is None else set_span_in_context(parent)
    return tracer.start_span("warmline.call", context, attributes=_PROVIDER | about, start_time=_nanoseconds(now))


def end_call(span: Span | None, call: Call) -> None:
    """The call is in the ledger: its span ends and the metrics grow."""
    _measure(call)
    if span is None:
        return
    span.set_attributes(_of_usage(call.usage))
    known = {
        "warmline.call.id": call.id,
        "warmline.cost": None if call.cost is None else float(call.cost),
        "warmline.gate.wait": call.waited,
        "warmline.expected.cache_read": call.expected.cache_read if call.expected else None,
        "warmline.miss.cause": call.miss.cause if call.miss else None,
        "warmline.miss.tokens": call.miss.tokens if call.miss else None,
        "gen_ai.response.id": call.response_id,
        "gen_ai.response.finish_reasons": [call.stop_reason] if call.stop_reason else None,
        "anthropic.request.id": call.request_id,
    }
    span.set_attributes({name: value for name, value in known.items() if value is not None})
    _fail(span, call.error if call.status == "error" else None)
    span.end(None if call.ended is None else _nanoseconds(call.ended))


@contextmanager
def inside(span: Span | None) -> Iterator[None]:
    """What is started within is a child of this span; must not be held across a `yield` of ours."""
    if span is None:
        yield
        return
    from opentelemetry import context, trace

    token = context.attach(trace.set_span_in_context(span))
    try:
        yield
    finally:
        context.detach(token)


def _measure(call: Call) -> None:
    instruments = _instruments()
    if instruments is None:
        return
    usage, miss = call.usage, call.miss
    about = {
        **_PROVIDER,
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": call.model,
        "warmline.call.kind": call.kind,
    }
    counted = {**about, "gen_ai.token.modality": "unknown"}
    instruments["input"].add(usage.total_input, counted)
    instruments["read"].add(usage.cache_read, counted)
    instruments["written"].add(usage.cache_write_5m, {**counted, "warmline.cache.ttl": "5m"})
    instruments["written"].add(usage.cache_write_1h, {**counted, "warmline.cache.ttl": "1h"})
    instruments["output"].add(usage.output, counted)
    instruments["cost"].add(float(call.cost or 0), about)
    instruments["wait"].record(call.waited, about)
    if usage.total_input and usage.counters:
        instruments["rate"].record(usage.hit_rate, about)
    if miss is not None:
        why = {**about, "warmline.miss.cause": miss.cause}
        instruments["misses"].add(1, why)
        instruments["lost"].add(miss.tokens, why)
        instruments["lost_cost"].add(float(miss.cost or 0), why)


def _of_usage(usage: Usage) -> dict[str, Any]:
    return {
        "gen_ai.usage.input_tokens": usage.total_input,
        "gen_ai.usage.output_tokens": usage.output,
        "gen_ai.usage.cache_read.input_tokens": usage.cache_read,
        "gen_ai.usage.cache_write.input_tokens": usage.cache_write,
        "anthropic.usage.cache_creation.ephemeral_5m_input_tokens": usage.cache_write_5m,
        "anthropic.usage.cache_creation.ephemeral_1h_input_tokens": usage.cache_write_1h,
        "warmline.cache.hit_rate": usage.hit_rate,
    }


def _fail(span: Span, error: str | None) -> None:
    if error is None:
        return
    from opentelemetry.trace import Status, StatusCode

    span.set_status(Status(StatusCode.ERROR, error))


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)


def _tracer() -> Tracer | None:
    """The global tracer, where there is one that does something."""
    # Who has set it up has imported it: nobody else is to wait for its import.
    if "opentelemetry.trace" not in sys.modules:
        return None
    from opentelemetry import trace

    provider = trace.get_tracer_provider()
    # Until the application sets one, the global provider is OpenTelemetry's own stand-in.
    return None if type(provider).__module__ == "opentelemetry.trace" else _tracer_of(provider)


def _instruments() -> dict[str, Any] | None:
    """The metrics, where somebody collects them."""
    if "opentelemetry.metrics" not in sys.modules:
        return None
    from opentelemetry import metrics

    provider = metrics.get_meter_provider()
    return None if type(provider).__module__.startswith("opentelemetry.metrics") else _instruments_of(provider)


@functools.lru_cache(maxsize=4)
def _tracer_of(provider: TracerProvider) -> Tracer:
    return provider.get_tracer(SCOPE)


@functools.lru_cache(maxsize=4)
def _instruments_of(provider: MeterProvider) -> dict[str, Any]:
    meter: Meter = provider.get_meter(SCOPE)
    counters = {
        "input": (f"{_INPUT}input_tokens", "{token}", "Input tokens, cached ones included."),
        "read": (f"{_INPUT}cache_read.input_tokens", "{token}", "Input tokens that were read from the cache."),
        "written": (f"{_INPUT}cache_write.input_tokens", "{token}", "Input tokens that were written to the cache."),
        "output": (f"{_INPUT}output_tokens", "{token}", "Output tokens."),
        "cost": ("warmline.cost", "{USD}", "What calls cost, as far as prices are published."),
        "misses": ("warmline.misses", "{miss}", "Calls that lost cached tokens, by cause."),
        "lost": ("warmline.miss.tokens", "{token}", "Cached tokens that were billed again, by cause."),
        "lost_cost": ("warmline.miss.cost", "{USD}", "What misses added to the bill, by cause."),
    }
    wait, rate = "How long a call waited for another to write its prefix.", "The share of a call's input that was read."
    return {
        **{name: meter.create_counter(*about) for name, about in counters.items()},
        "wait": meter.create_histogram("warmline.gate.wait", "s", wait),
        "rate": meter.create_histogram(
            "warmline.cache.hit_rate", "1", rate, explicit_bucket_boundaries_advisory=_SHARES
        ),
    }
