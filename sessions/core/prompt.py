"""The prompt of one session as the model sees it: its points and their sizes, kept up to date entry by entry."""

from __future__ import annotations

import functools
import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Any

from sessions.core.body import Message
from sessions.core.cache import THINKING, Block, Chain, Point, Where, can_mark, can_mark_tool, text_of
from sessions.core.cleared import CLEARING_BETA, NOTHING, Cleared, Results
from sessions.core.profiles import Profile
from sessions.core.settings import Settings
from sessions.core.transcript import MAX_MESSAGES, Entry

COMPACTION_BETA = "compact-2026-09-04"
BINDING_BETA = "thinking-binding-controls-2026-08-01"
_IMAGE_TOKENS = 1500
_PAGE_TOKENS = 2000
_PAGE_CHARACTERS = 80_000
"""Base64 of a PDF page, roughly."""
_BLOCK_TOKENS = 4
_TOOLS_TOKENS = 300


def estimate(block: Block, characters_per_token: float) -> float:
    """A block's size in tokens, guessed from its text: only used until the API has measured a prompt that holds it."""
    kind = block.get("type")
    if kind == "image":
        return float(_IMAGE_TOKENS)
    source = block.get("source")
    if kind == "document" and isinstance(source, Mapping) and source.get("type") == "base64":
        return _PAGE_TOKENS * max(1.0, len(str(source.get("data"))) / _PAGE_CHARACTERS)
    if kind in ("thinking", "text"):
        text = str(block.get(kind) or "")
    elif kind == "redacted_thinking":
        text = str(block.get("data") or "")[::3]
    elif kind == "tool_result" and isinstance(block.get("content"), list):
        inner = (one for one in block["content"] if isinstance(one, Mapping))
        return _BLOCK_TOKENS + sum(estimate(one, characters_per_token) for one in inner)
    else:
        text = text_of(block)
    return _BLOCK_TOKENS + len(text.encode("utf-8", "surrogatepass")) / characters_per_token


def as_user_block(block: Block) -> dict[str, Any]:
    """An operator's instruction as a block of a user message, marked as what it is."""
    return {"type": "text", "text": f"<system-instruction>\n{block.get('text')}\n</system-instruction>"}


def drops_blocks(settings: Settings, profile: Profile) -> bool:
    """Whether the API can be asked to drop thinking of another prefix: `disabled` has no field for it (SDK 2.11)."""
    return profile.drops_bound_thinking and (settings.thinking or {}).get("type") != "disabled"


def clears(settings: Settings, profile: Profile) -> bool:
    """Whether old tool results may be cleared from prompts with these settings."""
    return settings.clear_tool_results and profile.context_editing


def reads_before_summary(settings: Settings, profile: Profile) -> bool:
    """Whether the request for a summary can read what the conversation has in the cache: only then is it cheap."""
    may_ask = profile.compaction and "context_management" not in (settings.params or {})
    return may_ask and settings.compact == "cheapest" and not summary_leaves_out(settings)


def summary_leaves_out(settings: Settings) -> bool:
    """Whether these settings hold what may not stand beside `compaction` and is part of the cached prefix: an output
    format, or a tool that must be used (docs/provider.md, 13)."""
    forced = (settings.tool_choice or {}).get("type") in ("any", "tool")
    return forced or "format" in (settings.output_config or {})


