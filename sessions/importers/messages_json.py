"""Plain Messages JSON: a list of messages, or an object with `messages` and, where known, `system`, `tools`, `model`.

Nothing says when a message was sent, unless it has a `timestamp`: turns are then `TURN` seconds apart and steps `STEP`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from sessions.importers.assembly import Assembly, Reply
from sessions.importers.blocks import as_blocks
from sessions.importers.claude_code import usage_of
from sessions.importers.lines import Unreadable
from sessions.importers.records import Block, Problem, RecordedConversation

ORIGIN = 1767225600.0
"""2026-01-01 00:00 UTC: when a conversation without times began."""
TURN = 60.0
STEP = 5.0


def recognises(value: Any) -> bool:
    """Whether a value looks like a conversation, or like one message of it."""
    if isinstance(value, list):
        return bool(value) and all(isinstance(one, dict) and "role" in one for one in value)
    return isinstance(value, dict) and (isinstance(value.get("messages"), list) or {"role", "content"} <= value.keys())


def conversations(
    values: Iterable[tuple[int, Any]], problems: list[Problem], notes: Counter[str], name: str
) -> list[RecordedConversation]:
    """One conversation of each list or object of messages; loose messages (one a line) make one together."""
    found: list[RecordedConversation] = []
    loose: list[tuple[int, Any]] = []
    for number, value in values:
        if isinstance(value, dict) and "role" in value:
            loose.append((number, value))
        elif not recognises(value):
            problems.append(Problem(number, "is neither a message nor an object with messages"))
        else:
            whole = value if isinstance(value, dict) else {"messages": value}
            messages = [(number, message) for message in whole["messages"]]
            found += _conversation(whole, messages, problems, notes, f"{name}-{len(found) + 1}" if found else name)
    return [*found, *_conversation({}, loose, problems, notes, f"{name}-{len(found) + 1}" if found else name)]


def _conversation(
    whole: Mapping[str, Any],
    messages: list[tuple[int, Any]],
    problems: list[Problem],
    notes: Counter[str],
    name: str,
) -> list[RecordedConversation]:
    assembly = Assembly(notes)
    system: list[Block] = []
    at = ORIGIN
    for index, (number, message) in enumerate(messages):
        try:
            if isinstance(message, dict) and message.get("role") == "system" and assembly.empty:
                system += as_blocks(message.get("content"))
            else:
                at = _play(message, at, assembly)
        except Unreadable as error:
            problems.append(Problem(number, f"messages[{index}] {error}"))
    turns = assembly.turns()
    if not turns:
        return []
    recorded = next((step.model for turn in turns for step in turn.steps if step.model), "")
    model = whole["model"] if isinstance(whole.get("model"), str) else recorded
    identity = whole["id"] if isinstance(whole.get("id"), str) and whole["id"] else name
    known = _system(whole, problems) or tuple(system) or None
    return [
        RecordedConversation(identity, "messages", identity, turns, model, system=known, tools=_tools(whole, problems))
    ]


def _play(message: Any, at: float, assembly: Assembly) -> float:
    """Tells the assembly one message, and returns its time in epoch seconds."""
    if not isinstance(message, dict) or message.get("role") not in ("user", "assistant", "system"):
        raise Unreadable("is not an object with the role user or assistant")
    blocks = as_blocks(message.get("content"))
    stamp = message.get("timestamp")
    known = float(stamp) if isinstance(stamp, (int, float)) and abs(stamp) < 1e12 else None
    if message["role"] == "assistant":
        at = known or at
        model = message.get("model")
        usage = usage_of(message.get("usage"))
        assembly.reply(Reply(blocks, model if isinstance(model, str) else "", at, at + STEP, usage))
        return at + STEP
    results = [block for block in blocks if block["type"] == "tool_result"]
    words = [block for block in blocks if block["type"] != "tool_result"]
    at = known or (at if results or assembly.empty else at + TURN)
    for result in results:
        assembly.answer(at, result, 0.0)
    assembly.say(at, words, "auto" if message["role"] == "system" else "human", aside=bool(results))
    return at


def _system(whole: Mapping[str, Any], problems: list[Problem]) -> str | tuple[Block, ...] | None:
    system = whole.get("system")
    if not system or isinstance(system, str):
        return system or None
    try:
        return tuple(as_blocks(system))
    except Unreadable as error:
        problems.append(Problem(0, f"the system prompt {error}"))
        return None


def _tools(whole: Mapping[str, Any], problems: list[Problem]) -> tuple[Block, ...] | None:
    tools = whole.get("tools")
    if not tools:
        return None
    if isinstance(tools, list) and all(isinstance(tool, dict) and isinstance(tool.get("name"), str) for tool in tools):
        return tuple({key: value for key, value in tool.items() if key != "cache_control"} for tool in tools)
    problems.append(Problem(0, "the tools are no list of objects with names"))
    return None
