"""The conversations that our sessions had, as sent: what every peer is given to send again at the same times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sessions.core.cache import content_blocks, without_marks
from sessions.replay.meter import Metered

Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: `at` epoch seconds, with the first `count` messages of its conversation; `tokens` of ours."""

    at: float
    count: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Conversation:
    """One session: its settings, all its messages without markers, and when how many of them were sent."""

    model: str
    system: str
    tools: list[dict[str, Any]]
    messages: list[Message]
    requests: list[Asked] = field(default_factory=list)


class Listener:
    """Collects conversations from the requests of a replay, in the order in which they were sent."""

    def __init__(self) -> None:
        self.asked: list[tuple[Conversation, Asked]] = []
        self._found: dict[int, Conversation] = {}

    def __call__(self, row: Metered, body: Mapping[str, Any]) -> None:
        """Takes one request in. Raises `AssertionError` where a history changed: peers could not be compared then."""
        if row.idle:
            return
        messages = [_bare(message) for message in body["messages"]]
        found = self._found.get(row.session)
        if found is None:
            system = "".join(block["text"] for block in content_blocks(body.get("system") or ()))
            tools = [dict(without_marks(tool)) for tool in body.get("tools") or ()]
            found = self._found[row.session] = Conversation(body["model"], system, tools, [])
        known = len(found.messages)
        if messages[:known] != found.messages:
            raise AssertionError("a session changed what it had sent before")
        found.messages.extend(messages[known:])
        asked = Asked(row.started, len(messages), row.total)
        found.requests.append(asked)
        self.asked.append((found, asked))


def _bare(message: Mapping[str, Any]) -> Message:
    return {**message, "content": [dict(without_marks(block)) for block in content_blocks(message["content"])]}
