"""The settings of a request: which values a model, an API version and `max_tokens: 0` allow.

Sources: extended-thinking, pre-warming and model pages of August to October 2026; release notes of November 2026.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sessions.core.profiles import Profile
from sessions.simulator.checks import editing, shapes
from sessions.simulator.checks.context import NEW_VERSION, Context
from sessions.simulator.checks.refusal import Refusal
from sessions.simulator.checks.shapes import Check, Shape, refuse

SAMPLING = ("temperature", "top_p", "top_k")
_DOCS = (
    "Please consult our documentation at "
    "https://docs.claude.com/en/docs/build-with-claude/extended-thinking#max-tokens-and-context-window-size"
)


def _shaped(required: Mapping[str, Check], optional: Mapping[str, Check]) -> Check:
    shape = Shape(required, optional)

    def check(path: str, value: Any) -> None:
        shapes.obj(path, value)
        shape.check(path, value, skip="")

    return check


def _optional_string(path: str, value: Any) -> None:
    if value is not None:
        shapes.string(path, value)


def _strings(path: str, value: Any) -> None:
    shapes.array(path, value)
    for at, item in enumerate(value):
        shapes.string(f"{path}.{at}", item)
        if not item.strip():
            refuse(path, "each stop sequence must contain non-whitespace")


_DISPLAY = {"display": shapes.one_of("summarized", "omitted", "updates"), "block_binding": shapes.obj}
_THINKING = {
    "adaptive": Shape({}, _DISPLAY),
    "enabled": Shape({"budget_tokens": shapes.integer(1024)}, _DISPLAY),
    "disabled": Shape({}, {}),
    "between_tools": Shape({}, _DISPLAY),
}
_CHOICE = {
    "auto": Shape({}, {"disable_parallel_tool_use": shapes.boolean}),
    "any": Shape({}, {"disable_parallel_tool_use": shapes.boolean}),
    "tool": Shape({"name": shapes.string}, {"disable_parallel_tool_use": shapes.boolean}),
    "none": Shape({}, {}),
}


def _tagged(kinds: Mapping[str, Shape]) -> Check:
    def check(path: str, value: Any) -> None:
        kind = shapes.tagged(path, value, kinds)
        kinds[kind].check(f"{path}.{kind}", value)

    return check


FIELDS: dict[str, Check] = {
    "model": shapes.string,
    "max_tokens": shapes.integer(0),
    "stream": shapes.boolean,
    "cache_control": shapes.cache_control,
    "container": shapes.anything,
    "diagnostics": _shaped({"previous_message_id": _optional_string}, {}),
    "inference_geo": shapes.string,
    "compaction": _shaped({"type": shapes.one_of("summarize")}, {"instructions": shapes.string}),
    "context_management": _shaped({}, {"edits": editing.check}),
    "metadata": _shaped({}, {"user_id": shapes.string}),
    "output_config": _shaped(
        {},
        {
            "effort": shapes.one_of("low", "medium", "high", "xhigh", "max"),
            "format": shapes.obj,
            "task_budget": shapes.obj,
        },
    ),
    "output_format": shapes.obj,
    "service_tier": shapes.one_of("auto", "standard_only"),
    "speed": shapes.one_of("standard", "fast"),
    "stop_sequences": _strings,
    "thinking": _tagged(_THINKING),
    "tool_choice": _tagged(_CHOICE),
    "temperature": shapes.number,
    "top_p": shapes.number,
    "top_k": shapes.integer(0),
}


def check(body: Mapping[str, Any], profile: Profile, context: Context) -> None:
    """Raises `Refusal` where a setting does not go with the model or with another setting."""
    _tools(body)
    _sampling(body, profile, context)
    _thinking(body, profile, context)
    _forced(body, profile)
    if not context.counting:
        _max_tokens(body, profile)


def check_batched(body: Mapping[str, Any]) -> None:
    """What a batched request may not ask for (batch-processing page, 2026). The sentences are ours."""
    if body.get("stream"):
        refuse("stream", "streaming is not supported in a Message Batch")
    if body["max_tokens"] == 0:
        refuse("max_tokens", "Input should be greater than or equal to 1")
    if body.get("speed"):
        refuse("speed", "not supported in a Message Batch")


def _tools(body: Mapping[str, Any]) -> None:
    names = [tool["name"] for tool in body.get("tools") or () if "name" in tool]
    if len(set(names)) != len(names):
        refuse("tools", "Tool names must be unique.")
    choice = body.get("tool_choice") or {}
    if choice and choice["type"] != "none" and not body.get("tools"):
        refuse("tool_choice", "tool_choice may only be specified while providing tools")
    if choice.get("type") == "tool" and choice["name"] not in names:
        raise Refusal(f"Tool '{choice['name']}' not found in provided tools")


def _sampling(body: Mapping[str, Any], profile: Profile, context: Context) -> None:
    given = [name for name in SAMPLING if body.get(name) is not None]
    if not given:
        return
    name = given[0]
    if context.version >= NEW_VERSION:
        raise Refusal(f"{name}: not supported with anthropic-version {context.version}. Remove this parameter.")
    if not profile.prefill and not _is_46(profile) and body[name] != {"temperature": 1, "top_p": 1}.get(name):
        raise Refusal(f"`{name}` is deprecated for this model.")
    if _mode(body, profile) == "enabled" and body.get("temperature") not in (None, 1):
        raise Refusal("`temperature` may only be set to 1 when thinking is enabled.")
    if "temperature" in given and "top_p" in given:
        raise Refusal("`temperature` and `top_p` cannot both be specified for this model. Please use only one.")
    if not 0 <= body.get("temperature", 1) <= 1:
        refuse("temperature", "range: 0..1")


def _is_46(profile: Profile) -> bool:
    return profile.name.endswith("-4-6")


def _mode(body: Mapping[str, Any], profile: Profile) -> str | None:
    return (body.get("thinking") or {}).get("type") or profile.thinking_default


def _thinking(body: Mapping[str, Any], profile: Profile, context: Context) -> None:
    thinking = body.get("thinking")
    if not thinking:
        return
    kind = thinking["type"]
    if kind not in profile.thinking_types:
        _unsupported(kind)
    budget = thinking.get("budget_tokens", 0)
    if not context.counting and 0 < body["max_tokens"] <= budget:
        raise Refusal(f"`max_tokens` must be greater than `thinking.budget_tokens`. {_DOCS}")
    effort = (body.get("output_config") or {}).get("effort")
    capped = kind == "between_tools" or (kind == "disabled" and profile.name in _CAPPED)
    if capped and effort in ("xhigh", "max"):
        raise Refusal(f"\"thinking.type.{kind}\" is only supported with output_config.effort 'high' or below.")
    if thinking.get("display") == "updates" and not context.beta("thinking-display-updates-"):
        refuse(f"thinking.{kind}.display", "Input should be 'summarized' or 'omitted'")
    _binding(thinking, kind, context)


_CAPPED = ("claude-opus-5", "claude-haiku-5-5")
"""Thinking may be disabled only at effort high or below (model pages, October 2026)."""


def _unsupported(kind: str) -> None:
    if kind == "adaptive":
        raise Refusal("adaptive thinking is not supported on this model")
    hint = ' Use "thinking.type.adaptive" and "output_config.effort" to control thinking behavior.'
    raise Refusal(f'"thinking.type.{kind}" is not supported for this model.{hint if kind == "enabled" else ""}')


def _binding(thinking: Mapping[str, Any], kind: str, context: Context) -> None:
    control = thinking.get("block_binding")
    if control is None:
        return
    path = f"thinking.{kind}.block_binding"
    if not context.beta("thinking-binding-controls-"):
        refuse(path, shapes.EXTRA)
    for key, value in control.items():
        if key != "prefix_mismatch_behavior":
            refuse(f"{path}.{key}", shapes.EXTRA)
        if value is not None:
            shapes.one_of("error", "drop_block")(f"{path}.{key}", value)


def _forced(body: Mapping[str, Any], profile: Profile) -> None:
    if (body.get("tool_choice") or {}).get("type") not in ("any", "tool"):
        return
    if not profile.forced_tool_choice:
        raise Refusal(f"tool_choice: forced tool use is not supported for {profile.name}")
    if _mode(body, profile) == "enabled":
        raise Refusal("Thinking may not be enabled when tool_choice forces tool use.")


def _max_tokens(body: Mapping[str, Any], profile: Profile) -> None:
    limit = body["max_tokens"]
    if limit > profile.max_output:
        refuse(
            "max_tokens",
            f"{limit} > {profile.max_output}, which is the maximum allowed number of output tokens for {profile.name}",
        )
    if limit > 0:
        return
    if not profile.prewarms or profile.prewarm_max_tokens > 0:
        refuse("max_tokens", "Input should be greater than or equal to 1")
    reasons = {
        "`stream` is true": body.get("stream"),
        "`thinking.type` is 'enabled'": (body.get("thinking") or {}).get("type") == "enabled",
        "`output_config.format` is set": (body.get("output_config") or {}).get("format"),
        "`tool_choice` forces tool use": (body.get("tool_choice") or {}).get("type") in ("any", "tool"),
    }
    for reason, holds in reasons.items():
        if holds:
            refuse("max_tokens", f"must be at least 1 when {reason}")
