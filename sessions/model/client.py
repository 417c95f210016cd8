"""One way to call the model: always a stream beneath, content built from raw events, every failure a `ModelError`.

The SDK takes half a second to import, so it is imported where it is needed: who only reads never pays for it.

Retries are the SDK's business. Zero-token requests are the exception that does not stream: the API refuses it there.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from typing import Any, Protocol, runtime_checkable

from opentelemetry import trace

from sessions.core.body import encode_body
from sessions.core.incoming import Incoming
from sessions.core.profiles import Profile
from sessions.core.transcript import shown
from sessions.errors import ConfigurationError
from sessions.model.failures import NO_KEY, organization_in, request_id_in, translated
from sessions.model.raw_stream import EventStream, typed_event

BETA_FIELDS = frozenset(
    {"betas", "context_management", "compaction", "mcp_servers", "fallbacks", "billing_policy", "fallback_credit_token"}
)
ENCODABLE = frozenset(
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
_CLIENTS = "AsyncAnthropic, AsyncAnthropicBedrock, AsyncAnthropicVertex, AsyncAnthropicFoundry, …"


@runtime_checkable
class MessagesAPI(Protocol):
    """What a conversation asks of the Messages API: the seam for another SDK than Anthropic's.

    Whatever fails is raised as `ModelError` or one of its kinds; a missing key as `ConfigurationError`.
    """

    @property
    def base_url(self) -> str | None:
        """Where requests go, or `None` for Anthropic's own API."""
        ...

    def stream(
        self, body: Mapping[str, Any], incoming: Incoming, *, typed: bool = False
    ) -> AbstractAsyncContextManager[AsyncIterator[Any]]:
        """Sends the request on entry. Iterating feeds each raw event to `incoming` before it is given out.

        `body`: fields of `POST /v1/messages`, and `betas`. `typed`: somebody reads the events, as objects whose fields
        are attributes (`event.type`, `event.delta.text`); otherwise they only have to be there, one after the other.
        Sets `incoming.request_id`, and `incoming.organization` where the answer names one. Leaving it, also half-way,
        closes the connection.
        """
        ...

    async def send(self, body: Mapping[str, Any]) -> tuple[dict[str, Any], str | None]:
        """A request that does not stream (zero tokens): the message as a dict, and the request's id."""
        ...


class SDKMessages:
    """The Messages API through any of the SDK's async clients; `None` makes `AsyncAnthropic()` at the first call."""

    def __init__(self, client: Any = None) -> None:
        self._client = client
        self._warned: set[tuple[str, Any]] = set()  # models, with a kind of thinking, that `create` has seen
        self._url: tuple[Any, str] | None = None

    @property
    def base_url(self) -> str | None:
        """Where requests go, or `None` for the SDK's default."""
        if self._client is None:
            return None
        url = self._client.base_url
        # Asked many times a turn, and seldom another: the text is made once.
        if self._url is None or self._url[0] is not url:
            self._url = url, str(url)
        return self._url[1]

    @property
    def sdk(self) -> Any:
        """The SDK's client. Raises `ConfigurationError` where there is no key."""
        if self._client is None:
            import anthropic

            try:
                self._client = anthropic.AsyncAnthropic()
            except (anthropic.AnthropicError, ValueError) as error:
                raise ConfigurationError(NO_KEY) from error
        return self._client

    @asynccontextmanager
    async def stream(
        self, body: Mapping[str, Any], incoming: Incoming, *, typed: bool = False
    ) -> AsyncIterator[AsyncIterator[Any]]:
        """See `MessagesAPI.stream`; typed events are the SDK's."""
        beta = is_beta(body)
        with translated():
            stream = await self._create(body, beta=beta, stream=True)
        # Before anything is read, so that an error inside the stream names it too.
        incoming.request_id = request_id_in(stream.response.headers)
        incoming.organization = organization_in(stream.response.headers)
        raw = EventStream(stream, self.sdk, beta=beta)
        try:
            async with aclosing(_fed(raw, incoming, typed=typed, beta=beta)) as events:
                yield events
        finally:
            await raw.close()

    async def send(self, body: Mapping[str, Any]) -> tuple[dict[str, Any], str | None]:
        """See `MessagesAPI.send`."""
        with translated():
            message = await self._create(body, beta=is_beta(body))
        request_id = message._request_id  # noqa: SLF001 - the SDK's README documents it as public, underscore and all
        return message.model_dump(mode="json", exclude_unset=True, by_alias=True), request_id

    async def _create(self, body: Mapping[str, Any], *, beta: bool, **stream: bool) -> Any:
        """The SDK's `create`; where that would only wrap the body up, a body whose old messages are encoded already."""
        subject = (body["model"], (body.get("thinking") or {}).get("type"))
        content = encoded(self.sdk, {**body, **stream}) if subject in self._warned else None
        if content is None:
            return await self._through_create(self.sdk.beta if beta else self.sdk, subject, {**body, **stream})
        from anthropic import AsyncStream
        from anthropic.types import Message
        from anthropic.types.beta import BetaMessage

        # As `create` sends them: a header, and no field of the body.
        headers = {"anthropic-beta": ",".join(body["betas"])} if "betas" in body else {}
        return await self.sdk.post(
            "/v1/messages",
            cast_to=BetaMessage if beta else Message,
            content=content,
            options={"headers": headers},
            stream=bool(stream),
            # Of no event's type: the events are read from the response (`EventStream`).
            stream_cls=AsyncStream[object],
        )

    async def _through_create(self, resource: Any, subject: tuple[str, Any], body: Mapping[str, Any]) -> Any:
        """`create` warns of models that end soon, and only it knows which: it sees the first request of each."""
        self._warned.add(subject)
        try:
            return await resource.messages.create(**body)
        except Warning:  # `python -W error`: the next request is refused too
            self._warned.discard(subject)
            raise


