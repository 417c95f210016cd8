"""A program of the telemetry tests: sessions with OpenTelemetry set up, or not; prints what was exported, as JSON."""

from __future__ import annotations

import json
import sys
from typing import Any

import anyio

from sessions import Fixed, ModelError, SessionManager, tool
from sessions.simulator import Fault, Scripted, client, engine_of, filler
from sessions.testing import ManualClock

CONFIGURED, BACKEND = sys.argv[1], sys.argv[2]


def script(request: Any) -> Any:
    if request.text == "Fail":
        return Fault.http(529, "overloaded by 'the-secret'")
    if request.text == "Stop":
        return Scripted(filler(50), fault=Fault.cut(3))
    if request.text == "Look" and not request.results:
        return [{"type": "tool_use", "name": "look", "input": {"place": "here"}}]
    return "Fine."


@tool
def look(place: str) -> str:
    """Looks somewhere."""
    if CONFIGURED != "nothing":
        from opentelemetry import trace

        with trace.get_tracer("tool").start_as_current_span("look"):
            return place
    return place


async def scenario() -> None:
    clock = ManualClock()
    api = client(script, clock=clock, max_retries=0)
    async with SessionManager("sqlite://", client=api, clock=clock, ttl=Fixed("5m"), tend=False) as manager:
        session = await manager.create(
            id="s", model="claude-sonnet-5-5", max_tokens=500, system=filler(900), tools=[look]
        )
        await session.prewarm()
        await session.send("Look")
        engine_of(api).evict()
        await session.send("Again")
        for words in ("Fail", "Stop"):
            try:
                await session.send(words)
            except ModelError:
                continue
        async with session.stream("Hello") as stream:
            async for _ in stream:
                break
            await stream.cancel()
        await session.send("Hello")
        await session.compact()


def span_facts(span: Any, names: dict[int, str]) -> dict[str, Any]:
    parent = span.parent.span_id if span.parent else None
    return {
        "name": span.name,
        "parent": names.get(parent) if parent else None,
        "status": span.status.status_code.name,
        "said": span.status.description,
        "events": [str(dict(event.attributes)) for event in span.events],
        "scope": span.instrumentation_scope.name,
        "attributes": dict(span.attributes),
    }


def traced() -> dict[str, Any]:
    from opentelemetry import metrics, trace
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    if CONFIGURED in ("both", "traces"):
        trace.set_tracer_provider(provider)
    if CONFIGURED in ("both", "metrics"):
        metrics.set_meter_provider(MeterProvider([reader]))
    anyio.run(scenario, backend=BACKEND)
    spans = exporter.get_finished_spans()
    names = {span.context.span_id: span.name for span in spans}
    data = reader.get_metrics_data() if CONFIGURED in ("both", "metrics") else None
    found = [one for scope in data.resource_metrics[0].scope_metrics for one in scope.metrics] if data else []
    return {
        "spans": [span_facts(span, names) for span in spans],
        "metrics": {one.name: [point_facts(point) for point in one.data.data_points] for one in found},
    }


def point_facts(point: Any) -> dict[str, Any]:
    value = getattr(point, "value", None)
    return {"value": point.sum if value is None else value, "attributes": dict(point.attributes)}


if __name__ == "__main__":
    if CONFIGURED == "nothing":
        anyio.run(scenario, backend=BACKEND)
        loaded = sorted(name for name in sys.modules if name.startswith("opentelemetry.sdk"))
        sys.stdout.write(json.dumps({"spans": [], "metrics": {}, "loaded": loaded}))
    else:
        sys.stdout.write(json.dumps(traced()))
