"""Claude Code transcripts: one JSON object a line, linked by `parentUuid`; the last line says which branch was kept.

There is no official description of the format; the rules here were read off recordings of versions 2.0 to 2.1:

- One reply of the API is several lines with one message id, a line per block; tools may run between two of them.
- Results of parallel calls hang on different lines of their reply, so they are found by call id, not by parent.
- `compact_boundary` (or a summary, `isCompactSummary`) ends one chain of messages and begins the next.
- Of `attachment` lines only `queued_command` holds what the model was told (words typed while a tool ran); how the
  others were worded is not recorded.
- Side chains (`isSidechain`: a sub-agent's own messages) become conversations of their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sessions.core.usage import Usage
from sessions.importers.assembly import Assembly, Reply
from sessions.importers.blocks import as_blocks
from sessions.importers.lines import Unreadable
from sessions.importers.records import Block, Problem, RecordedConversation, Trigger

INTERRUPTED = "[Request interrupted by user"
_FROM_THE_PROGRAM = ("<local-command-", "<bash-stdout>", "<bash-stderr>", "<task-notification>")
_SPEAKS = ("user", "assistant", "attachment")


@dataclass(frozen=True, slots=True)
class _Line:
    """One line of the file; `blocks` is None for what says nothing (progress, snapshots, hooks)."""

    number: int
    kind: str
    at: float
    uuid: str | None
    parent: str | None
    rooted: bool
    raw: Mapping[str, Any]
    blocks: list[Block] | None

    @property
    def message_id(self) -> str:
        found = self.raw["message"].get("id")
        return found if isinstance(found, str) else f"line {self.number}"

    @property
    def splits(self) -> bool:
        """Here one chain of messages ends and the next begins."""
        return self.raw.get("subtype") == "compact_boundary" or self.raw.get("isCompactSummary") is True


def recognises(value: Any) -> bool:
    """Whether one line's value looks like a line of this format."""
    if not isinstance(value, dict) or not isinstance(value.get("type"), str):
        return False
    return bool({"uuid", "sessionId", "leafUuid"} & value.keys()) or isinstance(value.get("message"), dict)


def conversations(
    values: Iterable[tuple[int, Any]], problems: list[Problem], notes: Counter[str], name: str
) -> list[RecordedConversation]:
    """Every conversation of a transcript: the main chain first, one per segment between compactions, then side chains.

    `name` is used where the lines hold no session id.
    """
    groups: dict[str, list[_Line]] = {"": []}
    chain_of: dict[str | None, str] = {}
    for line in _lines(values, problems, notes):
        chain_of[line.uuid] = chain = _chain(line, chain_of)
        groups.setdefault(chain, []).append(line)
    found: list[RecordedConversation] = []
    for chain, lines in groups.items():
        session = next((line.raw["sessionId"] for line in lines if isinstance(line.raw.get("sessionId"), str)), name)
        found += _segments(lines, f"{session}/{chain}" if chain else session, notes)
    return found


def _lines(values: Iterable[tuple[int, Any]], problems: list[Problem], notes: Counter[str]) -> Iterator[_Line]:
    seen: set[str] = set()
    at = 0.0
    for number, value in values:
        try:
            line = _line(number, value, at)
        except Unreadable as error:
            problems.append(Problem(number, str(error)))
            continue
        at = line.at
        if line.uuid and line.uuid in seen:
            notes["doubled lines left out"] += 1
            continue
        seen.add(line.uuid or "")
        yield line


def _line(number: int, value: Any, at: float) -> _Line:
    if not isinstance(value, dict) or not isinstance(value.get("type"), str):
        raise Unreadable("is not an object with a type")
    kind = value["type"]
    return _Line(
        number=number,
        kind=kind,
        at=_time(value.get("timestamp"), at),
        uuid=_text(value.get("uuid")),
        parent=_text(value.get("parentUuid")) or _text(value.get("logicalParentUuid")),
        rooted="parentUuid" in value and value["parentUuid"] is None and "logicalParentUuid" not in value,
        raw=value,
        blocks=_said(kind, value) if kind in _SPEAKS else None,
    )


def _said(kind: str, value: Mapping[str, Any]) -> list[Block] | None:
    if kind == "attachment":
        attachment = value.get("attachment")
        queued = isinstance(attachment, dict) and attachment.get("type") == "queued_command"
        return as_blocks(attachment.get("prompt")) if isinstance(attachment, dict) and queued else None
    message = value.get("message")
    if not isinstance(message, dict):
        raise Unreadable(f"is a {kind} line without a message")
    return as_blocks(message.get("content"))


def _time(stamp: Any, before: float) -> float:
    """Epoch seconds of an ISO 8601 time; a line without one happened when the line before it did."""
    if stamp is None:
        return before
    try:
        moment = datetime.fromisoformat(stamp)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (TypeError, ValueError, OverflowError):
        raise Unreadable("has a timestamp that is no ISO 8601 time") from None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _chain(line: _Line, chain_of: Mapping[str | None, str]) -> str:
    """The name of the side chain a line belongs to, "" for the main chain. Old recordings name no agent: there a side
    chain is a root line and its descendants."""
    if line.raw.get("isSidechain") is not True:
        return ""
    agent = _text(line.raw.get("agentId"))
    above = chain_of.get(line.parent) if line.parent and not agent else None
    return above or f"agent-{agent or line.uuid or line.number}"


