"""The default model: a small rule-based assistant that answers from what was said, thinks, and calls tools.

It is no language model. It remembers what the user told it, calls a tool when the user's words mention it, once for
each thing asked for, and puts results into its answer. Equal conversations get equal replies.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from sessions.simulator.answers.script import Block, Request, Scripted, texts

_STOP = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at be by can could do does for from get give have how i if in into is it its let me my of "
        "on or our please so tell that the their them then there this to up us use was we what when where which who "
        "why will with would you your all any one some string number value result returns return current given",
    )
)
_LEADING = frozenset(
    re.findall(
        r"\w+",
        "What How Where When Which Who Why Tell Give Get Please Look Find Check Search And Is Are Can Could The Use "
        "Compare I",
    )
)
_NAME = re.compile(r"\b[A-Z][\w'-]*(?:\s+[A-Z][\w'-]*)*")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_SPLIT = re.compile(r"\s*(?:,|;|\band\b|\bor\b|&)\s*")


def assistant(request: Request) -> Scripted:
    """The reply of the rule-based assistant."""
    results = request.results
    if results:
        return _from_results(request, results)
    calls = _calls(request)
    if calls:
        names = ", ".join(sorted({call["name"] for call in calls}))
        said = f"Let me use {names}."
        return Scripted(
            [{"type": "text", "text": said}, *calls], thinking=f"The user asks: {_short(request.text)} I need {names}."
        )
    return Scripted(_talk(request), thinking=f"The user says: {_short(request.text)} I answer from the conversation.")


def _from_results(request: Request, results: Sequence[Block]) -> Scripted:
    calls, lines = request.calls, []
    for result in results:
        call = calls.get(result["tool_use_id"], {})
        given = ", ".join(str(value) for value in (call.get("input") or {}).values())
        text = texts(result.get("content") or "") or "(no text)"
        verdict = "failed: " if result.get("is_error") else ""
        lines.append(f"{call.get('name', 'tool')}({given}): {verdict}{text}")
    return Scripted("Here is what I found.\n" + "\n".join(lines), thinking="The results are in; I put them together.")


def _talk(request: Request) -> str:
    said = [text for text in request.words if text]
    now = said[-1] if said else ""
    fact = _recall(now, [request.summary, *said[:-1]])
    if fact:
        return fact
    if len(said) <= 1:
        return f"You said: {_short(now)}"
    return f"You said: {_short(now)} Before that you said: {_short(said[-2])} This is turn {len(said)}."


def _recall(question: str, earlier: Sequence[str]) -> str:
    """Answers "what is my X?" from an earlier "my X is Y"; names and other facts alike."""
    asked = re.search(r"\bmy ([\w ]+?)\??$", question.strip(), re.IGNORECASE)
    if not asked or "?" not in question:
        return ""
    thing = asked.group(1).strip()
    for text in reversed(earlier):
        told = re.search(rf"\bmy {re.escape(thing)} is ([^.!?\n]+)", text, re.IGNORECASE)
        if told:
            return f"Your {thing} is {told.group(1).strip()}."
    return ""


def _calls(request: Request) -> list[dict[str, Any]]:
    if (request.body.get("tool_choice") or {}).get("type") == "none":
        return []
    forced = (request.body.get("tool_choice") or {}).get("type") in ("any", "tool")
    name = (request.body.get("tool_choice") or {}).get("name")
    offered = [t for t in request.tools.values() if "input_schema" in t and name in (None, t["name"])]
    wanted = [tool for tool in offered if _mentioned(tool, request.text)]
    if forced and not wanted:
        wanted = offered[:1]
    return [
        {"type": "tool_use", "name": tool["name"], "input": given}
        for tool in wanted
        for given in _inputs(tool, _about(tool, request.text))
    ]


def _about(tool: Mapping[str, Any], text: str) -> str:
    """The sentences that mention the tool, all of them where none does."""
    sentences = re.split(r"(?<=[.!?])\s+|\n+", text)
    return " ".join(sentence for sentence in sentences if _mentioned(tool, sentence)) or text


def _mentioned(tool: Mapping[str, Any], text: str) -> bool:
    """Whether the words name the tool, or share a telling word with its name."""
    words = _words(text)
    name = tool["name"].lower()
    return name in text.lower() or bool(_words(name.replace("_", " ")) & words)


def _words(text: str) -> set[str]:
    words = (word.rstrip("s") for word in re.findall(r"[a-z]{2,}", text.lower()))
    return {word for word in words if word not in _STOP and len(word) > 2}


def _inputs(tool: Mapping[str, Any], text: str) -> list[dict[str, Any]]:
    """One input for each thing asked for; the arguments are guessed by type, in the order of the schema."""
    schema = tool["input_schema"]
    properties: Mapping[str, Any] = schema.get("properties") or {}
    names = list(schema.get("required") or properties)
    if not names:
        return [{}]
    numbers = [float(n) if "." in n else int(n) for n in _NUMBER.findall(text)]
    things = _things(text)
    first = str((properties.get(names[0]) or {}).get("type", "string"))
    if first == "string" and len(names) == 1:
        return [{names[0]: thing} for thing in things]
    return [{name: _guess(properties.get(name) or {}, text, numbers, things) for name in names}]


def _guess(schema: Mapping[str, Any], text: str, numbers: list[Any], things: list[str]) -> Any:
    if schema.get("enum"):
        return next((v for v in schema["enum"] if str(v).lower() in text.lower()), schema["enum"][0])
    kind = schema.get("type", "string")
    if kind in ("integer", "number"):
        value = numbers.pop(0) if numbers else 1
        return int(value) if kind == "integer" else value
    if kind == "boolean":
        return True
    if kind == "array":
        return list(things)
    if kind == "object":
        return {}
    return things.pop(0) if len(things) > 1 else things[0]


def _things(text: str) -> list[str]:
    """What is asked about: quoted text, else names, else the words after the last preposition, else everything."""
    quoted = re.findall(r"[\"“'`]([^\"”'`]+)[\"”'`]", text)
    if quoted:
        return list(dict.fromkeys(quoted))
    names = [" ".join(w for w in name.split() if w.split("'")[0] not in _LEADING) for name in _NAME.findall(text)]
    names = [name for name in dict.fromkeys(names) if name]
    if names:
        return names
    tail = re.search(r"\b(?:in|for|of|about|on|from|at)\b\s+(.+)$", text.strip().rstrip("?.!"), re.IGNORECASE)
    parts = [part for part in _SPLIT.split(tail.group(1) if tail else text.strip()) if part]
    return list(dict.fromkeys(parts)) or ["something"]


def _short(text: str) -> str:
    line = " ".join(text.split())
    return f"“{line}”" if len(line) <= 200 else f"“{line[:200]}…”"
