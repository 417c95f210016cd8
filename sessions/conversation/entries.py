"""Entries as they are written and read: their stored form, and what is wrong with one that was changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sessions.core.transcript import Entry, Role, decode, decode_all, encode, entry_id, is_summary
from sessions.errors import ConfigurationError
from storage import EntryRecord


@dataclass(frozen=True, slots=True)
class Written:
    """An entry with its stored form."""

    entry: Entry
    record: EntryRecord


def make_entry(parent: Entry | None, role: Role, content: Sequence[Any], now: float, **facts: Any) -> Written:
    """The next entry of a chain; `facts` are fields of `Entry` (stop reason, sizes, model, call)."""
    text = encode(content)
    parent_id = parent.id if parent else None
    entry = Entry(
        id=entry_id(parent_id, role, text),
        parent=parent_id,
        role=role,
        # As it would be read back: what the caller changes in its own objects later changes no entry.
        content=decode(text),
        created_at=now,
        depth=parent.depth + 1 if parent else 1,
        **facts,
    )
    record = EntryRecord(
        id=entry.id,
        parent=parent_id,
        depth=entry.depth,
        role=role,
        content=text,
        created_at=now,
        stop_reason=entry.stop_reason,
        prompt_tokens=entry.prompt_tokens,
        output_tokens=entry.output_tokens,
        message_id=entry.message_id,
        call=entry.call,
        model=entry.model,
    )
    return Written(entry, record)


def begins_with_summary(entries: Sequence[Entry]) -> bool:
    """Whether the API's summary of what was said before stands first."""
    return bool(entries) and is_summary({"role": entries[0].role, "content": entries[0].content})


def read_content(record: EntryRecord) -> list[dict[str, Any]]:
    """The blocks of a stored row. Raises `ConfigurationError` naming a row that is damaged."""
    try:
        return decode(record.content)
    except ValueError as error:
        raise ConfigurationError(f"entry {record.id} is damaged ({error}): restore the database from a copy") from error


def read_entry(record: EntryRecord) -> Entry:
    """The entry of a stored row; see `read_content`."""
    return Entry(
        id=record.id,
        parent=record.parent,
        role=record.role,  # type: ignore[arg-type]  # only roles that were checked are ever stored
        content=read_content(record),
        created_at=record.created_at,
        stop_reason=record.stop_reason,
        depth=record.depth,
        prompt_tokens=record.prompt_tokens,
        output_tokens=record.output_tokens,
        message_id=record.message_id,
        model=record.model,
        call=record.call,
    )


def read_messages(records: Sequence[EntryRecord]) -> list[dict[str, Any]]:
    """Stored rows as the API takes them; see `read_content`."""
    try:
        contents = decode_all([record.content for record in records])
    except ValueError:
        contents = [read_content(record) for record in records]  # names the damaged one
    return [{"role": record.role, "content": content} for record, content in zip(records, contents, strict=True)]


@dataclass(frozen=True, slots=True)
class Damage:
    """The first entry that is not as it was written, and what is wrong with it."""

    entry: str
    sentence: str


def first_damage(rows: Sequence[EntryRecord]) -> Damage | None:
    """Re-hashes a chain from its root; the first entry whose words, place or parent were changed, or `None`."""
    parent: str | None = None
    for depth, row in enumerate(rows, 1):
        if row.parent != parent or row.depth != depth:
            return Damage(row.id, f"entry {row.id} does not follow the entry before it")
        if entry_id(parent, row.role, row.content) != row.id:
            return Damage(row.id, f"the content of entry {row.id} (message {depth}) is not what was stored")
        parent = row.id
    return None
