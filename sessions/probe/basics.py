"""What everything else stands on: counters, what is cached unasked, markers, the minimum, lifetimes, zero tokens."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

from sessions.probe.bench import SHORT, Ask, Bench, Finding, Rule, Seen, Steps, Unclear, accepted, near, reads, written

_COUNTERS = ("cache_creation_input_tokens", "cache_read_input_tokens")
_LARGE = (4800, 9200)
"""Sizes to try where nothing of the documented size is written: above every minimum that is documented anywhere."""
_STEPS = (32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
_CLOSE = 1.15
"""The minimum is settled when what is cached is at most this many times what is not."""


def counters(bench: Bench) -> Steps:
    small = yield from accepted(bench.ask("a short prompt", bench.text(SHORT, "a")))
    large = yield from accepted(bench.ask("a long prompt", bench.text(1500, "b")))
    scale = _scale(small, large) or bench.scale
    told = [name for name in _COUNTERS if large.fields.get(name) is not None]
    if len(told) == len(_COUNTERS):
        return Finding("agrees", "cache reads and writes are counted", {"counters": True}, scale)
    if told:
        return Finding("differs", f"only {told[0]} is counted", {"counters": True}, scale)
    return Finding("differs", "no cache counter is reported", {"counters": False}, scale)


def _scale(small: Seen, large: Seen) -> tuple[float, float] | None:
    """Characters a token and tokens beside the text, from two prompts; `None` where their sizes make no sense."""
    lengths = [len(seen.ask.body["messages"][0]["content"][0]["text"]) for seen in (small, large)]
    tokens = [seen.usage.total_input for seen in (small, large)]
    if tokens[1] <= tokens[0] or lengths[1] <= lengths[0]:
        return None
    per_token = (lengths[1] - lengths[0]) / (tokens[1] - tokens[0])
    return per_token, max(0.0, tokens[0] - lengths[0] / per_token)


def unasked(bench: Bench) -> Steps:
    base = bench.text(2200, "a")
    first = yield from accepted(bench.ask("a prompt without a marker", base, bench.text(SHORT, "b")))
    second = yield from accepted(bench.ask("the same with another end", base, bench.text(SHORT, "c")))
    if second.usage.cache_read > 0.5 * (first.usage.total_input - SHORT):
        return Finding("differs", "prompts are cached without being marked", {"automatic": True})
    if bench.known.automatic:
        raise Unclear("the endpoint is known to cache by itself, and nothing was read")
    return Finding("agrees", "without a marker nothing is cached", {"automatic": False})


def markers(bench: Bench) -> Steps:
    sizes = [round(bench.documented.minimum_tokens * 1.15) + 64]
    sizes += [size for size in _LARGE if size > sizes[0]]
    whole, first = yield from _marked(bench, sizes[0])
    if first.refused is not None:
        yield from accepted(bench.ask("the same without the mark", whole))
        return Finding("differs", f"markers are refused ({first.refused})", _NO_MARKERS)
    if not bench.known.counters:
        # Nothing tells what a mark does; whoever reads them takes four at most.
        five = yield bench.ask("five marks", *(bench.short(f"mark {number}", "5m") for number in range(5)))
        if five.refused is None:
            return Finding("differs", "markers are not read: a fifth one is accepted, and none is counted", _NO_MARKERS)
        raise Unclear("markers are read; what they do is not counted")
    for size in sizes[1:]:
        if not first.cached and not bench.known.automatic:
            whole, first = yield from _marked(bench, size)
    second = yield from accepted(
        bench.ask("the same, a new mark behind it", whole, bench.text(SHORT, "b", "5m"), bench.text(SHORT, "c", "5m"))
    )
    if not first.usage.cache_write and not second.usage.cache_write:
        if bench.known.automatic and second.usage.cache_read:
            return Finding("differs", "markers are ignored: the endpoint caches by itself", _NO_MARKERS)
        return Finding("differs", f"markers do nothing, with up to {sizes[-1]:,} tokens", _NO_MARKERS)
    if not reads(second, first):
        raise Unclear(f"{second.usage.cache_read} tokens were read of {first.usage.cache_write} just written")
    found = {"markers": True, "minimum_tokens": max(bench.documented.minimum_tokens, _size_of(first, sizes))}
    third = yield from accepted(bench.ask("an unmarked place of it, marked now", {**whole, "cache_control": _5M}))
    if third.usage.cache_read:
        return Finding("differs", "marked prefixes are cached, and unmarked ones within them", found)
    return Finding("agrees", "a marked prefix is written once and read again, and nothing else", found)


_NO_MARKERS = {"markers": False, "parks": False}


def _size_of(seen: Seen, sizes: list[int]) -> int:
    """What surely can be cached: the size of what was, where the first size was not enough."""
    return seen.usage.total_input if seen.usage.total_input > 1.5 * sizes[0] else 0


def _marked(bench: Bench, size: int) -> Generator[Ask, Seen, tuple[dict[str, Any], Seen]]:
    """A block of that size and a marked one behind it: the block, and what was seen."""
    whole = bench.text(size, f"a{size}")
    ask = bench.ask(f"about {size:,} tokens, marked", whole, bench.text(SHORT, "b", "5m"))
    return whole, (yield ask)


_5M = {"type": "ephemeral"}


def minimum(bench: Bench) -> Steps:
    least = bench.documented.minimum_tokens
    missed, cached = 0, 0
    targets = [round(least * 1.05) + 4, round(least * 0.95) - 4]
    for target in targets:
        missed, cached = _narrowed((yield from _sized(bench, target)), missed, cached)
    for target in _further(least, missed, cached):
        if missed and cached:
            break
        missed, cached = _narrowed((yield from _sized(bench, target)), missed, cached)
    if not cached:
        raise Unclear(f"nothing was written with up to {missed:,} tokens")
    while missed and cached > _CLOSE * missed:
        before = (missed, cached)
        missed, cached = _narrowed((yield from _sized(bench, round((missed + cached) / 2))), missed, cached)
        if (missed, cached) == before:
            raise Unclear(
                f"{missed:,} tokens were not cached, {cached:,} were, and what is between is not the same twice"
            )
    if missed < least <= cached:
        return Finding("agrees", f"{cached:,} tokens are cached, {missed:,} are not", {"minimum_tokens": least})
    found = _round_number(missed, cached)
    sentence = f"the minimum is about {found:,} tokens, not {least:,}: {cached:,} are cached, {missed:,} are not"
    return Finding("differs", sentence, {"minimum_tokens": found})


def _sized(bench: Bench, tokens: int) -> Generator[Ask, Seen, Seen]:
    return (yield from accepted(bench.ask(f"about {tokens:,} tokens, marked", bench.text(tokens, f"{tokens}", "5m"))))


def _narrowed(seen: Seen, missed: int, cached: int) -> tuple[int, int]:
    """The largest prefix that was not cached, and the smallest that was."""
    size = seen.usage.total_input
    if seen.cached:
        cached = min(size, cached or size)
    else:
        missed = max(size, missed)
    if cached and missed >= cached:
        raise Unclear(f"{cached:,} tokens were cached and {missed:,} were not")
    return missed, cached


def _further(least: int, missed: int, cached: int) -> Iterator[int]:
    """Where to look on: upwards where nothing was cached, downwards where everything was."""
    if not cached:
        yield from (round(step * 1.06) for step in _STEPS if step > least)
    elif not missed:
        yield from (round(step * 0.94) for step in reversed(_STEPS) if step < least)


def _round_number(missed: int, cached: int) -> int:
    """The roundest number between what is not cached and what is; what is cached where there is none."""
    for unit in (4096, 2048, 1024, 512, 256, 128, 64):
        if (found := cached // unit * unit) > missed:
            return found
    return cached


def ttl(bench: Bench) -> Steps:
    seen = yield bench.ask("a prefix marked for an hour", bench.text(bench.size, "a", "1h"))
    if seen.refused is not None:
        return Finding("differs", f"the field ttl is refused ({seen.refused})", {"ttls": ("5m",), "parks": False})
    odd = yield bench.ask("a lifetime that does not exist", bench.text(SHORT, "b", "90m"))
    knows = "" if odd.refused is not None else "; a lifetime that does not exist is accepted too"
    usage = seen.usage
    if usage.cache_write_1h and not usage.cache_write_5m:
        return Finding("agrees", f"an hour is written and billed as such{knows}", {"ttls": ("5m", "1h")})
    if not bench.known.counters and odd.refused is not None:
        raise Unclear("an hour is accepted and other lifetimes are not; what it is billed is not counted")
    split = seen.fields.get("cache_creation")
    if usage.cache_write and split is None:
        raise Unclear("an hour is accepted; the counters do not tell lifetimes apart")
    return Finding("differs", f"an hour is accepted and not written as such{knows}", {"ttls": ("5m",), "parks": False})


def zero(bench: Bench) -> Steps:
    prefix = bench.text(bench.size, "a")
    marked = {**prefix, "cache_control": _5M}
    seen = yield bench.ask("max_tokens 0", marked, bench.short("go"), max_tokens=0)
    if seen.refused is not None:
        one = yield from accepted(bench.ask("max_tokens 1", marked, bench.short("go")))
        # Without marks it caches by itself, if at all: one token then warms it as any other answer does.
        warms = {"prewarms": True} if one.usage.cache_write or not bench.known.markers else {}
        return Finding("differs", f"zero tokens are refused ({seen.refused})", {**warms, "prewarm_max_tokens": 1})
    if seen.content or seen.usage.output:
        return Finding("differs", "zero tokens are accepted and answered all the same", {"prewarm_max_tokens": 1})
    if not bench.known.counters:
        raise Unclear("zero tokens are accepted; whether they write is not counted")
    after = yield from accepted(bench.ask("an ordinary request behind it", marked, bench.short("on", "5m")))
    if not reads(after, seen) and after.usage.cache_read < 0.8 * bench.size:
        return Finding("differs", "zero tokens are accepted, and nothing can be read behind them", {"prewarms": False})
    allowed = yield from _allowed(bench)
    works = {"prewarms": True, "prewarm_max_tokens": 0}
    if allowed:
        return Finding("differs", f"zero tokens write the prefix, also with {' and '.join(allowed)}", works)
    return Finding("agrees", "zero tokens write the prefix, and are refused where they should be", works)


def _allowed(bench: Bench) -> Generator[Ask, Seen, list[str]]:
    """Which of the settings that the documentation excludes go with zero tokens all the same."""
    tool = {"name": "look", "description": "Looks.", "input_schema": {"type": "object", "properties": {}}}
    schema = {"type": "object", "properties": {}, "additionalProperties": False}
    tries: dict[str, dict[str, Any]] = {
        "stream": {"stream": True},
        "output_config.format": {"output_config": {"format": {"type": "json_schema", "schema": schema}}},
    }
    if bench.documented.forced_tool_choice:
        tries["tool_choice any"] = {"tools": [tool], "tool_choice": {"type": "any"}}
    if "enabled" in bench.documented.thinking_types:
        tries["thinking enabled"] = {"thinking": {"type": "enabled", "budget_tokens": 1024}}
    found = []
    for name, fields in tries.items():
        seen = yield bench.ask(f"max_tokens 0 with {name}", bench.short("go"), max_tokens=0, **fields)
        found += [name] if seen.refused is None else []
    return found


def mixed(bench: Bench) -> Steps:
    base = bench.text(bench.size, "a")
    first = yield from written(bench.ask("a prefix, 5 minutes", {**base, "cache_control": _5M}))
    behind = bench.text(240, "b", "1h"), bench.text(480, "c", "5m"), bench.text(SHORT, "d")
    second = yield from accepted(bench.ask("behind it an hour, then 5 minutes", base, *behind))
    usage, known = second.usage, first.usage.cache_write
    shares = (usage.cache_read, known), (usage.cache_write_1h, 240), (usage.cache_write_5m, 480), (usage.input, SHORT)
    if all(near(tokens, expected) for tokens, expected in shares):
        return Finding("agrees", f"read {usage.cache_read:,}, an hour only for the {usage.cache_write_1h} behind it")
    if not usage.cache_read:
        raise Unclear(f"the prefix of {known:,} tokens just written was not read")
    sentence = (
        f"read {usage.cache_read:,}, 1h {usage.cache_write_1h:,}, 5m {usage.cache_write_5m:,}, plain {usage.input:,}"
    )
    return Finding("differs", f"{sentence}; expected {known:,}, 240, 480 and {SHORT}", {"parks": False})


FIRST = (
    Rule("counters", "usage counts cache reads and writes", counters),
    Rule("unasked", "without a marker nothing is cached", unasked, ("counters",)),
    Rule("markers", "a marked prefix is written and can be read", markers),
    Rule("minimum", "the least that is cached", minimum, ("counters", "markers")),
    Rule("ttl", "ttl: 1h writes for an hour", ttl, ("markers",)),
    Rule("zero tokens", "max_tokens 0 writes and answers nothing", zero),
)
"""In this order: each uses what the ones before have found."""
MIXED = Rule(
    "mixed lifetimes", "read A, 1h write B - A, 5m write C - B", mixed, ("counters", "markers", "1h"),
    cautious={"parks": False},
)  # fmt: skip
