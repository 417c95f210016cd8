"""A request that an endpoint has refused for one of its fields, as it is sent again without it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sessions.core.cache import Where
from sessions.core.cleared import CLEARING_BETA
from sessions.core.plan import Plan

_FIVE_MINUTES = {"type": "ephemeral"}


def without_hours(plan: Plan, body: Mapping[str, Any]) -> tuple[Plan, dict[str, Any]]:
    """The same plan and request body with 5-minute marks in place of those of an hour."""
    usage, again = plan.expected, dict(body)
    for mark in plan.marks:
        if mark.ttl == "1h":
            again = _marked(again, mark.where)
    marks = tuple(replace(mark, ttl="5m") for mark in plan.marks)
    expected = replace(usage, cache_write_5m=usage.cache_write, cache_write_1h=0)
    return replace(plan, marks=marks, expected=expected), again


def _marked(body: dict[str, Any], where: Where) -> dict[str, Any]:
    """The body with a 5-minute mark at this place; what is copied is what changes."""
    tier, number, index = where
    if tier != "messages":
        return {**body, tier: _with_mark(body[tier], index)}
    messages = list(body["messages"])
    messages[number] = {**messages[number], "content": _with_mark(messages[number]["content"], index)}
    return {**body, "messages": messages}


def _with_mark(blocks: list[dict[str, Any]], index: int) -> list[dict[str, Any]]:
    marked = list(blocks)
    marked[index] = {**marked[index], "cache_control": _FIVE_MINUTES}
    return marked


def without_clearing(plan: Plan, body: Mapping[str, Any]) -> tuple[Plan, dict[str, Any]]:
    """The same request for an endpoint that clears no tool results: with all of them. The marks stay where they are;
    that what stands behind cleared results is read is not expected."""
    bare = {name: value for name, value in body.items() if name not in ("context_management", "betas")}
    if betas := [beta for beta in body.get("betas", ()) if beta != CLEARING_BETA]:
        bare["betas"] = betas
    return replace(plan, cleared=None, clearing=None), bare
