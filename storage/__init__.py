"""What happened, kept: sessions, entries, calls and turns in SQLite or PostgreSQL. It knows no model and no cache."""

from __future__ import annotations

from .errors import (
    BudgetFull,
    DecisionTaken,
    EntryMissing,
    HeadMoved,
    InvalidValue,
    LeaseGone,
    LeaseTaken,
    SchemaTooNew,
    SchemaTooOld,
    ServerAway,
    SessionExists,
    SessionMissing,
    StorageError,
    StoreDamaged,
    StoreNotOpen,
    StoreUnavailable,
    TurnKeyTaken,
    TurnMissing,
)
from .holders import Holder
from .records import (
    Activity,
    CallRecord,
    Change,
    DecisionRecord,
    EntryRecord,
    FollowerRecord,
    Lease,
    Limit,
    PromptRecord,
    RelayRecord,
    Reservation,
    SessionRecord,
    Statistics,
    Stored,
    Subtotal,
    ToolCallRecord,
    Totals,
    TrustRecord,
    TurnRecord,
    Warmup,
)
from .store import Store

__all__ = [
    "Activity",
    "BudgetFull",
    "CallRecord",
    "Change",
    "DecisionRecord",
    "DecisionTaken",
    "EntryMissing",
    "EntryRecord",
    "FollowerRecord",
    "HeadMoved",
    "Holder",
    "InvalidValue",
    "Lease",
    "LeaseGone",
    "LeaseTaken",
    "Limit",
    "PromptRecord",
    "RelayRecord",
    "Reservation",
    "SchemaTooNew",
    "SchemaTooOld",
    "ServerAway",
    "SessionExists",
    "SessionMissing",
    "SessionRecord",
    "Statistics",
    "StorageError",
    "Store",
    "StoreDamaged",
    "StoreNotOpen",
    "StoreUnavailable",
    "Stored",
    "Subtotal",
    "ToolCallRecord",
    "Totals",
    "TrustRecord",
    "TurnKeyTaken",
    "TurnMissing",
    "TurnRecord",
    "Warmup",
    "open_store",
]


def open_store(url: str, *, reading: bool = False) -> Store:
    """The store that a URL names, not opened yet; nothing is touched.

    `sqlite:///path` (relative), `sqlite:////path` (absolute), `sqlite://` (memory, private to the object), or
    `postgresql://user@host/database`. Anything else raises `StoreUnavailable`. `reading`: it will only be read, so an
    SQLite file that may not be written can be opened too.
    """
    from .sql import SQLStore  # SQLAlchemy takes a while to import: only those who open a store wait for it

    return SQLStore(url, reading)
