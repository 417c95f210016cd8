"""What must wait for a lifetime to pass: when entries end, what a read renews, whether a parked entry lives."""

from __future__ import annotations

from typing import Any

from sessions.probe.bench import Bench, Finding, Need, Rule, Steps, Unclear, accepted, mark, reads, written

RENEW = 200.0
"""Seconds after its writing at which a 5-minute entry is read."""
LATER = 375.0
"""Seconds after its writing at which it is looked for: past its own end and short of the renewed one's."""
ENDS = 300.0
"""Seconds that a 5-minute entry lives."""
_FIVE: dict[str, Any] = {"cache_control": mark("5m")}
_HOUR: dict[str, Any] = {"cache_control": mark("1h")}


def five_minutes(bench: Bench) -> Steps:
    block = bench.text(bench.size, "a", "5m")
    first = yield from written(bench.ask("a prefix, 5 minutes", block))
    seen = yield from accepted(bench.ask("the same later", block, at=LATER))
    if reads(seen, first):
        return Finding("differs", f"a 5-minute entry was still there after {seen.started - first.started:.0f} s")
    return Finding("agrees", f"a 5-minute entry was gone after {seen.started - first.started:.0f} s")


def one_hour(bench: Bench) -> Steps:
    block, spare = (bench.text(bench.size, word, "1h") for word in ("a", "b"))
    first = yield from written(bench.ask("a prefix, an hour", block))
    second = yield from written(bench.ask("another one", spare))
    seen = yield from accepted(bench.ask("the first later", block, at=LATER))
    if reads(seen, first):
        return Finding("agrees", f"it was there after {seen.started - first.started:.0f} s", {"ttls": ("5m", "1h")})
    other = yield from accepted(bench.ask("the other later", spare))
    if reads(other, second):
        raise Unclear("of two one-hour entries one was gone after six minutes")
    return Finding("differs", "one-hour entries end with the others", {"ttls": ("5m",), "parks": False})


def renewal(bench: Bench) -> Steps:
    block = bench.text(bench.size, "a", "5m")
    first = yield from written(bench.ask("a prefix, 5 minutes", block))
    read = yield from accepted(bench.ask("a read in between", block, at=RENEW))
    if not reads(read, first) or read.started - first.started >= ENDS:
        raise Unclear("the prefix could not be read in between")
    seen = yield from accepted(bench.ask("a read later", block, at=LATER))
    if seen.started - read.started >= ENDS:
        raise Unclear("the last read came too late")
    if reads(seen, first):
        return Finding("agrees", "a read renews the entry")
    return Finding("differs", "a read does not renew the entry: it ended five minutes after it was written")


def parked(bench: Bench) -> Steps:
    """Two prefixes are parked: one entry may be evicted, hardly two."""
    found = []
    for word in ("a", "b"):
        base, end = bench.text(bench.size, word), bench.text(120, f"{word} end")
        first = yield from written(bench.ask("a prefix, 5 minutes", base | _FIVE))
        placeholder, most = bench.short("go"), bench.known.prewarm_max_tokens
        park = yield from accepted(bench.ask("parked", base, end | _HOUR, placeholder, max_tokens=most))
        if not reads(park, first) or not park.usage.cache_write_1h:
            raise Unclear(f"the park read {park.usage.cache_read} and wrote {park.usage.cache_write_1h} for an hour")
        found.append((base, end, park))
    base, end, park = found[0]
    seen = yield from accepted(bench.ask("the parked prefix later", base, end | _FIVE, at=LATER))
    if reads(seen, park):
        below = yield from accepted(bench.ask("the prefix below it, alone", base | _FIVE))
        if below.usage.cache_read:
            raise Unclear("the 5-minute entry below it was still there too")
        after = seen.started - park.started
        return Finding(
            "agrees", f"a parked entry was there after {after:.0f} s, the one below it gone", {"parks": True}
        )
    base, end, park = found[1]
    seen = yield from accepted(bench.ask("the second one later", base, end | _FIVE))
    if reads(seen, park):
        raise Unclear("of two parked entries one was gone")
    return Finding("differs", "parked entries end with the 5-minute entry below them", {"parks": False})


def another_lifetime(bench: Bench) -> Steps:
    block = bench.text(bench.size, "a")
    five, hour = (
        {**block, "cache_control": mark} for mark in ({"type": "ephemeral"}, {"type": "ephemeral", "ttl": "1h"})
    )
    first = yield from written(bench.ask("a prefix, 5 minutes", five))
    again = yield from accepted(bench.ask("the same for an hour", hour))
    if again.usage.cache_write_1h:
        return Finding("differs", "asking for an hour writes the live entry again, and bills it")
    if not reads(again, first):
        raise Unclear("the entry just written could not be read")
    seen = yield from accepted(bench.ask("the same later", five, at=LATER))
    if seen.started - again.started < ENDS:
        raise Unclear("the last read came too early")
    if reads(seen, first):
        return Finding("differs", "asking for an hour prolongs a live 5-minute entry, and bills nothing")
    return Finding("agrees", "asking for an hour leaves a live 5-minute entry as it is")


def shorter(bench: Bench) -> Steps:
    base, end = bench.text(bench.size, "a", "5m"), bench.text(240, "b", "5m")
    first = yield from written(bench.ask("two marks", base, end))
    read = yield from accepted(bench.ask("both read in between", base, end, at=RENEW))
    if not reads(read, first):
        raise Unclear("the prefix could not be read in between")
    seen = yield from accepted(bench.ask("the shorter one later", base, at=LATER))
    if seen.usage.cache_read:
        return Finding("agrees", "reading a prefix also renews the shorter ones that are marked in it")
    return Finding("differs", "reading a prefix renews that one only")


_CACHE: tuple[Need, ...] = ("counters", "markers")
_HOURS: tuple[Need, ...] = (*_CACHE, "1h")

LIFETIMES = (
    Rule("five minutes", "a 5-minute entry ends after 5 minutes", five_minutes, _CACHE, waits=True),
    Rule("one hour", "a 1-hour entry outlives 5 minutes", one_hour, _HOURS, waits=True),
    Rule("renewal", "a read renews an entry", renewal, _CACHE, waits=True),
    Rule("parks", "a 1h entry on top of a 5m entry outlives it (inferred)", parked, _HOURS, True, {"parks": False}),
    Rule("another lifetime", "a 1h mark leaves a live 5m entry alone (not documented)", another_lifetime, _HOURS, True),
    Rule("shorter prefixes", "a read renews marked shorter prefixes too (not documented)", shorter, _CACHE, True),
)
"""They begin together and wait together."""
