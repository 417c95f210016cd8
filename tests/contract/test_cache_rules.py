"""The prompt cache as documented: where entries are found, how long they live, what each token costs.

Sources are named at each table; page months are of Anthropic's documentation of 2026.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from sessions.core.cache import bill, chain, find
from sessions.core.profiles import MODELS, profile_for
from sessions.simulator import Scripted

Make = Callable[..., Any]


def user(blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": blocks}]


def marked(block: Make, count: int, *marks: int, ttl: str = "") -> list[dict[str, Any]]:
    """A user message of `count` blocks, 100 tokens each, with markers at these 1-based blocks."""
    return user([block(100, ttl if at in marks else None, word=f"w{at}") for at in range(1, count + 1)])


# -- where entries are found (prompt-caching page, September 2026: twenty positions, the breakpoint's own first) ----

LOOKBACK = [
    # written at, marks of the later request, tokens read
    (10, (10,), 1000),
    (10, (15,), 1000),
    (15, (34,), 1500),
    (15, (35,), 0),  # the page's own example: block 15 is position 21
    (10, (29,), 1000),
    (10, (30,), 0),
    (15, (15, 35), 1500),  # a second breakpoint searches its own twenty
    (15, (20, 39), 1500),
    (15, (16, 36), 1500),
]


@pytest.mark.parametrize(("written", "marks", "read"), LOOKBACK)
def test_an_entry_is_found_nineteen_positions_back(api, block, written: int, marks: tuple[int, ...], read: int) -> None:
    assert api.usage(marked(block, written, written)).cache_write_5m == written * 100
    assert api.usage(marked(block, max(marks), *marks)).cache_read == read


def test_nothing_is_written_between_breakpoints(api, block) -> None:
    api.usage(marked(block, 20, 20))
    assert api.usage(marked(block, 10, 10)).cache_read == 0


def test_the_marker_is_not_part_of_the_prefix(api, block) -> None:
    api.usage(marked(block, 12, 12))
    assert api.usage(marked(block, 13, 13)).cache_read == 1200
    assert api.usage(marked(block, 13, 12, ttl="5m")).cache_read == 1200


def test_a_prompt_without_markers_neither_reads_nor_writes(api, block) -> None:
    api.usage(marked(block, 12, 12))
    usage = api.usage(marked(block, 12))
    assert (usage.input, usage.cache_read, usage.cache_write) == (1200, 0, 0)


def rounds(block: Make, calls: int) -> list[dict[str, Any]]:
    """A prompt, `calls` parallel tool calls, and their results, marked at the last."""
    uses = [{"type": "tool_use", "id": f"toolu_{n}", "name": "look", "input": {}} for n in range(calls)]
    results = [{"type": "tool_result", "tool_use_id": f"toolu_{n}", "content": "ok"} for n in range(calls)]
    results[-1]["cache_control"] = {"type": "ephemeral"}
    return [
        {"role": "user", "content": [block(1000)]},
        {"role": "assistant", "content": uses},
        {"role": "user", "content": results},
    ]


@pytest.mark.parametrize(("collapses", "read"), [(True, 1000), (False, 0)])
def test_parallel_tools_count_as_the_platform_counts_them(make_api, block, collapses: bool, read: int) -> None:
    """September 2026, Claude API: a run of `tool_use` (or `tool_result`) blocks is one position; not elsewhere."""
    api = make_api(profile=replace(profile_for("claude-sonnet-5-5"), collapses_tools=collapses))
    api.usage(user([block(1000, "")]))
    assert api.usage(rounds(block, 12)).cache_read == read


@pytest.mark.parametrize("lookback", [1, 10, 20])
def test_a_planted_lookback_is_kept(make_api, block, lookback: int) -> None:
    api = make_api(profile=replace(profile_for("claude-sonnet-5-5"), lookback=lookback))
    api.usage(marked(block, 10, 10))
    assert api.usage(marked(block, 10 + lookback - 1, 10 + lookback - 1)).cache_read == 1000
    fresh = make_api(profile=replace(profile_for("claude-sonnet-5-5"), lookback=lookback))
    fresh.usage(marked(block, 10, 10))
    assert fresh.usage(marked(block, 10 + lookback, 10 + lookback)).cache_read == 0


# -- what is billed (prompt-caching page, September 2026, mixing lifetimes: A, B, C) ---------------

MIXED = [
    # cumulative sizes, total, marks (index, ttl), hit -> read, 1h, 5m, input
    ([1000, 3000], 3100, [(0, "1h"), (1, "5m")], None, (0, 1000, 2000, 100)),
    ([1000, 3000], 3100, [(0, "1h"), (1, "5m")], 0, (1000, 0, 2000, 100)),
    ([1000, 3000], 3100, [(0, "1h"), (1, "5m")], 1, (3000, 0, 0, 100)),
    ([1000, 2000, 2500], 2600, [(2, "1h")], 1, (2000, 500, 0, 100)),  # a park: read A, 1h write B-A
    ([1000, 2000, 2500], 2600, [(0, "1h"), (2, "5m")], 1, (2000, 0, 500, 100)),  # a 1h mark before A writes nothing
    ([1000, 2000, 2500], 2600, [(0, "1h"), (1, "1h"), (2, "5m")], None, (0, 2000, 500, 100)),
    ([300, 3000], 3000, [(0, "1h"), (1, "5m")], None, (0, 0, 3000, 0)),  # below the minimum a mark does nothing
    ([1000], 1400, [], None, (0, 0, 0, 1400)),
]


@pytest.mark.parametrize(("sizes", "total", "marks", "hit", "charged"), MIXED)
def test_the_formula_for_mixed_lifetimes(sizes, total, marks, hit, charged) -> None:
    found = bill(sizes, total, marks, hit, 512)
    assert (found.read, found.write_1h, found.write_5m, found.input) == charged
    assert sum(charged) == total


def test_the_engine_bills_by_the_formula(api, block) -> None:
    def ask(now: float) -> tuple[int, int, int, int]:
        content = [block(2000, "", "turn"), block(100, None, "tail")]
        usage = api.usage(user(content), system=[block(1000, "1h", "system")], now=now)
        return usage.cache_read, usage.cache_write_1h, usage.cache_write_5m, usage.input

    assert ask(0) == (0, 1000, 2000, 100)
    assert ask(10) == (3000, 0, 0, 100)
    assert ask(10 + 300) == (1000, 0, 2000, 100)  # the 5m part lapsed, the 1h part lives


def test_a_park_buys_an_hour_for_a_few_tokens(api, block) -> None:
    """Inferred from the formula: a 1h mark behind a live 5m entry pays 1h only for what lies between."""
    first = user([block(2000, "", "history")])
    api.usage(first, now=0)
    park = [block(2000, None, "history"), block(50, "1h", "latest")]
    usage = api.usage([{"role": "user", "content": park}], now=270)
    assert (usage.cache_read, usage.cache_write_1h, usage.cache_write_5m) == (2000, 50, 0)
    again = [block(2000, None, "history"), block(50, None, "latest"), block(30, "", "next")]
    assert api.usage([{"role": "user", "content": again}], now=270 + 3599).cache_read == 2050


@pytest.mark.parametrize(
    "planted", [{"parks_survive": False}, {"profile": replace(profile_for("claude-sonnet-5-5"), parks=False)}], ids=str
)
def test_parks_that_do_not_survive_end_with_their_base(make_api, block, planted) -> None:
    api = make_api(**planted)
    api.usage(user([block(2000, "", "history")]), now=0)
    park = user([block(2000, None, "history"), block(50, "1h", "latest")])
    assert api.usage(park, now=270).cache_write_1h == 50
    assert api.usage(park, now=269 + 300).cache_read == 2050
    api.engine.evict()
    api.usage(user([block(2000, "", "history")]), now=1000)
    api.usage(park, now=1270)
    assert api.usage(park, now=1270 + 301).cache_read == 0


def test_a_shorter_entry_that_is_renewed_is_no_park(make_api, block) -> None:
    """A 1h head below a 5m entry was not written on top of it: reading through it only renews it."""
    api = make_api(parks_survive=False)
    head, rest = block(1000, "1h", "head"), block(1000, "", "rest")
    api.usage(user([head, rest]), now=0)
    assert api.usage(user([head, rest]), now=200).cache_read == 2000
    assert api.usage(user([head]), now=200 + 3599).cache_read == 1000


# -- how long entries live (prompt-caching page: from the start of the request; refreshed free of charge) ----

LIFETIMES = [("5m", 299.9, True), ("5m", 300, False), ("1h", 3599.9, True), ("1h", 3600, False)]


@pytest.mark.parametrize(("ttl", "gap", "alive"), LIFETIMES)
def test_a_lifetime_counts_from_the_start_of_the_request(api, block, ttl: str, gap: float, alive: bool) -> None:
    request = marked(block, 10, 10, ttl=ttl)
    exchange = api.receive(request, now=1000.0)
    api.finish(exchange, now=1240.0)  # four minutes of streaming do not count
    assert (api.usage(request, now=1000.0 + gap).cache_read > 0) is alive


@pytest.mark.parametrize(("ttl", "step"), [("5m", 240), ("1h", 3000)])
def test_a_read_refreshes_for_nothing(api, block, ttl: str, step: int) -> None:
    """Measured by a third party for 5m (August 2026): read at 240 s, again at 482 s."""
    request = marked(block, 10, 10, ttl=ttl)
    api.usage(request, now=0)
    for number in range(1, 6):
        usage = api.usage(request, now=number * step)
        assert (usage.cache_read, usage.cache_write, usage.input) == (1000, 0, 0)


def test_a_short_mark_on_a_long_entry_reads_it_and_keeps_its_class(api, block) -> None:
    api.usage(marked(block, 10, 10, ttl="1h"), now=0)
    assert api.usage(marked(block, 10, 10, ttl="5m"), now=3000).cache_read == 1000
    assert api.usage(marked(block, 10, 10, ttl="5m"), now=6500).cache_read == 1000


def test_a_long_mark_on_a_short_entry_does_not_upgrade_it(api, block) -> None:
    """By the formula a 1h mark at the hit adds no write; the entry stays a 5m one."""
    api.usage(marked(block, 10, 10, ttl="5m"), now=0)
    usage = api.usage(marked(block, 10, 10, ttl="1h"), now=100)
    assert (usage.cache_read, usage.cache_write) == (1000, 0)
    assert api.usage(marked(block, 10, 10, ttl="1h"), now=401).cache_read == 0


def test_an_entry_is_readable_once_the_response_begins(api, block) -> None:
    request = marked(block, 10, 10)
    early = [api.receive(request) for _ in range(3)]
    for exchange in early:
        api.finish(exchange)
    assert [exchange.usage.cache_write_5m for exchange in early] == [1000, 1000, 1000]
    first = api.receive(marked(block, 11, 11))
    api.engine.answer(first, "Fine.")
    api.engine.begin(first, 0.0)
    assert api.usage(marked(block, 11, 11)).cache_read == 1100  # the first is still streaming


def test_eviction_loses_everything(api, block) -> None:
    api.usage(marked(block, 10, 10, ttl="1h"))
    assert api.engine.evict() == 1
    assert api.usage(marked(block, 10, 10, ttl="1h"), now=1).cache_read == 0


# -- the least that is cached (prompt-caching page of September, model pages of October 2026) ------

MINIMUM = {
    "claude-fable-5-1": 512,
    "claude-opus-5-5": 512,
    "claude-sonnet-5-5": 512,
    "claude-haiku-5-5": 512,
    "claude-opus-4-8": 1024,
    "claude-sonnet-5": 1024,
    "claude-sonnet-4-6": 1024,
    "claude-sonnet-4-5": 1024,
    "claude-opus-4-7": 2048,
    "claude-mythos-preview": 2048,
    "claude-opus-4-6": 4096,
    "claude-opus-4-5": 4096,
    "claude-haiku-4-5": 4096,
}


@pytest.mark.parametrize(("model", "least"), MINIMUM.items())
def test_a_shorter_prefix_is_silently_not_cached(api, block, model: str, least: int) -> None:
    below = api.usage(user([block(least - 1, "")]), model=model)
    assert (below.input, below.cache_write, below.cache_read) == (least - 1, 0, 0)
    assert api.usage(user([block(least, "")]), model=model).cache_write_5m == least


def test_every_model_of_the_sdk_is_served(api) -> None:
    for model in MODELS:
        assert api.post("Hello", model=model).ok


# -- who shares what -------------------------------------------------------------------------------

APART: list[dict[str, Any]] = [
    {"headers": {"x-api-key": "other"}},
    {"headers": {"x-api-key": "simulated/other"}},
    {"headers": {"anthropic-workspace-id": "other"}},
    {"model": "claude-opus-5-5"},
    {"speed": "fast"},
]


@pytest.mark.parametrize("other", APART, ids=str)
def test_caches_are_apart(api, block, other: dict[str, Any]) -> None:
    """September 2026: never across organizations, per workspace, per model, per speed."""
    request = marked(block, 10, 10)
    api.usage(request)
    assert api.usage(request, **other).cache_read == 0
    assert api.usage(request).cache_read == 1000


TOOL = {"name": "look", "description": "x" * 4000, "input_schema": {"type": "object"}}
OTHER = {"name": "other", "input_schema": {"type": "object"}}
INVALIDATES: list[tuple[dict[str, Any], set[str]]] = [
    ({}, {"tools", "system", "messages"}),
    ({"tools": [{**TOOL, "description": "y" * 4000}]}, set()),
    ({"tools": [OTHER, TOOL]}, set()),
    ({"system": "another"}, {"tools"}),
    ({"tool_choice": {"type": "none"}}, {"tools", "system"}),
    ({"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}}, {"tools", "system"}),
    ({"tool_choice": {"type": "auto"}}, {"tools", "system", "messages"}),
    ({"output_config": {"effort": "low"}}, {"tools", "system"}),
    ({"output_config": {"effort": "high"}}, {"tools", "system", "messages"}),
    ({"thinking": {"type": "between_tools"}}, {"tools", "system"}),
    ({"thinking": {"type": "adaptive"}}, {"tools", "system", "messages"}),
    ({"max_tokens": 50}, {"tools", "system", "messages"}),
    ({"stop_sequences": ["x"]}, {"tools", "system", "messages"}),
    ({"metadata": {"user_id": "u"}}, {"tools", "system", "messages"}),
    ({"service_tier": "auto"}, {"tools", "system", "messages"}),
]


@pytest.mark.parametrize(
    ("change", "kept"), INVALIDATES, ids=lambda one: str(sorted(one) if isinstance(one, set) else one)
)
def test_what_a_change_invalidates(api, block, change: dict[str, Any], kept: set[str]) -> None:
    """September 2026, What invalidates the cache (`effort`'s default, stated, is no change)."""
    mark = {"cache_control": {"type": "ephemeral"}}

    def ask(**fields: Any) -> Any:
        base: dict[str, Any] = {"tools": [TOOL], "system": "s" * 4000, **fields}
        tools = [*base["tools"][:-1], {**base["tools"][-1], **mark}]
        system = [{"type": "text", "text": base["system"], **mark}]
        return api.usage(user([block(1000, "")]), **{**base, "tools": tools, "system": system})

    first = ask()
    tools = api.usage(user([block(1000)]), tools=[{**TOOL, **mark}]).cache_read
    sizes = {"tools": tools, "system": 1003, "messages": 1000}
    assert first.cache_write_5m == sum(sizes.values())
    assert ask(**change).cache_read == sum(sizes[tier] for tier in kept)


def test_an_image_anywhere_loses_the_messages(api, block) -> None:
    image = {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}}
    api.usage(user([block(1000, "")]), system=[block(1000, "", "system")])
    usage = api.usage(user([block(1000), image, block(10, "")]), system=[block(1000, "", "system")])
    assert usage.cache_read == 1000


