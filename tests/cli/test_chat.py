"""`warmline chat` as a person uses it, typed line by line into a process of its own."""

from __future__ import annotations

import re

from tests.cli.conftest import Run


def test_a_conversation_is_kept_and_resumed_by_its_id(process: Run) -> None:
    first = process("chat", typed="My name is Ada.\n")
    assert first.code == 0, first.err
    assert "No ANTHROPIC_API_KEY is set: a simulated Claude answers." in first.out
    session = re.search(r"Go on with: warmline chat (\w+)", first.out)
    assert session
    second = process("chat", session[1], typed="What is my name?\n/quit\n")
    assert second.code == 0, second.err
    assert "Your name is Ada." in second.out


def test_commands_of_the_chat(process: Run) -> None:
    ran = process("chat", typed="My name is Ada.\n/fork\nWhat is my name?\n/cost\n/help\n/nonsense\n/fork nowhere\n")
    assert ran.code == 0, ran.err
    assert "A branch: session" in ran.out
    assert "Your name is Ada." in ran.out
    assert "1 calls: read" in ran.out
    assert "There is no such command." in ran.out
    assert "Conflict: " in ran.err
    assert len(process("list", "--json").out.split('"id"')) == 3
