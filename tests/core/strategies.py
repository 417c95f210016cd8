"""Conversations that Hypothesis draws: every block type, parallel tools, blank texts, users' own markers."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import strategies as st

from sessions.core.profiles import MODELS, Profile
from sessions.simulator import Engine, Exchange

HEADERS = {"x-api-key": "simulated", "anthropic-version": "2026-10-21"}
UNKNOWN = ("holo", "future_block")
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="

PROFILES = [
    replace(MODELS["claude-sonnet-5-5"], collapses_tools=collapses, keeps_thinking=keeps, minimum_tokens=minimum)
    for collapses in (True, False)
    for keeps in (True, False)
    for minimum in (0, 512)
]
profiles = st.sampled_from(PROFILES)

# long texts carry prefixes over the minimum
words = st.sampled_from(["hi", "¡olé! 🎉", "x" * 900, "lorem " * 700, 'a "quoted"\nline'])
markers = st.sampled_from([None, None, None, {"type": "ephemeral"}, {"type": "ephemeral", "ttl": "1h"}])


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


def image() -> dict[str, Any]:
    return {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}}


def document(value: str = "a page", *, cited: bool = False) -> dict[str, Any]:
    block: dict[str, Any] = {
        "type": "document",
        "source": {"type": "text", "media_type": "text/plain", "data": value},
    }
    return {**block, "citations": {"enabled": True}} if cited else block


def thinking(value: str = "hm") -> dict[str, Any]:
    return {"type": "thinking", "thinking": value, "signature": "to be signed"}


def redacted() -> dict[str, Any]:
    return {"type": "redacted_thinking", "data": "to be signed"}


def call(name: str) -> dict[str, Any]:
    return {"type": "tool_use", "id": name, "name": "look", "input": {"b": 1, "a": [name]}}


def result(name: str, content: Any = "found") -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": name, "content": content}


def tool(name: str = "look", **fields: Any) -> dict[str, Any]:
    return {"name": name, "description": "Looks.", "input_schema": {"type": "object"}, **fields}


def user(*content: dict[str, Any] | str) -> dict[str, Any]:
    return {"role": "user", "content": [text(one) if isinstance(one, str) else one for one in content]}


def assistant(*content: dict[str, Any] | str) -> dict[str, Any]:
    return {**user(*content), "role": "assistant"}


@st.composite
def _marked(draw: st.DrawFn, blocks: st.SearchStrategy[dict[str, Any]]) -> dict[str, Any]:
    block, control = draw(blocks), draw(markers)
    return {**block, "cache_control": control} if control else block


blanks = st.sampled_from(["", " ", "\n\n"]).map(text)
_unknown = st.sampled_from(UNKNOWN).map(lambda kind: {"type": kind, "payload": {"z": 1, "a": 2}})
_user_blocks = st.one_of(
    words.map(text), words.map(text), st.builds(image), st.builds(document, words, cited=st.booleans()), _unknown
)
_reply_blocks = st.one_of(words.map(text), words.map(text), _unknown)
_thoughts = st.lists(st.one_of(words.map(thinking), st.just(thinking("")), st.builds(redacted)), max_size=2)
_result_contents = st.one_of(
    words,
    st.just([]),
    st.lists(_marked(st.one_of(words.map(text), st.builds(image))), min_size=1, max_size=2),
)
_counts = st.sampled_from([0, 0, 0, 1, 2, 3, 19, 20, 21, 40])


@st.composite
def rounds(draw: st.DrawFn, number: int) -> list[dict[str, Any]]:
    """One assistant message, thinking and calls included, and the user message behind it."""
    names = [f"toolu_{number}_{index}" for index in range(draw(_counts))]
    said = draw(st.lists(_reply_blocks, min_size=0 if names else 1, max_size=3))
    content = [*draw(_thoughts), *said, *map(call, names)]
    if draw(st.booleans()):  # progress notes between the calls
        content[len(content) // 2 : len(content) // 2] = draw(_thoughts)
    marks = draw(st.sets(st.integers(0, len(content)), max_size=2))
    content = [
        {**block, "cache_control": {"type": "ephemeral"}}
        if index in marks and block["type"] in ("text", "tool_use")
        else block
        for index, block in enumerate(content)
    ]
    inner = draw(_result_contents)
    results = [result(name, deepcopy(inner)) for name in names]
    more = draw(st.lists(_marked(_user_blocks), min_size=0 if names else 1, max_size=3))
    return [{"role": "assistant", "content": content}, {"role": "user", "content": [*results, *more]}]


_TOOLS = {
    "look": tool(),
    "find": tool("find"),
    "late": tool("late", defer_loading=True),
    "web": {"type": "web_search_20250305", "name": "web_search"},
}


@st.composite
def tool_lists(draw: st.DrawFn) -> list[dict[str, Any]]:
    """At least the tool that is called; some marked, some loaded later, in any order."""
    names = draw(st.permutations(["look", *draw(st.sets(st.sampled_from(["find", "late", "web"])))]))
    return [draw(_marked(st.just(_TOOLS[name]))) if name != "late" else _TOOLS[name] for name in names]


@st.composite
def with_blanks(draw: st.DrawFn) -> dict[str, Any]:
    """The same with blank texts put in anywhere: what was stored before anybody refused them."""
    body = draw(requests())
    for message in body["messages"]:
        at = draw(st.integers(0, len(message["content"])))
        if draw(st.booleans()) and at >= sum(one["type"] == "tool_result" for one in message["content"]):
            message["content"].insert(at, draw(blanks))
    return body


@st.composite
def requests(draw: st.DrawFn, turns: int = 5) -> dict[str, Any]:
    """A whole request body in Messages API shape, with users' own markers anywhere."""
    body: dict[str, Any] = {"model": "claude-sonnet-5-5", "max_tokens": 100}
    body["tools"] = draw(tool_lists())
    if draw(st.booleans()):
        body["system"] = draw(st.lists(_marked(words.map(text)), min_size=1, max_size=2))
    messages = [{"role": "user", "content": draw(st.lists(_marked(_user_blocks), min_size=1, max_size=4))}]
    for number in range(draw(st.integers(0, turns))):
        messages += draw(rounds(number))
    return {**body, "messages": messages}


@dataclass
class Api:
    """One simulated API; requests run from start to end."""

    engine: Engine

    @classmethod
    def of(cls, profile: Profile | None = None) -> Api:
        return cls(Engine(lambda _: "Fine.", profile=profile, blocks=UNKNOWN))

    def receive(self, body: Mapping[str, Any], now: float = 0.0) -> Exchange:
        return self.engine.receive(body, HEADERS, now)

    def post(self, body: Mapping[str, Any], now: float = 0.0) -> Exchange:
        exchange = self.receive(body, now)
        assert exchange.ok, exchange.error
        answer = self.engine.ask(exchange)
        assert self.engine.answer(exchange, answer)  # type: ignore[arg-type]
        self.engine.begin(exchange, now)
        self.engine.end(exchange, now)
        return exchange

    def signed(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The request with its thinking signed as if this API had written it."""
        return {**body, "messages": self.engine.sign(body)}