def test_stripped_thinking_loses_the_cache_at_the_next_plain_user_message(api, block) -> None:
    """September 2026: models before Opus 4.5 / Sonnet 4.6 keep the last turn's thinking only."""
    model = {"model": "claude-haiku-4-5", "thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 5000}
    thought = {"type": "thinking", "thinking": "hm " * 50, "signature": ""}
    call = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}}
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": [block(5000, "")]},
        {"role": "assistant", "content": [thought, call]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": [block(50, "")]}]},
    ]
    messages = api.engine.sign({**model, "messages": messages})
    round_ = api.usage(messages, **model)
    assert round_.cache_write_5m == round_.total_input
    later = [*messages, {"role": "assistant", "content": "Done."}]
    kept = api.usage([*later, {"role": "user", "content": [block(50, "")]}], **model)
    assert kept.cache_read == 5000  # from the first stripped block on, all is written again
    sonnet = {**model, "model": "claude-opus-4-5"}
    signed = api.engine.sign({**sonnet, "messages": messages})
    size = api.usage(signed, **sonnet).cache_write_5m
    again = [*signed, {"role": "assistant", "content": "Done."}, {"role": "user", "content": [block(50, "")]}]
    assert api.usage(again, **sonnet).cache_read == size


# -- automatic caching (August and September 2026) -------------------------------------------------


