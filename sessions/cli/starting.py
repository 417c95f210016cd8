"""What goes from the supervisor of `warmline serve` to its workers. It imports next to nothing.

A worker answers its supervisor as soon as this has been read; the application, seconds of imports, comes then.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Settings:
    """What a worker is handed; functions and agents are named, as they cannot go from process to process."""

    store: str
    agents: str | None = None
    auth: str | None = None
    tokens: Path | None = None
    operators: frozenset[str] = frozenset()
    drain: float = 10.0


@dataclass(frozen=True, slots=True)
class Start:
    """Makes the application of these settings, in the process where it is called."""

    settings: Settings

    def __call__(self) -> Any:
        # By name: what makes the application hands this class to the supervisor.
        return import_module("sessions.cli.serving").application(self.settings)
