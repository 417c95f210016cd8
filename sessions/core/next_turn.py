"""What the next turn of a conversation will cost: sent now, or later, when what is cached has lapsed or was kept warm.

Nothing is asked and nothing waited for: the prompt is planned as it would be at each moment, from what is believed
warm, and priced.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from sessions.core.circumstances import Circumstances
from sessions.core.cleared import Clearing
from sessions.core.clearing import clearing
from sessions.core.plan import Plan, make_plan
from sessions.core.prices import cost
from sessions.core.profiles import MODELS, Profile, bare_name
from sessions.core.prompt import Prompt
from sessions.core.shortening import Shortening, shortening
from sessions.core.steps import calls_of, result_block
from sessions.core.transcript import Entry
from sessions.core.usage import Usage
from sessions.core.warmth import Warmth

MOMENTS = (0.0, 300.0, 3600.0)
"""Seconds from now that are looked at."""
USUAL_ANSWER = 500
"""Tokens of an answer, where the conversation has none yet."""
_USUAL_WORDS = 200
"""Characters of the user's words, where there are none yet."""


@dataclass(frozen=True, slots=True)
class TurnCost:
    """The first request of the next turn, sent `seconds` from now: its expected `usage` and its `cost` (USD).

    `kept`: what idle requests are expected to cost until then (USD), which comes on top. Both are `None` where no price
    is published. An answer is taken to be as long as this conversation's answers are, and the words too; a turn that
    runs tools asks the model more than once.
    """

    seconds: float
    usage: Usage
    cost: Decimal | None
    kept: Decimal | None


@dataclass(frozen=True, slots=True)
class ModelCost:
    """What another model would charge for the same turn (USD): `warm` with as much of it cached as now, `switching`
    for the first turn after a change, which finds nothing cached."""

    model: str
    warm: Decimal
    switching: Decimal


@dataclass(frozen=True, slots=True)
class CostForecast:
    """What the next turn of a session is expected to cost, see `Session.forecast`. USD; `None`: no published price.

    `waited`: what has been spent to keep the conversation warm since its last turn. `compaction`: what a summary before
    the next turn would change; `None` where the prompt is short or cannot be compacted now. `models`: the models that
    count tokens as this one does and have not ended, the cheapest first. `clearing`: what clearing more tool results
    with the next request would change, where the session does that and there are enough; it is done where it saves.
    """

    model: str
    now: TurnCost
    in_five_minutes: TurnCost
    in_an_hour: TurnCost
    waited: Decimal | None
    models: tuple[ModelCost, ...] = ()
    compaction: Shortening | None = None
    clearing: Clearing | None = None

    @property
    def waiting_five_minutes(self) -> Decimal | None:
        """What waiting five minutes adds, idle requests included (USD); less than 0 where it saves."""
        return _more(self.now, self.in_five_minutes)

    @property
    def waiting_an_hour(self) -> Decimal | None:
        """What waiting an hour adds, as above."""
        return _more(self.now, self.in_an_hour)


def _more(now: TurnCost, later: TurnCost) -> Decimal | None:
    if now.cost is None or later.cost is None or later.kept is None:
        return None
    return later.cost + later.kept - now.cost


def next_words(entries: Sequence[Entry], context: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What stands for the user's next message: words as long as those before; results, where calls wait for them.

    Nothing where the user's words wait for their answer already.
    """
    last = entries[-1] if entries else None
    if last is not None and last.role != "assistant":
        return []
    sizes = [_length(entry) for entry in entries if entry.role == "user"]
    words = [size for size in sizes if size]
    text = "x" * (sum(words) // len(words) if words else _USUAL_WORDS)
    if last is not None and (calls := calls_of(last.content)):
        return [result_block(call, text) for call in calls]
    opening = [dict(block) for block in context] if last is None else []
    return [*opening, {"type": "text", "text": text}]


def _length(entry: Entry) -> int:
    """Characters of the words in a message."""
    return sum(len(str(block.get("text") or "")) for block in entry.content if block.get("type") == "text")


def usual_answer(entries: Iterable[Entry]) -> int:
    """How long this conversation's answers are, in tokens."""
    sizes = [entry.output_tokens for entry in entries if entry.role == "assistant" and entry.output_tokens]
    return round(sum(sizes) / len(sizes)) if sizes else USUAL_ANSWER


def forecast_costs(
    prompt: Prompt,
    warmth: Warmth,
    at: Circumstances,
    *,
    answer: int,
    idle: tuple[float, Plan] | None = None,
    waited: Decimal | None = None,
    models: Iterable[str] = (),
    closed: int = 0,
) -> CostForecast:
    """`prompt`: with the next words. `at`: now. `answer`: tokens. `idle`: the request that is expected to be sent next
    while nobody talks, and when (seconds since the epoch). `waited`: what such requests have cost. `models`: to compare
    with. `closed`: how many first messages a summary could stand for."""
    # Of its own: what is expected to happen is no news for others.
    known = {point: alive for point in prompt.index if (alive := warmth.find(point)) is not None}
    own, kept = Warmth(known, limit=len(prompt.index) + 1), Decimal(0)
    plan = make_plan(prompt, own, at)
    compaction = shortening(prompt, plan, closed, at) if closed else None
    cleared = clearing(prompt, plan, own, at)
    turns = []
    for seconds in MOMENTS:
        moment = at.now + seconds
        if idle is not None and idle[0] <= moment:
            sent, plan = idle
            own.learn(plan.marks, plan.hit, plan.expected, sent)
            kept, idle = _price(prompt, plan.expected) or Decimal(0), None
        usage = replace(make_plan(prompt, own, replace(at, now=moment)).expected, output=answer)
        price = _price(prompt, usage)
        turns.append(TurnCost(seconds, usage, price, None if price is None else kept))
    others = [found for name in models if (found := _other(name, turns[0].usage, prompt)) is not None]
    now, in_five_minutes, in_an_hour = turns
    return CostForecast(
        model=prompt.settings.model,
        now=now,
        in_five_minutes=in_five_minutes,
        in_an_hour=in_an_hour,
        waited=waited,
        models=tuple(sorted(others, key=lambda other: other.warm)),
        compaction=compaction,
        clearing=cleared,
    )


def _price(prompt: Prompt, usage: Usage) -> Decimal | None:
    return cost(usage, prompt.profile, prompt.settings.params)


def _other(name: str, usage: Usage, prompt: Prompt) -> ModelCost | None:
    profile = MODELS[name]
    cold = replace(usage, input=0, cache_read=0, cache_write_1h=0, cache_write_5m=usage.total_input)
    warm, switching = (cost(each, profile, prompt.settings.params) for each in (usage, cold))
    return None if warm is None or switching is None else ModelCost(name, warm, switching)


def alike(profile: Profile, tokens: int, now: float) -> list[str]:
    """The other models that count tokens as this one does, whose window holds so many, and that have not ended at `now`
    (seconds since the epoch); by their undated names."""
    own = bare_name(profile.name)
    if own not in MODELS:
        return []
    same = MODELS[own].characters_per_token
    return [
        name
        for name, other in MODELS.items()
        if other.characters_per_token == same and other.window >= tokens and not other.has_ended(now)
        if name != own and not name[-8:].isdigit()
    ]
