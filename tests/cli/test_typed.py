"""`warmline chat` at a real terminal: what is typed and pasted there, and what becomes one message."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.cli.test_start import environment

CHAT = "from sessions.cli import main; main(['chat'])"
WITHOUT_READLINE = f"import sys; sys.modules['readline'] = None; {CHAT}"
PATIENCE = 60


class Terminal:
    """A program at a terminal of its own."""

    def __init__(self, program: str, folder: Path) -> None:
        self._process, self._end = pty.fork()
        if self._process == 0:
            os.chdir(folder)
            os.execve(sys.executable, [sys.executable, "-c", program], environment(TERM="xterm"))
        self.shown = ""

    def type(self, keys: str | bytes, *, until: str) -> str:
        """What is shown between the keys and `until`."""
        os.write(self._end, keys.encode() if isinstance(keys, str) else keys)
        return self.wait(until)

    def wait(self, until: str) -> str:
        shown = ""
        while until not in shown:
            assert select.select([self._end], [], [], PATIENCE)[0], f"{until!r} does not come: {shown}"
            shown += os.read(self._end, 65536).decode(errors="replace")
        self.shown += shown
        return shown

    def leave(self) -> None:
        """Ctrl-D."""
        os.write(self._end, b"\x04")

    def end(self) -> int:
        try:
            while part := os.read(self._end, 65536):
                self.shown += part.decode(errors="replace")
        except OSError:  # the other end is closed
            pass
        os.close(self._end)
        return os.waitstatus_to_exitcode(os.waitpid(self._process, 0)[1])


@pytest.fixture(params=[CHAT, WITHOUT_READLINE], ids=["readline", "without readline"])
def terminal(request: pytest.FixtureRequest, tmp_path: Path) -> Terminal:
    found = Terminal(request.param, tmp_path)
    found.wait("you> ")
    return found


def test_what_is_typed_and_pasted(terminal: Terminal, warmline: Run, request: pytest.FixtureRequest) -> None:
    has_readline = "without" not in request.node.callspec.id
    pasted = "\x1b[200~{}\x1b[201~\r" if has_readline else "{}\r"

    terminal.type(pasted.format("    one:\r/quit\rthree \\"), until="you> ")
    terminal.type("a\nb\nc\n", until="you> ")  # pasted where the terminal puts no brackets around it
    terminal.type("dropped\\\r", until="...> ")
    time.sleep(0.5)  # a Ctrl-C between the prompt and the read behind it waits for the next line: Python's own gap
    terminal.type("\x03", until="you> ")
    terminal.type("first\\\r", until="...> ")
    terminal.type("second\r", until="you> ")
    assert "at the end of a line" in terminal.type("/help\r", until="you> ")
    if not has_readline:  # which drops what is no character
        assert "no utf-8 text" in terminal.type(b"caf\xe9\r", until="you> ")
    terminal.leave()
    assert terminal.end() == 0
    session = re.search(r"Go on with: warmline chat (\w+)", terminal.shown)
    assert session
    messages = json.loads(warmline("export", session[1]).out)
    said = [message["content"][0]["text"] for message in messages if message["role"] == "user"]
    assert said == ["    one:\n/quit\nthree \\", "a\nb\nc", "first\nsecond"]


def test_a_line_of_a_pipe_is_a_message(warmline: Run) -> None:
    ran = warmline("chat", typed="one\\\n\n  two  \nthree")
    assert ran.out.count("You said: ") == 3
    assert "You said: “two”" in ran.out


@pytest.mark.parametrize("stdin", ["closed", "no text"])
def test_what_is_no_text_is_one_line(tmp_path: Path, stdin: str) -> None:
    close = (lambda: os.close(0)) if stdin == "closed" else None
    ran = subprocess.run(
        [sys.executable, "-m", "sessions", "chat"], cwd=tmp_path, env=environment(PYTHONUTF8="1"),
        input=b"caf\xe9\n", capture_output=True, preexec_fn=close, check=False,
    )  # fmt: skip
    assert ran.returncode == (0 if stdin == "closed" else 2), ran.stderr
    assert len(ran.stderr.splitlines()) == (0 if stdin == "closed" else 1), ran.stderr
