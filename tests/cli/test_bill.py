"""The bill's arithmetic must be what a whole engine charges for the same requests with a top-level `cache_control`."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import pytest

from sessions.cli.demo.bill import Sent, priced, top_level, uncached
from sessions.cli.terminal import shares
from sessions.core.cache import blocks, without_marks
from sessions.core.profiles import profile_for
from sessions.core.usage import Usage
from sessions.simulator import Engine, filler

MODEL = "claude-sonnet-5-5"
HEADERS = {"x-api-key": "simulated", "anthropic-version": "2023-06-01"}


def ask(engine: Engine, body: Mapping[str, Any], at: float) -> Usage:
    """Sends a request that starts at `at` and takes ten seconds; the answer begins after one."""
    exchange = engine.receive(body, HEADERS, at)
    assert exchange.error is None, exchange.error
    engine.answer(exchange, "An answer.")
    engine.begin(exchange, at + 1)
    engine.end(exchange, at + 10)
    assert exchange.usage is not None
    return exchange.usage


def conversation(turns: int) -> list[dict[str, Any]]:
    """The bodies of a growing conversation, its tail marked."""
    messages: list[dict[str, Any]] = []
    bodies = []
    for turn in range(turns):
        words: dict[str, Any] = {"type": "text", "text": filler(40, f"words{turn}")}
        sent = [*messages, {"role": "user", "content": [{**words, "cache_control": {"type": "ephemeral"}}]}]
        bodies.append(
            {
                "model": MODEL,
                "max_tokens": 100,
                "system": [{"type": "text", "text": filler(700), "cache_control": {"type": "ephemeral"}}],
                "messages": sent,
            }
        )
        messages += [{"role": "user", "content": [words]}, {"role": "assistant", "content": "An answer."}]
    return bodies


def automatic(body: Mapping[str, Any]) -> dict[str, Any]:
    bare = {
        **body,
        "system": [without_marks(block) for block in body["system"]],
        "cache_control": {"type": "ephemeral"},
    }
    bare["messages"] = [
        m if isinstance(m["content"], str) else {**m, "content": [without_marks(block) for block in m["content"]]}
        for m in body["messages"]
    ]
    assert all("cache_control" not in block for _, block in blocks(bare))
    return bare


@pytest.mark.parametrize("gaps", [(20, 20, 20), (299, 299, 299), (20, 301, 20), (400, 400, 400)])
def test_top_level_caching_is_billed_as_the_engine_bills_it(gaps: tuple[float, ...]) -> None:
    ours, theirs = Engine(), Engine()
    at, sent, expected = 1_000_000.0, [], []
    for body, gap in zip(conversation(len(gaps) + 1), (*gaps, 0), strict=True):
        usage = ask(ours, body, at)
        sent.append(Sent(at, at + 1, body, usage))
        expected.append(ask(theirs, automatic(body), at))
        at += gap
    assert top_level(sent, profile_for(MODEL)) == expected


def test_what_is_written_can_be_read_once_the_answer_begins() -> None:
    engine = Engine()
    body = conversation(1)[0]
    first, again = ask(engine, body, 0.0), ask(engine, body, 0.5)
    sent = [Sent(0.0, 1.0, body, first), Sent(0.5, 1.5, body, again), Sent(2.0, 3.0, body, again)]
    total = first.total_input
    assert [usage.cache_read for usage in top_level(sent, profile_for(MODEL))] == [0, 0, total]


def test_a_prompt_below_the_minimum_is_not_cached() -> None:
    body = {"model": MODEL, "max_tokens": 10, "messages": [{"role": "user", "content": "Hello"}]}
    usage = ask(Engine(), body, 0.0)
    assert top_level([Sent(0.0, 1.0, body, usage)], profile_for(MODEL)) == [usage]


def test_uncached_is_every_token_at_the_plain_price() -> None:
    sent = [Sent(0.0, 1.0, {}, Usage(1, 20, 300, 4000, 7))]
    assert uncached(sent) == [Usage(input=4321, output=7)]


def test_a_bill_with_an_unknown_price_is_unknown() -> None:
    assert priced([Usage(input=1_000_000)], profile_for(MODEL)) == Decimal(2)
    assert priced([Usage(input=1)], profile_for("claude-mythos-preview")) is None


@pytest.mark.parametrize(
    ("amounts", "cells"),
    [([0, 0, 0], [0, 0, 0]), ([100, 0, 0], [10, 0, 0]), ([1, 1, 998], [1, 1, 8]), ([500, 500, 0], [5, 5, 0])],
)
def test_every_part_of_a_prompt_can_be_seen_in_its_bar(amounts: list[int], cells: list[int]) -> None:
    assert shares(amounts, 10) == cells