class ModelClient:
    """Calls the model: through the SDK's async client that is given, or through another `MessagesAPI`."""

    def __init__(self, client: Any = None) -> None:
        self._given = client
        self._api: MessagesAPI = _api(client)

    @property
    def base_url(self) -> str | None:
        """Where requests go, or `None` for the SDK's default."""
        return self._api.base_url

    @property
    def characters_per_token(self) -> float | None:
        """How the endpoint counts tokens, where that is known exactly: the simulator's client tells it."""
        count: float | None = getattr(self._given, "characters_per_token", None)
        return count

    @property
    def is_simulated(self) -> bool:
        """Whether the simulator's own client was given: what it shows says nothing of any other endpoint."""
        if getattr(self._given, "engine", None) is None:
            return False  # most clients: the simulator need not be imported to tell
        from sessions.simulator import is_simulated

        return is_simulated(self._given)

    @property
    def sdk(self) -> Any:
        """The SDK's client. Raises `ConfigurationError` where there is no key, or another SDK."""
        if not isinstance(self._api, SDKMessages):
            raise ConfigurationError(f"{type(self._given).__name__} only asks for messages: use one of {_CLIENTS}")
        return self._api.sdk

    def cut_short(self, incoming: Incoming, profile: Profile, error: BaseException | None = None) -> None:
        """An answer ends early: notes how long it is by what has come, and the request's id where the error has it."""
        incoming.request_id = incoming.request_id or getattr(error, "request_id", None)
        incoming.estimate_output(self.characters_per_token or profile.characters_per_token)

    def check_params(self, params: Mapping[str, Any]) -> None:
        """Raises `ConfigurationError` for a request field that the SDK does not have."""
        if not params or not isinstance(self._api, SDKMessages):
            return
        import anthropic

        known = set(inspect.signature(anthropic.resources.beta.messages.AsyncMessages.create).parameters)
        if unknown := sorted(set(params) - known):
            raise ConfigurationError(
                f"params has {unknown[0]!r}, which is no request field of the SDK: put it in params={{'extra_body': …}}"
            )

    def stream(
        self, body: Mapping[str, Any], incoming: Incoming, *, typed: bool = False
    ) -> AbstractAsyncContextManager[AsyncIterator[Any]]:
        """Opens the stream; iterating it yields events and feeds `incoming`. `typed`: somebody reads them.

        Raises `ModelError`, or `ConfigurationError` without a key.
        """
        return self._api.stream(body, incoming, typed=typed)

    async def send(self, body: Mapping[str, Any]) -> tuple[dict[str, Any], str | None]:
        """A request that does not stream (zero tokens): the message as a dict, and the request's id."""
        return await self._api.send(body)


def _api(client: Any) -> MessagesAPI:
    """Raises `ConfigurationError` for what is no client, or blocks."""
    if client is None:
        return SDKMessages()
    if hasattr(client, "messages") and hasattr(client, "base_url"):
        if _is_blocking(client):
            raise ConfigurationError("client must be async: use AsyncAnthropic instead of Anthropic")
        return SDKMessages(client)
    if not isinstance(client, MessagesAPI):
        raise ConfigurationError(f"client must be one of the SDK's async clients ({_CLIENTS}), not {shown(client)}")
    return client


def _is_blocking(client: Any) -> bool:
    from anthropic import Anthropic

    return isinstance(client, Anthropic)


def is_beta(body: Mapping[str, Any]) -> bool:
    """Whether only the beta API takes a request with these fields."""
    return bool(BETA_FIELDS & set(body) or "block_binding" in (body.get("thinking") or {}))


def encoded(sdk: Any, body: Mapping[str, Any]) -> bytes | None:
    """The body in bytes, or `None` where `create` must see it.

    Other platforms rewrite it, middleware and tracing look into it, and some arguments are headers.
    """
    from anthropic import AsyncAnthropic

    # Not by isinstance: a subclass may make another request of it.
    if type(sdk) is not AsyncAnthropic or sdk.middleware or _is_traced(sdk):
        return None
    if not set(body) <= ENCODABLE | {"stream"}:
        return None
    try:
        return encode_body({name: value for name, value in body.items() if name != "betas"})
    except (TypeError, ValueError):
        return None  # some value that only the SDK can encode


def _is_traced(sdk: Any) -> bool:
    """Whether somebody collects the SDK's OpenTelemetry spans, or a request belongs to a span of the application."""
    options = sdk.open_telemetry
    if not options["traces"]["enabled"]:
        return False
    if options.get("tracer_provider") is not None:
        return True
    is_set = not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
    return is_set or trace.get_current_span().get_span_context().is_valid


async def _fed(raw: EventStream, incoming: Incoming, *, typed: bool, beta: bool) -> AsyncGenerator[Any]:
    with translated(incoming.request_id):
        while (event := await anext(raw, None)) is not None:
            incoming.feed(event)
            yield typed_event(event, beta=beta) if typed else event
