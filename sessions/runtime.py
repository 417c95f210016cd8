"""What turns run on: one value, made by the manager and handed to whoever runs turns."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from sessions.arguments import check_choice, check_model_names, listed
from sessions.background import Background
from sessions.budget import Budget
from sessions.calls.budgets import Budgets
from sessions.calls.forecaster import Forecaster
from sessions.calls.gate import WarmupGate
from sessions.calls.heads import Heads
from sessions.calls.prior_file import read_prior
from sessions.calls.requests import Requests
from sessions.calls.schedule import Schedule
from sessions.calls.trust import StoredTrust, TrustMode
from sessions.calls.zero_token import ZeroToken
from sessions.clock import Clock
from sessions.conversation.leases import Leases
from sessions.conversation.memory import Transcripts
from sessions.conversation.opening import SHARED_POINTS, Conversations
from sessions.core.profiles import Profile
from sessions.core.transcript import shown
from sessions.core.ttl import Fixed, Policy
from sessions.core.warmth import Warmth
from sessions.errors import ConfigurationError
from sessions.following.following import Following
from sessions.lifecycle import Lifecycle
from sessions.model.client import ModelClient
from sessions.model.endpoint import Endpoint
from sessions.translate import storage_errors
from storage import Store, open_store


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
    budgets: Budgets
    zero_token: ZeroToken
    forecaster: Forecaster
    schedule: Schedule
    heads: Heads
    following: Following
    limits: Limits


def assembled(
    store: str | Store,
    clock: Clock,
    client: Any,
    profile: Profile | str | os.PathLike[str] | None,
    policy: Policy,
    *,
    model_names: Mapping[str, str] | None,
    limits: Limits,
    budgets: Iterable[Budget],
    tend: bool,
    prior: str | os.PathLike[str] | None,
    trust: TrustMode | None,
    warmup_timeout: float,
    busy_timeout: float,
    transcript_bytes: int,
) -> Runtime:
    """The parts of a manager, each handed what it needs; the settings are those of `SessionManager`.

    Raises `ConfigurationError` for one that no part can be made of; then no store was looked for.
    """
    _check_kinds(policy, clock, profile, prior)
    check_model_names(model_names)
    if trust is not None:
        check_choice("trust", trust, get_args(TrustMode))
    given_budgets, store, client = _budget_list(budgets), _store_of(store), ModelClient(client)
    background, lifecycle, endpoint = Background(), Lifecycle(clock), Endpoint(client, profile, model_names)
    leases = Leases(store, clock, background, lifecycle, busy_timeout)
    memory, warmth = Transcripts(transcript_bytes, leases.is_held), Warmth(limit=SHARED_POINTS)
    conversations = Conversations(store, clock, lifecycle, endpoint, memory, warmth)
    gate = WarmupGate(store, clock, background, lifecycle, warmth, warmup_timeout)
    counted = Budgets(store, clock, given_budgets)
    requests = Requests(client, endpoint, store, clock, counted)
    if trust is None:
        # Who sends nothing while idle cannot find out, and what the simulator does is known.
        finds_out = tend and not isinstance(policy, Fixed) and not client.is_simulated and not endpoint.is_measured
        trust = "probe" if finds_out else "assume"
    stored_trust = StoredTrust(store, clock, background, endpoint, trust)
    given = None if prior is None else read_prior(prior)
    forecaster = Forecaster(store, clock, policy, stored_trust, tend=tend, given=given)
    # In a store that no other process can open nobody else has left anything.
    schedule = Schedule(clock, background, looks=store.is_shared)
    return Runtime(
        store=store,
        clock=clock,
        background=background,
        lifecycle=lifecycle,
        client=client,
        endpoint=endpoint,
        conversations=conversations,
        leases=leases,
        gate=gate,
        requests=requests,
        budgets=counted,
        zero_token=ZeroToken(requests, store, clock, conversations, gate, forecaster),
        forecaster=forecaster,
        schedule=schedule,
        heads=Heads(store, clock, background, conversations, forecaster, schedule),
        following=Following(store, clock, background, leases.look),
        limits=limits,
    )


def _check_kinds(policy: Any, clock: Any, profile: Any, prior: Any) -> None:
    if isinstance(policy, type) or not isinstance(policy, Policy):
        raise ConfigurationError(f"ttl must be a policy such as Fixed('1h') or ExpectedCost(), not {shown(policy)}")
    if not all(callable(getattr(clock, name, None)) for name in ("now", "sleep")):
        raise ConfigurationError(f"clock must have now() and sleep(), as SystemClock() does, not {shown(clock)}")
    if not isinstance(profile, Profile | str | os.PathLike | None):
        raise ConfigurationError(f"profile must be a Profile or the path of a file, not {shown(profile)}")
    if not isinstance(prior, str | os.PathLike | None):
        raise ConfigurationError(f"prior must be the path of a file, not {shown(prior)}")


def _budget_list(budgets: Any) -> list[Budget]:
    given = listed("budgets", budgets, "Budget values")
    if (wrong := next((one for one in given if not isinstance(one, Budget)), None)) is not None:
        raise ConfigurationError(f"budgets must be Budget values, such as Budget(5), not {shown(wrong)}")
    return given


def _store_of(given: Any) -> Store:
    if not isinstance(given, str) and not hasattr(given, "commit"):
        raise ConfigurationError(f"store must be a URL such as 'sqlite:///chat.db', or a Store, not {shown(given)}")
    with storage_errors():
        store: Store = open_store(given) if isinstance(given, str) else given
    return store