def request_of(settings: Settings, profile: Profile, *, compacted: bool = False) -> tuple[dict[str, Any], int]:
    """The request body without messages, and in how many first messages the API drops the thinking.

    `compacted`: the history starts with a summary, which needs its beta in every request. A session that compacts for
    the price has it from its first request on: betas that change may change the cached prefix (docs/provider.md, 5),
    and then the request for a summary would read nothing of what it is to summarize. So it is with one that clears
    tool results.

    Thinking that is bound to a prefix which has changed since makes the API refuse the request, unless it is asked to
    drop such blocks (preserved-thinking page, September 2026).
    """
    body = settings.request()
    if (compacted or reads_before_summary(settings, profile)) and COMPACTION_BETA not in body.get("betas", ()):
        body["betas"] = [*body.get("betas", ()), COMPACTION_BETA]
    if clears(settings, profile) and CLEARING_BETA not in body.get("betas", ()):
        body["betas"] = [*body.get("betas", ()), CLEARING_BETA]
    if not (settings.unbound or settings.foreign) or not drops_blocks(settings, profile):
        return body, 0
    thinking = settings.thinking or {"type": profile.thinking_default}
    control = {"prefix_mismatch_behavior": "drop_block"}
    betas = [*body.get("betas", ()), BINDING_BETA]
    return {**body, "thinking": {**thinking, "block_binding": control}, "betas": betas}, settings.unbound


def kept_text(settings: Settings) -> str:
    """Settings as they are kept beside the calls made with them: pending instructions are no part of it."""
    return replace(settings, instructions=()).to_json()


def text_digest(text: str) -> str:
    """The name of such a text, 32 hex digits."""
    return blake2b(text.encode(), digest_size=16).hexdigest()


