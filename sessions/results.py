"""What a tool gave, as the content of a `tool_result` that the API takes: bounded, and checked before it is stored."""

from __future__ import annotations

import binascii
from collections.abc import AsyncIterable, Iterator, Mapping, Sequence
from types import GeneratorType
from typing import Any

import anyio.lowlevel
import pydantic_core

from sessions.core.cache import without_marks
from sessions.core.transcript import Malformed, encode, is_blank, plain

Content = str | list[dict[str, Any]]

MAX_RESULT = 1_000_000
"""Characters of text in one result, where its tool does not say otherwise."""
MAX_TOGETHER = 20 * 1024 * 1024
"""The images and documents of one result, and all results of one reply, as JSON: the API takes requests of 32 MB."""
MAX_IMAGE = 10 * 1024 * 1024
"""Base64 characters of one image (vision page, October 2026)."""
NOTHING = "(no output)"

_BLOCKS = ("text", "image", "document", "search_result", "tool_reference")
_TEXTS = {"text": ("text",), "search_result": ("source", "title"), "tool_reference": ("tool_name",)}
_SOURCES: dict[str, dict[str, tuple[str, ...]]] = {
    "image": {"base64": ("media_type", "data"), "url": ("url",), "file": ("file_id",)},
    "document": {
        "base64": ("media_type", "data"),
        "text": ("media_type", "data"),
        "content": (),
        "url": ("url",),
        "file": ("file_id",),
    },
}
_MEDIA = {
    ("image", "base64"): ("image/jpeg", "image/png", "image/gif", "image/webp"),
    ("document", "base64"): ("application/pdf",),
    ("document", "text"): ("text/plain",),
}


class Unusable(Exception):
    """A result that the API would refuse; the message tells the model why."""


class _Beginning(list[Any]):
    """The first items of an iterator that had more."""


def content_of(value: Any, limit: int = MAX_RESULT) -> Content:
    """What a tool returned as content: text and content blocks as they are, the rest as JSON.

    Text beyond `limit` characters is cut, with a note. Raises `Unusable` or `Malformed` for what the API would refuse.
    """
    if isinstance(value, str):
        return shortened(value, limit) or NOTHING
    if value is None:
        return NOTHING
    if isinstance(value, Mapping) and isinstance(value.get("type"), str):
        value = [value]
    if isinstance(value, Sequence) and value and all(_is_block(one) for one in value):
        return _blocks([dict(without_marks(plain(one))) for one in value], limit) or NOTHING
    text = _json(value)
    return shortened(text, limit, more=isinstance(value, _Beginning))


def told(error: BaseException, limit: int = MAX_RESULT) -> Content:
    """What a tool raised, as content."""
    from anthropic.lib.tools import ToolError  # the SDK is imported where it is needed (`client`)

    if isinstance(error, ToolError):
        try:
            return content_of(error.content, limit)
        except Exception as unusable:  # told in place of what it spoils
            error = unusable
    return shortened(_described(error), limit)


def shortened(text: str, limit: int, *, more: bool = False) -> str:
    """At most `limit` characters of it, with a note of what is missing. `more`: there was more than this text."""
    # Half of a surrogate pair, which a tool may give, cannot be stored.
    kept = text[:limit].encode("utf-8", "replace").decode()
    if len(text) <= limit and not more:
        return kept
    return f"{kept}\n{_note(len(text) - len(kept), len(text), more=more)}"


def taken(value: Any, limit: int) -> Any:
    """The items of an iterator as a list, no more than `limit` characters hold; any other value as it is."""
    if not isinstance(value, Iterator):
        return value
    found: list[Any] = []
    room = limit
    for one in value:
        if room <= 0:
            if hasattr(value, "close"):
                value.close()
            return _Beginning(found)
        found.append(one)
        room -= _size(one)
    return found


async def gathered(value: AsyncIterable[Any], limit: int) -> Any:
    """As `taken`, of an asynchronous iterator."""
    found: list[Any] = []
    room = limit
    async for one in value:
        if len(found) % 100 == 0:
            await anyio.lowlevel.checkpoint()  # one that never waits may be cancelled too, and holds nobody up
        if room <= 0:
            if hasattr(value, "aclose"):
                await value.aclose()
            return _Beginning(found)
        found.append(one)
        room -= _size(one)
    return found


def _size(value: Any) -> int:
    return 1 + len(value if isinstance(value, str) else _json(value))


def _json(value: Any) -> str:
    if _has_generator(value):
        raise Unusable("the result holds a generator, which may never end: return a list of its items")
    return pydantic_core.to_json(value, fallback=str, inf_nan_mode="constants").decode()


