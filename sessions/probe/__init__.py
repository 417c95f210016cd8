"""Asks an endpoint the rules that everything here stands on, and writes down what it does (`warmline probe`)."""

from sessions.probe.bench import Ask, Bench, Finding, Rule, Seen, Unclear, Verdict
from sessions.probe.rules import RULES
from sessions.probe.run import REQUEST_SECONDS, Probe, Result, Watcher, documented

__all__ = [
    "REQUEST_SECONDS",
    "RULES",
    "Ask",
    "Bench",
    "Finding",
    "Probe",
    "Result",
    "Rule",
    "Seen",
    "Unclear",
    "Verdict",
    "Watcher",
    "documented",
]
