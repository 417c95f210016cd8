"""Counting: the same everywhere, to the token."""

from __future__ import annotations

import base64
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessions.simulator import count, filler
from sessions.simulator.tokens import IMAGE, PAGE


@given(st.integers(4, 5000))
def test_filler_has_the_size_asked_for(tokens: int) -> None:
    assert count({"type": "text", "text": filler(tokens)}) == tokens


def data(raw: bytes, kind: str = "image", media: str = "image/png") -> dict[str, Any]:
    source = {"type": "base64", "media_type": media, "data": base64.b64encode(raw).decode()}
    return {"type": kind, "source": source}


PNG = b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + struct.pack(">II", 750, 100)
GIF = b"GIF89a" + struct.pack("<HH", 75, 20)
JPEG = b"\xff\xd8\xff\xe0\x00\x04ab\xff\xc0\x00\x11\x08" + struct.pack(">HH", 30, 50) + b"\0" * 10
COUNTS: list[tuple[Any, int]] = [
    ("abcd", 4),
    ({"type": "text", "text": "äöü"}, 5),
    ({"type": "tool_use", "name": "look", "input": {}}, 14),
    ({"type": "tool_result", "tool_use_id": "t"}, 12),
    ({"type": "tool_result", "tool_use_id": "t", "content": "abcdefgh"}, 14),
    ({"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "abcd"}]}, 16),
    ({"type": "thinking", "thinking": "abcd", "signature": "foreign"}, 4),
    ({"type": "redacted_thinking", "data": "foreign"}, 3),
    (data(PNG), 100),
    (data(GIF), 2),
    (data(JPEG), 2),
    (data(b"\xff\xd8\xff"), IMAGE),
    (data(b"nothing"), IMAGE),
    ({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "%"}}, IMAGE),
    ({"type": "image", "source": {"type": "url", "url": "https://example.com"}}, IMAGE),
    (data(b"/Type /Page\n/Type /Page\n/Type /Pages", "document"), 2 * PAGE),
    ({"type": "document", "source": {"type": "base64", "data": "%"}}, PAGE),
    ({"type": "document", "source": {"type": "text", "data": "abcd"}}, 4),
    ({"type": "document", "source": {"type": "content", "content": "abcd"}}, 4),
    ({"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "abcd"}]}}, 4),
    ({"type": "document", "source": {"type": "file", "file_id": "f"}}, PAGE),
    ({"type": "compaction", "content": None}, 3),
]


@pytest.mark.parametrize(("block", "tokens"), COUNTS, ids=lambda value: str(value)[:40])
def test_each_kind_of_block(block: Any, tokens: int) -> None:
    assert count(block) == tokens


def test_a_marker_is_no_token() -> None:
    tool = {"name": "look", "description": "d", "input_schema": {"type": "object"}}
    assert count(tool) == count({**tool, "cache_control": {"type": "ephemeral"}})
