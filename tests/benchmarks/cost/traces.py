"""The recorded sessions of a run: a sample that is the same every time, by the user who had them."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from random import Random
from typing import TypeAlias

from sessions.importers import RecordedConversation, read
from sessions.replay import recordings

Recording: TypeAlias = list[RecordedConversation]
SEED = 272


def traces_file() -> Path:
    """The recordings. Raises `SystemExit` saying where to look for them."""
    folder = os.environ.get("WARMLINE_DATA")
    path = Path(folder or ".") / "traces" / "agent_sessions.jsonl.gz"
    if not folder or not path.exists():
        raise SystemExit("WARMLINE_DATA must name the folder that holds traces/agent_sessions.jsonl.gz")
    return path


@cache
def _all() -> dict[str, Recording]:
    return {one[0].session: one for one in recordings(read(traces_file(), strict=True).conversations)}


def recording(name: str) -> Recording:
    """The recording of that id."""
    return _all()[name]


def sample(count: int | None) -> dict[str, list[str]]:
    """Ids of recordings by user, each user's in an order of chance that never changes (no dates were recorded).

    `count` of them are spread evenly over the file, which is sorted by size; None takes all.
    """
    with gzip.open(traces_file(), "rt") as lines:
        users = {row["id"]: row["user"] for row in map(json.loads, lines)}
    names = list(users)
    chosen = names if count is None or count >= len(names) else _spread(names, count)
    found: dict[str, list[str]] = {}
    for name in chosen:
        found.setdefault(users[name], []).append(name)
    for user, mine in found.items():
        Random(f"{SEED} {user}").shuffle(mine)
    return found


def _spread(names: Sequence[str], count: int) -> list[str]:
    return [names[int((at + 0.5) * len(names) / count)] for at in range(count)]
