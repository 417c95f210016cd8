"""`warmline demo`, whole: what it prints is what happened."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path


def test_the_demo_shows_a_crash_a_resume_and_the_bill(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("ANTHROPIC_", "WARMLINE_"))}
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-m", "sessions", "demo"],
        cwd=tmp_path,
        env={**environment, "COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr + ran.stdout
    assert ran.stderr == ""
    assert "reserve had finished, seat_map was running" in ran.stdout
    assert "resumed the turn" in ran.stdout
    assert re.search(r"cached before the kill [\d,]+ tokens, of these rewritten 0\b", ran.stdout)
    assert "seats reserved: 1 " in ran.stdout
    assert re.search(r"\d+ requests, 0 refused; the ledger is the simulator's bill, exactly", ran.stdout)
    rows = re.findall(r"^ *(uncached|top-level cache_control|warmline) .* ([\d.]+) +\d+%", ran.stdout, re.MULTILINE)
    bill = {name: float(price) for name, price in rows}
    assert bill["warmline"] < bill["uncached"] / 4
    assert bill["warmline"] <= bill["top-level cache_control"]
    assert list(tmp_path.iterdir()) == []
