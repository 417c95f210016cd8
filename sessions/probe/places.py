"""Where entries are found and which marks are taken: look-back, runs of tools, thinking, four marks, their order."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from sessions.probe.bench import Ask, Bench, Finding, Rule, Seen, Steps, Unclear, accepted, reads, user, written

_FARTHEST = 80
"""Positions to look back at most."""


def lookback(bench: Bench) -> Steps:
    prefix = yield from written(bench.ask("a prefix", bench.text(bench.size, "a", "5m")))
    expected = bench.documented.lookback
    far = yield from _finds(bench, prefix, expected)
    close = yield from _finds(bench, prefix, expected - 1)
    if close and not far:
        return Finding("agrees", f"found {expected - 1} positions back, not {expected}", {"lookback": expected})
    if far and not close:
        raise Unclear(f"found {expected} positions back, and not {expected - 1}")
    hit, miss = (expected, _FARTHEST) if far else (0, expected - 1)
    if far and (yield from _finds(bench, prefix, _FARTHEST)):
        return Finding("differs", f"found {_FARTHEST} positions back and more", {"lookback": _FARTHEST + 1})
    if not far and not (yield from _finds(bench, prefix, 0)):
        raise Unclear("the prefix that was just written cannot be read at its own place")
    while miss - hit > 1:
        middle = (hit + miss) // 2
        hit, miss = (middle, miss) if (yield from _finds(bench, prefix, middle)) else (hit, middle)
    return Finding("differs", f"found {hit} positions back, not {miss}", {"lookback": hit + 1})


def _finds(bench: Bench, prefix: Seen, distance: int) -> Generator[Ask, Seen, bool]:
    """Whether an entry that many positions before the mark is found. Every request has an end of its own."""
    base = {"type": "text", "text": prefix.ask.body["messages"][0]["content"][0]["text"]}
    between = [bench.short(f"{distance}-{number}") for number in range(distance)]
    blocks = [base, *between]
    blocks[-1] = {**blocks[-1], "cache_control": {"type": "ephemeral"}}
    seen = yield from accepted(bench.ask(f"marked {distance} positions behind it", *blocks))
    return reads(seen, prefix)


_TOOL = {"name": "look", "description": "Looks.", "input_schema": {"type": "object", "properties": {}}}


def tool_runs(bench: Bench) -> Steps:
    count = bench.known.lookback + 2
    if count > _FARTHEST:
        raise Unclear(f"it looks back over {bench.known.lookback} positions: the runs would have to be very long")
    base = bench.text(bench.size, "a")
    first = bench.ask("a prefix, with tools", {**base, "cache_control": {"type": "ephemeral"}}, tools=[_TOOL])
    prefix = yield from written(first)
    calls = [{"type": "tool_use", "id": f"toolu_{n:02}", "name": "look", "input": {}} for n in range(count)]
    results: list[dict[str, Any]] = [
        {"type": "tool_result", "tool_use_id": f"toolu_{n:02}", "content": "ok"} for n in range(count)
    ]
    results[-1]["cache_control"] = {"type": "ephemeral"}
    messages = [user(base), {"role": "assistant", "content": calls}, user(*results)]
    seen = yield from accepted(
        bench.ask(f"{count} parallel calls and their results behind it", tools=[_TOOL], messages=messages)
    )
    if reads(seen, prefix):
        return Finding("agrees", "a run of tool calls, or of results, is one position", {"collapses_tools": True})
    control = yield from accepted(Ask("the prefix again", first.body))
    if not reads(control, prefix):
        raise Unclear("the prefix was gone when it was looked for again")
    return Finding("differs", "tool calls and results count one by one", {"collapses_tools": False})


_QUESTION = "Is 2027 a prime number? Think it through step by step, then answer with one word."


def thinking(bench: Bench) -> Steps:
    facts = bench.documented
    if not facts.keeps_thinking:
        raise Unclear("this model drops earlier thinking from the prompt")
    asked: dict[str, Any] = (
        {"type": "adaptive"} if "adaptive" in facts.thinking_types else {"type": "enabled", "budget_tokens": 1024}
    )
    fields: dict[str, Any] = {"thinking": asked, "max_tokens": 2048}
    base = bench.text(bench.size, "a")
    start = user({**base, "cache_control": {"type": "ephemeral"}}, {"type": "text", "text": _QUESTION})
    first = yield from written(bench.ask("a question to think about", messages=[start], **fields))
    kinds = [str(block.get("type")) for block in first.content]
    if "thinking" not in kinds or first.message.get("stop_reason") == "max_tokens":
        raise Unclear(f"the model answered without thinking ({', '.join(kinds) or 'nothing'})")

    def behind(count: int, what: str) -> Ask:
        blocks = [bench.short(f"{count}-{number}") for number in range(count)]
        blocks[-1]["cache_control"] = {"type": "ephemeral"}
        reply = {"role": "assistant", "content": list(first.content)}
        question = user(base, {"type": "text", "text": _QUESTION})
        least = int(asked.get("budget_tokens", 0)) + 1
        return bench.ask(what, messages=[question, reply, user(*blocks)], thinking=asked, max_tokens=least)

    count = bench.known.lookback - 1 - len(kinds)
    if count < 2:
        raise Unclear(f"it looks back over {bench.known.lookback} positions only")
    seen = yield from accepted(behind(count, "one position too far, if thinking counts"))
    if reads(seen, first):
        return Finding("agrees", "thinking does not count as a position", {"counts_thinking": False})
    control = yield from accepted(behind(count - 1, "one position nearer"))
    if not reads(control, first):
        raise Unclear("the prefix was not found one position nearer either")
    return Finding("differs", "a thinking block counts as a position", {"counts_thinking": True})


def four_marks(bench: Bench) -> Steps:
    blocks = [bench.short(f"mark {number}", "5m") for number in range(5)]
    seen = yield bench.ask("five marks", *blocks)
    if seen.refused is None:
        return Finding("differs", "a fifth mark is accepted")
    four = yield bench.ask("four marks", *blocks[1:])
    if four.refused is not None:
        raise Unclear(f"four marks are refused too ({four.refused})")
    return Finding("agrees", "four marks are accepted, five are refused")


def order(bench: Bench) -> Steps:
    short, long_ = bench.short("short", "5m"), bench.short("long", "1h")
    seen = yield bench.ask("an hour behind 5 minutes", short, long_)
    if seen.refused is None:
        return Finding("differs", "an hour behind 5 minutes is accepted")
    right = yield bench.ask("5 minutes behind an hour", long_, short)
    if right.refused is not None:
        raise Unclear(f"the other order is refused too ({right.refused})")
    return Finding("agrees", "an hour behind 5 minutes is refused")


PLACES = (
    Rule("look-back", "an entry 19 positions back is found, 20 back is not", lookback, ("counters", "markers")),
    Rule(
        "tool runs", "a run of tool calls or results is one position", tool_runs, ("counters", "markers"),
        cautious={"collapses_tools": False},
    ),
    Rule("thinking", "a thinking block is no position (not documented)", thinking, ("counters", "markers")),
    Rule("four marks", "at most four marks", four_marks, ("markers",)),
    Rule("order of marks", "1h marks stand before 5m marks", order, ("markers", "1h")),
)  # fmt: skip
