"""Pieces of Claude's blocks for libraries that keep other shapes."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping
from typing import Any


def said(block: Mapping[str, Any]) -> str:
    """The text of a tool result."""
    content = block.get("content") or ""
    return content if isinstance(content, str) else "".join(inner.get("text", "") for inner in content)


def image_bytes(block: Mapping[str, Any]) -> bytes:
    """The bytes of an image block."""
    return b64decode(block["source"]["data"])
