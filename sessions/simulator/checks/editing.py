"""Context editing: old tool results leave the prompt that the model sees, while the request holds all of them.

Nothing is kept between requests: what is cleared is worked out from the whole history each time (context-editing page,
2025, beta `context-management-2025-06-27`; public reports of its answers). Where that page leaves something open: a
trigger of tool uses fires above its value, tools that are excluded count for nothing, and what the cache is keyed by is
the edited prompt, not the words of the edit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sessions.core.cache import Where, content_blocks
from sessions.core.profiles import Ttl
from sessions.simulator.checks import shapes
from sessions.simulator.checks.shapes import refuse
from sessions.simulator.tokens import count

TYPE = "clear_tool_uses_20250919"
CLEARED = "[Old tool result content cleared]"
_TRIGGER = {"type": "input_tokens", "value": 100_000}
_KEEP = 3


def check(path: str, value: Any) -> None:
    """Raises `Refusal` for edits that are not in order; those of other kinds are taken as they are."""
    shapes.array(path, value)
    for at, edit in enumerate(value):
        shapes.obj(f"{path}.{at}", edit)
        if edit.get("type") == TYPE:
            _check(f"{path}.{at}.{TYPE}", edit)


def _check(path: str, edit: Mapping[str, Any]) -> None:
    for name, kinds in (("trigger", ("input_tokens", "tool_uses")), ("keep", ("tool_uses",)),
                        ("clear_at_least", ("input_tokens",))):  # fmt: skip
        if (given := edit.get(name)) is None:
            continue
        shapes.obj(f"{path}.{name}", given)
        shapes.one_of(*kinds)(f"{path}.{name}.type", given.get("type"))
        shapes.integer(0)(f"{path}.{name}.value", given.get("value"))
    known = {"type", "trigger", "keep", "clear_at_least", "exclude_tools", "clear_tool_inputs"}
    for name in sorted(set(edit) - known):
        refuse(f"{path}.{name}", shapes.EXTRA)


def edited(body: Mapping[str, Any]) -> tuple[Mapping[str, Any], Sequence[Mapping[str, Any]] | None]:
    """The body as the model sees it, without the edits that clear tool uses, and what they have done: `None` where the
    request asks for no edit."""
    asked = body.get("context_management")
    if not isinstance(asked, Mapping):
        return body, None
    done: list[Mapping[str, Any]] = []
    others = []
    for edit in asked.get("edits") or ():
        if edit.get("type") != TYPE:
            others.append(edit)
            continue
        body, told = _applied(body, edit)
        done += [told] if told else []
    bare = {name: value for name, value in body.items() if name != "context_management"}
    rest = {"context_management": {**asked, "edits": others}} if others or set(asked) - {"edits"} else {}
    return {**bare, **rest}, done


def _applied(body: Mapping[str, Any], edit: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any] | None]:
    excluded = set(edit.get("exclude_tools") or ())
    blocks = [block for message in body["messages"] for block in content_blocks(message["content"])]
    uses = [block for block in blocks if block["type"] == "tool_use" and block["name"] not in excluded]
    trigger: Mapping[str, Any] = edit.get("trigger") or _TRIGGER
    keep: int = (edit.get("keep") or {"value": _KEEP})["value"]
    amount = len(uses) if trigger["type"] == "tool_uses" else _size(body)
    gone = {use["id"]: use["name"] for use in uses[: max(0, len(uses) - keep)]}
    if amount <= trigger["value"] or not gone:
        return body, None
    inputs = edit.get("clear_tool_inputs") or ()
    named = set(gone.values()) if inputs is True else set(inputs)
    after = {**body, "messages": [_cleared(message, gone, named) for message in body["messages"]]}
    tokens = _size(body) - _size(after)
    least = edit.get("clear_at_least")
    if least is not None and tokens < least["value"]:
        return body, None
    return after, {"type": TYPE, "cleared_tool_uses": len(gone), "cleared_input_tokens": tokens}


def _size(body: Mapping[str, Any]) -> int:
    held = [*content_blocks(body.get("system") or ()), *(body.get("tools") or ())]
    said = [block for message in body["messages"] for block in content_blocks(message["content"])]
    return sum(count(block) for block in (*held, *said))


def _cleared(message: Mapping[str, Any], gone: Mapping[str, str], named: set[str]) -> Mapping[str, Any]:
    content = content_blocks(message["content"])
    after = [_without(block, gone, named) for block in content]
    return message if all(one is other for one, other in zip(content, after, strict=True)) else {
        **message, "content": after
    }  # fmt: skip


def _without(block: Mapping[str, Any], gone: Mapping[str, str], named: set[str]) -> Mapping[str, Any]:
    if block["type"] == "tool_result" and block["tool_use_id"] in gone:
        return {"type": "tool_result", "tool_use_id": block["tool_use_id"], "content": CLEARED}
    if block["type"] == "tool_use" and gone.get(block["id"]) in named:
        return {**block, "input": {}}
    return block


def left(
    marks: Sequence[tuple[Where, Ttl]], body: Mapping[str, Any], seen: Mapping[str, Any]
) -> Sequence[tuple[Where, Ttl]]:
    """The marks that do not stand on what was cleared."""
    return [(where, ttl) for where, ttl in marks if _block(body, where) is _block(seen, where)]


def _block(body: Mapping[str, Any], where: Where) -> Any:
    holder = body["messages"][where.message]["content"] if where.tier == "messages" else body[where.tier]
    return holder if isinstance(holder, str) else holder[where.block]
