"""Images and PDFs: how many, how large (vision and PDF pages, August 2026)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sessions.core.profiles import Profile
from sessions.simulator.checks.refusal import Refusal
from sessions.simulator.tokens import image_size, pdf_pages

BYTES = 10 * 1024 * 1024
SIDE, MANY_SIDE, MANY = 8000, 2000, 20


def check(body: Mapping[str, Any], profile: Profile) -> None:
    """Raises `Refusal` for too many or too large images or pages."""
    media = list(_media(body))
    if not media:
        return
    images = [(path, block) for path, block in media if block["type"] == "image"]
    small = profile.window < 1_000_000
    pages = sum(_pages(block) for _, block in media if block["type"] == "document")
    most = 100 if small else 600
    if len(images) > most or pages > most:
        raise Refusal(f"messages: Too much media: {pages} document pages + {len(images)} images > {most}")
    for path, block in images:
        _image(path, block, many=len(images) > MANY)


def _image(path: str, block: Mapping[str, Any], *, many: bool) -> None:
    source = block["source"]
    if source["type"] != "base64":
        return
    if len(source["data"]) > BYTES:
        raise Refusal(
            f"{path}.image.source.base64: image exceeds 10 MB maximum: {len(source['data'])} bytes > {BYTES} bytes"
        )
    size = image_size(source["data"])
    if size is None:
        return
    limit, kind = (MANY_SIDE, " for many-image requests") if many else (SIDE, "")
    if max(size) > limit:
        raise Refusal(
            f"{path}.image.source.base64.data: At least one of the image dimensions exceed max allowed size{kind}: "
            f"{limit} pixels"
        )


def _pages(block: Mapping[str, Any]) -> int:
    source = block["source"]
    return pdf_pages(source["data"]) if source["type"] == "base64" else 0


def _media(body: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for i, message in enumerate(body["messages"]):
        content = message.get("content")
        if not isinstance(content, list):
            continue
        for j, block in enumerate(content):
            if block["type"] in ("image", "document"):
                yield f"messages.{i}.content.{j}", block
            elif block["type"] == "tool_result" and isinstance(block.get("content"), list):
                for k, inner in enumerate(block["content"]):
                    if inner["type"] in ("image", "document"):
                        yield f"messages.{i}.content.{j}.tool_result.content.{k}", inner
