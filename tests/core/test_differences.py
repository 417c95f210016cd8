"""Where two prompts part: the first place, in the cache's own order, and short excerpts of what stood there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sessions.core.differences import Difference, excerpts, first_difference, narrowed
from sessions.core.profiles import profile_for
from sessions.core.prompt import Prompt
from tests.core.strategies import assistant, call, document, image, requests, result, text, thinking, tool, user
from tests.core.world import MODEL, entries_of, prompt_of, settings_of

BODY: dict[str, Any] = {
    "model": MODEL,
    "max_tokens": 100,
    "tools": [tool("look"), tool("find")],
    "system": "Be brief.",
    "messages": [user("Hello"), assistant("Hello."), user("More")],
}


def difference(
    body: dict[str, Any] | None = None, old: dict[str, Any] | None = None, **fields: Any
) -> Difference | None:
    return first_difference(prompt_of(old or BODY), prompt_of({**(body or BODY), **fields}))


def found(**fields: Any) -> tuple[str, str, str, str]:
    one = difference(**fields)
    assert one is not None
    assert one.what
    assert one.advice
    return one.cause, one.place, one.before, one.after


def test_the_same_prompt_and_a_longer_one_do_not_differ() -> None:
    assert difference() is None
    assert difference(messages=[*BODY["messages"], assistant("Yes."), user("And?")]) is None
    assert difference(max_tokens=7, thinking={"type": "adaptive"}, output_config={"effort": "high"}) is None


def test_model_and_speed() -> None:
    assert found(model="claude-opus-5") == ("model_changed", "model", MODEL, "claude-opus-5")
    old, new = settings_of(BODY), settings_of(BODY, params={"speed": "fast"})
    one = first_difference(*(Prompt(given, profile_for(MODEL)) for given in (old, new)))
    assert one is not None
    assert (one.cause, one.place, one.before, one.after) == ("model_changed", "speed", "standard", "fast")


def test_tools() -> None:
    look, find = BODY["tools"]
    assert found(tools=[find, look]) == ("tools_changed", "tools[0]", "look, find", "find, look")
    cause, place, before, after = found(tools=[look, find, tool("more")])
    assert (cause, place, before) == ("tools_changed", "tools[2]", "")
    assert '"more"' in after
    cause, place, before, after = found(tools=[find])
    assert (cause, place, after) == ("tools_changed", "tools[0]", "")
    assert '"look"' in before
    changed = {**find, "description": "Looks it up."}
    assert found(tools=[look, changed]) == (
        "tools_changed", "tools[1].description, character 6", "Looks.", "Looks it up.",
    )  # fmt: skip
    schema = {**look, "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}
    assert found(tools=[schema, find])[1] == "tools[0].input_schema.properties"
    assert found(tools=[find, {**look, "description": "Another."}])[1].startswith("tools[0]")
    assert "order of keys" in found(tools=[dict(reversed(look.items())), find])[1]
    one = difference(tools=[look, {"type": "web_search_20250305", "name": "web_search"}])
    assert one is not None
    assert "'web_search' was added" in one.what


def test_system() -> None:
    assert found(system="Be kind.") == ("system_changed", "system[0].text, character 4", "Be brief.", "Be kind.")
    cause, place, before, _ = found(system=[{"type": "text", "text": "Be brief."}, {"type": "text", "text": "Now."}])
    assert (cause, place, before) == ("system_changed", "system[1]", "")
    assert found(old={key: value for key, value in BODY.items() if key != "system"})[0] == "system_changed"


@pytest.mark.parametrize(
    ("fields", "place", "before", "after"),
    [
        ({"output_config": {"effort": "low"}}, "output_config.effort", "", "low"),
        ({"thinking": {"type": "between_tools"}}, "thinking.type", "", "between_tools"),
        ({"tool_choice": {"type": "none"}}, "tool_choice.type", "", "none"),
    ],
)
def test_settings_that_enter_before_the_messages(fields: dict[str, Any], place: str, before: str, after: str) -> None:
    assert found(**fields) == ("messages_changed", place, before, after)
    one = difference(**fields)
    assert one is not None
    assert one.what == f"{place} was not set and is {after}"


def test_betas_and_bound_thinking() -> None:
    plain, profile = settings_of(BODY), profile_for(MODEL)
    one = first_difference(
        Prompt(plain, profile), Prompt(replace(plain, params={"betas": ["context-1m-2025-08-07"]}), profile)
    )
    assert one is not None
    assert (one.cause, one.place) == ("messages_changed", "betas[0]")
    one = first_difference(Prompt(plain, profile), Prompt(replace(plain, unbound=2), profile))
    assert one is not None
    assert (one.cause, one.place) == ("thinking_stripped", "thinking")


def test_the_first_image_and_the_first_citation() -> None:
    messages = BODY["messages"]
    assert found(messages=[*messages, assistant("Yes."), user(image(), "this")])[:2] == (
        "messages_changed", "messages[4].content[0]",
    )  # fmt: skip
    inner = user(result("a", [image()]))
    assert found(messages=[*messages, assistant(call("a")), inner])[1] == "messages[4].content[0]"
    assert found(messages=[*messages, assistant("Yes."), user("See", document(cited=True))])[:2] == (
        "messages_changed", "messages[4].content[1]",
    )  # fmt: skip


def test_messages() -> None:
    first, *rest = BODY["messages"]
    assert found(messages=[user("Hallo"), *rest]) == (
        "messages_changed", "messages[0].content[0].text, character 2", "Hello", "Hallo",
    )  # fmt: skip
    thought = [first, assistant(thinking(), "Hello."), BODY["messages"][2]]
    assert found(old={**BODY, "messages": thought})[:2] == ("thinking_stripped", "messages[1].content[0]")
    assert found(messages=thought)[0] == "messages_changed"


def test_thinking_that_a_model_keeps_for_one_turn_only() -> None:
    profile = profile_for("claude-haiku-4-5")
    given = replace(settings_of(BODY), model="claude-haiku-4-5")
    messages = [user("Hello"), assistant(thinking(), call("a")), user(result("a"))]
    old, new = Prompt(given, profile), Prompt(given, profile)
    old.extend(entries_of(messages))
    new.extend(entries_of([*messages, assistant("So."), user("More")]))
    one = first_difference(old, new)
    assert one is not None
    assert (one.cause, one.place, one.before, one.after) == (
        "thinking_stripped", "messages[1].content[0]", "thinking", "tool_use",
    )  # fmt: skip


def test_narrowing_ends_where_the_parts_are_of_another_kind() -> None:
    assert narrowed({"a": [1, 2]}, {"a": [1, {"b": 2}]}, "x") == ("x.a[1]", 2, {"b": 2})
    assert narrowed({"a": 1}, {"a": 1, "b": 2}, "x") == ("x.b", None, 2)
    assert narrowed([1], [1, 2], "x") == ("x[1]", None, 2)
    assert narrowed({"a": 1, "b": None}, {"a": 1}, "x") == ("x.b", None, None)
    assert narrowed([1], [1, None], "x") == ("x[1]", None, None)
    assert narrowed("a", "b", "x") == ("x", "a", "b")


def test_excerpts_are_short_and_begin_shortly_before() -> None:
    long = "word " * 100
    before, after, at = excerpts(f"{long}old{long}", f"{long}new{long}")
    assert (at, len(before), len(after)) == (500, 82, 82)
    assert (before[25:28], after[25:28]) == ("old", "new")
    assert excerpts({"a": 1}, None) == ('{"a":1}', "", 0)
    assert excerpts("ab", "abc") == ("ab", "abc", 2)


@settings(max_examples=60, deadline=None)
@given(requests(), st.data())
def test_a_change_is_found_where_it_is(body: dict[str, Any], data: st.DataObject) -> None:
    """A difference is told exactly where the cache's own points part; a changed block is always found."""
    whole = prompt_of(body)
    part = prompt_of({**body, "messages": body["messages"][: data.draw(st.integers(1, len(body["messages"])))]})
    grown = first_difference(part, whole)
    assert (grown is None) == (part.points[-1].digest in whole.index)
    assert grown is None or grown.cause in ("messages_changed", "thinking_stripped")
    number = data.draw(st.integers(0, len(body["messages"]) - 1))
    message = body["messages"][number]
    changed = {**message, "content": [text("something else"), *message["content"][1:]]}
    messages = [*body["messages"][:number], changed, *body["messages"][number + 1 :]]
    one = first_difference(whole, prompt_of({**body, "messages": messages}))
    assert one is not None
    assert one.cause in ("messages_changed", "thinking_stripped")


CHANGES: dict[str, Any] = {
    "output_config": {"effort": "low"},
    "thinking": {"type": "between_tools"},
    "tool_choice": {"type": "any"},
    "model": "claude-opus-5",
    "system": [{"type": "text", "text": "another"}],
    "tools": [tool("another")],
}


@settings(max_examples=60, deadline=None)
@given(requests(turns=2), requests(turns=2), st.sets(st.sampled_from(sorted(CHANGES))))
def test_any_two_prompts_can_be_compared(body: dict[str, Any], other: dict[str, Any], names: set[str]) -> None:
    changed = {**body, **{name: CHANGES[name] for name in names}}
    for one, two in ((body, other), (body, changed), (changed, body)):
        old, new = prompt_of(one), prompt_of(two)
        found = first_difference(old, new)
        last = min(len(old.points), len(new.points)) - 1
        assert (found is None) == (old.points[last].digest == new.points[last].digest), found
        assert found is None or found.place
