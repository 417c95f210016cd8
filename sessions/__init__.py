"""Conversation sessions for Claude that stay warm, resume after a crash, and lose nothing."""

from sessions import neighbours as _neighbours  # noqa: F401  # first of all: it looks whose `storage` this is

# isort: split
from sessions.clock import Clock, SystemClock
from sessions.core.diagnosis import Miss
from sessions.core.profiles import Profile, profile_for
from sessions.core.settings import Settings
from sessions.core.transcript import Entry
from sessions.core.ttl import ExpectedCost, Fixed, Option, Outlook, Policy
from sessions.core.usage import Usage
from sessions.errors import (
    BatchIncomplete,
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
from sessions.history import Damage
from sessions.ledger import Call, Cost
from sessions.manager import SessionInfo, SessionManager
from sessions.outcome import Step
from sessions.session import Reply, ReplyStream, Session
from sessions.tools import Tool, tool

__all__ = [
    "BatchIncomplete",
    "Call",
    "Clock",
    "ConfigurationError",
    "Conflict",
    "ContextFull",
    "Cost",
    "Damage",
    "Entry",
    "ExpectedCost",
    "Fixed",
    "InDoubtToolCalls",
    "InvalidHistory",
    "InvalidImport",
    "LeaseLost",
    "Miss",
    "ModelError",
    "Option",
    "Outlook",
    "Policy",
    "PrefixChange",
    "Profile",
    "PromptWarning",
    "Reply",
    "ReplyStream",
    "SchemaOutOfDate",
    "Session",
    "SessionBusy",
    "SessionInfo",
    "SessionManager",
    "SessionNotFound",
    "SessionsError",
    "Settings",
    "Step",
    "StepLimitReached",
    "SystemClock",
    "Tool",
    "ToolsChanged",
    "Usage",
    "profile_for",
    "tool",
]
