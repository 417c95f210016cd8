"""Changing a session's settings and binding its tools again: what keeps the cached prefix, and what breaks it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sessions.conversation.conversation import Conversation
from sessions.core.cache import THINKING, text_of
from sessions.core.plan import lost_tokens
from sessions.core.profiles import Profile
from sessions.core.settings import PREFIX_FIELDS, PREFIX_PARAMS, Settings, make_settings
from sessions.core.transcript import Entry, encode
from sessions.errors import ConfigurationError, ModelError, PrefixChange, ToolsChanged
from sessions.model.failures import belongs_elsewhere
from sessions.tools import Toolbox
from sessions.translate import caller_errors

ProfileOf = Callable[[str], Profile]
_CHANGEABLE = frozenset(
    {
        "model",
        "max_tokens",
        "system",
        "tools",
        "thinking",
        "tool_choice",
        "output_config",
        "params",
        "compact",
        "clear_tool_results",
    }
)


def new_settings(old: Settings, changes: Mapping[str, Any], toolbox: Toolbox) -> Settings:
    """The settings with these changes; raises `ConfigurationError` for one that is unknown or wrong."""
    if unknown := sorted(set(changes) - _CHANGEABLE):
        raise ConfigurationError(f"{unknown[0]!r} is no setting that can be changed: {', '.join(sorted(_CHANGEABLE))}")
    values: dict[str, Any] = {name: getattr(old, name) for name in _CHANGEABLE - {"system", "tools"}}
    values |= {"system": list(old.system), "tools": list(old.tools), "context": list(old.context)}
    values |= {**changes, "local_tools": old.local_tools}
    if "tools" in changes:
        values |= {"tools": toolbox.definitions, "local_tools": tuple(toolbox.functions)}
    with caller_errors():
        settings = make_settings(**values)
    # Marks of what is given anew went with it: `make_settings` has read the new ones.
    kept = tuple(mark for mark in old.marks if mark[0] not in changes)
    facts = {"instructions": old.instructions, "unbound": old.unbound, "foreign": old.foreign}
    facts |= {"cleared": old.cleared if settings.clear_tool_results else ()}
    return replace(settings, marks=(*kept, *settings.marks), **facts)  # type: ignore[arg-type]


def accepted(
    conversation: Conversation, new: Settings, profile_of: ProfileOf, *, rebase: bool, now: float
) -> tuple[Settings, list[str]]:
    """The new settings as they are stored, and the names of those that differ and are part of the cached prefix.

    `now`: seconds since the epoch. Raises `PrefixChange` where something is lost, unless `rebase` says that it may be.
    """
    old, entries = conversation.settings, conversation.entries
    broken, unbinds = _prefix_changes(old, new), _unbinds_thinking(old, new, entries, profile_of)
    if broken and entries and not rebase:
        raise _prefix_change(conversation, new, broken, unbinds=unbinds, now=now)
    return (replace(new, unbound=len(entries)) if unbinds else new), broken


def _prefix_changes(old: Settings, new: Settings) -> list[str]:
    """The names of the settings that differ and are part of the cached prefix."""
    fields = [name for name in sorted(PREFIX_FIELDS) if _text(getattr(old, name)) != _text(getattr(new, name))]
    before, after = old.params or {}, new.params or {}
    params = [name for name in sorted(PREFIX_PARAMS) if _text(before.get(name)) != _text(after.get(name))]
    # One that compacts for the price sends the beta for it with every request.
    compact = ["compact"] if (old.compact == "cheapest") != (new.compact == "cheapest") else []
    # One that may clear tool results sends a beta too, and what is cleared comes back without it.
    clears = ["clear_tool_results"] if old.clear_tool_results != new.clear_tool_results else []
    return [*fields, *params, *compact, *clears]


def _prefix_change(
    conversation: Conversation, new: Settings, broken: Sequence[str], *, unbinds: bool, now: float
) -> PrefixChange:
    """What the change costs. `unbinds`: whether thinking is lost with it."""
    prompt = conversation.new_prompt(new, conversation.entries)
    tokens = lost_tokens(conversation.prompt, prompt, conversation.recent.warmth, now)
    price = f"makes about {tokens} cached tokens be billed again" if tokens else "breaks the cached prefix"
    also = ", and earlier thinking, which is bound to it, is no longer shown to the model" if unbinds else ""
    return PrefixChange(
        f"changing {', '.join(broken)} {price}{also}; pass rebase=True to accept that, or fork the session first",
        tokens=tokens,
    )


def _unbinds_thinking(old: Settings, new: Settings, entries: Sequence[Entry], profile_of: ProfileOf) -> bool:
    """Whether thinking in these entries is bound to what changes: system, or the set of tools (September 2026)."""
    # In any order: thinking is bound to the set of tools (docs/provider.md, 6).
    same_tools = sorted(map(_text, old.tools)) == sorted(map(_text, new.tools))
    if same_tools and _text(old.system) == _text(new.system):
        return False
    return any(has_thinking(e.content) and profile_of(e.model or old.model).binds_thinking for e in entries)


def has_thinking(content: Sequence[Mapping[str, Any]]) -> bool:
    """Whether there is a thinking block among these."""
    return any(block.get("type") in THINKING for block in content)


def _text(value: Any) -> str:
    return text_of(list(value) if isinstance(value, tuple) else value)


def check_tools(settings: Settings, toolbox: Toolbox) -> None:
    """Raises `ToolsChanged` naming the first tool that differs from its stored definition."""
    stored = {str(definition.get("name")): encode([definition]) for definition in settings.tools}
    for definition in toolbox.definitions:
        name = str(definition.get("name"))
        if name not in stored:
            raise ToolsChanged(f"the session was made without a tool named {name!r}: {_WAYS_OUT}")
        if stored[name] != encode([definition]):
            raise ToolsChanged(f"the definition of tool {name!r} differs from the stored one: {_WAYS_OUT}")
    missing = sorted(set(settings.local_tools) - set(toolbox.functions))
    if toolbox.definitions and missing:
        raise ToolsChanged(f"the session was made with a tool named {missing[0]!r}, which was not given: {_WAYS_OUT}")


_WAYS_OUT = "give the same tools as on create, or pass rebase=True to store these (the prefix is then billed again)"


def without_foreign_thinking(conversation: Conversation, error: ModelError) -> Settings | None:
    """The settings to try again with where the API says that thinking belongs to another conversation; else `None`.

    From then on it is asked to drop such blocks. The change is to be stored, so that it is made once
    (preserved-thinking page, September 2026).
    """
    # Where the API is asked already, another try would be refused like this one.
    if conversation.settings.foreign or not belongs_elsewhere(error):
        return None
    return replace(conversation.settings, foreign=True)
