"""A ready `AsyncAnthropic` that speaks to a simulator of its own: no key, no network."""

from __future__ import annotations

import platform
from typing import Any

import httpx2
from anthropic import AsyncAnthropic

from sessions.clock import Clock
from sessions.simulator.answers.script import Script
from sessions.simulator.doors.delivery import Latency
from sessions.simulator.doors.transport import Transport
from sessions.simulator.engine import Engine
from sessions.simulator.faults import Faults


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
    keyword arguments go to `AsyncAnthropic`. Raises `ValueError` if both an engine and its parts are given. The
    `characters_per_token` of the client tells how the simulator counts, its `engine` is what `engine_of` gives.
    """
    if engine is not None and (script is not None or faults is not None):
        raise ValueError("give either an engine, or the script and faults of a new one")
    transport = Transport(engine or Engine(script, faults=faults), clock=clock, latency=latency)
    return client_over(transport, api_key=api_key, max_retries=max_retries, **kwargs)


def client_over(
    transport: Transport, *, max_retries: int = 2, api_key: str = "simulated", **kwargs: Any
) -> AsyncAnthropic:
    """An SDK client whose requests go through `transport`, such as one of your own above the simulator's."""
    http_client = httpx2.AsyncClient(transport=transport)
    sdk = AsyncAnthropic(api_key=api_key, http_client=http_client, max_retries=max_retries, **kwargs)
    # Set on the instance, which a copy (`with_options`) lacks: a subclass would not be the SDK's own client any more.
    vars(sdk).update(
        engine=transport.engine,
        characters_per_token=transport.characters_per_token,
        _platform=platform.system(),  # there is no argument; looked up in a thread, a manual clock would not see it
    )
    return sdk


def is_simulated(client: object) -> bool:
    """Whether `client()` made this SDK client, which speaks to a simulator in this process."""
    return isinstance(getattr(client, "engine", None), Engine)


def engine_of(client: object) -> Engine:
    """The engine behind a client that `client()` made. Raises `ValueError` for any other, a copy of one included."""
    engine = getattr(client, "engine", None)
    if not isinstance(engine, Engine):
        raise ValueError("this client does not speak to a simulator: make one with sessions.simulator.client()")
    return engine
