"""What all tests may ask for."""

import os
import signal
import sys
import threading
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.servers import (
    either_store,
    empty_store,
    memory,
    new_database,
    new_place,
    new_store,
    one_store,
    pgbouncer,
    pooler,
    server,
    template,
)

__all__ = [
    "either_store",
    "empty_store",
    "new_database",
    "new_place",
    "new_store",
    "one_store",
    "pooler",
    "server",
    "template",
]


def pytest_configure() -> None:
    """Files in memory, where there is room: no test turns the machine off, and thousands wait for their disk.

    Ctrl-C is heard by what the tests start, also where a shell has put them into the background.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if (folder := memory()) is not None:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(folder))


def pytest_report_header() -> str:
    return f"pooler: {pgbouncer() or 'none; tests that need one are skipped, but for those of tests/pooler.py'}"


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """For long calculations, which measuring coverage makes twice as long: neither the test nor its processes do."""
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
    here, threads = sys.gettrace(), threading.gettrace()
    sys.settrace(None)
    threading.settrace(None)  # type: ignore[arg-type]
    yield
    sys.settrace(here)
    threading.settrace(threads)  # type: ignore[arg-type]


# How long an example takes says how busy the machine is, and nothing about the code.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")
