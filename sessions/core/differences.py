"""Where two prompts part: the first place, in prompt order, that is not the same, and what stood there.

The order is that of the cache: model, tools, system, the settings that enter before the messages, messages
(prompt-caching page, September 2026). Whatever stands behind the first difference was keyed anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sessions.core.cache import THINKING, Block, has_image, is_cited, text_of, without_marks
from sessions.core.prompt import BINDING_BETA, Prompt

Cause = Literal[
    "expired",
    "model_changed",
    "tools_changed",
    "system_changed",
    "messages_changed",
    "thinking_stripped",
    "below_minimum",
    "lookback",
    "concurrent_write",
    "evicted",
]
_LEAD, _SHOWN = 24, 80
_LATER = ("tool_choice", "thinking", "output_config", "context_management", "betas")


@dataclass(frozen=True, slots=True)
class Difference:
    """The first place where a prompt is not as an earlier one was.

    `place`: the path in the request, such as `tools[1].description`. `what`: it in words, without the user's own.
    `before`, `after`: short excerpts from there; "" where nothing stood. `advice`: what to do about it.
    """

    cause: Cause
    place: str
    what: str
    before: str
    after: str
    advice: str


_TOOLS = "Tools stand first in the prompt: keep their definitions and their order for a session's whole life."
_SYSTEM = "Keep the system prompt fixed: put what changes (a date, a name, a state) into a message, or use instruct()."
_MODEL = "Each model has a cache of its own: choose the model when a conversation starts, or fork it."
_SETTING = "This setting is part of what messages are cached by: choose it when the conversation starts."
_IMAGE = (
    "The first image changes what all messages are cached by: where images will come, put one into the pinned context."
)
_CITED = "Citations are part of what system and messages are cached by: start with the cited document (context=…)."
_STRIPS = (
    "This model sees the thinking of the last turn only, so each new question re-bills what follows the older: "
    "turn thinking off here, or take a model that keeps all of it."
)
_UNBOUND = "Earlier thinking is bound to a prefix that is no longer sent, so the API drops it: this is paid once."


def first_difference(old: Prompt, new: Prompt) -> Difference | None:
    """Where `new` first differs from `old`; `None` where it begins with all of it."""
    for find in (_in_model, _in_tools, _in_system, _in_citations, _in_settings, _in_images, _in_messages):
        if (found := find(old, new)) is not None:
            return found
    return None


def narrowed(old: Any, new: Any, path: str) -> tuple[str, Any, Any]:
    """The path to the first part of two unlike values that differs, and that part of both (`None`: it is not there)."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        if list(old) != list(new) and set(old) == set(new):
            return f"{path} (order of keys)", list(old), list(new)
        unlike = [key for key in {**old, **new} if key not in old or key not in new or _unlike(old[key], new[key])]
        return narrowed(old.get(unlike[0]), new.get(unlike[0]), f"{path}.{unlike[0]}") if unlike else (path, old, new)
    if isinstance(old, list) and isinstance(new, list):
        at = next((n for n, (one, other) in enumerate(zip(old, new, strict=False)) if _unlike(one, other)), None)
        at = min(len(old), len(new)) if at is None else at
        one, other = (part[at] if at < len(part) else None for part in (old, new))
        return narrowed(one, other, f"{path}[{at}]")
    return path, old, new


def _unlike(one: Any, other: Any) -> bool:
    return text_of(one) != text_of(other)


def excerpts(old: Any, new: Any) -> tuple[str, str, int]:
    """Short excerpts of two texts (JSON where they are none) from just before they part, and the character there."""
    texts = ["" if one is None else one if isinstance(one, str) else text_of(one) for one in (old, new)]
    pairs = zip(*texts, strict=False)
    at = next((n for n, (one, other) in enumerate(pairs) if one != other), min(map(len, texts)))
    start = max(0, at - _LEAD)
    cut = [
        ("…" if start else "") + text[start : start + _SHOWN] + ("…" if len(text) > start + _SHOWN else "")
        for text in texts
    ]
    return cut[0], cut[1], at


def _differing(cause: Cause, what: str, advice: str, old: Any, new: Any, path: str) -> Difference:
    place, one, other = narrowed(old, new, path)
    before, after, at = excerpts(one, other)
    if isinstance(one, str) and isinstance(other, str):
        place = f"{place}, character {at + 1}"
    return Difference(cause, place, what, before, after, advice)


def _in_model(old: Prompt, new: Prompt) -> Difference | None:
    for name, default in (("model", ""), ("speed", "standard")):
        before, after = (prompt.request.get(name) or default for prompt in (old, new))
        if before != after:
            what = f"{name} was {before!r} and is {after!r}"
            return Difference("model_changed", name, what, str(before), str(after), _MODEL)
    return None


