"""A ready `AsyncAnthropic` that speaks to a simulator of its own: no key, no network."""

from __future__ import annotations

from typing import Any

import httpx2
from anthropic import AsyncAnthropic
from anthropic._base_client import get_platform

from sessions.clock import Clock
from sessions.simulator.delivery import Latency
from sessions.simulator.engine import Engine
from sessions.simulator.faults import Faults
from sessions.simulator.script import Script
from sessions.simulator.transport import Transport


def client(
    script: Script | None = None,
    *,
    engine: Engine | None = None,
    clock: Clock | None = None,
    latency: Latency | None = None,
    faults: Faults | None = None,
    max_retries: int = 2,
    api_key: str = "simulated",
    **kwargs: Any,
) -> AsyncAnthropic:
    """An SDK client whose requests go to `engine` (a new one with `script` and `faults` if None).

    `api_key` is `organization` or `organization/workspace`: caches and signatures are apart between them. Further
    keyword arguments go to `AsyncAnthropic`. Raises `ValueError` if both an engine and its parts are given.
    """
    if engine is not None and (script is not None or faults is not None):
        raise ValueError("give either an engine, or the script and faults of a new one")
    transport = Transport(engine or Engine(script, faults=faults), clock=clock, latency=latency)
    http_client = httpx2.AsyncClient(transport=transport)
    made = AsyncAnthropic(api_key=api_key, http_client=http_client, max_retries=max_retries, **kwargs)
    made.characters_per_token = transport.characters_per_token  # type: ignore[attr-defined]
    made._platform = get_platform()  # the SDK would look it up in a thread at the first call, unseen by a manual clock
    return made


def is_simulated(client: object) -> bool:
    """Whether this SDK client speaks to a simulator in this process."""
    return _transport(client) is not None


def engine_of(client: object) -> Engine:
    """The engine behind a simulated client. Raises `ValueError` for any other."""
    transport = _transport(client)
    if transport is None:
        raise ValueError("this client does not speak to a simulator: make one with sessions.simulator.client()")
    return transport.engine


def _transport(client: object) -> Transport | None:
    found = getattr(getattr(client, "_client", None), "_transport", None)
    return found if isinstance(found, Transport) else None
