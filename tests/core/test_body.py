"""A body made of pieces that were encoded before is the JSON of the whole."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessions.core.body import Message, encode_body

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
MESSAGES = st.lists(st.builds(Message, content=JSON) | st.builds(dict, content=JSON), max_size=5)


@given(st.dictionaries(st.text(max_size=8).filter(str.isascii), JSON, max_size=4), MESSAGES)
def test_is_the_json_of_the_whole(rest: dict[str, Any], messages: list[Any]) -> None:
    body = {"model": "m", **rest, "messages": messages}
    for _ in range(2):  # the second time from what was kept
        assert json.loads(encode_body(body)) == json.loads(json.dumps(body))
    assert json.loads(encode_body({"messages": messages})) == {"messages": json.loads(json.dumps(messages))}


def test_a_message_is_encoded_once_and_a_changed_copy_of_it_anew() -> None:
    message = Message(role="user", content=[{"type": "text", "text": "é"}])
    assert message.encoded is message.encoded
    assert message.encoded == '{"role":"user","content":[{"type":"text","text":"é"}]}'.encode()
    assert encode_body({"messages": [{**message, "role": "assistant"}]}) == (
        b'{"messages":[' + message.encoded.replace(b"user", b"assistant") + b"]}"
    )
    assert deepcopy(message) == message


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), b"x", "\ud800"])
def test_what_is_no_json_is_refused(value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        encode_body({"messages": [Message(role="user", content=value)]})
    with pytest.raises((TypeError, ValueError)):
        encode_body({"messages": [], "system": value})
