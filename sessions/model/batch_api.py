"""The Message Batches API as this library uses it: make one, look at it, find it again, read its results.

Making a batch is never retried by the SDK: a request whose answer is lost may have made one that will be paid.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from sessions.core.body import encode_body
from sessions.errors import ConfigurationError, ModelError
from sessions.model.client import ModelClient, is_beta
from sessions.model.failures import status_of, translated

if TYPE_CHECKING:
    import anthropic

MOST = 100_000
"""Requests of one batch (batch-processing page, 2026)."""
LARGEST = 100 * 1024 * 1024
"""Bytes of one batch that we make: below the API's 256 MB, and encoded within a second."""
_HEADERS = {"betas", "user_profile_id", "workspace_id", "extra_headers", "extra_query", "timeout"}
"""Arguments of a request that belong to the batch as a whole; its branches have them in common."""

_WITHOUT = ("Bedrock", "Vertex")
"""Clients that have the method and refuse to use it (SDK 2.11)."""

Requests = Sequence[tuple[str, Mapping[str, Any]]]
"""(custom id, request body) of each."""


class BatchClient:
    """Batches through the manager's client. Every method raises `ModelError`, or `ConfigurationError` without a key."""

    def __init__(self, client: ModelClient) -> None:
        self._client = client

    def _routes(self, *, beta: bool = False, once: bool = False) -> Any:
        sdk = self._client.sdk
        found = getattr((sdk.beta.messages if beta else sdk.messages), "batches", None)
        if found is None or any(one in type(sdk).__name__ for one in _WITHOUT):
            raise ConfigurationError(f"{type(sdk).__name__} has no Message Batches: use map(), which asks in real time")
        if once:
            sdk = sdk.with_options(max_retries=0)
            found = sdk.beta.messages.batches if beta else sdk.messages.batches
        return found

    def check(self) -> None:
        """Raises `ConfigurationError` where the platform has no batches."""
        self._routes()

    async def make(self, requests: Requests) -> str:
        """Makes a batch of these requests and gives its id. `may_be_made` tells of an error whether it may be there."""
        first = requests[0][1]
        beta = is_beta(first)
        options = {name: first[name] for name in _HEADERS & set(first)}
        items = [{"custom_id": id, "params": item(body)} for id, body in requests]
        with translated():
            routes = self._routes(beta=beta, once=True)
            made = await routes.create(requests=items, **options)
        return str(made.id)

    async def look(self, batch: str) -> anthropic.types.messages.MessageBatch | None:
        """The batch as it stands; `None` if the API no longer knows it, or no longer has its results."""
        try:
            with translated():
                found: anthropic.types.messages.MessageBatch = await self._routes().retrieve(batch)
                return None if found.processing_status == "ended" and found.results_url is None else found
        except ModelError as error:
            if status_of(error) == 404:
                return None
            raise

    async def since(self, moment: float) -> list[anthropic.types.messages.MessageBatch]:
        """The workspace's batches made after that moment (seconds since the epoch), newest first."""
        found = []
        with translated():
            async for one in self._routes().list(limit=100):
                if one.created_at.timestamp() < moment:
                    # They come newest first.
                    break
                found.append(one)
        return found

    async def results(self, batch: str) -> AsyncGenerator[tuple[str, dict[str, Any]]]:
        """(custom id, result) of each request of a batch that has ended, as received: keys keep their order."""
        with translated():
            decoder = await self._routes().results(batch)
        try:
            async with aclosing(_lines(decoder.http_response)) as lines:
                async for line in lines:
                    one = json.loads(line)
                    yield one["custom_id"], one["result"]
        finally:
            await decoder.close()


def item(body: Mapping[str, Any]) -> dict[str, Any]:
    """A request body as it stands in a batch: the SDK's own arguments become headers or fields."""
    kept = {name: value for name, value in body.items() if name not in _HEADERS and name != "extra_body"}
    return kept | dict(body.get("extra_body") or {})


def in_batches(bodies: Mapping[int, Mapping[str, Any]]) -> list[list[int]]:
    """The numbers of these request bodies, in as many batches as the API takes them in."""
    found, size = [list[int]()], 0
    for number, body in bodies.items():
        own = len(encode_body(item(body)))
        if found[-1] and (size + own > LARGEST or len(found[-1]) == MOST):
            found.append([])
            size = 0
        found[-1].append(number)
        size += own
    return found


def may_be_made(error: ModelError) -> bool:
    """Whether a batch may exist although the request that makes it failed: only a clear refusal says no."""
    status = status_of(error)
    return status is None or not 400 <= status < 500 or status in (408, 409)


async def _lines(response: Any) -> AsyncGenerator[bytes]:
    """Lines by line feeds alone: JSON text may hold other characters that end a line elsewhere."""
    left = b""
    with translated():
        async with aclosing(response.aiter_bytes()) as chunks:
            async for chunk in chunks:
                *lines, left = (left + chunk).split(b"\n")
                for line in lines:
                    if line.strip():
                        yield line
    if left.strip():
        yield left