def _has_generator(value: Any) -> bool:
    if isinstance(value, Mapping):
        value = value.values()
    elif not isinstance(value, list | tuple | set | frozenset):
        return isinstance(value, GeneratorType)
    return any(_has_generator(one) for one in value)


def _described(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return f"{error.message}: " + "; ".join(_described(one) for one in error.exceptions)
    try:
        text, cause = str(error), str(error.__cause__ or "")
    except Exception:  # it cannot even say what it is
        return type(error).__name__
    if not isinstance(error, Unusable | Malformed):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return f"{text} ({cause})" if cause else text


def _note(missing: int, total: int, *, more: bool = False) -> str:
    if more:
        return "[cut: this is not all, the tool had more to say]"
    return f"[cut: {missing:,} of {total:,} characters are missing]"


# -- content blocks --


def _is_block(value: Any) -> bool:
    return (value.get("type") if isinstance(value, Mapping) else getattr(value, "type", None)) in _BLOCKS


def _blocks(found: list[dict[str, Any]], limit: int) -> list[dict[str, Any]]:
    """Blocks that the API takes, their text within the limit."""
    for block in found:
        _check(block, limit)
    kept: list[dict[str, Any]] = []
    total = sum(len(block["text"]) for block in found if block["type"] == "text")
    room = limit
    for block in found:
        if block["type"] == "text":
            text = block["text"][:room].encode("utf-8", "replace").decode()
            room -= len(text)
            block = {**block, "text": text}
        if not is_blank(block):
            kept.append(block)
    if total > limit:
        kept.append({"type": "text", "text": _note(total - limit, total)})
    if (size := len(encode([block for block in kept if block["type"] != "text"]))) > MAX_TOGETHER:
        raise Unusable(f"the result's images and documents have {size:,} bytes, more than {MAX_TOGETHER:,}: give less")
    encode([{"type": "tool_result", "content": kept}])  # as it will be stored: nesting is counted from there
    return kept


def _check(block: Mapping[str, Any], limit: int) -> None:
    kind = block["type"]
    if kind in _SOURCES:
        _check_source(kind, block.get("source"))
    elif kind == "search_result" and not _are_texts(block.get("content")):
        raise Unusable("a search_result needs a content of text blocks")
    for key in _TEXTS.get(kind, ()):
        if not isinstance(block.get(key), str):
            raise Unusable(f"a block of type {kind} needs {key!r}, a text")
    if kind != "text" and (size := _words(block)) > limit:
        raise Unusable(f"a {kind} of {size:,} characters is too long: at most {limit:,}")


def _check_source(kind: str, source: Any) -> None:
    offered = _SOURCES[kind]
    if not isinstance(source, Mapping) or source.get("type") not in offered:
        raise Unusable(f"a block of type {kind} needs a 'source' of type {' or '.join(offered)}")
    form = source["type"]
    for key in offered[form]:
        if not isinstance(source.get(key), str) or not source[key]:
            raise Unusable(f"the {form} source of a block of type {kind} needs {key!r}, a text")
    if form == "content" and not isinstance(source.get("content"), str | list):
        raise Unusable(f"the content source of a block of type {kind} needs a 'content'")
    media = _MEDIA.get((kind, form))
    if media and source["media_type"] not in media:
        raise Unusable(f"the API takes no {kind} of type {source['media_type']!r:.80}, only {', '.join(media)}")
    if form == "base64":
        _check_data(kind, source["data"])


def _check_data(kind: str, data: str) -> None:
    if kind == "image" and len(data) > MAX_IMAGE:
        raise Unusable(f"an image of {len(data):,} base64 characters is too large: at most {MAX_IMAGE:,}")
    try:
        binascii.a2b_base64(data)
    except ValueError as error:
        raise Unusable(f"the data of an {kind} is no base64: {error}") from None


def _are_texts(content: Any) -> bool:
    return isinstance(content, list) and all(
        isinstance(one, Mapping) and one.get("type") == "text" and isinstance(one.get("text"), str) for one in content
    )


def _words(block: Mapping[str, Any]) -> int:
    """How many characters of text stand in a document or a search result."""
    source = block.get("source")
    if isinstance(source, Mapping):
        content = source.get("data") if source.get("type") == "text" else source.get("content")
    else:
        content = block.get("content")
    if isinstance(content, str):
        return len(content)
    blocks = content if isinstance(content, list) else []
    return sum(len(one["text"]) for one in blocks if isinstance(one, Mapping) and isinstance(one.get("text"), str))
