"""Recorded conversations from files: Claude Code transcripts, plain Messages JSON, traces. It only reads and parses.

A corrupt line becomes a `Problem` with its number and is skipped, or refuses the file where `strict` is set. Whatever a
file holds, nothing but `sessions.errors.InvalidImport` is raised.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from itertools import chain
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

from sessions.errors import InvalidImport
from sessions.importers import claude_code, messages_json, traces
from sessions.importers.lines import MAX_BYTES, Unreadable, load, parse, parsed
from sessions.importers.records import (
    Imported,
    Problem,
    RecordedConversation,
    RecordedStep,
    RecordedTurn,
)

__all__ = [
    "Imported",
    "Problem",
    "RecordedConversation",
    "RecordedStep",
    "RecordedTurn",
    "read",
    "read_claude_code",
    "read_messages",
    "read_traces",
]

EXPECTED = (
    "Expected a Claude Code transcript (JSONL), Messages JSON (a list of messages, or an object with `messages`), "
    "or traces (JSONL), plain or gzipped."
)

_Path: TypeAlias = str | PathLike[str]
_Values: TypeAlias = Iterable[tuple[int, Any]]
_Reader: TypeAlias = Callable[[_Values, list[Problem], Counter[str], str], list[RecordedConversation]]
_READERS: tuple[tuple[Callable[[Any], bool], _Reader], ...] = (
    (traces.recognises, traces.conversations),
    (claude_code.recognises, claude_code.conversations),
    (messages_json.recognises, messages_json.conversations),
)


def read(path: _Path, *, strict: bool = False, max_bytes: int = MAX_BYTES) -> Imported:
    """Reads a file of any of the three formats, told by its first readable line.

    `max_bytes`: the most that is read and unpacked; one JSON value for 16 of these bytes is taken.

    Raises:
        InvalidImport: the file cannot be read, is no transcript, holds no conversation, or (`strict`) has a problem.
    """
    return _read(path, strict, max_bytes, None)


def read_claude_code(path: _Path, *, strict: bool = False, max_bytes: int = MAX_BYTES) -> Imported:
    """`read` for a file that is known to be a Claude Code transcript."""
    return _read(path, strict, max_bytes, claude_code.conversations)


def read_messages(path: _Path, *, strict: bool = False, max_bytes: int = MAX_BYTES) -> Imported:
    """`read` for a file that is known to be Messages JSON: a document, or one message or conversation a line."""
    return _read(path, strict, max_bytes, messages_json.conversations)


def read_traces(path: _Path, *, strict: bool = False, max_bytes: int = MAX_BYTES) -> Imported:
    """`read` for a file that is known to be traces."""
    return _read(path, strict, max_bytes, traces.conversations)


def _read(path: _Path, strict: bool, max_bytes: int, reader: _Reader | None) -> Imported:
    data, problems = load(path, max_bytes)
    notes: Counter[str] = Counter()
    values, found = _values(data, problems, reader)
    if found is None:
        raise InvalidImport(f"{path}: is not a transcript. {EXPECTED}")
    conversations = found(values, problems, notes, _stem(path))
    problems.sort(key=lambda problem: problem.line)
    if strict and problems:
        raise InvalidImport(f"{path}, {problems[0]}. Mend or remove it, or import without strict to skip it.")
    if not conversations:
        raise InvalidImport(f"{path}: holds no conversation. {EXPECTED}")
    return Imported(tuple(conversations), tuple(problems), dict(notes))


def _values(data: bytes, problems: list[Problem], reader: _Reader | None) -> tuple[_Values, _Reader | None]:
    """The values of a file, one a line or the file as one, and who reads them."""
    if (whole := _document(data)) is not None:
        return [(1, whole)], reader or _reader(whole)
    lines = parsed(data, problems)
    seen: list[tuple[int, Any]] = []
    for number, value in lines:
        seen.append((number, value))
        found = reader or _reader(value)
        if found:
            return chain(seen, lines), found
    return seen, None


def _document(data: bytes) -> Any:
    """The one JSON value that the whole file is, None where each line is one of its own."""
    first = data.lstrip().split(b"\n", 1)[0]
    try:
        parse(first)
    except Unreadable:
        pass
    else:
        return None
    try:
        return parse(data)
    except Unreadable:
        return None


def _reader(value: Any) -> _Reader | None:
    return next((reader for recognises, reader in _READERS if recognises(value)), None)


def _stem(path: _Path) -> str:
    name = Path(path).name
    return name.split(".", 1)[0] or name
