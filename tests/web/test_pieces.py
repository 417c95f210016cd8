"""A turn told piece by piece: what is told twice, replaced or void, and tools that the API runs itself."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sessions import (
    BlockSoFar,
    BlockStart,
    BlockStop,
    Delta,
    Ended,
    Entry,
    EntryStored,
    PendingCall,
    Snapshot,
    ToolProgress,
    ToolResult,
    ToolSoFar,
    ToolStarted,
)
from sessions.web import ag_ui_events, ui_messages
from sessions.web.front_ends import file_of
from sessions.web.pieces import (
    Closed,
    More,
    Opened,
    Over,
    Pieces,
    Progress,
    ReplyBegun,
    ReplyStored,
    ReplyVoid,
    Result,
    Waiting,
    text_of,
)
from sessions.web.problems import Refused

TEXT = {"type": "text", "text": ""}
CALL = {"type": "tool_use", "id": "t", "name": "look", "input": {}}


def entry(role: Any, *content: dict[str, Any], id: str = "e") -> Entry:
    return Entry(id, None, role, list(content), 0.0)


def told(*events: Any, pieces: Pieces | None = None) -> list[Any]:
    pieces = pieces or Pieces()
    return [piece for event in events for piece in pieces.of(event)]


def types(found: list[Any]) -> list[type]:
    return [type(piece) for piece in found]


def test_what_is_stored_as_it_came_is_not_told_again() -> None:
    found = told(
        BlockStart(index=0, block=TEXT),
        Delta(index=0, kind="text", value="one "),
        Delta(index=0, kind="citations", value={}),
        Delta(index=0, kind="text", value="two"),
        BlockStop(index=0),
        EntryStored(entry=entry("assistant", {"type": "text", "text": "one two", "citations": []})),
        EntryStored(entry=entry("assistant", {"type": "text", "text": "one two"})),
        EntryStored(entry=entry("system", {"type": "text", "text": "Be brief."}, id="s")),
    )
    assert types(found) == [ReplyBegun, Opened, More, More, Closed, ReplyStored]


def test_what_is_stored_otherwise_takes_the_place_of_what_came() -> None:
    found = told(
        BlockStart(index=0, block={"type": "thinking", "thinking": ""}),
        Delta(index=0, kind="thinking", value="hm"),
        EntryStored(entry=entry("assistant", {"type": "text", "text": "kept"})),
    )
    assert types(found) == [ReplyBegun, Opened, More, ReplyVoid, Opened, More, Closed, ReplyStored]
    assert found[-2].block == {"type": "text", "text": "kept"}


def test_a_snapshot_in_the_middle_begins_the_reply_anew_and_repeats_nothing_else() -> None:
    pieces = Pieces()
    words, asked = entry("user", {**TEXT, "text": "hi"}, id="u"), entry("assistant", CALL, id="a")
    told(
        EntryStored(entry=asked),
        ToolStarted(call_id="c", tool_use_id="t", name="look", input={}),
        ToolProgress(call_id="c", text="half"),
        pieces=pieces,
    )
    tool = ToolSoFar("c", "t", "look", {}, progress=("half", "all"), result="seen")
    found = told(Snapshot(state="running", entries=(words, asked), tools=(tool,)), pieces=pieces)
    assert found == [Progress("t", "all"), Result("t", "seen", False)]
    late = ToolProgress(call_id="c", text="late"), ToolResult(call_id="c", tool_use_id="t", name="look", content="seen")
    result = entry("user", {"type": "tool_result", "tool_use_id": "t", "content": "seen"}, id="r")
    assert told(*late, EntryStored(entry=result), pieces=pieces) == []
    told(BlockStart(index=0, block=TEXT), Delta(index=0, kind="text", value="some"), pieces=pieces)
    block = BlockSoFar(0, {"type": "text", "text": "some more"}, is_closed=True)
    found = told(Snapshot(state="running", entries=(words, asked, result), blocks=(block,)), pieces=pieces)
    assert types(found) == [ReplyVoid, Opened, More, Closed]
    assert found[1].place == "1-0"
    assert types(told(Ended(state="cancelled"), pieces=pieces)) == [ReplyVoid, Over]


def test_what_is_known_is_left_out_and_calls_of_the_caller_wait_for_nobody() -> None:
    asked = entry("assistant", CALL, id="a")
    pending = (PendingCall("c", "t", "look", {}), PendingCall("d", "t2", "fetch", {}, by_caller=True))
    snapshot = Snapshot(state="waiting", entries=(asked,), pending=pending)
    assert told(snapshot, pieces=Pieces("a")) == [Waiting(pending[:1])]
    assert types(told(snapshot, snapshot, pieces=Pieces("gone"))) == [ReplyBegun, Opened, Closed, ReplyStored, Waiting]
    # Results of calls that this turn did not ask for belong to an earlier one, which the user's words have closed.
    closing = entry("user", {"type": "tool_result", "tool_use_id": "t"}, TEXT, id="u")
    assert told(EntryStored(entry=closing), Delta(index=3, kind="text", value="x"), BlockStop(index=3)) == []


def test_an_input_that_is_no_json_is_told_as_it_is() -> None:
    found = told(BlockStart(index=0, block=CALL), Delta(index=0, kind="input_json", value='{"a'), BlockStop(index=0))
    assert found[-1].block["input"] == '{"a'


def test_tools_of_the_api_are_told_with_their_results() -> None:
    call = {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "x"}}
    page = {"type": "web_search_result", "url": "https://example.com"}
    result = {"type": "web_search_tool_result", "tool_use_id": "s", "content": [page]}
    failed = {**result, "content": {"type": "web_search_tool_result_error", "error_code": "unavailable"}}
    unknown = {"type": "container_upload", "file_id": "f"}
    for block, output in ((result, [page]), (failed, None)):
        chunks, parts = ui_messages.Chunks(), ui_messages.Parts()
        events = ag_ui_events.Events("turn")
        made: list[Any] = []
        for piece in Pieces().stored([entry("assistant", call, block, unknown, {"type": "text", "text": "so"})]):
            for chunk in chunks.of(piece):
                parts.add(chunk)
            made += events.of(piece)
        step, tool, text = parts.parts
        assert (step["type"], text["text"]) == ("step-start", "so")
        assert (tool["providerExecuted"], tool["input"], tool.get("output")) == (True, {"query": "x"}, output)
        assert ("unavailable" in tool.get("errorText", "")) is (output is None)
        (answer,) = [event for event in made if event.type == "TOOL_CALL_RESULT"]
        assert json.loads(answer.content) == block["content"]
        assert answer.metadata == ({"isError": True} if output is None else None)


def test_what_a_tool_gave_as_text() -> None:
    assert text_of("a") == "a"
    assert text_of([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]) == "a\nb"
    assert json.loads(text_of([{"type": "image"}])) == [{"type": "image"}]


def test_data_urls() -> None:
    file = file_of("data:text/plain;charset=utf-8;base64,YQ%3D%3D", None, None)
    assert (file.name, file.media_type, file.data) == ("file", "text/plain", "YQ==")
    assert file_of("data:,a%20b", None, "n").data == "YSBi"
    assert file_of("data:image/png;base64,YQ==", "image", None).media_type == "image/png"
    for url in ("data:image/png;base64,Y", "data:image/png;base64,é", "https://x", "data:image/png"):
        with pytest.raises(Refused):
            file_of(url, None, None)
