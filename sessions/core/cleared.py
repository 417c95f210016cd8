"""Tool results that the API's context editing takes out of a prompt: which, and what is sent so that it is these.

The API keeps nothing of an edit: it is worked out anew from the whole history in each request. So each one says how
many of the newest tool uses are kept, counted such that those that are cleared stay the same until more are to be: a
prompt that changes in its middle with each request would be read from no cache. The history is sent in full, word for
word (context-editing page, 2025; beta `context-management-2025-06-27`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from sessions.core.body import Message
from sessions.core.cache import Block
from sessions.core.settings import Settings
from sessions.core.transcript import Entry, is_summary, tool_calls

CLEARING_BETA = "context-management-2025-06-27"
EDIT = "clear_tool_uses_20250919"
PLACEHOLDER = "[cleared]"
"""What stands for a cleared result here; the API has words of its own, which nobody is told."""
KEEP = 3
"""The newest tool uses, whose results are never cleared: as many as the API keeps where nothing is said."""
_UNCOUNTED = ("server_tool_use", "mcp_tool_use")
"""Whether these count as tool uses is not documented."""


@dataclass(frozen=True, slots=True)
class Cleared:
    """`steps`: behind so many entries, so many of the oldest tool uses have their results cleared; both grow."""

    steps: tuple[tuple[int, int], ...] = ()

    @property
    def count(self) -> int:
        """How many are cleared now."""
        return self.steps[-1][1] if self.steps else 0

    def at(self, entries: int) -> int:
        """How many were cleared in the request behind so many entries."""
        return max((count for number, count in self.steps if number <= entries), default=0)


NOTHING = Cleared()


@dataclass(frozen=True, slots=True)
class Clearing:
    """What clearing more tool results, from the next request on, is expected to change.

    `results`: how many tool uses have their results cleared anew, `count` how many in all. `tokens`: by how many each
    later prompt is shorter. `requests`: how many are counted on. `price`: USD that it adds to the next request, which
    writes anew what stands behind the first of them, and for what is read again. `saves`: USD that it saves in all.
    """

    results: int
    count: int
    tokens: int
    requests: float
    price: Decimal
    saves: Decimal


def cleared_in(settings: Settings, entries: Sequence[Entry]) -> Cleared:
    """What holds for this chain of all that was decided: what was decided behind an entry that it does not have (since
    it was taken back) does not."""
    if not settings.cleared:
        return NOTHING
    places = {entry.id: number for number, entry in enumerate(entries, start=1)}
    return Cleared(tuple((places[reply], count) for reply, count in settings.cleared if reply in places))


def decided(settings: Settings, entries: Sequence[Entry], count: int) -> tuple[tuple[str, int], ...]:
    """What `Settings.cleared` is from the next request on, with so many tool uses cleared; there is a reply."""
    ids = {entry.id for entry in entries}
    last = next(entry.id for entry in reversed(entries) if entry.role == "assistant")
    return (*((reply, old) for reply, old in settings.cleared if reply in ids and reply != last), (last, count))


def clearing_edit(uses: int, count: int) -> dict[str, Any]:
    """The field `context_management` with which the results of the oldest `count` of `uses` tool uses are cleared."""
    trigger, keep = ({"type": "tool_uses", "value": value} for value in (1, max(0, uses - count)))
    return {"edits": [{"type": EDIT, "trigger": trigger, "keep": keep}]}


def uses_in(messages: Sequence[Mapping[str, Any]]) -> int:
    """How many tool uses there are in these messages."""
    return sum(len(tool_calls(message["content"])) for message in messages)


def applied(message: Mapping[str, Any]) -> tuple[int, int]:
    """How many tool uses, of how many tokens, the API says to have cleared: from an answer's `context_management`."""
    told = message.get("context_management")
    edits = told.get("applied_edits") if isinstance(told, Mapping) else None
    for edit in edits if isinstance(edits, list) else ():
        if isinstance(edit, Mapping) and edit.get("type") == EDIT:
            found = (edit.get("cleared_tool_uses"), edit.get("cleared_input_tokens"))
            uses, tokens = (number if type(number) is int else 0 for number in found)
            return uses, tokens
    return 0, 0


class Results:
    """The tool uses of a prompt and their results, message by message, as they are sent and as the model sees them.

    `weigh`: a guess at a block's size.
    """

    def __init__(self, cleared: Cleared, weigh: Callable[[Block], float]) -> None:
        self.cleared, self._weigh = cleared, weigh
        self.uses = 0
        self.is_countable = True
        """Whether it is known which uses the API counts."""
        self._numbers: dict[str, int] = {}
        self._rounds: list[int] = []
        self._messages: list[int] = []
        self._weights: list[float] = []

    def seen(self, message: Message, number: int) -> Message:
        """Takes in message `number` as it is sent; gives it as the model sees it."""
        calls = tool_calls(message["content"])
        for call in calls:
            self.uses += 1
            self._numbers[str(call.get("id"))] = self.uses
            self._messages.append(number + 1)
            self._weights.append(0.0)
        if calls:
            self._rounds.append(self.uses)
        self.is_countable &= not is_summary(message)
        self.is_countable &= all(block.get("type") not in _UNCOUNTED for block in message["content"])
        content = [self._seen(block) for block in message["content"]]
        changed = any(block is not other for block, other in zip(content, message["content"], strict=True))
        return Message(role=message["role"], content=content) if changed else message

    def _seen(self, block: Block) -> Block:
        number = self.number(block)
        if number is None:
            return block
        without = {"type": "tool_result", "tool_use_id": block["tool_use_id"], "content": PLACEHOLDER}
        self._weights[number - 1] = max(0.0, self._weigh(block) - self._weigh(without))
        return without if number <= self.cleared.count else block

    def number(self, block: Block) -> int | None:
        """Of a result: which tool use it is of, from 1; `None` for any other block."""
        return self._numbers.get(str(block.get("tool_use_id"))) if block.get("type") == "tool_result" else None

    def is_cleared(self, block: Block) -> bool:
        """Whether this block is a result that the model does not see."""
        number = self.number(block)
        return number is not None and number <= self.cleared.count

    @property
    def clearable(self) -> int:
        """How many of the oldest uses may be cleared: whole rounds, and never the newest uses."""
        return max((count for count in self._rounds if count <= self.uses - KEEP), default=0)

    def weight(self, start: int, end: int) -> float:
        """What clearing the uses behind the first `start`, up to number `end`, takes away."""
        return sum(self._weights[start:end])

    def weight_gone(self, entries: int) -> float:
        """What has been cleared, of the uses until now, since the request behind so many entries."""
        return self.weight(min(self.cleared.at(entries), self.uses), min(self.cleared.count, self.uses))

    def message_of(self, use: int) -> int:
        """The number of the message that holds the results of this use, counted from 1."""
        return self._messages[use - 1]
