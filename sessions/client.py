"""One way to call the model: always a stream beneath, content built from raw events, every failure a `ModelError`.

The SDK takes half a second to import, so it is imported where it is needed: who only reads never pays for it.

Retries are the SDK's business. Zero-token requests are the exception that does not stream: the API refuses it there.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
from opentelemetry import trace
from pydantic_core import from_json

from sessions.core.body import encode_body
from sessions.core.incoming import Incoming
from sessions.core.profiles import Profile
from sessions.core.transcript import shown
from sessions.errors import ConfigurationError, ContextFull, ModelError, SessionsError

if TYPE_CHECKING:
    from anthropic import APIStatusError
    from anthropic.types import RawMessageStreamEvent

BETA_FIELDS = frozenset(
    {"betas", "context_management", "compaction", "mcp_servers", "fallbacks", "billing_policy", "fallback_credit_token"}
)
_ENCODABLE = frozenset(
    {
        "betas",
        "cache_control",
        "compaction",
        "container",
        "context_management",
        "diagnostics",
        "inference_geo",
        "max_tokens",
        "messages",
        "metadata",
        "model",
        "output_config",
        "service_tier",
        "speed",
        "stop_sequences",
        "system",
        "thinking",
        "tool_choice",
        "tools",
    }
)
"""Arguments of the SDK's `create` that go into the body as they are, and `betas` (a test compares the requests)."""
_TOO_LONG = ("prompt is too long", "context limit", "context length", "context size", "context window")
"""How the API and compatible servers say that the input alone does not fit (a 400)."""
_CLIENTS = "AsyncAnthropic, AsyncAnthropicBedrock, AsyncAnthropicVertex, AsyncAnthropicFoundry, …"
_NO_KEY = (
    "no API key: set ANTHROPIC_API_KEY (or pass client=AsyncAnthropic(api_key=…)), "
    "or try it without a key with client=sessions.simulator.client()"
)


class ModelClient:
    """Calls the model through any of the SDK's async clients; `None` makes `AsyncAnthropic()` at the first call."""

    def __init__(self, client: Any = None) -> None:
        if client is not None and not (hasattr(client, "messages") and hasattr(client, "base_url")):
            raise ConfigurationError(f"client must be one of the SDK's async clients ({_CLIENTS}), not {shown(client)}")
        if client is not None and _is_blocking(client):
            raise ConfigurationError("client must be async: use AsyncAnthropic instead of Anthropic")
        self._client = client
        self._warned: set[tuple[str, Any]] = set()  # models, with a kind of thinking, that `create` has seen

    @property
    def base_url(self) -> str | None:
        """Where requests go, or `None` for the SDK's default."""
        return str(self._client.base_url) if self._client is not None else None

    @property
    def characters_per_token(self) -> float | None:
        """How the endpoint counts tokens, where that is known exactly: the simulator's transport tells it."""
        transport = getattr(getattr(self._client, "_client", None), "_transport", None)
        found: float | None = getattr(transport, "characters_per_token", None)
        return found

    @property
    def sdk(self) -> Any:
        """The SDK's client. Raises `ConfigurationError` where there is no key."""
        if self._client is None:
            import anthropic

            try:
                self._client = anthropic.AsyncAnthropic()
            except (anthropic.AnthropicError, ValueError) as error:
                raise ConfigurationError(_NO_KEY) from error
        return self._client

    def cut_short(self, incoming: Incoming, profile: Profile, error: BaseException | None = None) -> None:
        """An answer ends early: notes how long it is by what has come, and the request's id where the error has it."""
        incoming.request_id = incoming.request_id or getattr(error, "request_id", None)
        incoming.estimate_output(self.characters_per_token or profile.characters_per_token)

    def check_params(self, params: Mapping[str, Any]) -> None:
        """Raises `ConfigurationError` for a request field that the SDK does not have."""
        if not params:
            return
        import anthropic

        known = set(inspect.signature(anthropic.resources.beta.messages.AsyncMessages.create).parameters)
        if unknown := sorted(set(params) - known):
            raise ConfigurationError(
                f"params has {unknown[0]!r}, which is no request field of the SDK: put it in params={{'extra_body': …}}"
            )

    async def _create(self, body: Mapping[str, Any], **stream: bool) -> Any:
        """The SDK's `create`; where that would only wrap the body up, a body whose old messages are encoded already."""
        thinking = body.get("thinking") or {}
        beta = bool(BETA_FIELDS & set(body) or "block_binding" in thinking)
        subject = (body["model"], thinking.get("type"))
        content = self._encoded({**body, **stream}) if subject in self._warned else None
        if content is None:
            return await self._through_create(self.sdk.beta if beta else self.sdk, subject, {**body, **stream})
        from anthropic import AsyncStream
        from anthropic.types import Message, RawMessageStreamEvent
        from anthropic.types.beta import BetaMessage, BetaRawMessageStreamEvent

        events: Any = BetaRawMessageStreamEvent if beta else RawMessageStreamEvent
        headers = {"anthropic-beta": ",".join(body["betas"])} if "betas" in body else {}
        return await self.sdk.post(
            "/v1/messages",
            cast_to=BetaMessage if beta else Message,
            content=content,
            options={"headers": headers},
            stream=bool(stream),
            stream_cls=AsyncStream[events],
        )

    async def _through_create(self, resource: Any, subject: tuple[str, Any], body: Mapping[str, Any]) -> Any:
        """`create` warns of models that end soon, and only it knows which: it sees the first request of each."""
        self._warned.add(subject)
        try:
            return await resource.messages.create(**body)
        except Warning:  # `python -W error`: the next request is refused too
            self._warned.discard(subject)
            raise

    def _encoded(self, body: Mapping[str, Any]) -> bytes | None:
        """The body in bytes, or `None` where `create` must see it.

        Other platforms rewrite it, middleware and tracing look into it, and some arguments are headers.
        """
        from anthropic import AsyncAnthropic

        sdk = self.sdk
        if type(sdk) is not AsyncAnthropic or sdk.middleware or _is_traced(sdk):
            return None
        if not set(body) <= _ENCODABLE | {"stream"}:
            return None
        try:
            return encode_body({name: value for name, value in body.items() if name != "betas"})
        except (TypeError, ValueError):
            return None  # some value that only the SDK can encode

    @asynccontextmanager
    async def stream(self, body: Mapping[str, Any], incoming: Incoming) -> AsyncIterator[AsyncIterator[Any]]:
        """Opens the stream; iterating it yields the SDK's events and feeds `incoming`.

        Raises `ModelError`, or `ConfigurationError` without a key.
        """
        with translated():
            events = await self._create(body, stream=True)
        incoming.request_id = request_id_in(events.response.headers)
        try:
            async with aclosing(_events(events, incoming)) as drawn:
                yield drawn
        finally:
            await _close(events)

    async def send(self, body: Mapping[str, Any]) -> tuple[dict[str, Any], str | None]:
        """A request that does not stream (zero tokens): the message as a dict, and the request's id."""
        with translated():
            message = await self._create(body)
        return message.model_dump(mode="json", exclude_unset=True, by_alias=True), message._request_id


