"""Sessions of many kinds, and every body that they send."""

from __future__ import annotations

import json
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx2
import pytest
from anthropic import beta_tool

from sessions import Fixed, ModelError, SessionManager, simulator, tool
from sessions.simulator import Engine, Fault, Latency, Request, Scripted, Transport
from sessions.simulator.doors.client import client_over
from sessions.testing import ManualClock
from tests.contract.referee import TYPES, Sent

MODEL = "claude-sonnet-5-5"
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


class Wire(Transport):
    """The simulator, and every body that was sent to it."""

    def __init__(self, engine: Engine, clock: ManualClock) -> None:
        super().__init__(engine, clock=clock, latency=Latency(batch=60.0))
        self.sent: list[Sent] = []
        self.refused: list[str] = []

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        raw = await request.aread()
        response = await super().handle_async_request(request)
        if request.method == "POST" and (request.url.path, False) in TYPES:
            self.sent.append((request.url.path, "anthropic-beta" in request.headers, json.loads(raw)))
            if response.status_code == 400:
                self.refused.append((await response.aread()).decode())
        return response


def script(request: Request) -> Any:
    """Thinks, looks where it is asked to, searches where it can."""
    if "look" in request.text and "look" in request.tools and not request.results:
        return Scripted([{"type": "tool_use", "name": "look", "input": {"where": "there"}}], thinking="I look.")
    if "search" in request.text and "web_search" in request.tools:
        found = {"type": "web_search_result", "title": "t", "url": "https://e.org", "encrypted_content": "x"}
        return [
            {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "q"}},
            {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": [found]},
            {"type": "text", "text": "found"},
        ]
    return Scripted("Fine.", thinking="I think.")


