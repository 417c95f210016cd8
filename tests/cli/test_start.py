"""How a command starts and ends: what it imports, and what becomes of output that cannot be written."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import anyio
import pytest

from sessions.testing import simulated_manager
from tests.cli.conftest import Run

RUNNER = """
import sys
from sessions.cli import main
try:
    main(sys.argv[1:])
except SystemExit as ended:
    assert not ended.code, ended.code
print("SDK" if "anthropic" in sys.modules else "no SDK", file=sys.stderr)
"""


async def _stored(path: Path) -> None:
    async with simulated_manager(f"sqlite:///{path}") as manager:
        session = await manager.create(id="one", model="claude-sonnet-5-5", max_tokens=500, title="日本 é")
        await session.send("Hello")
        await manager.create(id="two", model="claude-sonnet-5-5", max_tokens=500)


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    anyio.run(_stored, tmp_path / "sessions.db")
    return tmp_path


def environment(**more: str) -> dict[str, str]:
    bare = {k: v for k, v in os.environ.items() if not k.startswith(("ANTHROPIC_", "WARMLINE_"))}
    return {**bare, "COLUMNS": "120", **more}


@pytest.mark.parametrize(
    "command",
    ["--version", "list", "show one", "cost", "cost one --by day", "why one", "verify one", "export one",
     "fork one", "rewind one start", "db upgrade", "list --help"],
)  # fmt: skip
def test_who_never_calls_the_api_does_not_import_the_sdk(stored: Path, command: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", RUNNER, *command.split()],
        cwd=stored,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr.splitlines()[-1] == "no SDK"


def test_the_version_is_told(warmline: Run) -> None:
    assert warmline("--version").out == f"warmline {metadata.version('warmline')}\n"


def test_every_command_is_in_the_help(warmline: Run) -> None:
    out = warmline("--help").out
    assert all(f" {name} " in out for name in ("demo", "list", "cost", "export", "simulate", "db"))
    assert "completion" not in warmline("db", "--help").out


def test_an_encoding_that_cannot_express_a_title_shows_its_number(stored: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "sessions", "list"],
        cwd=stored,
        env=environment(PYTHONIOENCODING="latin-1"),
        capture_output=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "<U+65E5><U+672C> é" in ran.stdout.decode("latin-1")
    assert ran.stderr == b""


@pytest.mark.parametrize("command", ["list", "list --json", "export one", "--help", "--version"])
def test_a_full_disk_is_one_line(stored: Path, command: str) -> None:
    with Path("/dev/full").open("wb") as full:
        ran = subprocess.run(
            [sys.executable, "-m", "sessions", *command.split()],
            cwd=stored, env=environment(), stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert ran.returncode == 1
    assert ran.stderr == "Error: No space left on device\n"


@pytest.mark.parametrize("command", ["list", "list --json", "export one", "show one"])
def test_a_reader_that_has_left_is_no_traceback(stored: Path, command: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    ran = subprocess.run(
        [sys.executable, "-m", "sessions", *command.split()],
        cwd=stored, env=environment(), stdout=writer, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    os.close(writer)
    assert ran.returncode == 1
    assert ran.stderr == ""
