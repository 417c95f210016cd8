"""A prompt that grows entry by entry is the prompt made at once: points, sizes, marks."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sessions.core.cache import Chain, Where, chain, without_marks
from sessions.core.plan import make_plan
from sessions.core.profiles import Profile, profile_for
from sessions.core.prompt import COMPACTION_BETA, Prompt, estimate, kept_text, request_of, text_digest
from sessions.core.settings import Settings, make_settings
from sessions.core.warmth import Warmth
from tests.core.strategies import (
    assistant,
    call,
    document,
    image,
    profiles,
    redacted,
    requests,
    result,
    text,
    thinking,
    tool,
    user,
    with_blanks,
)
from tests.core.world import MODEL, circumstances, entries_of, settings_of

quick = settings(
    deadline=None,
    max_examples=50,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
bodies = st.one_of(requests(), with_blanks())
splits = st.lists(st.integers(0, 11), max_size=4)


def parts(sequence: list[Any], cuts: list[int]) -> list[list[Any]]:
    at = [0, *sorted(cuts), len(sequence)]
    return [sequence[a:b] for a, b in pairwise(at)]


@quick
@given(bodies, profiles, splits)
def test_a_chain_in_pieces_is_the_chain_at_once(body: dict[str, Any], profile: Profile, cuts: list[int]) -> None:
    grown = Chain(body, profile, workspace="w")
    for part in parts(body["messages"], cuts):
        before = list(grown.points)
        grown.extend(part)
        assert grown.points[: grown.stable] == before[: grown.stable]
    assert grown.points == chain(body, profile, workspace="w")


@quick
@given(bodies, profiles)
def test_markers_are_not_part_of_the_chain(body: dict[str, Any], profile: Profile) -> None:
    bare = [{**m, "content": [dict(without_marks(b)) for b in m["content"]]} for m in body["messages"]]
    assert chain({**body, "messages": bare}, profile) == chain(body, profile)


@quick
@given(bodies, profiles, splits, st.lists(st.one_of(st.none(), st.integers(1, 9000)), min_size=12, max_size=12))
def test_a_prompt_in_pieces_is_the_prompt_at_once(
    body: dict[str, Any], profile: Profile, cuts: list[int], measured: list[int | None]
) -> None:
    entries = [
        replace(entry, prompt_tokens=size, output_tokens=size and size % 7)
        for entry, size in zip(entries_of(body["messages"]), measured, strict=False)
    ]
    entries += entries_of(body["messages"])[len(entries) :]
    whole, grown = Prompt(settings_of(body), profile), Prompt(settings_of(body), profile)
    whole.extend(entries)
    for part in parts(entries, cuts):
        grown.extend(part)
        make_plan(grown, Warmth(), circumstances(grown))
    assert grown.points == whole.points
    assert grown.markable == whole.markable
    assert grown.index == whole.index == {point.digest: at for at, point in enumerate(whole.points)}
    sizes = [whole.tokens(count) for count in range(len(whole.points) + 1)]
    assert sizes == [grown.tokens(count) for count in range(len(whole.points) + 1)]
    assert sizes == sorted(sizes)
    assert make_plan(grown, Warmth(), circumstances(grown)) == make_plan(whole, Warmth(), circumstances(whole))


STEPS: list[tuple[str, list[dict[str, Any]]]] = [
    ("a first image", [user("a"), assistant("b"), user(image()), assistant("c"), user("d")]),
    ("an image in a result", [user("a"), assistant(call("t")), user(result("t", [image()]))]),
    ("citations", [user("a"), assistant("b"), user(document(cited=True)), assistant("c"), user("d")]),
    ("thinking", [user("a"), assistant(thinking(), "b"), user("c"), assistant(redacted(), thinking(), "d"), user("e")]),
    (
        "thinking in a tool round, then an image and words",
        [
            user("a"),
            assistant(thinking(), call("t")),
            user(result("t")),
            assistant(thinking(), call("u")),
            user(result("u"), image()),
            assistant("b"),
            user("c"),
        ],
    ),
]


@pytest.mark.parametrize("keeps", [True, False])
@pytest.mark.parametrize("messages", [pytest.param(messages, id=name) for name, messages in STEPS])
def test_every_split_gives_the_same_points(messages: list[dict[str, Any]], keeps: bool) -> None:
    profile = replace(profile_of(), keeps_thinking=keeps)
    body = {"model": MODEL, "max_tokens": 9, "system": "s", "tools": [tool()], "messages": messages}
    whole = chain(body, profile)
    for first in range(len(messages) + 1):
        for second in range(first, len(messages) + 1):
            grown = Chain(body, profile)
            for part in (messages[:first], messages[first:second], messages[second:]):
                grown.extend(part)
            assert grown.points == whole


def profile_of() -> Profile:
    return profile_for(MODEL)


BODY = {"model": MODEL, "max_tokens": 9, "system": "s", "tools": [tool()]}


def points(messages: list[dict[str, Any]], *, keeps: bool = True, **fields: Any) -> list[str]:
    profile = replace(profile_of(), keeps_thinking=keeps)
    return [point.digest for point in chain({**BODY, "messages": messages, **fields}, profile)]


def kept(before: list[str], after: list[str]) -> int:
    """How many leading points are shared."""
    return next(
        (n for n, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), min(len(before), len(after))
    )


PLAIN = [user("a"), assistant("b"), user("c")]
CHANGES = [
    # what changes, points kept: 1 tool, 1 system, 3 messages (docs/provider.md, 5)
    ({}, 5),
    ({"system": "other"}, 1),
    ({"tools": [tool("other")]}, 0),
    ({"tools": [tool(), {"type": "web_search_20250305", "name": "web_search"}]}, 1),
    ({"speed": "fast"}, 1),
    ({"speed": "standard"}, 5),
    ({"tool_choice": {"type": "any"}}, 2),
    ({"tool_choice": {"type": "auto"}}, 5),
    ({"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}}, 2),
    ({"thinking": {"type": "between_tools"}}, 2),
    ({"thinking": {"type": "adaptive"}}, 5),
    ({"thinking": {"type": "adaptive", "display": "summarized"}}, 5),
    ({"output_config": {"effort": "low"}}, 2),
    ({"output_config": {"effort": "high"}}, 5),
    ({"context_management": {"edits": []}}, 2),
    ({"betas": ["x"]}, 2),
    ({"model": "claude-opus-5-5"}, 0),
    ({"max_tokens": 1, "metadata": {"user_id": "u"}, "stop_sequences": ["x"]}, 5),
    ({"messages": [user("a"), assistant("b"), user(image())]}, 2),
    ({"messages": [user("a"), assistant("b"), user(document(cited=True))]}, 1),
    ({"messages": [user("a"), assistant("B"), user("c")]}, 3),
    ({"messages": [user("a"), assistant("b"), user("c"), user("d")]}, 5),
]


@pytest.mark.parametrize(("change", "count"), CHANGES)
def test_a_change_loses_the_tiers_it_is_said_to_lose(change: dict[str, Any], count: int) -> None:
    change = dict(change)
    messages = change.pop("messages", PLAIN)
    assert kept(points(PLAIN), points(messages, **change)) == count


def test_consecutive_messages_of_one_role_are_one() -> None:
    assert points([user("a", "b")]) == points([user("a"), user("b")])
    assert points([user("a")]) == points([{"role": "user", "content": "a"}])


def test_endpoint_and_workspace_are_part_of_the_root() -> None:
    request = {**BODY, "messages": PLAIN}
    one = [chain(request, profile_of(), **scope)[0].digest for scope in ({}, {"endpoint": "e"}, {"workspace": "w"})]  # type: ignore[arg-type]
    assert len(set(one)) == 3


def test_only_plain_words_strip_older_thinking() -> None:
    turn = [user("a"), assistant(thinking(), call("t"))]
    results = [*turn, user(result("t"))]
    assert kept(points(turn, keeps=False), points(results, keeps=False)) == 5
    mixed = [*turn, user(result("t"), "words")]
    assert kept(points(turn, keeps=False), points(mixed, keeps=False)) == 3
    assert kept(points(turn), points(mixed)) == 5


def test_a_measured_prompt_is_exact_and_what_is_new_is_scaled() -> None:
    prompt = Prompt(settings_of(BODY), profile_of())
    assert not prompt.is_measured
    entries = entries_of([user("x" * 4000), assistant("y" * 400), user("z" * 4000)])
    guess = Prompt(settings_of(BODY), profile_of())
    guess.extend(entries[:1])
    measured = guess.total * 2
    prompt.extend([entries[0], replace(entries[1], prompt_tokens=measured, output_tokens=100), entries[2]])
    assert prompt.is_measured
    assert prompt.tokens(3) == measured
    assert prompt.tokens(4) == measured + 100
    new = prompt.total - measured - 100
    assert new == pytest.approx(4000 / 2.75 * 2, rel=0.2)


def test_sizes_of_another_model_are_not_ours() -> None:
    prompt = Prompt(settings_of(BODY), profile_of())
    prompt.extend(entries_of([user("a"), assistant("b")], model="claude-opus-5", prompt_tokens=5, output_tokens=5))
    assert not prompt.is_measured


def test_calls_made_with_equal_settings_name_them_equally() -> None:
    """The text is kept once and read back; what the operator says next is sent once, and no part of it."""
    asked = settings_of(BODY)
    one, told, other = (
        Prompt(given, profile_of())
        for given in (asked, replace(asked, instructions=("Be kind.",)), settings_of({**BODY, "system": "t"}))
    )
    assert Settings.from_json(told.settings_text) == asked
    assert one.settings_digest == told.settings_digest != other.settings_digest
    assert re.fullmatch("[0-9a-f]{32}", one.settings_digest)
    assert one.settings_digest == text_digest(kept_text(asked))


def test_the_block_at_a_place() -> None:
    prompt = Prompt(settings_of(BODY), profile_of())
    prompt.extend(entries_of([user("a")]))
    assert prompt.block(Where("messages", 0, 0)) == text("a")
    assert prompt.block(Where("tools", 0, 0))["name"] == "look"
    assert prompt.last_markable(0, 0) is None


@pytest.mark.parametrize(
    ("block", "least", "most"),
    [
        (text("x" * 2750), 1000, 1010),
        (text("🎉" * 100), 140, 160),
        (thinking("x" * 275), 100, 110),
        (redacted(), 4, 10),
        (image(), 1500, 1500),
        (result("t", [text("x" * 275), image(), "odd"]), 1600, 1620),
        (result("t", "x" * 275), 100, 150),
        ({"type": "document", "source": {"type": "base64", "data": "A" * 1_000_000}}, 2000, 100_000),
        ({"type": "document", "source": {"type": "base64", "data": "A" * 10}}, 2000, 2000),
        (document("x" * 275), 100, 150),
    ],
)
def test_a_guess_is_of_the_right_order(block: dict[str, Any], least: int, most: int) -> None:
    assert least <= estimate(block, 2.75) <= most


def test_a_session_that_compacts_for_its_price_has_the_beta_from_the_first_request_on() -> None:
    """Else its first summary would be asked for with other betas than what it is to read was written with."""
    base = {"model": MODEL, "max_tokens": 9}
    own = settings_of(base, compact="cheapest")
    profile = profile_for(MODEL)
    assert request_of(own, profile)[0]["betas"] == [COMPACTION_BETA]
    assert request_of(own, profile, compacted=True)[0]["betas"] == [COMPACTION_BETA]
    own = settings_of(base, compact="cheapest", params={"betas": [COMPACTION_BETA, "other"]})
    assert request_of(own, profile)[0]["betas"] == [COMPACTION_BETA, "other"]


@pytest.mark.parametrize(
    "fields",
    [
        {"compact": "auto"},
        {"compact": "cheapest", "params": {"context_management": {"edits": []}}},
        {"compact": "cheapest", "tool_choice": {"type": "any"}},
        {"compact": "cheapest", "output_config": {"format": {"type": "json_schema"}}},
    ],
)
def test_it_has_not_where_a_summary_is_not_asked_for_its_price(fields: dict[str, Any]) -> None:
    made = make_settings(model=MODEL, max_tokens=9, **fields)
    assert "betas" not in request_of(made, profile_for(MODEL))[0]
    refuses = replace(profile_for(MODEL), compaction=False)
    assert "betas" not in request_of(settings_of({"model": MODEL, "max_tokens": 9}, compact="cheapest"), refuses)[0]
