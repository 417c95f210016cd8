"""`warmline simulate` serves any client; here the commands themselves, as if it were the real API."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import httpx2
import pytest

WARMLINE = [sys.executable, "-W", "error", "-m", "sessions"]
BARE = {k: v for k, v in os.environ.items() if not k.startswith(("ANTHROPIC_", "WARMLINE_"))} | {"COLUMNS": "120"}


@contextmanager
def started(*arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A command in a process of its own, ended with the block."""
    with subprocess.Popen(
        [*WARMLINE, *arguments],
        env={**BARE, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


def read_until(stream: IO[str] | None, words: str) -> str:
    """What the process prints up to `words`."""
    assert stream is not None
    seen = ""
    while words not in seen:
        character = stream.read(1)
        assert character, f"ended after {seen!r}"
        seen += character
    return seen


@contextmanager
def serving(*latency: str) -> Iterator[dict[str, str]]:
    """The environment of a client of `warmline simulate`."""
    with started("simulate", "--port", "0", "--json", *latency) as process:
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["url"]
        yield {"ANTHROPIC_BASE_URL": url, "ANTHROPIC_API_KEY": "simulated"}


@pytest.fixture
def served() -> Iterator[dict[str, str]]:
    with serving() as environment:
        yield environment


def test_any_http_client_can_ask_it(served: dict[str, str]) -> None:
    url = served["ANTHROPIC_BASE_URL"]
    assert "claude-sonnet-5-5" in httpx2.get(f"{url}/v1/models").text
    assert httpx2.get(f"{url}/_simulator/bill").json()["charged"] == 0


def test_it_tells_a_person_how_to_use_it() -> None:
    with started("simulate", "--port", "0") as process:
        said = read_until(process.stdout, "Ctrl-C ends it.")
        assert "export ANTHROPIC_BASE_URL=http://127.0.0.1:" in said


def test_a_live_demo_asks_first(served: dict[str, str], tmp_path: Path) -> None:
    ran = subprocess.run(
        [*WARMLINE, "demo", "--live"], env={**BARE, **served}, input="n\n", capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0
    assert " at worst." in ran.stdout
    assert httpx2.get(f"{served['ANTHROPIC_BASE_URL']}/_simulator/bill").json()["charged"] == 0


def test_a_live_demo_runs_on_what_the_environment_names(served: dict[str, str], tmp_path: Path) -> None:
    ran = subprocess.run(
        [*WARMLINE, "demo", "--live", "--yes", "--keep"],
        env={**BARE, **served, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr + ran.stdout
    assert "of these rewritten 0" in ran.stdout
    assert httpx2.get(f"{served['ANTHROPIC_BASE_URL']}/_simulator/bill").json()["refused"] == 0
    kept = [path.name for path in tmp_path.glob("warmline-demo-*/*.db")]
    assert kept == ["demo.db"]


def test_an_answer_can_be_stopped_and_is_kept(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'chat.db'}"
    with serving("--per-output-token", "0.02") as served, started("chat", "--store", store, **served) as chat:
        assert chat.stdin is not None
        chat.stdin.write("Tell me all there is to know about harbours and lighthouses, and about the sea.\n")
        chat.stdin.flush()
        read_until(chat.stdout, "You said: ")
        chat.send_signal(signal.SIGINT)
        read_until(chat.stdout, "The answer ended early: cancelled.")
        out, err = chat.communicate("My name is Ada.\n", timeout=300)
        assert chat.returncode == 0, err
        assert "Before that you said" in out
    listed = subprocess.run(
        [*WARMLINE, "list", "--json", "--store", store], env=BARE, capture_output=True, text=True, check=True
    )
    assert json.loads(listed.stdout)[0]["turns"] == 2
