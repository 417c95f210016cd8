"""A request whose body we encode ourselves is the request that the SDK's own `create` sends."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import httpx2
import pytest
from opentelemetry import trace

from sessions.core.body import Message
from sessions.core.incoming import Incoming
from sessions.errors import ModelError
from sessions.model.client import ENCODABLE, ModelClient, encoded

WORDS = [Message(role="user", content=[{"type": "text", "text": 'Grüße, "" \\ / – 你好 \x7f 1.0'}])]
PLAIN: dict[str, Any] = {"model": "claude-sonnet-5-5", "max_tokens": 10, "messages": WORDS, "system": [], "tools": []}
MORE = {
    "thinking": {"type": "adaptive"},
    "diagnostics": {"previous_message_id": None},
    "stop_sequences": ["x"],
    "metadata": {"user_id": "é"},
    "output_config": {"effort": "low"},
    "service_tier": "auto",
    "tool_choice": {"type": "auto"},
    "container": "c",
    "inference_geo": "us",
    "speed": "fast",
    "cache_control": {"type": "ephemeral"},
}
BETA = {"betas": ["a-2026-01-01", "b-2026-01-01"], "context_management": {"edits": []}}


class Kept(httpx2.AsyncBaseTransport):
    """Refuses every request and keeps it."""

    def __init__(self) -> None:
        self.requests: list[httpx2.Request] = []

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        await request.aread()
        self.requests.append(request)
        return httpx2.Response(400, json={"type": "error", "error": {"type": "invalid_request_error", "message": "no"}})


def sdk(kept: Kept, **options: Any) -> anthropic.AsyncAnthropic:
    client = httpx2.AsyncClient(transport=kept)
    return anthropic.AsyncAnthropic(api_key="k", http_client=client, default_query={"q": "1"}, **options)


def parts(request: httpx2.Request) -> tuple[Any, ...]:
    """What goes over the wire. Beside `create`, a request that does not stream keeps the client's own timeout."""
    left_out = {"content-length", "x-stainless-timeout"}
    headers = {name: value for name, value in request.headers.items() if name not in left_out}
    return request.method, str(request.url), headers, json.loads(request.content)


@pytest.mark.parametrize(
    "body",
    [
        PLAIN,
        PLAIN | MORE,
        PLAIN | BETA,
        PLAIN | MORE | BETA,
        PLAIN | {"context_management": {}},
        PLAIN | {"betas": ["x"], "compaction": {"type": "summarize"}},
        PLAIN | {"thinking": {"type": "adaptive", "block_binding": {}}},
        PLAIN | {"betas": []},
    ],
    ids=lambda body: "+".join(sorted(set(body) - set(PLAIN))) or "plain",
)
@pytest.mark.parametrize("stream", [True, False])
async def test_is_the_request_of_create(body: dict[str, Any], stream: bool) -> None:
    kept = Kept()
    client = sdk(kept, default_headers={"anthropic-beta": "mine", "x-mine": "1"})
    model = ModelClient(client)
    assert encoded(client, body) is not None
    for _ in range(2):  # `create` sees the first one
        with pytest.raises(ModelError):
            await ask(model, body, stream)
    place = (
        client.beta.messages if {*BETA, "compaction"} & set(body) or "block_binding" in str(body) else client.messages
    )
    with pytest.raises(anthropic.BadRequestError):
        await place.create(**body, **({"stream": True} if stream else {}))
    first, ours, theirs = kept.requests
    assert first.content == theirs.content == ours.content  # byte for byte, whichever way it goes
    assert parts(ours) == parts(theirs)


async def ask(model: ModelClient, body: dict[str, Any], stream: bool = True) -> None:
    if stream:
        async with model.stream(body, Incoming()):
            pass
    else:
        await model.send(body)


OLD = PLAIN | {"model": "claude-sonnet-4-5"}
ENABLED = PLAIN | {"model": "claude-opus-4-6", "thinking": {"type": "enabled", "budget_tokens": 1024}}


@pytest.mark.parametrize(("body", "words"), [(OLD, "is deprecated"), (ENABLED, "thinking.type=enabled")])
async def test_the_sdk_says_what_it_has_to_say_of_a_model(body: dict[str, Any], words: str) -> None:
    """Also of a model or a kind of thinking that comes later in the life of the client; an error stays one."""
    kept = Kept()
    model = ModelClient(sdk(kept))
    with pytest.raises(ModelError):
        await ask(model, PLAIN | {"model": body["model"]} if body is ENABLED else PLAIN)
    for _ in range(2):
        with pytest.raises(Warning, match=words):
            await ask(model, body)
    assert len(kept.requests) == 1


def test_every_argument_that_is_encoded_is_one_of_the_bodies_above() -> None:
    assert set(PLAIN | MORE | BETA | {"compaction": 0}) == ENCODABLE


async def _through(request: Any, call_next: Any) -> Any:
    return await call_next(request)


class Rewriting(anthropic.AsyncAnthropic):
    """A client of another platform, which may rewrite the body."""


@pytest.mark.parametrize(
    ("options", "more"),
    [
        ({"middleware": [_through]}, {}),
        ({}, {"extra_body": {"temperature": 0}}),
        ({}, {"extra_headers": {"x": "1"}}),
        ({}, {"user_profile_id": "u"}),
        ({}, {"metadata": anthropic.omit}),
    ],
)
async def test_leaves_to_create_what_is_more_than_a_body(options: dict[str, Any], more: dict[str, Any]) -> None:
    kept = Kept()
    client = sdk(kept, **options)
    model, body = ModelClient(client), PLAIN | more
    assert encoded(client, body) is None
    with pytest.raises(ModelError):
        async with model.stream(body, Incoming()):
            pass
    with pytest.raises(anthropic.BadRequestError):
        await (client.beta if "user_profile_id" in more else client).messages.create(**body, stream=True)
    ours, theirs = kept.requests
    assert parts(ours) == parts(theirs)


async def test_leaves_to_create_what_is_traced() -> None:
    client = sdk(Kept())
    context = trace.SpanContext(trace_id=1, span_id=1, is_remote=False, trace_flags=trace.TraceFlags(1))
    with trace.use_span(trace.NonRecordingSpan(context)):
        assert encoded(client, PLAIN) is None
    assert encoded(client, PLAIN) is not None
    collected = sdk(Kept(), open_telemetry={"tracer_provider": trace.NoOpTracerProvider()})
    assert encoded(collected, PLAIN) is None
    silent = sdk(Kept(), open_telemetry={"traces": {"enabled": False}})
    assert encoded(silent, PLAIN) is not None


def test_leaves_another_client_to_itself() -> None:
    client = Rewriting(api_key="k")
    assert encoded(client, PLAIN) is None
    assert encoded(anthropic.AsyncAnthropic(api_key="k"), PLAIN) is not None
