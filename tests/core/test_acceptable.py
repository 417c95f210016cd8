"""What Claude's models refuse for certain, and what is left to the API."""

from __future__ import annotations

from typing import Any

import pytest

from sessions.core.acceptable import check_acceptable
from sessions.core.settings import make_settings
from sessions.core.transcript import Malformed

OLD, NEW = "claude-haiku-4-5", "claude-sonnet-5-5"
BUDGET = {"type": "enabled", "budget_tokens": 2048}


def check(endpoint: str | None = None, **given: Any) -> None:
    check_acceptable(make_settings(**{"model": NEW, "max_tokens": 2000, **given}), endpoint)


def schema(name: str, **given: Any) -> list[dict[str, Any]]:
    return [{"name": name, "input_schema": {"type": "object"}, **given}]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"max_tokens": 128_001}, "max_tokens 128001 is more than the 128000"),
        ({"thinking": BUDGET}, r"thinking\['type'\] of claude-sonnet-5-5 must be 'adaptive' or 'between_tools'"),
        ({"model": OLD, "thinking": {"type": "adaptive"}}, "must be 'enabled' or 'disabled'"),
        (
            {"model": OLD, "thinking": {"type": "enabled"}},
            r"\['budget_tokens'\] must be an int of 1024 or more, not None",
        ),
        ({"model": OLD, "thinking": {**BUDGET, "budget_tokens": 1023}}, "1024 or more, not 1023"),
        ({"model": OLD, "thinking": BUDGET, "max_tokens": 2048}, r"2048 must be less than max_tokens \(2048\)"),
        ({"output_config": {"effort": "utmost"}}, r"output_config\['effort'\] must be one of low, medium"),
        ({"tools": schema("a.b")}, r"tools\[0\].name 'a.b' must have 1 to 128 letters"),
        ({"tools": schema("x" * 129)}, r"tools\[0\].name"),
        ({"tools": schema("x", input_schema=7)}, r"tools\[0\].input_schema must be a JSON schema"),
        ({"tools": schema("x", input_schema={"properties": {}})}, r"tools\[0\].input_schema must be a JSON schema"),
    ],
)
def test_what_every_request_would_be_refused_for(given: dict[str, Any], said: str) -> None:
    with pytest.raises(Malformed, match=said):
        check(**given)
    check("http://localhost:8000", **given)  # another server has rules of its own
    check(**{**given, "model": "claude-unheard-of"})


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"max_tokens": 300_000, "params": {"betas": ["output-300k-2026-03-24"]}},
        {"model": OLD, "thinking": {"type": "disabled"}},
        {"model": OLD, "thinking": BUDGET, "max_tokens": 2049},
        {"model": OLD, "thinking": BUDGET, "params": {"betas": ["interleaved-thinking-2025-05-14"]}},
        {"output_config": {"effort": "xhigh"}},
        {"output_config": {"format": {"type": "json_schema"}}},
        {"tools": [*schema("look"), {"type": "web_search_20250305", "name": "web_search"}]},
    ],
)
def test_what_may_be_taken_is_left_to_the_api(given: dict[str, Any]) -> None:
    check(**given)
