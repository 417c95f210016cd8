"""`warmline chat` as a person uses it, typed line by line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import anyio
import pytest

from sessions.testing import simulated_manager
from tests.cli.conftest import Run


def test_a_conversation_is_kept_and_resumed_by_its_id(process: Run) -> None:
    first = process("chat", typed="My name is Ada.\n")
    assert first.code == 0, first.err
    assert "No ANTHROPIC_API_KEY is set: a simulated Claude answers." in first.out
    session = re.search(r"Go on with: warmline chat (\w+)", first.out)
    assert session
    second = process("chat", session[1][:9], typed="What is my name?\n/quit\n")
    assert second.code == 0, second.err
    assert "Your name is Ada." in second.out


def test_commands_of_the_chat(warmline: Run) -> None:
    ran = warmline("chat", typed="My name is Ada.\n/fork\nWhat is my name?\n/cost\n/help\n/nonsense\n/fork nowhere\n")
    assert ran.code == 0, ran.err
    assert "A branch: session" in ran.out
    assert "Your name is Ada." in ran.out
    assert "1 calls: read" in ran.out
    assert "There is no such command." in ran.out
    assert "Conflict: " in ran.err
    assert len(warmline("list", "--branches", "--json").out.split('"id"')) == 3


def test_a_turn_is_taken_back_and_an_answer_asked_again(warmline: Run) -> None:
    asked = "My name is Ada.\nMy name is Bob.\n/rewind\nWhat is my name?\n/regenerate\n"
    ran = warmline("chat", typed=asked + "/rewind\n" * 3 + "/regenerate\n")
    assert ran.code == 0, ran.err
    assert ran.out.count("Your name is Ada.") == 2
    assert "Your name is Bob." not in ran.out
    backs = [f"Back at {count} entries." for count in (2, 2, 0)]
    assert [line[: len(backs[0])] for line in ran.out.splitlines() if line.startswith("Back at")] == backs
    assert ran.err.count("Conflict: nothing has been said yet") == 2
    session = re.search(r"Go on with: warmline chat (\w+)", ran.out)
    assert session
    shown = json.loads(warmline("show", session[1], "--json").out)
    assert shown["entries"] == []
    assert len(shown["calls"]) == 4


def test_an_entry_to_go_back_to_may_be_named_by_its_beginning(warmline: Run) -> None:
    first = warmline("chat", typed="My name is Ada.\nMy name is Bob.\n")
    session = re.search(r"Go on with: warmline chat (\w+)", first.out)
    assert session
    ids = [entry["id"] for entry in json.loads(warmline("show", session[1], "--json").out)["entries"]]
    ran = warmline("chat", session[1], typed=f"/rewind {ids[1][:12]}\nWhat is my name?\n/rewind zzz\n")
    assert ran.code == 0, ran.err
    assert "Your name is Ada." in ran.out
    assert "Conflict: " in ran.err


@pytest.mark.parametrize("typed", ["", "/cost\n/fork\n/rewind\n/regenerate\n/help\n"])
def test_who_leaves_without_a_word_leaves_no_session(warmline: Run, typed: str) -> None:
    ran = warmline("chat", typed=typed)
    assert ran.code == 0, ran.err
    assert "A new session with claude-sonnet-5-5." in ran.out
    assert "Go on with" not in ran.out
    assert ran.err.count("Conflict: nothing has been said yet") == (4 if typed else 0)
    assert warmline("list").out == "No sessions.\n"


@pytest.mark.filterwarnings("default:nothing is known")
def test_an_unknown_model_is_told_before_the_first_word(warmline: Run) -> None:
    ran = warmline("chat", "--model", "claude-sonet-5-5", typed="Hello\n")
    said = "nothing is known about the model 'claude-sonet-5-5' (did you mean claude-sonnet-5-5 or "
    assert ran.err.startswith(said)
    assert ran.err.count("nothing is known") == 1
    assert "ModelError: the API answered 404" in ran.err
    assert ran.code == 1, "the last turn failed"


def test_wrong_settings_are_told_before_the_first_word(warmline: Run) -> None:
    ran = warmline("chat", "--system", " ")
    assert ran.code == 2
    assert "ConfigurationError: system" in ran.err


@pytest.mark.parametrize("option", ["--model", "--system", "--max-tokens"])
def test_a_session_that_goes_on_keeps_its_settings(warmline: Run, tmp_path: Path, option: str) -> None:
    anyio.run(pinned, tmp_path / "sessions.db")
    ran = warmline("chat", "one", option, "5")
    assert ran.code == 2
    assert f"{option} is for a new session" in ran.err


async def pinned(path: Path) -> None:
    async with simulated_manager(f"sqlite:///{path}") as manager:
        context = [{"type": "text", "text": "A document."}]
        session = await manager.create(id="one", model="claude-sonnet-5-5", max_tokens=500, context=context)
        await session.send("My name is Ada.")


def test_a_first_message_asked_again_keeps_its_pinned_context_once(warmline: Run, tmp_path: Path) -> None:
    anyio.run(pinned, tmp_path / "sessions.db")
    ran = warmline("chat", "one", typed="/regenerate\n")
    assert ran.code == 0, ran.err
    entries = json.loads(warmline("show", "one", "--json").out)["entries"]
    assert [entry["role"] for entry in entries] == ["user", "assistant"]
    assert [block["text"] for block in entries[0]["content"]] == ["A document.", "My name is Ada."]