def test_automatic_caching_marks_the_last_block_and_moves_on(api, block) -> None:
    top = {"cache_control": {"type": "ephemeral"}}
    turns = user([block(1000)])
    assert api.usage(turns, **top).cache_write_5m == 1000
    turns += [{"role": "assistant", "content": "Fine."}, *user([block(200, None, "more")])]
    usage = api.usage(turns, **top)
    assert (usage.cache_read, usage.input) == (1000, 0)


def test_automatic_caching_takes_the_long_lifetime(api, block) -> None:
    assert api.usage(user([block(1000)]), cache_control={"type": "ephemeral", "ttl": "1h"}).cache_write_1h == 1000


def test_automatic_caching_with_the_same_explicit_marker_does_nothing_more(api, block) -> None:
    assert api.usage(user([block(1000, "5m")]), cache_control={"type": "ephemeral"}).cache_write_5m == 1000


def test_automatic_caching_walks_back_to_an_eligible_block(make_api, block) -> None:
    paused = Scripted([block(1000), {"type": "thinking", "thinking": "hm"}], stop_reason="pause_turn")
    api = make_api(script=lambda request: paused)
    first = api.post(user([block(10)]), max_tokens=5000)
    messages = [*user([block(10)]), {"role": "assistant", "content": first.result["content"]}]
    usage = api.usage(messages, cache_control={"type": "ephemeral"})
    assert usage.cache_write_5m == 1010
    assert usage.input > 0  # the thinking block, which cannot carry the breakpoint


