"""Recorded conversations sent again, through real sessions against the simulator on a turned clock, with their bill."""

from sessions.replay.replaying import (
    AFTERWARDS,
    BETWEEN,
    Progress,
    Replay,
    ReplayTurn,
    Series,
    Totals,
    recordings,
    replay,
    replay_series,
)

__all__ = [
    "AFTERWARDS",
    "BETWEEN",
    "Progress",
    "Replay",
    "ReplayTurn",
    "Series",
    "Totals",
    "recordings",
    "replay",
    "replay_series",
]
