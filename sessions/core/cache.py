"""The prompt cache's rules: what a prefix is keyed by, where one is found, and what reading and writing it is billed.

A *point* is the digest of a prompt up to and including one block, in the order tools, system, messages. Two requests
share a cached prefix exactly as far as they share points. The planner and the simulator both stand on this file. Rules
are those of Anthropic's prompt-caching page of August and September 2026.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Literal, NamedTuple

from sessions.core.profiles import Profile, Ttl

Block = Mapping[str, Any]
Tier = Literal["tools", "system", "messages"]

SECONDS: dict[str, int] = {"5m": 300, "1h": 3600}
"""How long an entry lives, counted from the start of the request that wrote or last read it."""

THINKING = frozenset({"thinking", "redacted_thinking"})
_MARKABLE = frozenset(
    {
        "text",
        "image",
        "document",
        "search_result",
        "tool_use",
        "tool_result",
        "tool_reference",
        "server_tool_use",
        "container_upload",
        "compaction",
    }
)
_ENCODE = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_WEB_TOOLS = ("web_search", "web_fetch")


class Where(NamedTuple):
    """A block's place in a request; `message` is 0 for tools and system."""

    tier: Tier
    message: int
    block: int


@dataclass(frozen=True, slots=True)
class Point:
    """A prefix ending at one block: its digest, its position (1-based, counted as the profile says), its place."""

    digest: str
    position: int
    where: Where


def content_blocks(content: str | Sequence[Block]) -> Sequence[Block]:
    """A message's or a system prompt's content as blocks: a plain string is one text block."""
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def without_marks(block: Block) -> Block:
    """The block without `cache_control`, its own and those of blocks inside a tool result. Never touches tool input."""
    inner = block.get("content")
    nested = isinstance(inner, list) and any(isinstance(one, Mapping) and "cache_control" in one for one in inner)
    if "cache_control" not in block and not nested:
        return block
    bare = {key: value for key, value in block.items() if key != "cache_control"}
    if nested:
        bare["content"] = [without_marks(one) if isinstance(one, Mapping) else one for one in block["content"]]
    return bare


def mark_of(block: Block) -> Ttl | None:
    """The lifetime a block asks for with `cache_control`, its own or of a block inside it; `None` without one."""
    own = block.get("cache_control")
    if isinstance(own, Mapping):
        return "1h" if own.get("ttl") == "1h" else "5m"
    inner = block.get("content")
    found = [mark_of(one) for one in inner if isinstance(one, Mapping)] if isinstance(inner, list) else []
    marks = [mark for mark in found if mark]
    return marks[-1] if marks else None


def can_mark(block: Block) -> bool:
    """Whether `cache_control` may stand on this message or system block: not thinking, not blank, no unknown type."""
    kind = block.get("type")
    if kind == "text":
        return bool(str(block.get("text") or "").strip()) and "clear_at" not in block
    return kind in _MARKABLE or (isinstance(kind, str) and kind.endswith("_tool_result"))


def can_mark_tool(tool: Block) -> bool:
    """Whether `cache_control` may stand on this tool definition: not on one that is loaded later."""
    return not tool.get("defer_loading")


def blocks(request: Mapping[str, Any]) -> Iterator[tuple[Where, Block]]:
    """Every block of a request in processing order: tools, system, messages."""
    for index, tool in enumerate(request.get("tools") or ()):
        yield Where("tools", 0, index), tool
    for index, block in enumerate(content_blocks(request.get("system") or ())):
        yield Where("system", 0, index), block
    for number, message in enumerate(request.get("messages") or ()):
        for index, block in enumerate(content_blocks(message["content"])):
            yield Where("messages", number, index), block


def marked(request: Mapping[str, Any]) -> list[tuple[Where, Ttl]]:
    """The block markers of a request, in processing order; a marker inside a tool result counts at that block."""
    return [(where, ttl) for where, block in blocks(request) if (ttl := mark_of(block))]


def text_of(value: Any) -> str:
    """The JSON text that is hashed and stored: keys in their own order, nothing escaped but what JSON demands."""
    return _ENCODE(value)


