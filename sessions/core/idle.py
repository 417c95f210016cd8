"""What is done for a conversation while nobody talks to it: what the policy wishes, and whether that is allowed.

Decisions on facts that were gathered before: what would be sent (`plan_idle`), what is wished for (`wish`), and whether
the evidence and the limits permit it (`allowed`). A new rule for idle conversations belongs here.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from sessions.core.circumstances import Circumstances, relative_prices
from sessions.core.evidence import IN_A_ROW, Asked, unreturned
from sessions.core.experience import Others, nobody
from sessions.core.gaps import FITTED, TOOLS, Forecast, Gaps, Prior, human, known
from sessions.core.idle_limits import Balance, HourLimit
from sessions.core.keeping import REFRESH_BEFORE
from sessions.core.plan import (
    Plan,
    deepest_live,
    latest_assistant,
    live_entry,
    live_points,
    predict,
    readable_point,
    with_anchor,
)
from sessions.core.prices import prices_for
from sessions.core.profiles import Profile
from sessions.core.prompt import Prompt
from sessions.core.settings import Settings
from sessions.core.shared import staying
from sessions.core.steps import calls_of
from sessions.core.transcript import Entry
from sessions.core.ttl import Option, Outlook, Policy, chosen
from sessions.core.usage import Usage
from sessions.core.warmth import Slot, Warmth

IdleKind: TypeAlias = Literal["park", "refresh"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of a conversation that nobody talks to.

    `now`: seconds since the epoch. `waited`: seconds since its last request started. `last`: its newest entry.
    `local_tools`: names of the tools that run here. `gaps`, `owner_gaps`: between its turns, and between the turns of
    its owner's sessions. `can_park`: whether a 1-hour entry behind a 5-minute prefix is believed to outlive it.
    `spent`: usage of the idle requests since the last turn. `prior`: what is known beforehand of its gaps.
    `others`: how other sessions use a prefix, by its point. `keeps`: slots that are kept for all sessions.
    """

    now: float
    waited: float
    prompt: Prompt
    warmth: Warmth
    policy: Policy
    last: Entry | None
    local_tools: Container[str]
    gaps: Gaps
    owner_gaps: Gaps
    can_park: bool
    spent: Sequence[Usage] = ()
    prior: Prior = FITTED
    others: Callable[[str], Others] = nobody
    keeps: tuple[Slot, ...] = ()

    @property
    def has_something_to_keep(self) -> bool:
        """Whether anything of it is believed readable now."""
        return deepest_live(self.prompt, self.warmth, self.now) is not None


@dataclass(frozen=True, slots=True)
class Rest:
    """Nothing is sent. `again`: seconds until the conversation is to be looked after again; `None`: never."""

    again: float | None = None


@dataclass(frozen=True, slots=True)
class Ask:
    """The policy wishes for a request. `price`, and what it `saves` if the user comes back in time: plain input tokens.

    `otherwise`: what follows if it is not allowed. `told`: the caller has said when the user comes back.
    """

    kind: IdleKind
    plan: Plan
    price: float
    otherwise: Rest
    saves: float = 0.0
    told: bool = False


@dataclass(frozen=True, slots=True)
class Evidence:
    """The newest requests of an owner's sessions, as the ledger has them at `now` (seconds since the epoch)."""

    now: float
    requests: Sequence[Asked]


def why_no_zero_token(settings: Settings, profile: Profile) -> str | None:
    """Why a zero-token request would be refused with these settings (August 2026), or `None`."""
    if not profile.prewarms:
        return "the endpoint has no zero-token requests"
    if (settings.thinking or {}).get("type") == "enabled":
        return 'thinking is "enabled"'
    if (settings.tool_choice or {}).get("type") in ("any", "tool"):
        return "tool_choice forces a tool"
    if (settings.output_config or {}).get("format"):
        return "output_config.format is set"
    return None


def waits_for_server_tools(last: Entry | None) -> bool:
    """Whether a paused reply stands at the end: its server tools have no results yet, and nothing may follow it."""
    return last is not None and last.stop_reason == "pause_turn"


