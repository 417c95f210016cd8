"""Is it a store? `check_store` says so of any implementation of `storage.Store`; beside it, small records for tests."""

from __future__ import annotations

from .checking import CHECKS, Check, check_store
from .records import (
    ME,
    NOW,
    OTHER,
    call_record,
    change,
    decision_record,
    entries_of,
    hold,
    relay_record,
    reservation,
    session_record,
    tool_call_record,
    turn_record,
)

__all__ = [
    "CHECKS",
    "ME",
    "NOW",
    "OTHER",
    "Check",
    "call_record",
    "change",
    "check_store",
    "decision_record",
    "entries_of",
    "hold",
    "relay_record",
    "reservation",
    "session_record",
    "tool_call_record",
    "turn_record",
]
