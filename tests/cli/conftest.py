"""Running the command line as a script would: arguments in, exit code, output and errors out."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from sessions.cli import main


@dataclass(frozen=True, slots=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def warmline(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """The command line in this process, in an empty folder, without a key; `typed` is its standard input."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("ANTHROPIC_", "WARMLINE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "120")

    def run(*arguments: str, typed: str = "") -> Ran:
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        shown = capsys.readouterr()
        code = ended.value.code
        return Ran(int(code or 0), shown.out, shown.err)

    return run


@pytest.fixture
def process(tmp_path: Path) -> Run:
    """The same in a process of its own, which takes seconds to start."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("ANTHROPIC_", "WARMLINE_"))}

    def run(*arguments: str, typed: str = "") -> Ran:
        ended = subprocess.run(
            [sys.executable, "-W", "error", "-m", "sessions", *arguments],
            cwd=tmp_path,
            env={**environment, "COLUMNS": "120"},
            input=typed,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        return Ran(ended.returncode, ended.stdout, ended.stderr)

    return run
