"""Traces: one recorded conversation a line, sizes and times only. Every text is filler of the recorded length."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from sessions.core.usage import Usage
from sessions.importers.assembly import Assembly, Reply
from sessions.importers.lines import Unreadable
from sessions.importers.messages_json import ORIGIN
from sessions.importers.records import Block, Problem, RecordedConversation, Trigger

_WORDS = "the quick brown fox jumps over the lazy dog while nobody looks and then it rests "
_PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
_MOST = 1 << 26
"""The largest size taken, in characters: more than any context window holds."""


def recognises(value: Any) -> bool:
    """Whether one line's value looks like a trace."""
    return isinstance(value, dict) and isinstance(value.get("turns"), list)


def conversations(
    values: Iterable[tuple[int, Any]], problems: list[Problem], notes: Counter[str], name: str
) -> list[RecordedConversation]:
    """Every trace as conversations, one per segment between compactions. One with a wrong value is skipped whole."""
    found: list[RecordedConversation] = []
    for number, value in values:
        if not recognises(value):
            problems.append(Problem(number, "is not an object with turns"))
            continue
        try:
            found += _segments(value, f"{name}-{number}", notes)
        except Unreadable as error:
            problems.append(Problem(number, str(error)))
    return found


def filler(characters: int, salt: int = 0) -> str:
    """Text of that many characters (at least one), the same for the same arguments, that does not end in a blank."""
    size = max(1, characters)
    start = salt % len(_WORDS)
    text = (_WORDS * (size // len(_WORDS) + 2))[start : start + size]
    return text if text.strip() and not text[-1].isspace() else text[:-1] + "."


def _segments(trace: Mapping[str, Any], name: str, notes: Counter[str]) -> list[RecordedConversation]:
    identity = trace["id"] if isinstance(trace.get("id"), str) and trace["id"] else name
    license_ = trace["license"] if isinstance(trace.get("license"), str) else None
    segments: list[list[tuple[int, Mapping[str, Any]]]] = [[]]
    for index, turn in enumerate(trace["turns"]):
        if not isinstance(turn, dict):
            raise Unreadable(f"has a turn ({index}) that is no object")
        if segments[-1] and (turn.get("compact_before") or turn.get("trigger") == "compact"):
            segments.append([])
        segments[-1].append((index, turn))
    found: list[RecordedConversation] = []
    for segment in segments:
        assembly = Assembly(notes)
        for index, turn in segment:
            _turn(index, turn, assembly)
        if turns := assembly.turns():
            model = next((step.model for turn in turns for step in turn.steps), "")
            new = RecordedConversation(identity, "traces", identity, turns, model, license=license_, filler=True)
            number = len(found) + 1
            found.append(replace(new, id=f"{identity}#{number}", segment=number) if found else new)
    return found


def _turn(index: int, turn: Mapping[str, Any], assembly: Assembly) -> None:
    steps = _list(turn, "steps")
    first = _number(steps[0], "at_s", 0.0) if steps else 0.0
    at = ORIGIN + _number(turn, "at_s", first)
    trigger: Trigger = "human"
    if isinstance(turn.get("trigger"), str) and turn["trigger"] != "human":
        trigger = "compact" if turn["trigger"] == "compact" else "auto"
    words: list[Block] = [_text(_size(turn, "user_chars"), index)]
    image = {"type": "base64", "media_type": "image/png", "data": _PIXEL}
    words += [{"type": "image", "source": image}] * min(_size(turn, "user_images"), 100)
    assembly.say(at, words, trigger)
    for number, step in enumerate(steps):
        _step(f"{index}_{number}", step, assembly)


def _step(name: str, step: Mapping[str, Any], assembly: Assembly) -> None:
    at = ORIGIN + _number(step, "at_s", 0.0)
    calls = _list(step, "tool_calls")
    ended = at + max(0.0, _number(step, "model_s", 0.0))
    model = step["model"] if isinstance(step.get("model"), str) else ""
    assembly.reply(Reply(list(_blocks(name, step, calls)), model, at, ended, _usage(step), at))
    for number, call in enumerate(calls):
        if call.get("result_chars") is None:
            continue
        result: Block = {"type": "tool_result", "tool_use_id": f"toolu_{name}_{number}"}
        result["content"] = filler(_size(call, "result_chars"), number) if _size(call, "result_chars") else ""
        if call.get("is_error") is True:
            result["is_error"] = True
        seconds = max(0.0, _number(call, "duration_s", 0.0))
        assembly.answer(ended + seconds, result, seconds)
    if extra := _size(step, "extra_in_chars"):
        assembly.say(ended, [_text(extra, 1)], "auto", aside=True)


def _blocks(name: str, step: Mapping[str, Any], calls: list[Mapping[str, Any]]) -> Iterator[Block]:
    if signed := _size(step, "thinking_sig_chars"):
        thinking = _size(step, "thinking_chars")
        yield {"type": "thinking", "thinking": filler(thinking) if thinking else "", "signature": "A" * signed}
    if said := _size(step, "text_chars"):
        yield _text(said, said)
    for number, call in enumerate(calls):
        tool = call.get("name")
        yield {
            "type": "tool_use",
            "id": f"toolu_{name}_{number}",
            "name": tool if isinstance(tool, str) and tool else "tool",
            "input": {"of": filler(_size(call, "input_chars") - 9, number)},
        }


def _text(characters: int, salt: int) -> Block:
    return {"type": "text", "text": filler(characters, salt)}


def _usage(step: Mapping[str, Any]) -> Usage | None:
    usage = step.get("usage")
    if not isinstance(usage, dict) or usage.get("cr") is None:
        return None
    one_hour = _size(usage, "w1h")
    written = _size(usage, "cw")
    return Usage(
        input=_size(usage, "input"),
        cache_read=_size(usage, "cr"),
        cache_write_5m=max(0, written - one_hour),
        cache_write_1h=min(one_hour, written),
        output=_size(usage, "out"),
    )


def _list(value: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    found = value.get(name) or []
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise Unreadable(f"has {name} that are no list of objects")
    return found


def _number(value: Mapping[str, Any], name: str, default: float) -> float:
    found = value.get(name)
    if found is None:
        return default
    if isinstance(found, bool) or not isinstance(found, (int, float)) or not math.fabs(found) < 1e12:
        raise Unreadable(f"has a {name} that is no usable number")
    return float(found)


def _size(value: Mapping[str, Any], name: str) -> int:
    size = _number(value, name, 0.0)
    if not 0 <= size <= _MOST:
        raise Unreadable(f"has a {name} that is no usable size")
    return int(size)