def _segments(lines: Sequence[_Line], session: str, notes: Counter[str]) -> list[RecordedConversation]:
    kept = _kept(lines, notes)
    results = _results(lines)
    segments: list[list[_Line]] = [[]]
    for line in kept:
        if line.splits and segments[-1]:
            segments.append([])
        if line.blocks is not None:
            segments[-1].append(line)
    found: list[RecordedConversation] = []
    for segment in segments:
        assembly = Assembly(notes)
        _play(segment, results, assembly, notes)
        turns = assembly.turns()
        if turns:
            number = len(found) + 1
            model = next((step.model for turn in turns for step in turn.steps), "")
            identity = session if number == 1 else f"{session}#{number}"
            found.append(RecordedConversation(identity, "claude-code", session, turns, model, number))
    return found


def _kept(lines: Sequence[_Line], notes: Counter[str]) -> list[_Line]:
    """The lines of the branch that the last line ends, in file order, with all lines of every reply on it."""
    path = _path(lines)
    replies = {lines[index].message_id for index in path if lines[index].kind == "assistant"}
    kept = []
    for index, line in enumerate(lines):
        loose = line.kind == "attachment" and line.uuid is None
        if index in path or loose or (line.kind == "assistant" and line.message_id in replies):
            kept.append(line)
        elif line.blocks is not None and not all(block["type"] == "tool_result" for block in line.blocks):
            notes["lines of other branches left out"] += 1
    return kept


def _path(lines: Sequence[_Line]) -> set[int]:
    """Indices from the last line that speaks up to its root. Where a parent is missing, or not above its child, the
    line above stands for it."""
    index = {line.uuid: at for at, line in enumerate(lines) if line.uuid}
    path: set[int] = set()
    at = next((at for at in range(len(lines) - 1, -1, -1) if lines[at].blocks is not None), -1)
    while at >= 0:
        path.add(at)
        line = lines[at]
        if line.rooted and not line.splits:
            break
        above = index.get(line.parent) if line.parent else None
        at = above if above is not None and above < at else at - 1
    return path


def _results(lines: Sequence[_Line]) -> dict[str, list[tuple[float, Block]]]:
    """Every tool result of the file by the id of its call, with its time."""
    found: dict[str, list[tuple[float, Block]]] = {}
    for line in lines:
        for block in line.blocks or () if line.kind == "user" else ():
            if block["type"] == "tool_result":
                found.setdefault(block["tool_use_id"], []).append((line.at, block))
    return found


def _play(
    lines: Sequence[_Line],
    results: Mapping[str, list[tuple[float, Block]]],
    assembly: Assembly,
    notes: Counter[str],
) -> None:
    """Tells the assembly what one segment's lines say."""
    replies: dict[str, list[_Line]] = {}
    for line in lines:
        if line.kind == "assistant":
            replies.setdefault(line.message_id, []).append(line)
    for line in lines:
        if line.kind != "assistant":
            _play_user(line, assembly)
        elif line is replies[line.message_id][0]:
            if _synthetic(line):
                notes["synthetic replies left out"] += 1
            else:
                _play_reply(replies[line.message_id], results, assembly)


def _play_user(line: _Line, assembly: Assembly) -> None:
    words = [block for block in line.blocks or () if block["type"] != "tool_result"]
    first = next((block["text"] for block in words if block["type"] == "text"), "")
    meta = line.kind == "attachment" or line.raw.get("isMeta") is True
    trigger: Trigger = "auto" if meta or first.startswith(_FROM_THE_PROGRAM) else "human"
    if line.raw.get("isCompactSummary") is True:
        trigger = "compact"
    assembly.say(line.at, words, trigger, aside=meta and not first.startswith(INTERRUPTED))


def _play_reply(lines: Sequence[_Line], results: Mapping[str, list[tuple[float, Block]]], assembly: Assembly) -> None:
    blocks = [(line, block) for line in lines for block in line.blocks or ()]
    message = lines[-1].raw["message"]
    assembly.reply(
        Reply(
            blocks=[block for _, block in blocks],
            model=_text(message.get("model")) or "",
            first=lines[0].at,
            ended=max(line.at for line in lines),
            usage=usage_of(message.get("usage")),
        )
    )
    for line, block in blocks:
        if block["type"] == "tool_use":
            for at, result in results.get(block["id"], ())[:1]:
                assembly.answer(at, result, at - line.at)


def _synthetic(line: _Line) -> bool:
    """Written by the program, not by the API: an error message, or the stand-in for a reply that never came."""
    return line.raw["message"].get("model") == "<synthetic>" or line.raw.get("isApiErrorMessage") is True


def usage_of(value: Any) -> Usage | None:
    """A recorded `usage` object, None where it is none or holds anything but whole numbers in its counters."""
    if not isinstance(value, dict):
        return None
    split = value.get("cache_creation")
    known = {name: count for name, count in value.items() if _counts(count)}
    if isinstance(split, dict):
        known["cache_creation"] = {name: count for name, count in split.items() if _counts(count)}
    return Usage.from_api(known) if "input_tokens" in known else None


def _counts(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 40
