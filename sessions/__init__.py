"""Conversation sessions for Claude that stay warm, resume after a crash, and lose nothing."""

from sessions import neighbours as _neighbours  # noqa: F401  # first of all: it looks whose `storage` this is

TYPE_CHECKING = False  # as `typing` has it, which takes longer to import than all that stands here
if TYPE_CHECKING:
    from sessions.budget import Budget
    from sessions.clock import Clock, SystemClock
    from sessions.conversation.entries import Damage
    from sessions.core.cleared import Clearing
    from sessions.core.diagnosis import Miss
    from sessions.core.next_turn import CostForecast, ModelCost, TurnCost
    from sessions.core.profiles import Profile, profile_for
    from sessions.core.settings import Settings
    from sessions.core.shortening import Shortening
    from sessions.core.transcript import Entry
    from sessions.core.ttl import ExpectedCost, Fixed, Option, Outlook, Policy
    from sessions.core.usage import Usage
    from sessions.errors import (
        BatchIncomplete,
        BudgetExceeded,
        ConfigurationError,
        Conflict,
        ContextFull,
        InDoubtToolCalls,
        InvalidHistory,
        InvalidImport,
        LeaseLost,
        ModelError,
        PrefixChange,
        PromptWarning,
        SchemaOutOfDate,
        SessionBusy,
        SessionNotFound,
        SessionsError,
        StepLimitReached,
        ToolsChanged,
    )
    from sessions.following.events import (
        ApprovalNeeded,
        BlockSoFar,
        BlockStart,
        BlockStop,
        Delta,
        Ended,
        EntryStored,
        PendingCall,
        Restarted,
        Snapshot,
        ToolProgress,
        ToolResult,
        ToolSoFar,
        ToolStarted,
        TurnEvent,
        UsageKnown,
    )
    from sessions.ledger import Call, ClearedResults, Compaction, Cost
    from sessions.listing import SessionInfo
    from sessions.manager import OwnedManager, SessionManager
    from sessions.session import Reply, ReplyStream, Session, Turn
    from sessions.tools import Tool, ToolContext, tool
    from sessions.turns.handle import TurnInfo
    from sessions.turns.outcome import Step

__all__ = [
    "ApprovalNeeded",
    "BatchIncomplete",
    "BlockSoFar",
    "BlockStart",
    "BlockStop",
    "Budget",
    "BudgetExceeded",
    "Call",
    "ClearedResults",
    "Clearing",
    "Clock",
    "Compaction",
    "ConfigurationError",
    "Conflict",
    "ContextFull",
    "Cost",
    "CostForecast",
    "Damage",
    "Delta",
    "Ended",
    "Entry",
    "EntryStored",
    "ExpectedCost",
    "Fixed",
    "InDoubtToolCalls",
    "InvalidHistory",
    "InvalidImport",
    "LeaseLost",
    "Miss",
    "ModelCost",
    "ModelError",
    "Option",
    "Outlook",
    "OwnedManager",
    "PendingCall",
    "Policy",
    "PrefixChange",
    "Profile",
    "PromptWarning",
    "Reply",
    "ReplyStream",
    "Restarted",
    "SchemaOutOfDate",
    "Session",
    "SessionBusy",
    "SessionInfo",
    "SessionManager",
    "SessionNotFound",
    "SessionsError",
    "Settings",
    "Shortening",
    "Snapshot",
    "Step",
    "StepLimitReached",
    "SystemClock",
    "Tool",
    "ToolContext",
    "ToolProgress",
    "ToolResult",
    "ToolSoFar",
    "ToolStarted",
    "ToolsChanged",
    "Turn",
    "TurnCost",
    "TurnEvent",
    "TurnInfo",
    "Usage",
    "UsageKnown",
    "profile_for",
    "tool",
]

_HOMES = {
    "budget": "Budget",
    "clock": "Clock SystemClock",
    "core.cleared": "Clearing",
    "core.diagnosis": "Miss",
    "core.next_turn": "CostForecast ModelCost TurnCost",
    "core.profiles": "Profile profile_for",
    "core.settings": "Settings",
    "core.shortening": "Shortening",
    "core.transcript": "Entry",
    "core.ttl": "ExpectedCost Fixed Option Outlook Policy",
    "core.usage": "Usage",
    "errors": (
        "BatchIncomplete BudgetExceeded ConfigurationError Conflict ContextFull InDoubtToolCalls InvalidHistory "
        "InvalidImport LeaseLost ModelError PrefixChange PromptWarning SchemaOutOfDate SessionBusy SessionNotFound "
        "SessionsError StepLimitReached ToolsChanged"
    ),
    "conversation.entries": "Damage",
    "ledger": "Call ClearedResults Compaction Cost",
    "following.events": (
        "ApprovalNeeded BlockSoFar BlockStart BlockStop Delta Ended EntryStored PendingCall Restarted Snapshot "
        "ToolProgress ToolResult ToolSoFar ToolStarted TurnEvent UsageKnown"
    ),
    "listing": "SessionInfo",
    "manager": "OwnedManager SessionManager",
    "turns.handle": "TurnInfo",
    "turns.outcome": "Step",
    "session": "Reply ReplyStream Session Turn",
    "tools": "Tool ToolContext tool",
}
"""Where each public name is: its module is imported when the name is first asked for, so that nobody waits for what is
not used."""
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names.split()}

if not TYPE_CHECKING:  # for a type checker every name would exist

    def __getattr__(name: str) -> object:
        """A public name, or a module of this package: `import sessions` alone has always given both."""
        if name.startswith("_"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        home = f"{__name__}.{_HOME_OF.get(name, name)}"
        try:
            module = import_module(home)
        except ModuleNotFoundError as error:
            if error.name != home:
                raise
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
        globals()[name] = found = getattr(module, name) if name in _HOME_OF else module
        return found

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
