"""The default model: which tools it calls with which arguments, and what it remembers."""

from __future__ import annotations

from typing import Any

import pytest

from sessions.simulator import Request
from sessions.simulator.answers.assistant import assistant


def tool(name: str, **properties: Any) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object", "properties": properties, "required": list(properties)}
    return {"name": name, "description": name, "input_schema": schema}


TEXT = {"type": "string"}
TOOLS = [
    tool("get_weather", city=TEXT),
    tool("add", a={"type": "integer"}, b={"type": "number"}),
    tool("convert_units", amount={"type": "number"}, unit={"type": "string", "enum": ["mile", "metre"]}),
    tool(
        "send_mail", to=TEXT, subject=TEXT, urgent={"type": "boolean"}, tags={"type": "array"}, extra={"type": "object"}
    ),
    tool("roll_dice"),
    {"type": "web_search_20260318", "name": "web_search"},
]
CALLS: list[tuple[str, list[Any]]] = [
    ("What's the weather in Paris, Rome and New York?", [{"city": "Paris"}, {"city": "Rome"}, {"city": "New York"}]),
    ("weather in lisbon and oslo please", [{"city": "lisbon"}, {"city": "oslo please"}]),
    ('Use get_weather for "San José"', [{"city": "San José"}]),
    ("Add 2 and 3.5", [{"a": 2, "b": 3.5}]),
    ("add them", [{"a": 1, "b": 1}]),
    ("Convert 5 units to metre", [{"amount": 5, "unit": "metre"}]),
    ("convert units", [{"amount": 1, "unit": "mile"}]),
    ("roll the dice", [{}]),
    ("My name is Ada. What's the weather in Bonn? Thank you, Claude.", [{"city": "Bonn"}]),
    ("How is everybody?", []),
    ("search the web", []),
]


def ask(words: str, **fields: Any) -> Any:
    body = {"model": "m", "messages": [{"role": "user", "content": words}], "tools": TOOLS, **fields}
    return assistant(Request(body, 0, thinking=True))


def inputs(reply: Any) -> list[Any]:
    return [] if isinstance(reply.content, str) else [b["input"] for b in reply.content if b["type"] == "tool_use"]


@pytest.mark.parametrize(("words", "expected"), CALLS)
def test_tools_are_called_for_what_the_words_mention(words: str, expected: list[Any]) -> None:
    assert inputs(ask(words)) == expected


def test_arguments_are_guessed_by_type() -> None:
    (given,) = inputs(ask("Send a mail to Ada about Lunch"))
    assert given["urgent"] is True
    assert given["extra"] == {}
    assert set(given) == {"to", "subject", "urgent", "tags", "extra"}


def test_tool_choice_is_obeyed() -> None:
    assert inputs(ask("What's the weather in Rome?", tool_choice={"type": "none"})) == []
    assert len(inputs(ask("Hello", tool_choice={"type": "any"}))) == 1
    assert inputs(ask("Rome", tool_choice={"type": "tool", "name": "get_weather"})) == [{"city": "Rome"}]


def test_it_refers_to_what_was_said_before() -> None:
    messages = [
        {"role": "user", "content": "I like trains."},
        {"role": "assistant", "content": "Good."},
        {"role": "user", "content": "And ships."},
    ]
    assert "I like trains." in ask("", messages=messages, tools=[]).content
    unknown = [*messages[:2], {"role": "user", "content": "What is my name?"}]
    assert "You said" in ask("", messages=unknown, tools=[]).content


def test_a_failed_tool_is_told_as_failed() -> None:
    messages = [
        {"role": "user", "content": "roll the dice"},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "roll_dice", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "lost", "is_error": True}]},
    ]
    assert ask("", messages=messages).content.endswith("roll_dice(): failed: lost")
