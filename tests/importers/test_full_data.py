"""The full recordings, where `WARMLINE_DATA` names their folder: all of them are read, and the API would take them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sessions.importers import read
from tests.importers.referee import refusal

FULL = Path(os.environ.get("WARMLINE_DATA", ""))
pytestmark = pytest.mark.skipif(
    "WARMLINE_DATA" not in os.environ, reason="WARMLINE_DATA is not set: the full recordings lie outside the repository"
)


@pytest.mark.parametrize(
    ("file", "conversations", "steps"),
    [
        ("transcripts/interrupts_and_compactions.jsonl.gz", 3, 133),
        ("transcripts/one_hour_cache.jsonl.gz", 2, 174),
        ("traces/agent_sessions.jsonl.gz", 358, 19_179),
    ],
)
def test_every_recording_is_read_and_sendable(file: str, conversations: int, steps: int, unmeasured: None) -> None:
    imported = read(FULL / file, strict=True)
    assert len(imported.conversations) == conversations
    assert sum(len(one.steps) for one in imported.conversations) == steps
    assert {refusal(one) for one in imported.conversations} == {None}
