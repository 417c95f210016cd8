"""`warmline serve`: what it refuses before it serves anything. What it serves: `tests/web/test_deployment.py`."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Run

pytest.importorskip("sse_starlette", reason="install the extra chat")

AGENTS = """
from sessions.web import Agent
one = Agent("helper", model="claude-sonnet-5-5")
none, wrong = [], {"helper": one}
"""


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_others_are_not_let_in_unless_it_is_said_who_is_who(warmline: Run, host: str) -> None:
    ran = warmline("serve", "--host", host)
    assert ran.code == 2
    assert "--tokens FILE" in ran.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--agents", "helper"], "--agents must be module:name"),
        (["--agents", "no_such_module:agents"], "there is no module no_such_module"),
        (["--agents", "of_serve:absent"], "has nothing of the name absent"),
        (["--agents", "of_serve:none"], "must be an Agent, a list of them"),
        (["--agents", "of_serve:wrong"], "must be an Agent, a list of them"),
        (["--agents", "broken_serve:agents"], "needs a module that is not there: no_such_thing"),
        (["--auth", "of_serve:one"], "must be a function of the request"),
        (["--auth", "of_serve:one", "--tokens", "tokens.txt"], "not both"),
        (["--tokens", "absent.txt"], "there is no token file"),
        (["--operator", "ada"], "--operator needs --auth or --tokens"),
        (["--workers", "2", "--store", "sqlite://"], "several workers share a store"),
        (["--store", "nonsense"], "no store URL"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(warmline: Run, tmp_path: Path, options: list[str], said: str) -> None:
    (tmp_path / "of_serve.py").write_text(AGENTS)
    (tmp_path / "broken_serve.py").write_text("import no_such_thing\n")
    ran = warmline("serve", "--port", "0", *options)
    assert ran.code == 2, ran.err
    assert said in ran.err
    assert len(ran.err.splitlines()) == 1


def test_a_port_that_is_taken_is_named(warmline: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ran = warmline("serve", "--port", str(port))
    assert ran.code == 2
    assert f"cannot listen on 127.0.0.1:{port}" in ran.err
    assert "choose another --port" in ran.err


WITHOUT = """
import sys
sys.modules["sse_starlette"] = None
from sessions.cli import main
main(["serve", "--port", "0"])
"""


def test_a_missing_extra_is_named_with_the_way_to_get_it(tmp_path: Path) -> None:
    ran = subprocess.run([sys.executable, "-c", WITHOUT], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 2, ran.stderr
    assert "pip install" in ran.stderr
    assert "[chat]" in ran.stderr
    assert len(ran.stderr.splitlines()) == 1
