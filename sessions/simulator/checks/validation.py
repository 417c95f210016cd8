"""What the API refuses before a model sees it, with the API's own texts.

`shape` is the parser; `rules` are what a well-formed request may still break. Both raise `Refusal`; the first error
wins. Where no text is public the sentence is ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sessions.core.cache import Where
from sessions.core.profiles import Profile, Ttl
from sessions.simulator.checks import compaction, markers, media, sequence, settings, shapes
from sessions.simulator.checks.context import Context
from sessions.simulator.checks.refusal import Refusal
from sessions.simulator.checks.shapes import refuse

MESSAGES = 100_000
"""Messages per request (SDK docstring)."""


_BETA_FIELDS = {
    "compaction": ("compact-2026-09-04",),
    "context_management": ("context-management-", "compact-2026-01-12"),
    "mcp_servers": ("mcp-client-",),
    "thread": ("message-threads-",),
    "fallbacks": ("",),
    "fallback_credit_token": ("",),
    "billing_policy": ("",),
}


def shape(body: Any, context: Context) -> None:
    """The parser's checks, in the order of the fields."""
    if not isinstance(body, dict):
        raise Refusal("Input should be a valid dictionary or object to extract fields from")
    for name in ("model", "messages") if context.counting else ("model", "max_tokens", "messages"):
        if body.get(name) is None:
            refuse(name, "Field required")
    for name, value in body.items():
        if name in _BETA_FIELDS and not context.beta(*_BETA_FIELDS[name]):
            refuse(name, shapes.EXTRA)
        check = settings.FIELDS.get(name)
        if check is None and name not in _BETA_FIELDS and name not in ("messages", "tools", "system"):
            refuse(name, shapes.EXTRA)
        if check is not None and value is not None:
            check(name, value)
    _lists(body, context)


def _lists(body: Mapping[str, Any], context: Context) -> None:
    messages = body["messages"]
    shapes.array("messages", messages)
    if not messages:
        refuse("messages", "at least one message is required")
    if len(messages) > MESSAGES:
        refuse("messages", f"List should have at most {MESSAGES} items after validation, not {len(messages)}")
    for at, message in enumerate(messages):
        shapes.message(f"messages.{at}", message, context.blocks)
    if body.get("system") is not None:
        shapes.system("system", body["system"])
    if body.get("tools") is not None:
        shapes.array("tools", body["tools"])
        for at, tool in enumerate(body["tools"]):
            shapes.tool(f"tools.{at}", tool)


def rules(body: Mapping[str, Any], profile: Profile, context: Context) -> Sequence[tuple[Where, Ttl]]:
    """Everything else; returns the marks of the request in processing order, the automatic one included."""
    settings.check(body, profile, context)
    marks = markers.check(body, profile)
    compaction.check(body, profile, context.betas)
    sequence.check(body, profile, context)
    media.check(body, profile)
    return marks
