"""Small conversations in which libraries differ: gaps, tool rounds, parallel calls, a second session, six at once.

Every session has the same system prompt and tool, 2,883 tokens together; words are 80 tokens, replies 150, results 300.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from sessions.core.profiles import Profile, profile_for
from sessions.importers import RecordedConversation
from sessions.importers.records import RecordedStep, RecordedTurn
from sessions.replay.player import head_tokens
from sessions.simulator import filler
from tests.benchmarks.cost.spent import MODELS

HEAD = 2883
"""Tokens of system prompt and tools."""
_WORDS, _REPLY, _RESULT = 80, 150, 300
_ANSWERS, _TOOL = 5.0, 2.0
"""Seconds that the model and a tool take."""
_MODEL = MODELS[0.1]
_TOOLS = ({"name": "look", "description": "Looks something up.", "input_schema": {"type": "object"}},)

Recording = list[RecordedConversation]


@dataclass(frozen=True, slots=True)
class Scenario:
    """`recordings` are the sessions of one user, one after the other; `profile`: the endpoint, where it is another."""

    name: str
    recordings: Callable[[], Sequence[Recording]]
    profile: Profile | None = None


@cache
def system() -> str:
    """The system prompt that makes the head its size."""
    bare = head_tokens({"model": _MODEL, "tools": list(_TOOLS), "system": None})
    return filler(HEAD - bare, "system")


def settings() -> dict[str, Any]:
    """What a session of a scenario is created with, tools as plain definitions."""
    return {"model": _MODEL, "max_tokens": 4096, "system": system(), "tools": [dict(tool) for tool in _TOOLS]}


def words(name: str) -> str:
    """A user's words."""
    return filler(_WORDS, name)


def _answer(at: float, name: str) -> RecordedStep:
    return RecordedStep(at, ({"type": "text", "text": filler(_REPLY, name)},), _MODEL, seconds=_ANSWERS)


def _round(at: float, name: str, calls: int) -> RecordedStep:
    """A reply that calls tools; they take as long together as one alone."""
    ids = [f"toolu_{name}_{number}" for number in range(calls)]
    uses = tuple({"type": "tool_use", "id": one, "name": "look", "input": {"for": one}} for one in ids)
    results = tuple(
        {"type": "tool_result", "tool_use_id": one, "content": filler(_RESULT // calls, "found")} for one in ids
    )
    return RecordedStep(at, uses, _MODEL, None, _ANSWERS, results, (_TOOL,) * calls)


def _turn(at: float, name: str, rounds: int = 0, calls: int = 1) -> RecordedTurn:
    """One turn: rounds of tools, then the answer. `at`: seconds."""
    takes = _ANSWERS + _TOOL
    steps = [_round(at + number * takes, f"{name}_{number}", calls) for number in range(rounds)]
    steps.append(_answer(at + rounds * takes, name))
    return RecordedTurn(at, ({"type": "text", "text": words(name)},), "human", tuple(steps))


def _conversation(name: str, turns: Sequence[RecordedTurn], segment: int = 1) -> RecordedConversation:
    return RecordedConversation(
        name, "messages", name, tuple(turns), _MODEL, segment, system=system(), tools=_TOOLS, filler=True
    )


def _chat(gap: float) -> Sequence[Recording]:
    return [[_conversation("chat", [_turn(number * gap, f"words{number}") for number in range(6)])]]


def _rounds_and_a_gap() -> Sequence[Recording]:
    starts = (0.0, 60.0, 460.0, 520.0)  # 400 seconds between the second turn and the third
    return [[_conversation("rounds", [_turn(at, f"turn{n}", rounds=2, calls=2) for n, at in enumerate(starts)])]]


def _long_loop() -> Sequence[Recording]:
    return [[_conversation("loop", [_turn(0.0, "loop", rounds=36)])]]


def _parallel() -> Sequence[Recording]:
    return [[_conversation("fan", [_turn(60.0 * n, f"fan{n}", rounds=1, calls=18) for n in range(3)])]]


def _abandoned() -> Sequence[Recording]:
    return [[_conversation(f"once{number}", [_turn(0.0, f"once{number}")])] for number in range(5)]


def second_session() -> Sequence[Recording]:
    """Two sessions a minute apart."""
    first = _conversation("pair", [_turn(0.0, "first")])
    return [[first, replace(first, id="pair#2", segment=2, turns=(_turn(60.0, "second"),))]]


SCENARIOS = (
    Scenario("4 turns × 2 rounds × 2 tools, one 400 s gap", _rounds_and_a_gap),
    Scenario("36 tool rounds", _long_loop),
    Scenario("18 parallel calls, not collapsed", _parallel, replace(profile_for(_MODEL), collapses_tools=False)),
    Scenario("chat, 2-minute gaps", lambda: _chat(120.0)),
    Scenario("chat, 8-minute gaps", lambda: _chat(480.0)),
    Scenario("5 sessions left after one turn", _abandoned),
)
