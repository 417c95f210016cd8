"""`warmline token`: printed once, listed, revoked."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Run

pytest.importorskip("starlette", reason="install the extra chat")


def test_a_token_is_made_listed_and_revoked(warmline: Run, tmp_path: Path) -> None:
    made = warmline("token", "new", "ada", "--file", "who.txt")
    token = made.out.split()[0]
    assert (made.code, token[:3]) == (0, "wl_")
    assert token not in (tmp_path / "who.txt").read_text()
    listed = warmline("token", "list", "--file", "who.txt").out
    assert "ada" in listed
    assert token not in listed
    digits = listed.splitlines()[1].split()[0]
    assert f"Revoked: {digits} of ada" in warmline("token", "revoke", digits, "--file", "who.txt").out
    assert "ada" not in warmline("token", "list", "--file", "who.txt").out


def test_what_is_not_there_is_said(warmline: Run) -> None:
    ran = warmline("token", "list")
    assert ran.code == 2
    assert "warmline token new OWNER --file tokens.txt" in ran.err
