"""The public names are exactly these. A change here is a change of the interface: it belongs in the changelog."""

from __future__ import annotations

from types import ModuleType

import pytest

import sessions
import sessions.simulator
import sessions.testing
import storage

NAMES = {
    sessions: (
        "BatchIncomplete Call Clock ConfigurationError Conflict ContextFull Cost Damage Entry ExpectedCost Fixed "
        "InDoubtToolCalls InvalidHistory InvalidImport LeaseLost Miss ModelError Option Outlook Policy PrefixChange "
        "Profile PromptWarning Reply ReplyStream "
        "SchemaOutOfDate Session SessionBusy SessionInfo SessionManager SessionNotFound SessionsError Settings Step "
        "StepLimitReached SystemClock Tool ToolsChanged Usage profile_for tool"
    ),
    sessions.testing: "ManualClock simulated_manager",
    sessions.simulator: (
        "Bill Engine Exchange Fault Latency Request Scripted Transport client count engine_of filler is_simulated "
        "serve serving"
    ),
    storage: (
        "CallRecord Change EntryMissing EntryRecord HeadMoved Holder InvalidValue Lease LeaseGone LeaseTaken "
        "PromptRecord SchemaTooNew SchemaTooOld ServerAway SessionExists SessionMissing SessionRecord Statistics "
        "StorageError Store Stored StoreDamaged StoreNotOpen StoreUnavailable Subtotal ToolCallRecord Totals "
        "TurnKeyTaken TurnRecord Warmup open_store"
    ),
}


@pytest.mark.parametrize("module", NAMES, ids=lambda module: module.__name__)
def test_the_public_names_are_these(module: ModuleType) -> None:
    assert sorted(module.__all__) == sorted(NAMES[module].split())
    assert all(hasattr(module, name) for name in module.__all__)


@pytest.mark.parametrize("module", NAMES, ids=lambda module: module.__name__)
def test_every_public_name_is_documented(module: ModuleType) -> None:
    missing = [
        name
        for name in module.__all__
        if isinstance(getattr(module, name), type) and not (getattr(module, name).__doc__ or "").strip()
    ]
    assert missing == []
