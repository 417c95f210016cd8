"""Settings that the Claude API refuses for certain: no session is made that could never answer.

Rules are those of the SDK's types (2.11) and of the model pages of August to November 2026. What is not certain (a
compatible server, a model that is not in the tables, a beta that lifts a limit) is left to the API.
"""

from __future__ import annotations

import re
from typing import Any

from sessions.core.profiles import MODELS, Profile, bare_name, endpoint_name
from sessions.core.settings import Settings
from sessions.core.transcript import Malformed, shown

_CLAUDE = ("anthropic", "aws", "bedrock", "google", "foundry")
"""Endpoints that serve Claude itself, by its own rules."""
_EFFORTS = ("low", "medium", "high", "xhigh", "max")
_LEAST_BUDGET = 1024
TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")


def check_acceptable(settings: Settings, endpoint: str | None) -> None:
    """Raises `Malformed` for what every request with these settings would be refused for."""
    model = MODELS.get(settings.model) or MODELS.get(bare_name(settings.model))
    if model is None or endpoint_name(endpoint) not in _CLAUDE:
        return
    betas = [str(one) for one in (settings.params or {}).get("betas") or ()]
    if settings.max_tokens > model.max_output and not any(one.startswith("output-") for one in betas):
        raise Malformed(
            f"max_tokens {settings.max_tokens} is more than the {model.max_output} tokens that {model.name} can write"
        )
    if settings.thinking is not None:
        _check_thinking(settings, settings.thinking, model, betas)
    effort = (settings.output_config or {}).get("effort")
    if effort is not None and effort not in _EFFORTS:
        raise Malformed(f"output_config['effort'] must be one of {', '.join(_EFFORTS)}, not {shown(effort)}")
    for index, tool in enumerate(settings.tools):
        if "input_schema" in tool:
            _check_tool(index, tool)


def _check_thinking(settings: Settings, thinking: dict[str, Any], model: Profile, betas: list[str]) -> None:
    kind = thinking["type"]
    if kind not in model.thinking_types:
        known = " or ".join(map(repr, model.thinking_types))
        raise Malformed(f"thinking['type'] of {model.name} must be {known}, not {shown(kind)}")
    if kind != "enabled":
        return
    budget = thinking.get("budget_tokens")
    if type(budget) is not int or budget < _LEAST_BUDGET:
        raise Malformed(f"thinking['budget_tokens'] must be an int of {_LEAST_BUDGET} or more, not {shown(budget)}")
    if budget >= settings.max_tokens and not any(one.startswith("interleaved-thinking-") for one in betas):
        raise Malformed(f"thinking['budget_tokens'] {budget} must be less than max_tokens ({settings.max_tokens})")


def _check_tool(index: int, tool: dict[str, Any]) -> None:
    if not TOOL_NAME.fullmatch(str(tool.get("name"))):
        raise Malformed(
            f"tools[{index}].name {shown(tool.get('name'))} must have 1 to 128 letters, digits, _ and -: rename it"
        )
    if not isinstance(tool["input_schema"], dict) or tool["input_schema"].get("type") != "object":
        raise Malformed(f"tools[{index}].input_schema must be a JSON schema of type 'object'")
