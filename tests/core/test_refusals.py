"""Which results the API can have meant when it refuses a request, and what stands in their place."""

from __future__ import annotations

from typing import Any

import pytest

from sessions.core.refusals import refused_results, without_results


def result(id: str, content: Any = "seen") -> dict[str, Any]:
    """A tool's result."""
    return {"type": "tool_result", "tool_use_id": id, "content": content}


PICTURE = [{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}]
PLAIN = [result("a"), result("b", "x" * 100), result("c", [{"type": "text", "text": "y" * 90}])]
MIXED = [result("a"), result("b", PICTURE), result("c", None)]


def asked(results: list[dict[str, Any]], reason: str, **how: bool) -> list[str]:
    """The answer for results that stand in the third message."""
    messages = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "look", "input": {}}]},
        {"role": "user", "content": [*results, {"type": "text", "text": "and?"}]},
    ]
    return refused_results(messages, results, reason, **{"too_large": False, "with_words": False, **how})


@pytest.mark.parametrize(
    ("results", "reason", "expected"),
    [
        (PLAIN, "messages.2.content.0: bad", ["a"]),
        (MIXED, "messages.2.content.1.tool_result.content.0.image: Could not process image", ["b"]),
        (PLAIN, "messages.2.content.3.text: bad", []),
        (PLAIN, "messages.1.content.0: Invalid `signature`", []),
        (PLAIN, "messages.0: bad", []),
        (PLAIN, "messages.2: all messages must have non-empty content", ["b", "c"]),
        (PLAIN, "messages.9.content.0: bad", ["b", "c"]),
        (PLAIN, "messages.2.content.77: bad", ["b", "c"]),
        (PLAIN, "tools.0.custom.name: bad", []),
        (PLAIN, "max_tokens: too many", []),
        (PLAIN, "Error", ["b", "c"]),
        (MIXED, "Could not process image", ["b"]),
    ],
)
def test_a_place_decides_else_what_is_likeliest(results: Any, reason: str, expected: list[str]) -> None:
    assert asked(results, reason) == expected


def test_where_the_prompt_is_too_large_the_largest_go() -> None:
    reason = "prompt is too long: 1009749 tokens > 1000000 maximum"
    assert asked(PLAIN, reason, too_large=True) == ["b", "c"]
    assert asked(MIXED, reason, too_large=True, with_words=True) == ["b"]


def test_new_words_are_doubted_before_plain_results() -> None:
    assert asked(PLAIN, "Error", with_words=True) == []
    assert asked(MIXED, "Error", with_words=True) == ["b"]


def test_the_model_is_told_that_the_tool_has_run() -> None:
    kept, told, other = without_results(PLAIN, ["b"], "why " * 200)
    assert (kept, other) == (PLAIN[0], PLAIN[2])
    assert told["is_error"] is True
    assert told["tool_use_id"] == "b"
    assert told["content"].startswith("the tool has run; the result was refused by the API: why")
    assert len(told["content"]) < 400
