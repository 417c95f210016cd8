"""The public names are exactly these. A change here is a change of the interface: it belongs in the changelog."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import sessions
import sessions.simulator
import sessions.testing
import storage

NAMES = {
    sessions: (
        "ApprovalNeeded BatchIncomplete BlockSoFar BlockStart BlockStop Budget BudgetExceeded Call "
        "ClearedResults Clearing Clock Compaction ConfigurationError Conflict ContextFull Cost CostForecast "
        "Damage Delta Ended Entry EntryStored ExpectedCost Fixed InDoubtToolCalls InvalidHistory InvalidImport "
        "LeaseLost Miss ModelCost ModelError Option Outlook OwnedManager PendingCall Policy PrefixChange Profile "
        "PromptWarning Reply ReplyStream Restarted SchemaOutOfDate Session SessionBusy SessionInfo "
        "SessionManager SessionNotFound SessionsError Settings Shortening Snapshot Step StepLimitReached "
        "SystemClock Tool ToolContext ToolProgress ToolResult ToolSoFar ToolStarted ToolsChanged Turn TurnCost "
        "TurnEvent TurnInfo Usage UsageKnown profile_for tool"
    ),
    sessions.testing: "ManualClock simulated_manager",
    sessions.simulator: (
        "Bill Engine Exchange Fault Latency Request Scripted Transport client count engine_of filler is_simulated "
        "serve serving"
    ),
    storage: (
        "Activity BudgetFull CallRecord Change DecisionRecord DecisionTaken EntryMissing EntryRecord "
        "FollowerRecord HeadMoved Holder InvalidValue Lease LeaseGone LeaseTaken Limit PromptRecord RelayRecord "
        "Reservation SchemaTooNew SchemaTooOld ServerAway SessionExists SessionMissing SessionRecord Statistics "
        "StorageError Store Stored StoreDamaged StoreNotOpen StoreUnavailable Subtotal ToolCallRecord Totals "
        "TrustRecord TurnKeyTaken TurnMissing TurnRecord Warmup open_store"
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


def test_what_type_checkers_see_is_what_is_imported() -> None:
    source = ast.parse(Path(sessions.__file__).read_text(encoding="utf-8"))
    seen = {
        alias.name: node.module
        for node in ast.walk(source)
        if isinstance(node, ast.ImportFrom) and node.module not in {"sessions", "importlib"}
        for alias in node.names
    }
    for name, module in seen.items():
        assert getattr(sessions, name) is getattr(importlib.import_module(str(module)), name), name
    assert sorted(seen) == sorted(sessions.__all__)


PROGRAM = """
import sys
import sessions
loaded = [name for name in sys.modules if name.startswith(("sessions.", "storage", "sqlalchemy", "pydantic"))]
assert loaded == ["sessions.neighbours"], loaded
assert set(sessions.__all__) <= set(dir(sessions))
assert sessions.errors.Conflict is sessions.Conflict
try:
    sessions.nonsense
except AttributeError as error:
    assert "'sessions' has no attribute 'nonsense'" in str(error)
assert not hasattr(sessions, "__wrapped__")
from sessions import *
from sessions import simulator
assert issubclass(Conflict, SessionsError) and simulator.is_simulated
"""


def test_a_name_is_imported_when_it_is_asked_for() -> None:
    ran = subprocess.run([sys.executable, "-W", "error", "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