@asynccontextmanager
async def wired(**given: Any) -> AsyncIterator[tuple[SessionManager, Wire, ManualClock]]:
    clock = ManualClock()
    wire = Wire(Engine(script, faults=given.pop("faults", None)), clock)
    client = client_over(wire, max_retries=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some prompts are short, some models end soon: that is not what is asked here
        async with SessionManager("sqlite://", client=client, clock=clock, **given) as manager:
            yield manager, wire, clock


# -- kinds of sessions --

IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
IMAGE_URL = {"type": "image", "source": {"type": "url", "url": "https://e.org/a.png"}}
TEXT = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "words"}, "title": "t"}
CITED = {**TEXT, "citations": {"enabled": True}, "context": "c"}
PARTS = {"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "a"}]}}
PDF_URL = {"type": "document", "source": {"type": "url", "url": "https://e.org/a.pdf"}}
FOUND = {"type": "search_result", "source": "s", "title": "t", "content": [{"type": "text", "text": "a"}]}
HOUR, MARK = {"type": "ephemeral", "ttl": "1h"}, {"type": "ephemeral"}
LONG = simulator.filler(1200)
SCHEMA = {"type": "object", "properties": {"where": {"type": "string"}}, "required": ["where"]}
OBJECT = {"type": "object", "properties": {}, "additionalProperties": False}


@tool(idempotent=True)
def look(where: str) -> Any:
    """Looks somewhere."""
    return [{"type": "text", "text": f"seen {where}"}, IMAGE]


@tool(name="look", idempotent=True)
def look_up(where: str) -> Any:
    """Looks something up."""
    return [FOUND, TEXT]


@tool(name="look")
def look_in_vain(where: str) -> str:
    """Looks in vain."""
    raise ValueError(where)


@beta_tool(name="look")
def sdk_look(where: str) -> str:
    """Looks somewhere.

    Args:
        where: the place
    """
    return f"seen {where}"


SEARCH = {"type": "web_search_20260318", "name": "web_search", "max_uses": 3, "allowed_domains": ["e.org"]}
OURS: dict[str, Any] = {"tools": [look]}
SETTINGS: dict[str, dict[str, Any]] = {
    "bare": {},
    "system text": {"system": LONG},
    "system blocks": {"system": [{"type": "text", "text": "Be brief."}, {"type": "text", "text": LONG}]},
    "system marked": {"system": [{"type": "text", "text": LONG, "cache_control": MARK}, {"type": "text", "text": "b"}]},
    "system marked for an hour": {"system": [{"type": "text", "text": LONG, "cache_control": HOUR}]},
    "context": {"context": LONG},
    "context with documents": {"context": [CITED, PARTS, IMAGE], "system": LONG},
    "context marked": {"context": [{**TEXT, "cache_control": HOUR}, {"type": "text", "text": LONG}]},
    "our tool": OURS | {"system": LONG},
    "our tool, documents": {"tools": [look_up]},
    "our tool that fails": {"tools": [look_in_vain]},
    "a tool of the SDK": {"tools": [sdk_look], "system": LONG},
    "a tool of the caller": {"tools": [{"name": "look", "input_schema": SCHEMA, "cache_control": HOUR}]},
    "a strict tool": {
        "tools": [
            {"name": "peek", "description": "d", "input_schema": {**SCHEMA, **OBJECT, "required": []}, "strict": True}
        ]
    },
    "search": {"tools": [SEARCH]},
    "search and ours": {"tools": [{**SEARCH, "user_location": {"type": "approximate", "city": "Rome"}}, look]},
    "fetch": {"tools": [{"type": "web_fetch_20260318", "name": "web_fetch", "citations": {"enabled": True}}]},
    "code": {"tools": [{"type": "code_execution_20260521", "name": "code_execution"}], "params": {"container": "c"}},
    "shell": {"tools": [{"type": "bash_20250124", "name": "bash"}]},
    "editor": {
        "tools": [{"type": "text_editor_20250728", "name": "str_replace_based_edit_tool", "max_characters": 100}]
    },
    "memory": {"tools": [{"type": "memory_20250818", "name": "memory"}]},
    "tool search": {
        "tools": [
            {"type": "tool_search_tool_regex_20251119", "name": "tool_search_tool_regex"},
            {"name": "later", "input_schema": SCHEMA, "defer_loading": True},
        ]
    },
    "adaptive": {"thinking": {"type": "adaptive"}},
    "adaptive, shown": OURS | {"thinking": {"type": "adaptive", "display": "summarized"}},
    "adaptive, bound": OURS
    | {
        "thinking": {"type": "adaptive", "block_binding": {"prefix_mismatch_behavior": "drop_block"}},
        "params": {"betas": ["thinking-binding-controls-2026-08-01"]},
    },
    "no thinking": {"thinking": {"type": "disabled"}, "model": "claude-haiku-5-5"},
    "budget": {"model": "claude-haiku-4-5", "thinking": {"type": "enabled", "budget_tokens": 1024}} | OURS,
    "auto": OURS | {"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
    "none": OURS | {"tool_choice": {"type": "none"}},
    "effort": {"output_config": {"effort": "low"}},
    "effort and tools": OURS | {"output_config": {"effort": "high"}, "system": LONG},
    "format": {"output_config": {"format": {"type": "json_schema", "schema": OBJECT}}},
    "user": {"params": {"metadata": {"user_id": "u"}}},
    "stops": {"params": {"stop_sequences": ["stop"]}},
    "tier": {"params": {"service_tier": "standard_only"}},
    "betas": {"params": {"betas": ["context-1m-2025-08-07"]}},
    "clears": OURS
    | {
        "params": {
            "betas": ["context-management-2025-06-27"],
            "context_management": {
                "edits": [
                    {
                        "type": "clear_tool_uses_20250919",
                        "trigger": {"type": "input_tokens", "value": 30000},
                        "keep": {"type": "tool_uses", "value": 3},
                        "exclude_tools": ["look"],
                    }
                ]
            },
        }
    },
    "servers": {
        "tools": [{"type": "mcp_toolset", "mcp_server_name": "m"}],
        "params": {
            "betas": ["mcp-client-2025-11-20"],
            "mcp_servers": [{"type": "url", "name": "m", "url": "https://e.org/mcp"}],
        },
    },
    "skills": {
        "tools": [{"type": "code_execution_20260521", "name": "code_execution"}],
        "params": {
            "betas": ["skills-2025-10-02"],
            "container": {"skills": [{"type": "anthropic", "skill_id": "xlsx", "version": "latest"}]},
        },
    },
    "fast": {"model": "claude-opus-5-5", "params": {"betas": ["fast-mode-2026-02-01"], "speed": "fast"}},
    "place": {"params": {"inference_geo": "us"}},
    "a budget of tokens": {
        "params": {"betas": ["task-budgets-2026-03-13"]},
        "output_config": {"effort": "low", "task_budget": {"type": "tokens", "total": 50000}},
    },
    "any": OURS | {"model": "claude-haiku-4-5", "tool_choice": {"type": "any"}},
    "this": OURS | {"model": "claude-haiku-4-5", "tool_choice": {"type": "tool", "name": "look"}},
    "compacts": {"compact": "auto", "system": LONG},
    "haiku": {"model": "claude-haiku-5-5", "system": LONG},
    "opus": {"model": "claude-opus-5-5", "system": LONG},
    "fable": {"model": "claude-fable-5-2", "system": LONG},
    "opus 4.8": OURS | {"model": "claude-opus-4-8"},
}
CONTENTS: dict[str, Any] = {
    "words": "Hello.",
    "looks": "Please look and search.",
    "images": [IMAGE, IMAGE_URL, {"type": "text", "text": "What is this?"}],
    "documents": [CITED, PARTS, PDF_URL, {"type": "text", "text": "look"}],
    "found": [FOUND, {"type": "text", "text": "Well?", "cache_control": HOUR}],
}


def shape(value: Any, key: str = "") -> Any:
    """What makes a kind: the fields, in which order, what they choose; not the words, nor how often the same comes."""
    if isinstance(value, dict):
        return tuple((name, shape(one, name)) for name, one in sorted(value.items()))
    if isinstance(value, list):
        return tuple(dict.fromkeys(shape(one) for one in value))
    chosen = {"type", "role", "ttl", "model", "effort", "display", "media_type", "prefix_mismatch_behavior"}
    return value if key in chosen or isinstance(value, bool) else type(value).__name__


async def talk(manager: SessionManager, clock: ManualClock, given: Mapping[str, Any], content: Any) -> None:
    """Two turns; calls that are the caller's are answered."""
    session = await manager.create(**{"model": MODEL, "max_tokens": 4000, **given})
    await session.send(content)
    calls = [block for block in session.messages[-1]["content"] if block["type"] == "tool_use"]
    await session.send([_result(one) for one in calls] or "Go on.")


def _result(call: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": call["id"], "content": [{"type": "text", "text": "seen"}, IMAGE]}


async def in_a_batch(manager: SessionManager, clock: ManualClock) -> None:
    for given in ({"system": LONG}, OURS | {"thinking": {"type": "adaptive"}}, {"params": {"betas": ["x-2026-01-01"]}}):
        session = await manager.create(**{"model": MODEL, "max_tokens": 4000, **given})
        await session.send("Hello.")
        async with anyio.create_task_group() as group:
            group.start_soon(session.batch, ["look there", "green"])
            await clock.advance(3600.0)


async def compacted(manager: SessionManager, clock: ManualClock) -> None:
    for given in (OURS, {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}):
        session = await manager.create(**{"model": MODEL, "max_tokens": 4000, "system": LONG, **given})
        await session.send("Please look.")
        await session.compact()
        await session.send("Go on.")


async def warmed(manager: SessionManager, clock: ManualClock) -> None:
    """Before anybody came, before the first words, and while nobody speaks for hours."""
    for given in ({"system": LONG}, {"context": LONG}, OURS | {"system": LONG, "thinking": {"type": "adaptive"}}):
        settings = {"model": "claude-opus-5", "max_tokens": 4000, **given}
        await manager.prewarm(**settings)
        session = await manager.create(**settings)
        await session.prewarm()
        await session.send("Please look.")
        await session.send([{"type": "text", "text": LONG}])
        await clock.advance(7200.0)
        await session.send("Back again.")


async def kept_warm_cheaply(manager: SessionManager, clock: ManualClock) -> None:
    session = await manager.create(model="claude-fable-5-2", max_tokens=4000, system=LONG * 3)
    await session.send(LONG)
    await clock.advance(24 * 3600.0)
    await session.send("Back again.")


async def branched(manager: SessionManager, clock: ManualClock) -> None:
    session = await manager.create(model=MODEL, max_tokens=4000, system=LONG, **OURS)
    for words in ("Please look.", "Go on."):
        await session.send(words)
    branch = await session.fork(session.entries[1].id)
    await branch.send("Otherwise.")
    await session.rewind(session.entries[3].id)
    await session.send([IMAGE, {"type": "text", "text": "Again."}])
    await session.map(["red", "look"])


async def instructed(manager: SessionManager, clock: ManualClock) -> None:
    for model in (MODEL, "claude-haiku-4-5", "claude-opus-4-8"):
        session = await manager.create(model=model, max_tokens=4000, system=LONG, **OURS)
        await session.send("Hello.")
        await session.instruct("Be brief.")
        await session.send("Please look.")
        await session.instruct("Be long.")
        await session.send([IMAGE, {"type": "text", "text": "What is it?"}])


async def rebased(manager: SessionManager, clock: ManualClock) -> None:
    """Thinking that was bound to another prefix, or came from elsewhere."""
    session = await manager.create(model=MODEL, max_tokens=4000, system=LONG, thinking={"type": "adaptive"}, **OURS)
    await session.send("Please look.")
    for change in ({"system": LONG + "b"}, {"model": "claude-opus-5-5"}, {"output_config": {"effort": "low"}}):
        await session.update(rebase=True, **change)
        await session.send("Please look.")
    other = await manager.create(model=MODEL, max_tokens=4000, thinking={"type": "adaptive"})
    await other.append(await session.export())
    await other.send("Go on.")


async def broken_off(manager: SessionManager, clock: ManualClock) -> None:
    """The second request of the turn fails; its calls and results are sent again."""
    session = await manager.create(model=MODEL, max_tokens=4000, system=LONG, **OURS)
    with pytest.raises(ModelError):
        await session.send("Please look.")
    await session.resume()
    await session.send("Go on.")


async def streamed(manager: SessionManager, clock: ManualClock) -> None:
    session = await manager.create(model=MODEL, max_tokens=4000, system=LONG, **OURS)
    async with session.stream("Please look.") as stream:
        async for _ in stream.text_stream:
            pass
    async with session.stream("Go on.", expected_gap=3000) as stream:
        async for _ in stream:
            pass


async def answered_by_the_caller(manager: SessionManager, clock: ManualClock) -> None:
    """Blocks of every kind in a result, an error, an empty result, and words beside them."""
    tools = [{"name": "look", "input_schema": SCHEMA}]
    for content in ([IMAGE, TEXT], [FOUND], "seen", [], [{"type": "text", "text": "a", "cache_control": HOUR}]):
        session = await manager.create(model=MODEL, max_tokens=4000, system=LONG, tools=tools)
        await session.send("Please look.")
        (call,) = [block for block in session.messages[-1]["content"] if block["type"] == "tool_use"]
        result = {"type": "tool_result", "tool_use_id": call["id"], "content": content, "is_error": not content}
        await session.send([result, {"type": "text", "text": "That is it."}])
        await session.send("Please look.")
        await session.send("Never mind.")  # the open call is closed


LIVES: dict[str, tuple[Callable[[SessionManager, ManualClock], Awaitable[None]], dict[str, Any]]] = {
    "in a batch": (in_a_batch, {"tend": False}),
    "compacted": (compacted, {}),
    "warmed": (warmed, {}),
    "kept warm cheaply": (kept_warm_cheaply, {}),
    "branched": (branched, {}),
    "instructed": (instructed, {}),
    "rebased": (rebased, {}),
    "broken off": (broken_off, {"faults": {1: Fault.http(400)}}),
    "streamed": (streamed, {}),
    "streamed, without diagnostics": (streamed, {"diagnostics": False}),
    "for five minutes": (streamed, {"ttl": Fixed("5m")}),
    "for an hour": (streamed, {"ttl": Fixed("1h")}),
    "answered by the caller": (answered_by_the_caller, {}),
}


async def bodies(name: str) -> list[Sent]:
    """What the sessions of that name send, none of which the simulator refuses."""
    life, given = LIVES.get(name, (None, {"tend": False}))
    async with wired(**given) as (manager, wire, clock):
        if life is not None:
            await life(manager, clock)
        else:
            for content in CONTENTS.values():
                await talk(manager, clock, SETTINGS[name], content)
    if "faults" not in given:
        assert not wire.refused
    return wire.sent