def _digest(previous: str, kind: str, text: str) -> str:
    return blake2b(f"{previous}\n{kind}\n{text}".encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class Knobs:
    """Request fields that are part of the prompt although they are no block, by the tier at which they enter."""

    root: str
    system: str
    messages: str

    @classmethod
    def of(cls, request: Mapping[str, Any], profile: Profile, endpoint: str, workspace: str) -> Knobs:
        """Reads them from a request body (rules of September 2026; a default that is spelled out changes nothing)."""
        output = dict(request.get("output_config") or {})
        if output.get("effort") == profile.default_effort:
            del output["effort"]
        thinking = dict(request.get("thinking") or {})
        thinking.pop("display", None)
        thinking.pop("block_binding", None)
        if thinking.get("type") == profile.thinking_default:
            thinking = {}
        choice = request.get("tool_choice") or {}
        choice = {} if choice == {"type": "auto"} else choice
        later = [choice, thinking, output, request.get("context_management"), sorted(request.get("betas") or ())]
        web = [tool for tool in request.get("tools") or () if _is_web(tool)]
        return cls(
            text_of([endpoint, workspace, request.get("model")]),
            text_of([request.get("speed") or "standard", [dict(without_marks(tool)) for tool in web]]),
            text_of(later),
        )


def _is_web(tool: Block) -> bool:
    return str(tool.get("type") or "").startswith(_WEB_TOOLS)


def _has(kind: Callable[[Block], bool], content: Sequence[Any]) -> bool:
    for block in content:
        if not isinstance(block, Mapping):
            continue
        inner = block.get("content")
        if kind(block) or (isinstance(inner, list) and _has(kind, inner)):
            return True
    return False


def _is_image(block: Block) -> bool:
    return block.get("type") == "image"


def has_image(content: Sequence[Any]) -> bool:
    """Whether an image is among these blocks or inside one of them."""
    return _has(_is_image, content)


def is_cited(block: Block) -> bool:
    """Whether citations are on for this document."""
    citations = block.get("citations")
    return isinstance(citations, Mapping) and bool(citations.get("enabled"))


def _is_words(message: Mapping[str, Any]) -> bool:
    """A plain user message: it makes models that keep only the last turn's thinking strip the older."""
    content = content_blocks(message["content"])
    return message["role"] == "user" and any(block.get("type") != "tool_result" for block in content)


class Chain:
    """The points of one prompt, kept up to date as messages are added.

    Adding a message costs its own length, except where a rule changes earlier points: the first image or citation of
    a prompt, and thinking that the model strips at the next plain user message. `unbound`: thinking in that many
    first messages is dropped by the API, since it is bound to another prefix.
    """

    def __init__(
        self,
        request: Mapping[str, Any],
        profile: Profile,
        *,
        endpoint: str = "",
        workspace: str = "",
        unbound: int = 0,
    ) -> None:
        self.profile = profile
        self._unbound = unbound
        self.points: list[Point] = []
        self.messages: list[Mapping[str, Any]] = []
        self.stable = 0
        """How many leading points the last `extend` left untouched."""
        self.knobs = Knobs.of(request, profile, endpoint, workspace)
        self._tools = [without_marks(tool) for tool in request.get("tools") or ()]
        self._system = [without_marks(block) for block in content_blocks(request.get("system") or ())]
        self._starts: list[int] = []
        self._states: list[tuple[str, int, str]] = []
        self.images = self.cited = False
        self._words = 0
        self._state: tuple[str, int, str]
        self._begin()

    def extend(self, messages: Sequence[Mapping[str, Any]]) -> None:
        """Adds messages behind the last one."""
        self.stable = len(self.points)
        images = self.images or any(has_image(content_blocks(one["content"])) for one in messages)
        cited = self.cited or any(_has(is_cited, content_blocks(one["content"])) for one in messages)
        first = len(self.messages)
        self.messages.extend(messages)
        if (images, cited) != (self.images, self.cited):
            self.images, self.cited = images, cited
            self._begin()
            first = 0
        if not self.profile.keeps_thinking:
            first = min(first, self._strip(first))
        for number in range(first, len(self.messages)):
            self._add(number)

    def _strip(self, first: int) -> int:
        """Cuts back to the first thinking that a new plain user message makes the model drop; says where to go on."""
        words = [n for n in range(len(self.messages) - 1, first - 1, -1) if _is_words(self.messages[n])]
        if not words:
            return first
        old, self._words = self._words, words[0]
        for number in range(old, min(words[0], len(self._starts))):
            if any(block.get("type") in THINKING for block in content_blocks(self.messages[number]["content"])):
                self._cut(number)
                return number
        return first

    def _cut(self, number: int) -> None:
        start = self._starts[number]
        self._state = self._states[number]
        self.stable = min(self.stable, start)
        del self.points[start:], self._starts[number:], self._states[number:]

    def _begin(self) -> None:
        """Starts anew: tools, then system, then the settings that enter before the messages."""
        self.points.clear()
        self._starts.clear()
        self._states.clear()
        self._state = (_digest("", "root", self.knobs.root), 0, "")
        self.stable = 0
        for index, tool in enumerate(self._tools):
            before = self._state[0]
            self._push(Where("tools", 0, index), "tool", tool)
            if _is_web(tool):
                self._state = (before, *self._state[1:])
        self._fold("system", self.knobs.system + str(self.cited))
        for index, block in enumerate(self._system):
            self._push(Where("system", 0, index), "system", block)
        self._fold("messages", self.knobs.messages + str(self.images))

    def _fold(self, kind: str, text: str) -> None:
        self._state = (_digest(self._state[0], kind, text), self._state[1], "")

    def _add(self, number: int) -> None:
        self._starts.append(len(self.points))
        self._states.append(self._state)
        message = self.messages[number]
        stripped = number < self._unbound or (not self.profile.keeps_thinking and number < self._words)
        for index, block in enumerate(content_blocks(message["content"])):
            if not (stripped and block.get("type") in THINKING):
                self._push(Where("messages", number, index), str(message["role"]), without_marks(block))

    def _push(self, where: Where, kind: str, block: Block) -> None:
        previous, position, run = self._state
        block_kind = str(block.get("type"))
        collapses = self.profile.collapses_tools and block_kind in ("tool_use", "tool_result") and kind != "tool"
        skipped = block_kind in THINKING and not self.profile.counts_thinking
        if not skipped and not (collapses and run == block_kind):
            position += 1
        digest = _digest(previous, kind, text_of(block))
        self.points.append(Point(digest, position, where))
        self._state = (digest, position, block_kind if collapses else "")


def chain(request: Mapping[str, Any], profile: Profile, *, endpoint: str = "", workspace: str = "") -> list[Point]:
    """The points of a whole request body, one a block, in processing order. Thinking that the model strips has none."""
    whole = Chain(request, profile, endpoint=endpoint, workspace=workspace)
    whole.extend(list(request.get("messages") or ()))
    return whole.points


def find(points: Sequence[Point], marks: Sequence[int], alive: Callable[[str], bool], lookback: int) -> int | None:
    """The index of the longest prefix that can be read, or `None`.

    Each mark (an index into `points`), from the last to the first, looks back over `lookback` positions, its own
    counted as the first: an entry 19 positions behind a mark is found with 20, one 20 behind is not.
    """
    for mark in sorted(marks, reverse=True):
        last = points[mark].position
        index = mark
        while index >= 0 and last - points[index].position < lookback:
            if alive(points[index].digest):
                return index
            index -= 1
    return None


@dataclass(frozen=True, slots=True)
class Bill:
    """How a prompt's tokens are billed."""

    read: int
    write_1h: int
    write_5m: int
    input: int


def bill(
    sizes: Sequence[int] | Mapping[int, int],
    total: int,
    marks: Sequence[tuple[int, Ttl]],
    hit: int | None,
    minimum: int,
) -> Bill:
    """The documented mixed-lifetime formula (September 2026).

    With A = tokens at the hit, B = tokens at the highest 1h mark behind it (else A), C = tokens at the last mark:
    read A, 1h write B-A, 5m write C-B, plain input for the rest. `sizes` are the cumulative tokens at each point (or
    at those that are marked or hit), `marks` are (index, lifetime) pairs. A mark whose prefix is shorter than `minimum`
    does nothing.
    """
    read = sizes[hit] if hit is not None else 0
    ends = [(sizes[index], ttl) for index, ttl in marks if sizes[index] >= minimum]
    one_hour = max([size for size, ttl in ends if ttl == "1h" and size > read], default=read)
    last = max([size for size, _ in ends], default=read)
    last = max(last, one_hour)
    return Bill(read, one_hour - read, last - one_hour, total - last)
