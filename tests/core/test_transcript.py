"""Content, history and settings at the border: one stored shape, and errors that say where and what."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from anthropic.types import TextBlock
from hypothesis import example, given
from hypothesis import strategies as st

from sessions.core import cache, transcript
from sessions.core.cache import can_mark, mark_of, marked, text_of, without_marks
from sessions.core.settings import Settings, make_settings
from sessions.core.transcript import (
    Entry,
    Malformed,
    canonical,
    check_history,
    copied,
    decode,
    decode_all,
    encode,
    entry_id,
    fault_of,
    is_empty_reply,
    lift_marks,
    sendable_reply,
    shown,
)
from tests.core.strategies import (
    assistant,
    call,
    document,
    image,
    redacted,
    result,
    text,
    thinking,
    tool,
    user,
)

MARK = {"cache_control": {"type": "ephemeral"}}
HOUR = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab"), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(st.dictionaries(st.text("zyxab"), json_values, max_size=4), max_size=3))
def test_content_comes_back_byte_for_byte(content: list[dict[str, Any]]) -> None:
    stored = encode(content)
    assert decode(stored) == content
    assert encode(decode(stored)) == stored == text_of(content)


def test_ids_depend_on_parent_role_and_the_order_of_keys() -> None:
    ids = {
        entry_id(None, "user", encode([{"a": 1, "b": 2}])),
        entry_id(None, "user", encode([{"b": 2, "a": 1}])),
        entry_id(None, "assistant", encode([{"a": 1, "b": 2}])),
        entry_id("p", "user", encode([{"a": 1, "b": 2}])),
    }
    assert len(ids) == 4
    assert all(len(one) == 32 for one in ids)


@pytest.mark.parametrize("bad", [{"x": float("nan")}, {"x": object()}, {"x": "\ud800"}])
def test_what_is_not_json_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(Malformed, match="not valid JSON"):
        encode([bad])


def test_an_entry_gives_a_fresh_copy() -> None:
    entry = Entry("i", None, "user", [text("a")], 0.0)
    entry.message["content"][0]["text"] = "b"
    assert entry.message == user("a")


def test_content_has_one_shape() -> None:
    assert canonical("a") == [text("a")] == canonical([TextBlock(type="text", text="a")])
    unknown = {"type": "future", "z": 1, "a": {"b": 2}}
    assert canonical(iter([unknown])) == [unknown]
    assert canonical([{**text("a"), **MARK}]) == [{**text("a"), **MARK}]


CONTENT = [
    (None, "content must be a str or a list"),
    (text("a"), "content must be a str or a list"),
    (3, "not int"),
    ([], "content is blank"),
    ("", "content\\[0\\] is a blank text"),
    (" \n", "content\\[0\\] is a blank text"),
    ([text("a"), text("")], "content\\[1\\] is a blank text"),
    (["a"], "must be a dict with a 'type', not str"),
    ([{}], "is no content block"),
    ([{"type": 3}], "is no content block"),
    ([{"type": "text"}], "content\\[0\\].text must be a str"),
    ([{**call("a"), "input": "x"}], "input of a tool_use must be an object"),
    ([{**call("a"), "id": ""}], "id of a tool_use"),
    ([{**call("a"), "name": None}], "name of a tool_use"),
    ([{**result("a"), "tool_use_id": None}], "tool_use_id of a tool_result"),
]


@pytest.mark.parametrize(("content", "message"), CONTENT)
def test_content_that_the_api_refuses_is_refused(content: Any, message: str) -> None:
    with pytest.raises(Malformed, match=message):
        canonical(content)


def test_markers_are_lifted_inner_ones_too() -> None:
    inner = result("t", [{**text("a"), **HOUR}, "odd", image()])
    content = [
        text("a"),
        {**text("b"), **MARK},
        inner,
        {**text("c"), "cache_control": None},
        {**call("t"), "input": MARK},
    ]
    bare, places = lift_marks(content)
    assert places == (1, 2)
    assert bare == [
        text("a"),
        text("b"),
        result("t", [text("a"), "odd", image()]),
        text("c"),
        {**call("t"), "input": MARK},
    ]
    assert mark_of(inner) == "1h"
    assert "cache_control" in inner["content"][0]
    assert without_marks(bare[2]) is bare[2]


def test_marks_are_listed_in_processing_order() -> None:
    request = {
        "tools": [tool(**HOUR)],
        "system": [{**text("s"), **HOUR}],
        "messages": [
            user({**text("a"), **MARK}),
            {"role": "assistant", "content": "b"},
            user(result("t", [{**text("r"), **MARK}])),
        ],
    }
    assert marked(request) == [
        (("tools", 0, 0), "1h"),
        (("system", 0, 0), "1h"),
        (("messages", 0, 0), "5m"),
        (("messages", 2, 0), "5m"),
    ]
    assert marked({"system": "s", "messages": []}) == []


@pytest.mark.parametrize(
    ("block", "may"),
    [
        (text("a"), True),
        (text(" "), False),
        ({"type": "text", "text": None}, False),
        ({**text("a"), "clear_at": "next_user_message"}, False),
        (thinking(), False),
        (redacted(), False),
        (call("a"), True),
        (result("a"), True),
        (image(), True),
        (document(), True),
        ({"type": "web_search_tool_result"}, True),
        ({"type": "holo"}, False),
        ({"type": None}, False),
        ({}, False),
    ],
)
def test_what_may_carry_a_mark(block: dict[str, Any], may: bool) -> None:
    assert can_mark(block) is may


def test_odd_content_neither_shows_images_nor_citations() -> None:
    content = ["odd", {"type": "x", "content": ["odd"]}]
    assert not cache.has_image(content)
    assert cache.has_image([result("t", [image()])])


def test_replies_are_kept_as_received_but_for_blank_text() -> None:
    content = [thinking(), text(""), text(" \n"), {"type": "new"}, call("a")]
    assert sendable_reply(content) == [thinking(), {"type": "new"}, call("a")]
    assert is_empty_reply([thinking(), redacted(), text(" ")])
    assert is_empty_reply([])
    assert not is_empty_reply([text("a")])
    assert not is_empty_reply([call("a")])


SERVER = {"type": "web_search_tool_result", "tool_use_id": "s", "content": []}
SYSTEM = {"role": "system", "content": "Be kind."}
GOOD = [
    [user("a")],
    [user("a"), assistant("b"), user("c")],
    [user("a"), user("b"), assistant("c"), assistant("d")],
    [user("a"), assistant(call("t")), user(result("t"), "more")],
    [user("a"), assistant(call("t"), call("u")), user(result("u"), result("t"))],
    [user("a"), assistant(call("t"))],
    [user("a"), SYSTEM, SYSTEM, assistant("b")],
    [user("a"), assistant("b", SERVER), SYSTEM, assistant("c")],
]


@pytest.mark.parametrize("messages", GOOD)
def test_a_history_that_the_api_takes_is_taken(messages: list[dict[str, Any]]) -> None:
    found = check_history(messages)
    assert [one["role"] for one in found] == [one["role"] for one in messages]
    assert all(isinstance(one["content"], list) for one in found)
    for cut in range(len(messages) + 1):
        assert check_history(messages[cut:], check_history(messages[:cut])) == found[cut:]


BAD = [
    (["a"], "messages\\[0\\] must be a dict with a role"),
    ([{"role": "tool", "content": "a"}], "must be a dict with a role"),
    ([assistant("a")], "first message must have the role user"),
    ([user("a"), assistant(thinking())], "messages\\[1\\] has nothing but thinking"),
    ([{**user("a"), "clear_at": "x"}], "clear_at of a message"),
    ([user(call("a"))], "tool_use block belongs in an assistant message"),
    ([user(thinking())], "thinking block belongs in an assistant message"),
    ([user("a"), assistant(result("t"))], "tool_result belongs in a user message"),
    ([user("a"), assistant(document())], "a document may not stand"),
    ([user("a"), {"role": "system", "content": [image()]}], "a system message holds text only"),
    ([user(result("t"))], "answers no tool_use"),
    ([user("a"), assistant(call("t")), user("b")], "tool_use t of the message before has no tool_result here"),
    ([user("a"), assistant(call("t")), assistant("b")], "has no tool_result yet"),
    ([user("a"), assistant(call("t")), user(result("t"), result("t"))], "two tool_results"),
    ([user("a"), assistant(call("t")), user("b", result("t"))], "must come first"),
    ([user("a"), assistant(call("t"), call("t"))], "stands twice"),
    ([user("a"), assistant(call("t")), user(result("t")), assistant(call("t"))], "stands in an earlier message"),
    ([user("a"), assistant(call("a b"))], "may hold only letters, digits"),
    ([user("a"), assistant(call("t")), user(result("t\n"))], "may hold only letters, digits"),
    ([user("a"), assistant({"type": "compaction", "content": "c"})], "may only open the first message"),
    ([user("a"), assistant("b"), SYSTEM], "must follow a user message"),
    ([user("a"), SYSTEM, user("b")], "must be last or be followed by an assistant"),
]


@pytest.mark.parametrize(("messages", "message"), BAD)
def test_a_history_that_the_api_refuses_is_refused(messages: list[Any], message: str) -> None:
    with pytest.raises(Malformed, match=message):
        check_history(messages)


def test_the_last_message_and_the_ids_of_all_calls_stand_for_all_that_came_before() -> None:
    """A long conversation is not read again to append to it; an id that only an old call has is refused even so."""
    before = [user("a"), assistant(call("t")), user(result("t")), assistant("b")]
    again = [user("c"), assistant(call("t"))]
    for previous, ids in ((before, None), (before[-1:], {"t"})):
        with pytest.raises(Malformed, match="tool_use id t stands in an earlier message"):
            check_history(again, check_history(before)[-len(previous) :], count=4, ids=ids)
    other = [user("c"), assistant(call("u"))]
    assert check_history(other, check_history(before)[-1:], count=4, ids={"t"}) == check_history([*before, *other])[4:]


def test_a_summary_may_stand_first() -> None:
    summary = {"role": "assistant", "content": [{"type": "compaction", "content": "c"}]}
    assert check_history([summary, user("a")])[0] == summary
    with pytest.raises(Malformed, match="may only open the first message"):
        check_history([summary], [user("a"), assistant("b")])


def test_a_conversation_has_a_longest_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transcript, "MAX_MESSAGES", 2)
    assert check_history([user("a")], [user("a")])
    with pytest.raises(Malformed, match="at most 2 messages"):
        check_history([user("a"), user("b")], [user("a")])
    with pytest.raises(Malformed, match="at most 2 messages"):
        check_history([user("c")], [user("b")], count=2, ids=())


# -- settings ------------------------------------------------------------------------------------------------------

BASE: dict[str, Any] = {"model": "claude-opus-5", "max_tokens": 9}


def test_settings_have_one_shape_and_come_back_from_storage() -> None:
    made = make_settings(
        **BASE,
        system="s",
        tools=[{**tool(), **MARK}],
        context=[{**text("c"), **HOUR}, document()],
        thinking={"type": "adaptive"},
        tool_choice={"type": "auto"},
        output_config={"effort": "low"},
        params={"metadata": {"user_id": "u"}},
        compact="auto",
        local_tools=["look"],
    )
    assert made.system == (text("s"),)
    assert made.marks == (("context", 0), ("tools", 0))
    assert made.tools == (tool(),)
    assert Settings.from_json(made.to_json()) == made
    assert made.request() == {
        **BASE,
        "system": [text("s")],
        "tools": [tool()],
        "thinking": {"type": "adaptive"},
        "tool_choice": {"type": "auto"},
        "output_config": {"effort": "low"},
        "metadata": {"user_id": "u"},
    }


def test_what_is_not_set_is_not_sent() -> None:
    for system in (None, "", []):
        made = make_settings(**BASE, system=system)
        assert made.request() == BASE
    assert Settings.from_json(made.to_json()[:-1] + ',"from a newer version":1}') == made
    assert made == replace(made)


SETTINGS = [
    ({"model": ""}, "model must be"),
    ({"max_tokens": 0}, "max_tokens must be"),
    ({"max_tokens": True}, "max_tokens must be"),
    ({"max_tokens": "9"}, "max_tokens must be"),
    ({"compact": "always"}, "compact must be"),
    ({"system": " "}, "system\\[0\\] must be a text block"),
    ({"system": [image()]}, "system\\[0\\] must be a text block"),
    ({"system": ["s"]}, "must be a dict"),
    ({"system": 3}, "system must be a str or a list"),
    ({"context": " "}, "context\\[0\\] is a blank text"),
    ({"tools": ["look"]}, "tools\\[0\\] must be a function"),
    ({"tools": [{"name": "x"}]}, "tools\\[0\\] needs an 'input_schema'"),
    ({"tools": [{"input_schema": {}}]}, "tools\\[0\\] needs a 'name'"),
    ({"thinking": "adaptive"}, "thinking must be a dict with 'type'"),
    ({"thinking": {}}, "thinking must be a dict with 'type'"),
    ({"output_config": 3}, "output_config must be a dict, not 3"),
    ({"params": {"model": "x", "stream": True}}, "params may not hold model, stream"),
    ({"params": {"x": float("inf")}}, "not valid JSON"),
]


@pytest.mark.parametrize(("fields", "message"), SETTINGS)
def test_settings_that_cannot_be_sent_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(Malformed, match=message):
        make_settings(**{**BASE, **fields})


@given(
    st.text(max_size=20) | st.builds(encode, st.lists(st.dictionaries(st.text(max_size=4), st.integers()), max_size=3))
)
@example("[" * 300 + "]" * 300)
@example('["\\ud800"]')
@example("[1e400,-0.0,1E5,123456789012345678901234567890,2.2250738585072011e-308]")
def test_decoding_is_what_json_says(stored: str) -> None:
    try:
        expected = json.loads(stored)
    except ValueError:
        with pytest.raises(ValueError):
            decode(stored)
        with pytest.raises(ValueError):
            decode_all(["[]", stored])
    else:
        assert repr(decode(stored)) == repr(decode(f" {stored} ")) == repr(expected)
        assert repr(decode_all(["[]", stored])) == repr([[], expected])


@given(st.recursive(st.none() | st.integers() | st.text(), lambda one: st.lists(one) | st.dictionaries(st.text(), one)))
def test_a_copy_is_equal_and_shares_nothing_that_can_be_changed(value: Any) -> None:
    def parts(one: Any) -> list[int]:
        inner = one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()
        return [id(one)] * isinstance(one, (dict, list)) + [found for part in inner for found in parts(part)]

    made = copied(value)
    assert made == value
    assert not set(parts(made)) & set(parts(value))


class Failing:
    """A value whose repr fails."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")


def test_a_value_is_shown_whatever_its_repr_does() -> None:
    assert shown("x" * 100) == "'" + "x" * 79
    assert shown(Failing()) == "a value of type Failing"
    assert fault_of("fine") is None


def test_nesting_ends_at_a_hundred_levels() -> None:
    def nested(depth: int) -> Any:
        value: Any = "x"
        for _ in range(depth):
            value = [value]
        return value

    assert encode(nested(100))
    assert encode([nested(1)] * 200)  # many brackets, none of them deep
    for depth in (101, 930, 100_000):
        with pytest.raises(Malformed, match="where is nested deeper than 100 levels"):
            encode(nested(depth), where="where")