def test_explicit_long_marks_may_stand_before_an_automatic_short_one(api, block) -> None:
    usage = api.usage(user([block(1000)]), system=[block(1000, "1h")], cache_control={"type": "ephemeral"})
    assert (usage.cache_write_1h, usage.cache_write_5m) == (1000, 1000)


# -- pre-warming (August 2026; the SDK's own docstring) --------------------------------------------


def test_a_zero_token_request_writes_and_says_nothing(api, block) -> None:
    request = user([block(1000, ""), block(4)])
    exchange = api.post(request, max_tokens=0)
    assert exchange.usage.cache_write_5m == 1000
    assert exchange.usage.output == 0
    assert exchange.result["content"] == []
    assert exchange.result["stop_reason"] == "max_tokens"
    assert exchange.result["usage"]["output_tokens"] == 0
    assert api.usage(user([block(1000, ""), block(9, None, "other")])).cache_read == 1000


# -- endpoints that differ -------------------------------------------------------------------------


def test_an_endpoint_that_caches_by_itself_ignores_markers(make_api, block) -> None:
    api = make_api(profile=profile_for("anything", "moonshot"))
    first = api.usage(user([block(1000), block(500, None, "a")]))
    assert (first.input, first.cache_write) == (1500, 0)
    second = api.usage(user([block(1000), block(700, "", "b")]))
    assert (second.cache_read, second.input) == (1000, 700)


def test_an_endpoint_without_counters_reports_the_whole_prompt_as_input(make_api, block) -> None:
    api = make_api(profile=replace(profile_for("claude-sonnet-5-5"), counters=False))
    exchange = api.post(user([block(1000, "")]))
    assert exchange.result["usage"] == {"input_tokens": 1000, "output_tokens": exchange.usage.output}


def test_core_and_engine_find_the_same_point(block) -> None:
    profile = profile_for("claude-sonnet-5-5")
    points = chain({"model": profile.name, "messages": marked(block, 40)}, profile)
    assert [point.position for point in points] == list(range(1, 41))
    alive = {points[14].digest}
    assert find(points, [33], alive.__contains__, 20) == 14
    assert find(points, [34], alive.__contains__, 20) is None
