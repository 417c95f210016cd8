"""Who shares what and when, and what else an endpoint takes: concurrency, models, automatic caching, diagnostics."""

from __future__ import annotations

from typing import Any

from sessions.probe.bench import SHORT, Ask, Bench, Finding, Rule, Steps, Unclear, accepted, mark, reads, user, written

_LONG_ANSWER = "Count from one to sixty in words."


def at_once(bench: Bench) -> Steps:
    one = bench.ask("two equal requests at once", bench.text(bench.size, "a", "5m"))
    seen = yield Ask(one.what, one.body, during=Ask("the second of two at once", one.body), together=True)
    other = seen.during
    if seen.refused is not None or other is None or other.refused is not None:
        raise Unclear("the requests were refused")
    if seen.usage.cache_write and other.usage.cache_write:
        return Finding("agrees", "both wrote the prefix")
    if seen.usage.cache_read or other.usage.cache_read:
        return Finding("differs", "one of them read what the other one was writing")
    raise Unclear(f"written {seen.usage.cache_write} and {other.usage.cache_write}")


def first_event(bench: Bench) -> Steps:
    block = bench.text(bench.size, "a", "5m")
    follower = bench.ask("the same at its first event", block, {"type": "text", "text": "Say yes."})
    asked = bench.ask("a streamed answer", block, {"type": "text", "text": _LONG_ANSWER}, max_tokens=160)
    seen = yield Ask(asked.what, asked.body, during=follower)
    other = seen.during
    if seen.refused is not None or other is None or other.refused is not None:
        raise Unclear("the requests were refused")
    if not seen.usage.cache_write:
        raise Unclear("the first one wrote nothing")
    if reads(other, seen):
        return Finding("agrees", "the second one read what the first one had written, while it was still answering")
    later = yield from accepted(bench.ask("the same at its end", block))
    if not reads(later, seen):
        raise Unclear("the prefix was not there afterwards either")
    return Finding("differs", "the prefix can only be read once the first answer has ended")


def models(bench: Bench) -> Steps:
    if bench.other is None:
        raise Unclear("no other model was named (--other-model)")
    ask = bench.ask("a prefix", bench.text(bench.size, "a", "5m"))
    first = yield from written(ask)
    seen = yield from accepted(Ask(f"the same of {bench.other}", {**ask.body, "model": bench.other}))
    if seen.usage.cache_read:
        return Finding("differs", f"{bench.other} read {seen.usage.cache_read:,} tokens that {bench.model} had written")
    control = yield from accepted(Ask("the same again", ask.body))
    if not reads(control, first):
        raise Unclear("the prefix was gone when it was looked for again")
    return Finding("agrees", f"{bench.other} does not read what {bench.model} has written")


def top_level(bench: Bench) -> Steps:
    start = [user(bench.text(bench.size, "a"))]
    top: dict[str, Any] = {"cache_control": mark("5m")}
    first = yield bench.ask("cache_control at the top level", messages=start, **top)
    if first.refused is not None:
        return Finding("differs", f"it is refused ({first.refused})")
    turn = [{"role": "assistant", "content": "Fine."}, user(bench.text(SHORT, "b"))]
    second = yield from accepted(bench.ask("the next turn", messages=[*start, *turn], **top))
    if not first.usage.cache_write:
        return Finding("differs", "it writes nothing")
    if not reads(second, first) or not second.usage.cache_write:
        raise Unclear(f"the next turn read {second.usage.cache_read} and wrote {second.usage.cache_write}")
    return Finding("agrees", "it marks the last block, and moves on with the conversation")


def diagnostics(bench: Bench) -> Steps:
    block = bench.text(bench.size, "a", "5m")
    first = yield bench.ask("diagnostics asked for", block, system="One.", diagnostics={"previous_message_id": None})
    if first.refused is not None:
        return Finding("differs", f"the field is refused ({first.refused})", {"diagnostics": False})
    asked = {"previous_message_id": first.message.get("id")}
    second = yield from accepted(bench.ask("with another system", block, system="Two.", diagnostics=asked))
    told = second.message.get("diagnostics")
    if not told:
        return Finding("differs", "the field is taken and nothing is told", {"diagnostics": False})
    reason = told.get("cache_miss_reason") if isinstance(told, dict) else None
    if reason is None:
        raise Unclear("the comparison was still pending")
    kind = reason.get("type") if isinstance(reason, dict) else reason
    if kind != "system_changed":
        raise Unclear(f"the reason was {kind!r} where the system prompt had changed")
    return Finding("agrees", "a changed system prompt is told", {"diagnostics": True})


def system_messages(bench: Bench) -> Steps:
    messages = [user(bench.short("Say yes")), {"role": "system", "content": [bench.short("Be brief")]}]
    seen = yield bench.ask("a system message behind the user's", messages=messages)
    taken, expected = seen.refused is None, bench.documented.system_messages
    sentence = "taken" if taken else f"refused ({seen.refused})"
    return Finding("agrees" if taken == expected else "differs", sentence, {"system_messages": taken})


APART = (
    Rule("at once", "equal requests at once all write", at_once, ("counters", "markers")),
    Rule("first event", "an entry can be read once the answer begins", first_event, ("counters", "markers")),
    Rule("models", "each model has a cache of its own", models, ("counters", "markers")),
    Rule("top level", "a top-level cache_control follows the conversation", top_level, ("counters",)),
    Rule("diagnostics", "a miss is explained when asked", diagnostics),
    Rule("system messages", "role system inside messages, as the model's page says", system_messages),
)
