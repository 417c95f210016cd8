"""What turns run on: one value, made by the manager and handed to whoever runs turns."""

from __future__ import annotations

from dataclasses import dataclass

from sessions.background import Background
from sessions.calls.forecaster import Forecaster
from sessions.calls.gate import WarmupGate
from sessions.calls.request import Requests
from sessions.calls.schedule import Schedule
from sessions.calls.zero_token import ZeroToken
from sessions.clock import Clock
from sessions.conversation.leases import Leases
from sessions.conversation.opening import Conversations
from sessions.lifecycle import Lifecycle
from sessions.model.client import ModelClient
from sessions.model.endpoint import Endpoint
from storage import Store


@dataclass(frozen=True, slots=True)
class Limits:
    """`max_steps`: model calls in one turn. `diagnostics`: whether the API is asked why a cache was missed."""

    max_steps: int
    diagnostics: bool


@dataclass(frozen=True, slots=True)
class Runtime:
    """The parts of one manager. What is in it never takes it, so no part can reach another through it."""

    store: Store
    clock: Clock
    background: Background
    lifecycle: Lifecycle
    client: ModelClient
    endpoint: Endpoint
    conversations: Conversations
    leases: Leases
    gate: WarmupGate
    requests: Requests
    zero_token: ZeroToken
    forecaster: Forecaster
    schedule: Schedule
    limits: Limits
