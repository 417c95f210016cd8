"""Whatever is stored, a terminal is sent the console's own control sequences and no others."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import anyio
import pytest

from sessions import tool
from sessions.cli.visible import json_text, visible
from sessions.testing import simulated_manager
from tests.cli.conftest import Run

ATTACKS = {
    "\x1b]52;c;ZXZpbA==\x07": "␛]52;c;ZXZpbA==␇",  # writes the clipboard
    "\x1b[2J\x1b[H": "␛[2J␛[H",  # clears the screen
    "\x1b]8;;http://evil.example\x1b\\": "␛]8;;http://evil.example␛\\",  # a link
    "\u202egpj.exe": "<U+202E>gpj.exe",  # read from right to left
    "\u2066x\u2069": "<U+2066>x<U+2069>",
    "\x9b31m": "<U+009B>31m",  # CSI in one character
    "\x9d0;t\x9c": "<U+009D>0;t<U+009C>",
    "good\rEVIL": "good␍EVIL",  # overwrites its line
    "ab\x08\x08": "ab␈␈",
    "\x7f": "␡",
    "[bold red]x[/]": "[bold red]x[/]",  # the markup of our console
    "[link=http://evil.example]x": "[link=http://evil.example]x",
    ":skull:": ":skull:",
}
HOSTILE, SHOWN = " ".join(ATTACKS), " ".join(ATTACKS.values())


@tool
def look(place: str) -> str:
    """Looks at a place.

    Args:
        place: Where.
    """
    return HOSTILE


async def _attacked(path: Path) -> None:
    async with simulated_manager(f"sqlite:///{path}") as manager:
        session = await manager.create(
            id="one",
            model="claude-sonnet-5-5",
            max_tokens=4000,
            system="You look at places.",
            tools=[look],
            owner=HOSTILE,
            title=HOSTILE,
        )
        await session.send("Please look at the look of Paris.")
        plain = await manager.create(id="two", model="claude-sonnet-5-5", max_tokens=4000, title=HOSTILE)
        await plain.send(HOSTILE)


@pytest.fixture
def attacked(tmp_path: Path) -> Path:
    anyio.run(_attacked, tmp_path / "sessions.db")
    return tmp_path


def on_a_terminal(folder: Path, *arguments: str, typed: Sequence[str] = ()) -> str:
    """All that a terminal of 4,000 columns is sent, errors included; each line is typed once it is asked for."""
    ours, theirs = pty.openpty()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("ANTHROPIC_", "WARMLINE_", "NO_COLOR"))}
    environment |= {"COLUMNS": "4000", "TERM": "xterm"}
    command = [sys.executable, "-W", "error", "-m", "sessions", *arguments]
    shown, answered, lines = b"", 0, list(typed)
    with subprocess.Popen(command, cwd=folder, env=environment, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        try:
            while True:
                if lines and b"you> " in shown[answered:]:
                    answered = len(shown)
                    os.write(ours, lines.pop(0).encode())
                assert select.select([ours], [], [], 60)[0], shown
                try:
                    part = os.read(ours, 65536)
                except OSError:  # Linux says so where all ends of the terminal are closed
                    break
                if not part:
                    break
                shown += part
            process.wait()
        finally:
            process.kill()  # one that waits for more would be waited for
    os.close(ours)
    return shown.decode().replace("\r\n", "\n")


OURS = re.compile(r"\x1b\[(?:\d*(?:;\d+)*m|\?25[lh]|\?2004[lh]|2K|1A)|\r")
"""Colours, and what the line that says "thinking" and the editor of typed lines need."""


@pytest.mark.parametrize(
    "command", [("list",), ("show", "one", "--ids"), ("show", "two"), ("cost", "--by", "owner"), ("why", "two")]
)
def test_a_terminal_is_sent_no_command_of_others(attacked: Path, command: tuple[str, ...]) -> None:
    shown = on_a_terminal(attacked, *command)
    plain = re.sub(r"\x1b\[\d*(?:;\d+)*m", "", shown)
    assert [one for one in plain if one != "\n" and not one.isprintable()] == []
    if command[0] in ("list", "cost"):
        assert SHOWN in plain
    if command[0] == "show":
        assert plain.count("␛]52;c;ZXZpbA==␇") >= 2
        assert plain.count("good␍EVIL") >= 1


def test_an_answer_is_shown_as_it_is_written(attacked: Path) -> None:
    shown = on_a_terminal(attacked, "chat", "two", typed=("What did I say?\r", "/quit\r"))
    assert "you> " in shown
    for attack in ("\x1b]", "\x1b[2J", "\x9b", "\x9d", "\u202e", "\u2066", "\x07\x07", "\x7f", "good\r"):
        assert attack not in shown
    plain = OURS.sub("", shown)
    assert "␛]52;c;ZXZpbA==␇" in plain
    assert "\x1b" not in plain


def test_errors_pass_the_same_door(attacked: Path) -> None:
    shown = on_a_terminal(attacked, "export", "two", "-o", "absent/\x1b]52;c;eA==\x07[bold]x.json")
    assert "cannot write absent/␛]52;c;eA==␇[bold]x.json" in shown
    assert "\x1b]" not in shown


@pytest.mark.parametrize("command", [("list", "--json"), ("show", "two", "--json"), ("export", "two")])
def test_json_is_the_same_value_without_a_character_that_a_terminal_obeys(
    attacked: Path, warmline: Run, command: tuple[str, ...]
) -> None:
    ran = warmline(*command)
    assert ran.code == 0, ran.err
    assert [one for one in ran.out if one != "\n" and not one.isprintable()] == []
    found = json.loads(ran.out)
    held = {
        "list": lambda: found[0]["title"],
        "show": lambda: found["title"],
        "export": lambda: found[0]["content"][0]["text"],
    }[command[0]]()
    assert held == HOSTILE


def test_words_stay_as_they_are() -> None:
    words = "Zażółć gęślą jaźń,\tשלום\nمرحبا 日本語 👩‍👩‍👧 é\r\nend"
    assert visible(words) == words.replace("\r\n", "\n")
    assert json.loads(json_text(json.dumps(words, ensure_ascii=False))) == words
