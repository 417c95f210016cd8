"""`warmline probe` as a user runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest

from sessions import profile_for
from sessions.model.profile_file import Measured, read_profile
from tests.cli.conftest import Run

MODEL = "claude-sonnet-5-5"
THERE = replace(profile_for(MODEL), lookback=10, ttls=("5m",), parks=False, price_as=MODEL)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """The address of a simulator that behaves as a profile says: the other use of such a file."""
    Measured(THERE, "here", "").write(tmp_path / "there.json")
    command = [sys.executable, "-m", "sessions", "simulate", "--port", "0", "--json"]
    command += ["--profile", str(tmp_path / "there.json"), "--first-event", "0.02"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield json.loads(server.stdout.readline())["url"]
        finally:
            server.terminate()


def test_the_simulator_agrees_in_everything(warmline: Run, tmp_path: Path) -> None:
    ran = warmline("probe")
    assert ran.code == 0
    assert "24 agree. 60 requests for $0.0727 (simulated: nothing was charged)." in ran.out
    assert "agrees      look-back" in ran.out
    assert "read 653 1h 120" in ran.out
    assert "SessionManager(profile='simulator.profile.json')" in ran.out
    found = read_profile(tmp_path / "simulator.profile.json")
    assert found.complete
    assert replace(found.profile, source="") == replace(profile_for(MODEL), source="")


def test_as_json_it_is_the_file(warmline: Run, tmp_path: Path) -> None:
    ran = warmline("probe", "--quick", "--json", "--out", "quick.json", "--model", "claude-opus-4-8")
    assert ran.code == 0
    assert ran.out == (tmp_path / "quick.json").read_text()
    found = json.loads(ran.out)
    assert (found["model"], found["endpoint"], found["complete"]) == ("claude-opus-4-8", "simulator", False)
    assert {one["verdict"] for one in found["evidence"]} == {"agrees", "skipped"}
    assert all("usage" in one or "refused" in one for rule in found["evidence"] for one in rule["requests"])


def test_an_endpoint_over_http_is_measured(warmline: Run, served: str, tmp_path: Path) -> None:
    ran = warmline("probe", "--base-url", served, "--quick", "--yes", "--other-model", "claude-haiku-5-5")
    assert ran.code == 0, ran.err
    assert "about 40 requests" in ran.err
    assert "it stops at $" in ran.err
    assert "differs     look-back" in ran.out
    assert "found 9 positions back, not 10" in ran.out
    assert "refused 400" in ran.out
    found = read_profile(tmp_path / f"{MODEL}.profile.json")
    assert found.endpoint == served
    assert replace(found.profile, source="", compaction=True, context_editing=True) == replace(THERE, source="")


def test_nothing_is_spent_without_a_yes(warmline: Run, served: str, tmp_path: Path) -> None:
    ran = warmline("probe", "--base-url", served)
    assert ran.code == 2
    assert "pass --yes" in ran.err
    ours, theirs = os.openpty()
    os.write(ours, b"n\n")
    command = [sys.executable, "-W", "error", "-m", "sessions", "probe", "--base-url", served]
    asked = subprocess.run(
        command, stdin=theirs, capture_output=True, text=True, cwd=tmp_path, timeout=300, check=False
    )
    os.close(ours)
    os.close(theirs)
    assert asked.returncode == 2
    assert "Go on? [y/N]" in asked.stderr
    assert not (tmp_path / f"{MODEL}.profile.json").exists()


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("absent/p.json", "cannot write absent/p.json (No such file"),
        ("folder", "folder is no ordinary file"),
        ("there.json", "there.json exists: choose another file, or replace it with --force"),
        ("sessions.db", "sessions.db belongs to the store itself"),
    ],
)
def test_a_place_that_cannot_be_written_is_told_before_anything_is_sent(
    warmline: Run, served: str, tmp_path: Path, out: str, said: str
) -> None:
    (tmp_path / "folder").mkdir()
    ran = warmline("probe", "--base-url", served, "--quick", "--yes", "--out", out)
    assert ran.code == 2
    assert f"ConfigurationError: {said}" in ran.err
    assert httpx2.get(f"{served}/_simulator/bill").json()["charged"] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "there.json"]


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_what_was_paid_for_is_printed_where_it_cannot_be_written(served: str, tmp_path: Path, form: list[str]) -> None:
    (tmp_path / "folder").mkdir()
    command = [sys.executable, "-W", "error", "-m", "sessions", "probe", "--base-url", served, "--yes", "--quick"]
    command += ["--out", "folder/p.json", *form]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=tmp_path) as asked:
        assert asked.stderr is not None
        assert "it stops at" in next(asked.stderr)
        (tmp_path / "folder").rmdir()  # the place was right when it was looked at
        out, error = asked.communicate(timeout=120)
    assert asked.returncode == 2
    assert "ConfigurationError: cannot write folder/p.json (No such file" in error
    text, brace, profile = out.partition("{\n")
    assert ("requests for $" in text) is (form == [])
    assert json.loads(brace + profile)["profile"]["lookback"] == 10


def test_the_real_api_needs_a_key(warmline: Run) -> None:
    ran = warmline("probe", "--live", "--api-key-env", "MY_KEY")
    assert ran.code == 2
    assert "set MY_KEY" in ran.err


def test_nobody_there(warmline: Run) -> None:
    ran = warmline("probe", "--base-url", "http://127.0.0.1:9", "--yes", "--quick")
    assert ran.code == 1
    assert "ModelError: the connection failed" in ran.err


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_keep_what_was_paid_for(served: str, tmp_path: Path, sent: signal.Signals) -> None:
    """Interrupted while it waits for entries to lapse: the results are printed and written, beside a whole file."""
    whole = tmp_path / f"{MODEL}.profile.json"
    whole.write_text("a whole one")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("ANTHROPIC_", "WARMLINE_"))}
    command = [sys.executable, "-W", "error", "-m", "sessions", "probe", "--base-url", served, "--yes", "--force"]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdout=pipe, stderr=pipe, text=True, cwd=tmp_path, env={**environment, "COLUMNS": "120"}
    ) as asked:
        assert asked.stdout is not None
        printed = [next(asked.stdout)]
        deadline = time.time() + 300
        while "system messages" not in printed[-1] and time.time() < deadline:
            printed.append(next(asked.stdout))
        asked.send_signal(sent)
        rest, error = asked.communicate(timeout=300)
    out = "".join(printed) + rest
    assert asked.returncode == 130, error
    assert "Traceback" not in error
    assert "skipped" in out
    assert whole.read_text() == "a whole one"
    found = read_profile(tmp_path / f"{MODEL}.profile.json.partial")
    assert not found.complete
    assert found.profile.lookback == 10
    waiting = [one for one in found.evidence if "interrupted after" in one["found"]]
    assert waiting
    assert all(one["requests"] for one in waiting)