def plan_idle(prompt: Prompt, warmth: Warmth, at: Circumstances, waited: float) -> tuple[Outlook, Plan] | None:
    """What can be done for a conversation whose last request started `waited` seconds ago, and what it would send.

    Where the deepest live entry is a 5-minute one, the latest assistant message can be parked behind it; a 1-hour one
    can be refreshed. `None`: nothing is alive, or nothing of it can be kept.
    """
    deepest = deepest_live(prompt, warmth, at.now)
    if deepest is None:
        return None
    option: Option = "park" if live_entry(prompt, warmth, deepest).ttl == "5m" else "refresh"
    last = latest_assistant(prompt) if option == "park" else deepest
    if last is None or (option == "park" and last <= deepest):
        return None
    slots = with_anchor(prompt, {last: "assistant"}, warmth, at.now)
    plan = predict(prompt, slots, dict.fromkeys(slots, "1h"), readable_point(prompt, slots, warmth, at.now))
    # What lies behind the last mark is not sent.
    plan = replace(plan, expected=replace(plan.expected, input=0))
    if not plan.expected.cache_read:
        return None
    hours = [index for index in live_points(prompt, warmth, at.now) if live_entry(prompt, warmth, index).ttl == "1h"]
    kept = max(hours, default=None)
    read, write_5m, write_1h = relative_prices(at)
    outlook = Outlook(
        options=("lapse", option),
        prefix=prompt.tokens(last + 1),
        new=prompt.tokens(last + 1) - plan.expected.cache_read,
        read=read,
        write_5m=write_5m,
        write_1h=write_1h,
        forecast=at.forecast,
        waited=waited,
        kept=0 if kept is None else prompt.tokens(kept + 1),
        kept_until=0.0 if kept is None else live_entry(prompt, warmth, kept).until - at.now + waited,
        told=at.told,
        stays=min(prompt.tokens(last + 1), staying(prompt, warmth, at)[1]),
    )
    return outlook, plan


def wish(facts: Facts) -> Rest | Ask:
    """What the policy wants to be done now, as far as this conversation's own facts allow it."""
    told = facts.gaps.told is not None
    prices = prices_for(facts.prompt.profile, facts.prompt.total)
    at = Circumstances(facts.now, facts.policy, _forecast(facts), prices, told, others=facts.others, keeps=facts.keeps)
    possible = plan_idle(facts.prompt, facts.warmth, at, facts.waited)
    if possible is None:
        return Rest()
    outlook, plan = possible
    rest = Rest(_until_refresh(outlook))
    if chosen(facts.policy, outlook) == "lapse":
        return rest
    kind: IdleKind = "park" if "park" in outlook.options else "refresh"
    if kind == "park" and not facts.can_park:
        return rest
    price = _weight(outlook, plan.expected)
    lost = (outlook.prefix - outlook.stays) * outlook.write_5m
    if sum(_weight(outlook, usage) for usage in facts.spent) + price > lost:
        return rest  # waiting never costs more than the rewrite that it saves
    return Ask(kind, plan, price, rest, lost, told)


def allowed(ask: Ask, evidence: Evidence, limit: HourLimit, balance: Balance) -> bool:
    """Whether people came back for what was kept before, and the limits leave room.

    What was lost on forecasts says nothing of a return that the caller knows of.
    """
    now = evidence.now
    has_room = limit.has_room(now, ask.price) and (ask.told or balance.has_room(now, ask.saves))
    return has_room and unreturned(evidence.requests, now) < IN_A_ROW


def _forecast(facts: Facts) -> Forecast:
    """When the next request comes: with the results of tools that run here, or with the user's words."""
    last, told = facts.last, facts.gaps.told
    calls = calls_of(last.content) if last is not None and last.role == "assistant" else []
    if any(call.name in facts.local_tools for call in calls):
        return TOOLS
    return human(facts.gaps, facts.owner_gaps, facts.prior) if told is None else known(told)


def _until_refresh(outlook: Outlook) -> float | None:
    """Seconds until an entry that lives an hour, shorter than the one that lapses now, can be refreshed."""
    left = outlook.kept_until - outlook.waited - REFRESH_BEFORE
    return left if left > 0 else None


def _weight(outlook: Outlook, usage: Usage) -> float:
    """What a request costs in plain input tokens."""
    return usage.cache_read * outlook.read + usage.cache_write_1h * outlook.write_1h
