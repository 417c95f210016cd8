"""What a user has written, as the blocks of a message: checked before anything is moved for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sessions.web.files import block_of
from sessions.web.limits import Limits
from sessions.web.models import File, Part, Text
from sessions.web.problems import Refused

TITLE_CHARACTERS = 60


def blocks_of(content: Sequence[Part], limits: Limits) -> list[dict[str, Any]]:
    """The content blocks. Raises `Refused` for what no model, or no store, takes."""
    if sum(isinstance(part, File) for part in content) > limits.files:
        raise Refused(413, f"a message may have {limits.files} files at most")
    blocks = [_text(part, limits) if isinstance(part, Text) else block_of(part, limits) for part in content]
    # The API wants to see what is asked about before the question.
    return sorted(blocks, key=lambda block: bool(block["type"] == "text"))


def _text(part: Text, limits: Limits) -> dict[str, Any]:
    if len(part.text) > limits.text_characters:
        raise Refused(413, f"a text may have {limits.text_characters:,} characters at most")
    if not part.text.strip():
        raise Refused(422, "the text is blank: write something")
    if not is_storable(part.text):
        raise Refused(422, "the text holds characters that no store takes (NUL, or half of a pair)")
    return {"type": "text", "text": part.text}


def is_storable(text: str) -> bool:
    """Whether every database takes it."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def title_of(blocks: Sequence[dict[str, Any]]) -> str | None:
    """The first words of a message; the name of its first file, where it has none."""
    found = [block["text"] for block in blocks if block["type"] == "text"] + [
        str(block["title"]) for block in blocks if block.get("title")
    ]
    if not found:
        return None
    text = " ".join(found[0].split())
    return text if len(text) <= TITLE_CHARACTERS else f"{text[: TITLE_CHARACTERS - 1].rstrip()}…"
