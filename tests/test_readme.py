"""Every Python block of the README is a whole program; the block of text behind it is what it prints."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```)?", README, re.MULTILINE | re.DOTALL)


def test_the_tour_is_there() -> None:
    assert len(PROGRAMS) >= 6


@pytest.mark.parametrize(("program", "printed"), PROGRAMS, ids=[f"block-{n}" for n in range(1, len(PROGRAMS) + 1)])
def test_a_block_runs_and_prints_what_it_says(program: str, printed: str, tmp_path: Path) -> None:
    file = tmp_path / "program.py"
    file.write_text(program, encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANTHROPIC_")}
    ran = subprocess.run(
        [sys.executable, "-W", "error", str(file)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""
    assert ran.stdout.strip() == printed.strip()
