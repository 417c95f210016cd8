"""`warmline load`: what it measures, what it leaves behind, and what it says when something is wrong."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from sessions import SessionManager
from sessions.cli.load.load import percentile, summary
from sessions.cli.load.worker import Took
from sessions.testing import simulated_manager
from tests.cli.test_simulate import BARE, WARMLINE

QUICK = ("--first-event", "0.05", "--per-output-token", "0.0001", "--words", "20")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*WARMLINE, "load", *arguments], env=BARE, capture_output=True, text=True, timeout=300)


async def test_measures_turns_and_leaves_the_database_as_it_was(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'mine.db'}"
    async with simulated_manager(store) as manager:
        mine = await manager.create(model="claude-sonnet-5-5", max_tokens=100, owner="me")
    done = run("--store", store, "--workers", "2", "--conversations", "3", "--turns", "2", "--json", *QUICK)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["asked"], found["turns"], found["errors"], found["bytes_per_turn"]) == (12, 12, {}, None)
    assert found["turns_per_second"] == pytest.approx(12 / found["seconds"], rel=0.01)
    assert found["model_ms"]["p50"] >= found["ideal_model_ms"] >= 50
    for one in ("turn_ms", "model_ms", "overhead_ms"):
        assert 0 < found[one]["p50"] <= found[one]["p99"] <= found[one]["max"]
    assert found["turn_ms"]["max"] >= found["model_ms"]["p50"]
    assert found["writes_per_turn"] >= 3
    assert 0 < found["transactions_per_turn"] <= found["writes_per_turn"]
    async with SessionManager(store) as manager:
        assert [one.id for one in await manager.list()] == [mine.id]


def test_a_new_file_is_measured_and_removed(tmp_path: Path) -> None:
    done = subprocess.run(
        [*WARMLINE, "load", "--workers", "1", "--conversations", "2", "--turns", "2", *QUICK],
        env={**BARE, "TMPDIR": str(tmp_path)}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "4 of 4 turns" in done.stdout
    assert "bytes of file a turn" in done.stdout
    assert "added by the session" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_cannot_be_used_is_said_in_one_line(tmp_path: Path) -> None:
    done = run("--store", f"sqlite:///{tmp_path / 'none' / 'a.db'}", "--workers", "2", *QUICK)
    assert done.returncode == 2
    assert "does not exist" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_summary_counts_what_failed() -> None:
    one = Took(10.0, 12.0, [0.2, 0.4], [0.1, 0.3], [0.1, 0.1], [0.1, 0.1], 0.5, Counter({"ModelError: no": 2}), 8, 4)
    two = Took(11.0, 15.0, [0.6], [0.5], [0.1], [0.1], 0.0, Counter({"ModelError: no": 1}), 4, 2)
    found = summary([one, two], 6, 3000)
    assert (found["turns"], found["asked"], found["errors"]) == (3, 6, {"ModelError: no": 3})
    assert (found["seconds"], found["turns_per_second"]) == (5.0, 0.6)
    assert found["overhead_ms"] == {"p50": 300.0, "p99": 500.0, "max": 500.0}
    assert (found["writes_per_turn"], found["transactions_per_turn"], found["bytes_per_turn"]) == (4.0, 2.0, 1000)
    nothing = summary([Took(1.0, 1.0, errors=Counter({"SessionBusy: x": 1}))], 1, None)
    assert (nothing["turns"], nothing["turns_per_second"]) == (0, 0.0)
    assert nothing["turn_ms"] == {"p50": 0.0, "p99": 0.0, "max": 0.0}


def test_a_percentile_is_a_value_that_was_seen() -> None:
    values = [float(number) for number in range(1, 101)]
    assert [percentile(values, share) for share in (0.01, 0.5, 0.99, 1.0)] == [1, 50, 99, 100]
    assert percentile([7.0], 0.5) == 7.0