def _in_tools(old: Prompt, new: Prompt) -> Difference | None:
    before, after = (list(prompt.request.get("tools") or ()) for prompt in (old, new))
    if text_of(before) == text_of(after):
        return None
    at = next(n for n in range(max(len(before), len(after))) if _at(before, n) != _at(after, n))
    names, others = ([_name(tool) for tool in tools] for tools in (before, after))
    if at < len(after) and others[at] not in names:
        what = f"the tool {others[at]!r} was added"
        return Difference("tools_changed", f"tools[{at}]", what, "", excerpts(None, after[at])[1], _TOOLS)
    if at < len(before) and names[at] not in others:
        what = f"the tool {names[at]!r} was taken away"
        return Difference("tools_changed", f"tools[{at}]", what, excerpts(before[at], None)[0], "", _TOOLS)
    name = others[at] if at < len(others) else names[at]
    one, other = (next(tool for tool in tools if _name(tool) == name) for tools in (before, after))
    if _unlike(one, other):
        what = f"the definition of the tool {name!r} is another one"
        return _differing("tools_changed", what, _TOOLS, one, other, f"tools[{at}]")
    what = f"the tools stand in another order: {name!r} is number {others.index(name) + 1}, not {names.index(name) + 1}"
    return Difference("tools_changed", f"tools[{at}]", what, ", ".join(names), ", ".join(others), _TOOLS)


def _at(tools: Sequence[Block], number: int) -> str | None:
    return text_of(tools[number]) if number < len(tools) else None


def _name(tool: Block) -> str:
    return str(tool.get("name") or tool.get("type"))


def _in_system(old: Prompt, new: Prompt) -> Difference | None:
    before, after = (list(prompt.request.get("system") or ()) for prompt in (old, new))
    if text_of(before) == text_of(after):
        return None
    return _differing("system_changed", "the system prompt is another one", _SYSTEM, before, after, "system")


def _in_citations(old: Prompt, new: Prompt) -> Difference | None:
    if old.chain.cited == new.chain.cited:
        return None
    place = next((where for where, block in _blocks(new) if is_cited(block)), "messages")
    return Difference("messages_changed", place, "a document with citations came in", "", "citations", _CITED)


def _in_settings(old: Prompt, new: Prompt) -> Difference | None:
    """The fields that enter before the messages: those that `Knobs` puts there, in its order."""
    before, after = (json.loads(prompt.chain.knobs.messages) for prompt in (old, new))
    for name, one, other in zip(_LATER, before, after, strict=True):
        if text_of(one) == text_of(other):
            continue
        if name == "betas" and BINDING_BETA in set(one) ^ set(other):
            what = "thinking of earlier messages is no longer sent to the model"
            return Difference("thinking_stripped", "thinking", what, "", "drop_block", _UNBOUND)
        found = _differing("messages_changed", "", _SETTING, one, other, name)
        what = f"{found.place.partition(',')[0]} was {found.before or 'not set'} and is {found.after or 'not set'}"
        return Difference("messages_changed", found.place, what, found.before, found.after, _SETTING)
    return None


def _in_images(old: Prompt, new: Prompt) -> Difference | None:
    if old.chain.images == new.chain.images:
        return None
    place = next((where for where, block in _blocks(new) if has_image([block])), "messages")
    return Difference("messages_changed", place, "the conversation's first image came in", "", "image", _IMAGE)


def _blocks(prompt: Prompt) -> Iterator[tuple[str, Block]]:
    for number, message in enumerate(prompt.messages):
        for index, block in enumerate(message["content"]):
            yield f"messages[{number}].content[{index}]", block


def _in_messages(old: Prompt, new: Prompt) -> Difference | None:
    pairs = zip(old.points[old.head_points :], new.points[new.head_points :], strict=False)
    one, other = next(((a, b) for a, b in pairs if a.digest != b.digest), (None, None))
    if one is None or other is None:
        return None
    before, after = without_marks(old.block(one.where)), without_marks(new.block(other.where))
    place = f"messages[{one.where.message}].content[{one.where.block}]"
    if before.get("type") in THINKING and text_of(before) != text_of(after):
        what = f"thinking in message {one.where.message + 1} is no longer part of the prompt"
        return Difference("thinking_stripped", place, what, str(before["type"]), str(after.get("type")), _STRIPS)
    what = f"message {one.where.message + 1} is another one"
    return _differing("messages_changed", what, "What has been sent must go back as it was.", before, after, place)
