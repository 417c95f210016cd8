"""Prompts and plans from request bodies, without the checks at the border: the core must hold for what is stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sessions.core.cache import Where, without_marks
from sessions.core.circumstances import Circumstances
from sessions.core.gaps import NONE, forecast
from sessions.core.plan import Plan, make_plan
from sessions.core.prices import prices_for
from sessions.core.profiles import Profile, profile_for
from sessions.core.prompt import Prompt
from sessions.core.settings import Settings, make_settings
from sessions.core.transcript import Entry, lift_marks
from sessions.core.ttl import ExpectedCost, Policy
from sessions.core.warmth import Warmth

MODEL = "claude-sonnet-5-5"


def settings_of(body: Mapping[str, Any], **fields: Any) -> Settings:
    named = ("model", "max_tokens", "system", "tools", "thinking", "tool_choice", "output_config")
    return make_settings(**{name: body[name] for name in named if name in body}, **fields)


def entries_of(messages: Sequence[Mapping[str, Any]], **facts: Any) -> list[Entry]:
    """Entries as they would be stored: markers lifted out."""
    return [
        Entry(str(number), None, message["role"], lift_marks(message["content"])[0], 0.0, **facts)
        for number, message in enumerate(messages)
    ]


def own_marks(body: Mapping[str, Any], settings: Settings) -> tuple[Where, ...]:
    shared = [Where(place, 0, index) for place, index in settings.marks if place != "context"]  # type: ignore[arg-type]
    return (
        *shared,
        *(
            Where("messages", number, index)
            for number, message in enumerate(body["messages"])
            for index in lift_marks(message["content"])[1]
        ),
    )


def circumstances(
    prompt: Prompt,
    now: float = 0.0,
    *,
    policy: Policy | None = None,
    expected_gap: float | None = None,
    own: Sequence[Where] = (),
) -> Circumstances:
    back = forecast(NONE, NONE, expected_gap=expected_gap, tools=bool(prompt.settings.tools))
    prices = prices_for(prompt.profile, prompt.total)
    return Circumstances(now, policy or ExpectedCost(), back, prices, expected_gap is not None, tuple(own))


def prompt_of(body: Mapping[str, Any], profile: Profile | None = None) -> Prompt:
    prompt = Prompt(settings_of(body), profile or profile_for(body["model"]))
    prompt.extend(entries_of(body["messages"]))
    return prompt


def planned(
    body: Mapping[str, Any], profile: Profile, warmth: Warmth | None = None, now: float = 0.0, **options: Any
) -> tuple[Prompt, Plan]:
    prompt = prompt_of(body, profile)
    at = circumstances(prompt, now, own=own_marks(body, prompt.settings), **options)
    return prompt, make_plan(prompt, warmth or Warmth(), at)


def bare(body: Mapping[str, Any]) -> dict[str, Any]:
    """The body without any marker."""
    found = dict(body)
    for name in ("tools", "system"):
        if name in body:
            found[name] = [dict(without_marks(block)) for block in body[name]]
    found["messages"] = [
        {**message, "content": [dict(without_marks(block)) for block in message["content"]]}
        for message in body["messages"]
    ]
    return found