class Prompt:
    """Points, markable places and sizes (tokens) of settings plus entries. Extending it costs what is new.

    Sizes are exact where a past call measured them (its read + written + plain input is the size of its prompt) and
    estimated in between; the estimate is scaled by what this conversation's own measurements show.
    """

    def __init__(
        self,
        settings: Settings,
        profile: Profile,
        *,
        endpoint: str = "",
        workspace: str = "",
        compacted: bool = False,
        cleared: Cleared = NOTHING,
    ) -> None:
        self.settings = settings
        self.profile = profile
        self.results = Results(cleared, self._guess) if clears(settings, profile) else None
        """The tool uses and their results, where old ones may be cleared."""
        self.request, dropped = request_of(settings, profile, compacted=compacted)
        stripped = MAX_MESSAGES if settings.foreign else settings.unbound
        self._without = stripped if profile.binds_thinking and not drops_blocks(settings, profile) else 0
        self.messages: list[Message] = []
        self.markable: list[bool] = []
        self.index: dict[str, int] = {}
        self._digests: list[str] = []
        self._chain = Chain(self.request, profile, endpoint=endpoint, workspace=workspace, unbound=dropped)
        self._weights: list[float] = [0.0]
        self._measured: list[tuple[int, int]] = [(0, 0)]
        self._exact = (0, 0)
        self._refresh(0)
        self.head_points = len(self.points)

    @property
    def chain(self) -> Chain:
        """The points and what they are keyed by."""
        return self._chain

    @functools.cached_property
    def settings_text(self) -> str:
        """The settings as they are kept beside the calls made with them."""
        return kept_text(self.settings)

    @functools.cached_property
    def settings_digest(self) -> str:
        """The name of `settings_text`, 32 hex digits."""
        return text_digest(self.settings_text)

    @property
    def points(self) -> Sequence[Point]:
        """One a block, in processing order."""
        return self._chain.points

    @property
    def total(self) -> int:
        """Tokens of the whole prompt."""
        return self.tokens(len(self.points))

    def block(self, where: Where) -> Block:
        """The block at a place, as the model sees it."""
        if where.tier == "messages":
            content: Sequence[Block] = self._chain.messages[where.message]["content"]
            return content[where.block]
        found: Block = self.request[where.tier][where.block]
        return found

    def extend(self, entries: Sequence[Entry]) -> None:
        """Adds entries behind the last one, with what past calls measured."""
        for entry in entries:
            ours = entry.role == "assistant" and entry.model in (None, self.settings.model)
            measured = entry.prompt_tokens if ours else None
            if measured:
                measured = self._without_cleared(measured)
                self._measure(len(self.points), measured)
            number = len(self.messages)
            message = self._message(entry, number)
            self.messages.append(message)
            self._chain.extend([message if self.results is None else self.results.seen(message, number)])
            self._refresh(self._chain.stable)
            if measured and entry.output_tokens:
                self._measure(len(self.points), measured + entry.output_tokens)

    def _without_cleared(self, tokens: int) -> int:
        """The size of the prompt up to here as it is now, from what was measured when less of it was cleared."""
        count = len(self.points)
        if self.results is None or not (gone := self.results.weight_gone(len(self.messages))):
            self._exact = count, tokens
            return tokens
        known, size = self._exact if self._exact[0] <= count else (0, 0)
        left = self._weights[count] - self._weights[known]
        return size + round((tokens - size) * left / (left + gone))

    def _message(self, entry: Entry, number: int) -> Message:
        """The entry as it is sent: system messages in another form where the model does not take them."""
        if entry.role == "system" and not self.profile.system_messages:
            return Message(role="user", content=[as_user_block(block) for block in entry.content])
        if number < self._without:
            kept = [one for one in entry.content if one.get("type") not in THINKING]
            return Message(role=entry.role, content=kept)
        return Message(role=entry.role, content=entry.content)

    def _refresh(self, stable: int) -> None:
        for digest in self._digests[stable:]:
            self.index.pop(digest, None)
        del self._digests[stable:], self.markable[stable:], self._weights[stable + 1 :]
        while self._measured[-1][0] > stable:
            self._measured.pop()
        for at in range(stable, len(self.points)):
            point = self.points[at]
            block = self.block(point.where)
            tools = point.where.tier == "tools"
            self.index[point.digest] = at
            self._digests.append(point.digest)
            self.markable.append(can_mark_tool(block) if tools else can_mark(block) and not self._is_cleared(block))
            weight = self._guess({"content": block} if tools else block)
            self._weights.append(self._weights[-1] + weight + (_TOOLS_TOKENS if tools and at == 0 else 0))

    def _guess(self, block: Block) -> float:
        return estimate(block, self.profile.characters_per_token)

    def _is_cleared(self, block: Block) -> bool:
        return self.results is not None and self.results.is_cleared(block)

    def _measure(self, count: int, tokens: int) -> None:
        while len(self._measured) > 1 and (self._measured[-1][0] >= count or self._measured[-1][1] > tokens):
            self._measured.pop()
        self._measured.append((count, tokens))

    def tokens(self, count: int) -> int:
        """Tokens of the first `count` points."""
        at = bisect_right(self._measured, (count, math.inf)) - 1
        below, known = self._measured[at]
        if below == count:
            return known
        weight = self._weights[count] - self._weights[below]
        if at + 1 < len(self._measured):
            above, next_known = self._measured[at + 1]
            span = self._weights[above] - self._weights[below]
            return known + round((next_known - known) * weight / span)
        rate = known / self._weights[below] if below else 1.0
        return known + round(weight * min(4.0, max(0.25, rate)))

    def tokens_of(self, messages: int) -> int:
        """Tokens of the first messages, without what stands before them."""
        # By the points: blocks that the API is asked to drop have none.
        return self.tokens(self.start_of(messages)) - self.tokens(self.head_points)

    @property
    def cleared(self) -> int | None:
        """How many tool uses have their results cleared; `None` where none may be."""
        return None if self.results is None else min(self.results.cleared.count, self.results.uses)

    @property
    def tokens_per_weight(self) -> float:
        """How many tokens one of the guesses by which blocks are weighed stands for, over the whole prompt."""
        return self.total / self._weights[-1] if self._weights[-1] else 1.0

    def start_of(self, message: int) -> int:
        """The index of its first point, or of what follows it."""
        return bisect_left(self.points, message, lo=self.head_points, key=lambda point: point.where.message)

    @property
    def is_measured(self) -> bool:
        """Whether any past call has told the size of a part of this prompt."""
        return len(self._measured) > 1

    def last_markable(self, start: int, end: int) -> int | None:
        """The last point in `start:end` that may carry a marker."""
        for at in range(min(end, len(self.points)) - 1, start - 1, -1):
            if self.markable[at]:
                return at
        return None
