"""A user's own `storage` or `sessions` beside the program: an error that names both, or nothing at all happens."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import storage

OURS = Path(storage.__file__).parent


def ran(folder: Path, program: str = "import sessions; print('fine')") -> tuple[int, str]:
    (folder / "program.py").write_text(program)
    command = [sys.executable, str(folder / "program.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, timeout=120)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("kind", ["a package", "a module"])
@pytest.mark.parametrize("first", ["", "import storage\n"])
def test_a_storage_of_the_users_own_is_named(tmp_path: Path, kind: str, first: str) -> None:
    theirs = tmp_path / ("storage.py" if kind == "a module" else "storage")
    if kind == "a module":
        theirs.write_text("")
    else:
        theirs.mkdir()
        (theirs / "__init__.py").write_text("")
    code, said = ran(tmp_path, f"{first}import sessions")
    assert code == 1
    last = said.splitlines()[-1]
    assert last.startswith(f"ImportError: {theirs} hides {OURS}, ")
    assert "rename the first" in last


def test_a_folder_without_a_package_hides_nothing(tmp_path: Path) -> None:
    (tmp_path / "storage").mkdir()
    assert ran(tmp_path) == (0, "fine\n")


def test_sessions_of_the_users_own_are_theirs(tmp_path: Path) -> None:
    """Nothing of ours runs then: the interpreter's own error names the file."""
    (tmp_path / "sessions").mkdir()
    (tmp_path / "sessions" / "__init__.py").write_text("")
    code, said = ran(tmp_path, "from sessions import SessionManager")
    assert code == 1
    assert str(tmp_path / "sessions" / "__init__.py") in said
