"""Where turns are followed: on SQLite with both loops, on PostgreSQL, and behind a pooler."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def where(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """An event loop and the URL of an empty store."""
    backend, _, kind = request.param.partition("-")
    if kind == "sqlite":
        return backend, f"sqlite:///{tmp_path}/a.db"
    url = request.getfixturevalue("empty_store")
    return backend, request.getfixturevalue("pooler")(url) if kind == "pooler" else url
