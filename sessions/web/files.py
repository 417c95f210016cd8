"""Files that users bring: checked by their type, their size and their first bytes, and stored as content blocks."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from sessions.web.limits import Limits
from sessions.web.models import File
from sessions.web.problems import Refused

_IMAGES: Mapping[str, tuple[bytes, ...]] = {
    "image/jpeg": (b"\xff\xd8\xff",),
    "image/png": (b"\x89PNG\r\n\x1a\n",),
    "image/gif": (b"GIF87a", b"GIF89a"),
    "image/webp": (b"RIFF",),
}
"""What files of these types begin with."""
_PDF = "application/pdf"
_TEXTS = frozenset({"text/plain", "text/markdown", "text/csv", "text/html", "text/xml", "application/json"})
TYPES = (*_IMAGES, _PDF, *sorted(_TEXTS))
"""Media types that are taken. What is text by any other name is sent as `text/plain`."""
LARGEST_IMAGE = 5 * 1024 * 1024
"""Bytes of an image in base64 that the API takes (its Vision page, 2026)."""


def url_of(session: str, entry: str, place: int) -> str:
    """Where a stored file is given out: below the application's root, without a slash before it."""
    return f"api/sessions/{session}/files/{entry}/{place}"


def block_of(file: File, limits: Limits) -> dict[str, Any]:
    """The content block that a file becomes. Raises `Refused` for what the API, or this service, does not take."""
    kind = file.media_type.partition(";")[0].strip().lower()
    if kind not in TYPES:
        raise Refused(415, f"files of type {kind!r:.100} are not taken: send images, PDF or text")
    data = _bytes_of(file)
    if kind in _IMAGES:
        _check_image(kind, file, data)
        return {"type": "image", "source": {"type": "base64", "media_type": kind, "data": _encoded(data)}}
    if kind == _PDF:
        if not data.startswith(b"%PDF-"):
            raise Refused(422, f"{_named(file)} is no PDF")
        source = {"type": "base64", "media_type": _PDF, "data": _encoded(data)}
    else:
        source = {"type": "text", "media_type": "text/plain", "data": _text_of(file, data, limits)}
    return {"type": "document", "source": source, "title": _title(file)}


def bytes_of_block(block: Mapping[str, Any]) -> tuple[bytes, str] | None:
    """What a stored block holds, and its media type; `None` for one that holds no file."""
    source = block.get("source")
    if block.get("type") not in ("image", "document") or not isinstance(source, Mapping):
        return None
    if source.get("type") == "base64":
        kind = str(source["media_type"])
        # Of what another program has stored, only what is an image or a PDF is given out as what it says it is.
        return base64.b64decode(source["data"]), kind if kind in (*_IMAGES, _PDF) else "application/octet-stream"
    if source.get("type") == "text":
        return source["data"].encode(), "text/plain; charset=utf-8"
    return None


def _title(file: File) -> str:
    """The file's own name, as far as a store takes it."""
    name = file.name.replace("\\", "/").rpartition("/")[2].strip()
    kept = "".join(character for character in name if character.isprintable())
    return kept or "file"


def _named(file: File) -> str:
    return repr(file.name)[:100]


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes_of(file: File) -> bytes:
    try:
        data = base64.b64decode(file.data, validate=True)
    except ValueError:  # characters beyond ASCII, or no base64
        raise Refused(422, f"the data of {_named(file)} is no base64") from None
    if not data:
        raise Refused(422, f"{_named(file)} is empty")
    return data


def _check_image(kind: str, file: File, data: bytes) -> None:
    is_webp = kind != "image/webp" or data[8:12] == b"WEBP"
    if not data.startswith(_IMAGES[kind]) or not is_webp:
        raise Refused(422, f"{_named(file)} is not what it says: {kind}")
    if len(file.data) > LARGEST_IMAGE:
        raise Refused(413, f"{_named(file)} is too large: an image may have {LARGEST_IMAGE:,} bytes in base64")


def _text_of(file: File, data: bytes, limits: Limits) -> str:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise Refused(422, f"{_named(file)} is no UTF-8 text") from None
    if "\0" in text or not text.strip():
        raise Refused(422, f"{_named(file)} holds no text")
    if len(text) > limits.text_characters:
        raise Refused(413, f"{_named(file)} is longer than {limits.text_characters:,} characters")
    return text
