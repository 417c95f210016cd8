"""Every Python block of the README is a whole program; the block of text behind it is what it prints."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```)?", README, re.MULTILINE | re.DOTALL)


def test_the_tour_is_there() -> None:
    assert len(PROGRAMS) >= 6


@pytest.mark.parametrize(("program", "printed"), PROGRAMS, ids=[f"block-{n}" for n in range(1, len(PROGRAMS) + 1)])
def test_a_block_runs_and_prints_what_it_says(program: str, printed: str, tmp_path: Path) -> None:
    file = tmp_path / "program.py"
    file.write_text(program, encoding="utf-8")
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("ANTHROPIC_", "COVERAGE_"))
    }
    ran = subprocess.run(
        [sys.executable, "-W", "error", str(file)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""
    assert ran.stdout.strip() == printed.strip()


def test_the_layout_names_every_module_in_its_place() -> None:
    layout = README[README.index("\n commands   cli/") : README.index("`sessions/core` and `storage` never import")]
    rest, core, storage = re.split(r" core/ | storage/ ", layout)
    for folder, part in (("sessions", rest), ("sessions/core", core), ("storage", storage)):
        assert sorted(modules(folder) - set(re.findall(r"\w+", part)) - {"core"}) == []


def modules(folder: str) -> set[str]:
    """The names of the modules and packages in a folder."""
    found = {path.stem for path in (ROOT / folder).iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    return found - {"__init__", "__main__"}


def test_what_there_is_to_make_is_named() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE)
    assert "bench-speed" in targets
    benches = [target for target in targets if target.startswith(("bench", "demo", "test"))]
    assert [target for target in benches if not re.search(rf"\bmake {target}[`\s]", README)] == []
