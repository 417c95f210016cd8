"""Plain Messages JSON: one document, or one message or conversation a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sessions.core.usage import Usage
from sessions.errors import InvalidImport
from sessions.importers import Imported, read, read_messages
from tests.importers.lines import call, text
from tests.importers.referee import DATA, refusal

HELLO: list[dict[str, Any]] = [
    {"role": "user", "content": "Hello."},
    {"role": "assistant", "content": [text("Hi.")], "model": "m", "usage": {"input_tokens": 3, "output_tokens": 1}},
]


def imported(folder: Path, *values: Any, strict: bool = False) -> Imported:
    path = folder / "conversation.json"
    path.write_text("\n".join(json.dumps(value) for value in values))
    return read(path, strict=strict)


def test_a_document_with_everything() -> None:
    (conversation,) = read(DATA / "conversation.json", strict=True).conversations
    assert refusal(conversation) is None
    assert (conversation.model, conversation.system) == ("claude-opus-4-6", "You are a librarian.")
    assert conversation.tools is not None
    assert "cache_control" not in conversation.tools[0]
    assert [len(turn.steps) for turn in conversation.turns] == [2, 1]
    first = conversation.steps[0]
    assert [result["content"] for result in first.results] == [[text("shelf 4")], "on loan"]
    assert first.extra == (text("Quickly, please."),)
    assert conversation.turns[1].content == (text("Thank you."), text("Until when?"))
    assert conversation.turns[1].at >= conversation.turns[0].at + 60


@pytest.mark.parametrize("values", [[HELLO], HELLO, [{"messages": HELLO}]], ids=["list", "lines", "object"])
def test_the_same_conversation_in_each_form(tmp_path: Path, values: list[Any]) -> None:
    (conversation,) = imported(tmp_path, *values, strict=True).conversations
    assert (conversation.id, conversation.model) == ("conversation", "m")
    assert [message["role"] for message in conversation.messages] == ["user", "assistant"]
    assert conversation.steps[0].usage == Usage(input=3, output=1, counters=False)


def test_several_conversations_one_a_line(tmp_path: Path) -> None:
    found = imported(tmp_path, {"id": "x", "messages": HELLO}, {"messages": HELLO}, strict=True).conversations
    assert [one.id for one in found] == ["x", "conversation-2"]


def test_a_leading_system_message_is_the_system_prompt_a_later_one_is_said(tmp_path: Path) -> None:
    messages = [{"role": "system", "content": "Be kind."}, *HELLO, {"role": "system", "content": "Be brief."}, *HELLO]
    (conversation,) = imported(tmp_path, messages, strict=True).conversations
    assert conversation.system == (text("Be kind."),)
    assert conversation.turns[1].content == (text("Be brief."), text("Hello."))
    assert refusal(conversation) is None


def test_what_is_not_sendable_is_made_so(tmp_path: Path) -> None:
    messages = [
        {"role": "assistant", "content": "Too early."},
        {"role": "user", "content": "Go."},
        {"role": "assistant", "content": [call("a")]},
        {"role": "user", "content": [text("Wait."), {"type": "tool_result", "tool_use_id": "zzz"}]},
        {"role": "assistant", "content": []},
        {"role": "assistant", "content": "So."},
        {"role": "assistant", "content": "And so."},
    ]
    found = imported(tmp_path, messages, strict=True)
    (conversation,) = found.conversations
    assert refusal(conversation) is None
    assert conversation.steps[-1].blocks == (text("So."), text("And so."))
    assert found.notes == {
        "replies before any words left out": 1,
        "tool results without a call left out": 1,
        "missing tool results supplied": 1,
        "replies without words or calls left out": 1,
        "replies that went on joined": 1,
    }


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ({"messages": [*HELLO, {"role": "tool", "content": "x"}]}, r"messages\[2\] is not an object with the role"),
        ({"messages": [*HELLO, 5]}, r"messages\[2\] is not an object with the role"),
        ({"messages": HELLO, "system": [5]}, "the system prompt has a content block"),
        ({"messages": HELLO, "system": 5}, "the system prompt has content"),
        ({"messages": HELLO, "tools": 5}, "the tools are no list"),
        ({"messages": HELLO, "tools": [{"name": 5}]}, "the tools are no list"),
    ],
)
def test_a_wrong_part_is_a_problem(tmp_path: Path, value: Any, why: str) -> None:
    found = imported(tmp_path, value)
    assert len(found.problems) == 1
    assert len(found.conversations) == 1
    with pytest.raises(InvalidImport, match=why):
        imported(tmp_path, value, strict=True)


def test_a_line_that_is_no_message_is_a_problem(tmp_path: Path) -> None:
    assert [problem.line for problem in imported(tmp_path, *HELLO, {"x": 1}).problems] == [3]
    path = tmp_path / "conversation.json"
    assert len(read_messages(path).conversations) == 1


def test_a_pretty_printed_document_is_not_taken_for_lines(tmp_path: Path) -> None:
    path = tmp_path / "pretty.json"
    lines = ",\n".join(json.dumps(message) for message in HELLO)
    path.write_text(f"[\n{lines}\n]\n")
    assert len(read(path, strict=True).conversations[0].messages) == 2
    path.write_text(json.dumps(HELLO, indent=2)[:-5])
    with pytest.raises(InvalidImport, match="is not a transcript"):
        read(path)


def test_times_are_kept_where_they_are_given(tmp_path: Path) -> None:
    (conversation,) = imported(
        tmp_path, *({**message, "timestamp": 1e9 + n} for n, message in enumerate(HELLO))
    ).conversations
    assert conversation.turns[0].at == 1e9
