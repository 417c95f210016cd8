"""How a command starts and ends: what it imports, and what becomes of output that cannot be written."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from ast import literal_eval
from importlib import metadata
from pathlib import Path
from signal import SIGINT

import anyio
import pytest

from sessions.cli import COMMANDS
from sessions.cli.commands import loaded
from sessions.testing import simulated_manager
from tests.cli.conftest import Run

CONVERSATION = Path(__file__).parent.parent / "data" / "conversation.json"
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


INTERRUPTED = """
import os, signal, sys
before, ended, armed = [], [], False

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        global armed
        if not armed:
            before.append(name)
            armed = name == "sessions.cli"
        elif self.is_chosen(name) and not self.is_at_work():
            self.interrupt(name)

    def is_chosen(self, name):
        self.count = getattr(self, "count", 0) + 1
        return name.startswith("sessions") or name == "gc" or self.count % 10 == 0

    def is_at_work(self):
        return getattr(sys.modules.get("asyncio.events"), "_get_running_loop", lambda: None)() is not None

    def interrupt(self, name):
        child = os.fork()
        if child:
            ended.append((name, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))
            return
        sys.meta_path.remove(self)
        sys.stdout = sys.stderr
        os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
from sessions.cli import main
try:
    main(sys.argv[1:])
except SystemExit:
    if sys.stdout is not sys.stderr:
        print((before, ended))
    raise
"""
"""A process that forks a child at each module of ours that it imports, at every tenth of the others, and at its end,
where `gc` is imported; the child gets SIGINT there."""


def environment(**more: str) -> dict[str, str]:
    bare = {k: v for k, v in os.environ.items() if not k.startswith(("ANTHROPIC_", "WARMLINE_"))}
    return {**bare, "COLUMNS": "120", **more}


@pytest.mark.parametrize(
    "command",
    ["--version", "--help", "list", "show one", "cost", "cost one --by day", "why one", "verify one", "export one",
     "fork one", "rewind one start", "db upgrade", "list --help", f"import {CONVERSATION}"],
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


def test_closed_streams_are_no_traceback(stored: Path) -> None:
    command = f"{shlex.quote(sys.executable)} -m sessions list --json <&- >&-"
    ran = subprocess.run(command, shell=True, cwd=stored, env=environment(), stderr=subprocess.PIPE, check=False)
    assert (ran.returncode, ran.stderr) == (0, b"")


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


def test_ctrl_c_while_a_command_starts_or_ends_says_nothing(stored: Path) -> None:
    """From `main` on; next to nothing is imported before it."""
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", INTERRUPTED, "list"],
        cwd=stored, env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.stderr == ""
    before, ended = literal_eval(ran.stdout.splitlines()[-1])
    assert len(ended) > 50
    assert {code for _, code in ended} <= {-SIGINT, 130}
    assert len(before) < 10, before


STARTING = """
import os, signal, sys
class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "anyio._backends._asyncio":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupting())
from sessions.cli import main
main(["chat"])
"""


def test_ctrl_c_while_the_event_loop_of_a_chat_starts_ends_it(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    ran = subprocess.run(
        [sys.executable, "-c", STARTING],
        cwd=tmp_path, env=environment(), stdin=reader, capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    os.close(reader)
    os.close(writer)
    assert (ran.returncode, ran.stderr) == (-SIGINT, b"")


def test_the_list_of_commands_says_what_each_says_itself() -> None:
    for name, (_, sentence) in COMMANDS.items():
        told = loaded(name).help
        assert " ".join(told.split("\n\n")[0].split()) == sentence, name
