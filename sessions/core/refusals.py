"""When the API refuses a request after tools have run: which results it can have meant, and what stands for them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sessions.core.cache import Block
from sessions.core.transcript import encode

_PLACE = re.compile(r"\bmessages\.(\d+)(?:\.content\.(\d+))?")
_OTHER_FIELD = re.compile(r"(?!messages\b)[a-z_]+(\.\w+)*: ")
_REASON = 300
"""Characters of the API's reason that the model is told."""


def refused_results(
    messages: Sequence[Mapping[str, Any]],
    results: Sequence[Block],
    reason: str,
    *,
    too_large: bool,
    with_words: bool,
) -> list[str]:
    """The tool ids of the results that the API can have refused, of `results`, which it has never accepted.

    `messages`: those of the request. `reason`: the API's own sentence; a place in it (`messages.3.content.1`) decides,
    and so does another field of the request. `too_large`: the prompt was; then it is those that are at least half as
    large as the largest. Otherwise what holds more than text is doubted first. `with_words`: new words of the user
    were in the request too, which then are the likelier cause.
    """
    if _OTHER_FIELD.match(reason):
        return []
    if (place := _PLACE.search(reason)) is not None:
        named = _named(messages, int(place[1]), place[2])
        if named is not None:
            return [str(one["tool_use_id"]) for one in results if one["tool_use_id"] in named]
    doubted = [one for one in results if not _is_text(one)]
    if too_large or (not doubted and not with_words):
        doubted = _largest(results)
    return [str(one["tool_use_id"]) for one in doubted]


def without_results(results: Sequence[Block], refused: Collection[str], reason: str) -> list[dict[str, Any]]:
    """The results with errors in place of those that the API refused: the model knows that these tools have run."""
    text = f"the tool has run; the result was refused by the API: {reason[:_REASON]}"
    stand_in = {"type": "tool_result", "content": text, "is_error": True}
    return [
        {**stand_in, "tool_use_id": one["tool_use_id"]} if one["tool_use_id"] in refused else dict(one)
        for one in results
    ]


def _named(messages: Sequence[Mapping[str, Any]], message: int, block: str | None) -> set[Any] | None:
    """The tool ids that a place in the request stands for; `None` where it says no more than "in these results"."""
    if message >= len(messages):
        return None
    content = messages[message]["content"]
    blocks = content if isinstance(content, list) else []
    if block is not None and int(block) < len(blocks):
        return {blocks[int(block)].get("tool_use_id")}
    return None if any(one.get("type") == "tool_result" for one in blocks) else set()


def _is_text(result: Block) -> bool:
    content = result.get("content") or ""
    return isinstance(content, str) or all(one.get("type") == "text" for one in content)


def _largest(results: Sequence[Block]) -> list[Block]:
    sizes = [len(encode([one])) for one in results]
    return [one for one, size in zip(results, sizes, strict=True) if 2 * size >= max(sizes)]