def _is_traced(sdk: Any) -> bool:
    """Whether somebody collects the SDK's OpenTelemetry spans, or a request belongs to a span of the application."""
    tracer = sdk._tracer
    if tracer is None:
        return False
    unset = isinstance(tracer, trace.ProxyTracer) and isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
    return not unset or trace.get_current_span().get_span_context().is_valid


async def _events(events: Any, incoming: Incoming) -> AsyncGenerator[RawMessageStreamEvent]:
    recorder = events._decoder = _Recorder(events._decoder)
    source = events._iter_events()
    events._iter_events = lambda: source  # where an error event comes, the SDK leaves it half-way: `_close` unwinds it
    with translated(incoming.request_id):
        while (event := await anext(events, None)) is not None:
            incoming.feed(_read(recorder.data))
            yield event


def _read(text: str) -> Any:
    """An event's JSON. Both readers give the same; the first is three times as fast."""
    try:
        return from_json(text)
    except (TypeError, ValueError):  # it takes 200 levels, and no half of a surrogate pair
        return json.loads(text)


class _Recorder:
    """Stands before the stream's decoder and keeps the raw text of the event that is being given out.

    The SDK's typed events have their keys in another order than they came; what is stored keeps the order received.
    """

    def __init__(self, decoder: Any) -> None:
        self._decoder = decoder
        self.data = "{}"

    async def aiter_bytes(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[Any]:
        async with aclosing(self._decoder.aiter_bytes(chunks)) as decoded:
            async for event in decoded:
                self.data = event.data
                yield event


async def _close(events: Any) -> None:
    """Closes a stream, read to its end or not. Generators inside it that were left half-way are unwound here.

    A cancelled scope makes the next wait inside them raise; only what has arrived already can still come out.
    """
    source = events.__dict__.get("_iter_events")
    with anyio.CancelScope(shield=True):
        await _quietly(events.close)
        if source is not None and _is_read(source()) and _is_read(events.__dict__.get("_iterator")):
            return
        await _quietly(partial(_unwind, events))
        if source is not None:
            await _quietly(partial(_unwind, source()))


def _is_blocking(client: Any) -> bool:
    from anthropic import Anthropic

    return isinstance(client, Anthropic)


def _is_read(generator: Any) -> bool:
    """Whether a generator has come to its end: nothing is left to unwind, which takes longer than all the rest."""
    return getattr(generator, "ag_frame", ...) is None


async def _unwind(left: AsyncIterator[Any]) -> None:
    with anyio.CancelScope() as unwinding:
        unwinding.cancel()
        while await anext(left, None) is not None:
            continue


async def _quietly(work: Callable[[], Awaitable[None]]) -> None:
    from anthropic import AnthropicError

    try:
        await work()
    except Exception as error:  # a broken connection may fail to close; what it delivered has been kept
        if not is_connection_trouble(error) and not isinstance(error, AnthropicError | ValueError):
            raise


@contextmanager
def translated(request_id: str | None = None) -> Iterator[None]:
    """Whatever the SDK or its HTTP library raises becomes a `ModelError` (much of it is no `APIError`).

    A warning that the user has made an error (`python -W error`) is not the model's failure and stays what it is.
    """
    try:
        yield
    except (SessionsError, Warning):
        raise
    except Exception as error:
        if isinstance(error, TypeError) and "authentication method" in str(error):
            raise ConfigurationError(_NO_KEY) from error
        if getattr(error, "is_of_script", False):  # of the simulator, which need not be loaded
            raise ConfigurationError(f"{error}; correct the script, then resume() asks again") from error.__cause__
        raise model_error(error, request_id) from error


def is_connection_trouble(error: BaseException) -> bool:
    """Whether the connection failed, as opposed to the API refusing: worth another try."""
    from anthropic import APIConnectionError

    library = type(error).__module__.partition(".")[0]
    return isinstance(error, APIConnectionError | OSError) or library in (
        "httpx2",
        "httpcore2",
        "httpx",
        "h11",
    )


def model_error(error: Exception, request_id: str | None = None) -> ModelError:
    """Says in one sentence what failed, who should act, and whether trying again can help."""
    from anthropic import APIStatusError

    if isinstance(error, APIStatusError):
        status = error.status_code
        retryable = status in (408, 409, 429) or status >= 500 or status == 200
        found = _request_id_of(error) or request_id
        is_full = status == 400 and any(word in error.message.lower() for word in _TOO_LONG)
        if is_full:
            advice = "compact() makes room, or go back to an earlier entry with rewind() or fork(at=…)"
        else:
            advice = "try again later: resume() goes on" if retryable else "correct the request"
        kind = " ".join([f"the API answered {status}", *api_type(getattr(error, "type", None)), f"({advice})"])
        text = f"the API answered {status}: {error.message} ({advice})"
        made = ContextFull if is_full else ModelError
        return made(text, retryable=retryable, request_id=found, kind=kind)
    failed = "the connection failed" if is_connection_trouble(error) else "the answer could not be read"
    name, advice = type(error).__name__, "resume() asks again"
    return ModelError(
        f"{failed} ({name}: {error}); {advice}",
        retryable=True,
        request_id=request_id,
        kind=f"{failed} ({name}); {advice}",
    )


def api_type(kind: Any) -> list[str]:
    """The API's word for an error, such as `overloaded_error`; a gateway may put anything there."""
    return [kind] if isinstance(kind, str) and re.fullmatch(r"[a-z_]{1,60}", kind) else []


def _request_id_of(error: APIStatusError) -> str | None:
    """The id by which the API knows the request: from a header, or from the body where a gateway lost that."""
    body = error.body if isinstance(error.body, Mapping) else {}
    found = error.request_id or request_id_in(error.response.headers) or body.get("request_id")
    return str(found) if found else None


def request_id_in(headers: Mapping[str, str]) -> str | None:
    """The request's id in the headers of a response: the API's, else the one that most gateways give."""
    return headers.get("request-id") or headers.get("x-request-id")


def reason_of(error: ModelError) -> str:
    """The API's own sentence behind a `ModelError`, without the SDK's words around it."""
    from anthropic import APIStatusError

    cause = error.__cause__
    if not isinstance(cause, APIStatusError):
        return str(error)
    found = cause.body.get("error") if isinstance(cause.body, Mapping) else None
    message = found.get("message") if isinstance(found, Mapping) else None
    return str(message or cause.message)


def status_of(error: ModelError) -> int | None:
    """The HTTP status behind a `ModelError`, or `None`."""
    from anthropic import APIStatusError

    cause = error.__cause__
    return cause.status_code if isinstance(cause, APIStatusError) else None


def is_refused(error: ModelError) -> bool:
    """The API refused the request itself (400, 413), and its content can be the cause, not the account."""
    if status_of(error) not in (400, 413):
        return False
    text = str(error).lower()
    return not any(word in text for word in ("credit balance", "billing", "workspace"))


def belongs_elsewhere(error: ModelError) -> bool:
    """The API refused thinking that is bound to another prefix (preserved-thinking page, September 2026)."""
    return status_of(error) == 400 and "bound to a different conversation" in str(error)
