"""The examples run as they stand, with no key, and show what they are there to show."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
SHOWN = {
    "quickstart.py": ["sky", "blue", "the session $0."],
    "subagents.py": [
        "tool_progress",
        "weather(Rome): Rome: light rain",
        "ada's subagent: 1 turn",
        "Together: 6, $0.00",
    ],
    "durable_dbos.py": ["ended with 9.", "Reserved one seat to Rome.", "8 entries, 4 calls", "Reservations: 1"],
    "resume.py": ["The worker ended with 9. Resumed:", "Reservations: 1"],
    "custom_policy.py": ["asked at 10:00: turn, park;", "asked at 22:00: turn; $"],
    "planner_only.py": ["marked shared, assistant, tail; expected to read"],
}
SERVED = {"chat_starlette.py", "chat_fastapi.py", "chat_agents.py"}
"""Those that `test_chat.py` and `test_chat_agents.py` run."""


def test_every_example_is_run() -> None:
    assert {file.name for file in EXAMPLES.glob("*.py")} == set(SHOWN) | SERVED


@pytest.mark.parametrize("name", SHOWN)
def test_an_example_runs_without_a_key(name: str, tmp_path: Path) -> None:
    if name == "durable_dbos.py":
        pytest.importorskip("dbos", reason="no DBOS: install the extra examples")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("ANTHROPIC_", "COVERAGE_"))}
    ran = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / name)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""
    for text in SHOWN[name]:
        assert text in ran.stdout, ran.stdout
