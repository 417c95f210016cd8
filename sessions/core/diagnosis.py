"""Whether a call lost cached tokens, and why: judged against what the calls before it on its chain had left behind.

What a call left is what it read and wrote. The call after it should read that much. Where it read less, the first
place where the two prompts differ is the reason; where they do not differ, time, reach or the endpoint itself is. The
API's own `cache_miss_reason` is taken where it names one (diagnostics page, September 2026).
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from decimal import Decimal
from typing import Any

from sessions.core.cache import SECONDS, find
from sessions.core.differences import Cause, Difference, first_difference
from sessions.core.prices import cost
from sessions.core.profiles import Ttl
from sessions.core.prompt import Prompt
from sessions.core.usage import Usage

KEPT = 20
"""Calls that are remembered: any of them may be the one that a later call is judged against."""
_SLACK = 5.0
"""Seconds by which the API's reckoning of a start may differ from ours."""
_BLOCK = 128
"""Tokens of the largest block in which compatible engines cache: what is left over at the end of a prefix is never
read."""
_NOISE_TOKENS, _NOISE_SHARE = 32, 0.01
"""A smaller loss than this is no miss: sizes may be rounded."""
_SURELY = 1.25
"""A prefix this many times the minimum should have been cached, however its size was estimated."""
_CONCLUSIVE: dict[str, Cause] = {
    "model_changed": "model_changed",
    "tools_changed": "tools_changed",
    "system_changed": "system_changed",
    "messages_changed": "messages_changed",
}


@dataclass(frozen=True, slots=True)
class Miss:
    """Why a call read less of the cache than the calls before it had left there.

    `sentence` says what happened and what to change; it holds no words of the conversation. `tokens`: how many were
    billed again. `cost`: USD above what reading them would have cost, `None` where no price is published. `place`,
    `before` and `after`: where the prompt differs, as a path in the request, and short excerpts of it.
    """

    cause: str
    sentence: str
    tokens: int = 0
    cost: Decimal | None = None
    place: str | None = None
    before: str | None = None
    after: str | None = None

    def to_json(self) -> str:
        """The text that is stored."""
        values = {name: value for name, value in asdict(self).items() if value is not None}
        return json.dumps(values, ensure_ascii=False, default=str)

    @classmethod
    def from_json(cls, text: str) -> Miss:
        """Reads what `to_json` wrote."""
        values = json.loads(text)
        price = values.get("cost")
        return cls(**{**values, "cost": None if price is None else Decimal(price)})


@dataclass(frozen=True, slots=True)
class Past:
    """What a call that reached the model left in the cache. Times are seconds since the epoch.

    `readable`: when its response began. `covered`: tokens that it read and wrote; `hoped`: that its plan expected to.
    `deepest`: the last point that it marked, with the lifetime `ttl` that its entry has since `started`. `settings`:
    the digest of the settings it was made with. `entry` and `turn` as in the ledger.
    """

    id: str
    kind: str
    started: float
    readable: float
    covered: int
    hoped: int
    deepest: str
    ttl: Ttl
    entry: str | None = None
    turn: str | None = None
    settings: str | None = None

    @property
    def until(self) -> float:
        """When what it left lapses, unless it is read before."""
        return self.started + SECONDS[self.ttl]


@dataclass(slots=True)
class Trail:
    """The newest calls of a session, in the order they were learnt."""

    calls: deque[Past] = field(default_factory=lambda: deque(maxlen=KEPT))

    def add(self, call: Past, usage: Usage) -> None:
        """Takes in a finished call, once. What it only read keeps the lifetime it was written with."""
        if any(one.id == call.id for one in self.calls):
            return
        if not usage.cache_write:
            known = next((one.ttl for one in reversed(self.calls) if one.deepest == call.deepest), call.ttl)
            call = call if known == call.ttl else replace(call, ttl=known)
        self.calls.append(call)

    def before(self, prompt: Prompt, started: float, is_on_chain: Callable[[str | None], bool]) -> Past | None:
        """The call that one with this prompt, which started then, is judged against; `None` where there is none.

        That is the newest one on the chain, or one of those whose prompt this one begins with and that are still alive,
        if it left more.
        """
        ready = [one for one in reversed(self.calls) if one.readable <= started]
        newest = next((one for one in ready if is_on_chain(one.entry)), None)
        same = [one for one in ready if one.deepest in prompt.index and started < one.until]
        return max([*same, *([newest] if newest else [])], key=lambda one: one.covered, default=None)


@dataclass(frozen=True, slots=True)
class Asked:
    """The call that is judged: its prompt, the points it marked, what it was billed. Times are seconds since the epoch.

    `latest`: when the session's newest call before it started. `reason`: what the API's diagnostics say, as they came.
    `edited`: the API cleared parts of the context. `beside`: the points of each call that was under way, and without an
    answer yet, when this one started.
    """

    prompt: Prompt
    points: tuple[str, ...]
    usage: Usage
    started: float
    first_event: float
    turn: str | None = None
    latest: float = 0.0
    reason: str | None = None
    edited: bool = False
    beside: tuple[tuple[str, ...], ...] = ()


def diagnose(asked: Asked, past: Past | None, earlier: Callable[[Past], Prompt | None]) -> Miss | None:
    """The miss of a call, or `None`. `earlier` gives the prompt of a past call, where its settings are known.

    An endpoint that reports no counters misses nothing; nor does the first call of a session.
    """
    if not asked.usage.counters:
        return None
    if asked.prompt.profile.caches_unasked:
        past = None  # it promises nothing of what it keeps
    if past is not None and past.covered:
        left = min(past.covered, _asked_for(asked, past))
        lost = left - asked.usage.cache_read
        if lost > max(_NOISE_TOKENS, left * _NOISE_SHARE):
            return _priced(asked, lost, _why(asked, past, earlier))
    elif past is not None and _was_refused(asked, past):
        return _priced(asked, past.hoped, _below(asked, past))
    twice = _written_twice(asked)
    return _priced(asked, twice, _CONCURRENT) if twice else None


def _asked_for(asked: Asked, past: Past) -> int:
    """Tokens that the call could have read: no more than up to its last mark, where what was left reaches further."""
    prompt, usage = asked.prompt, asked.usage
    at = prompt.index.get(past.deepest)
    marked = max((prompt.index.get(point, -1) for point in asked.points), default=-1)
    return usage.total_input if at is None or at <= marked else usage.cache_read + usage.cache_write


@dataclass(frozen=True, slots=True)
class _Why:
    """A reason in words, and the place where the prompt differs if it does."""

    cause: Cause
    what: str
    advice: str
    place: str | None = None
    before: str | None = None
    after: str | None = None


_CONCURRENT = _Why(
    "concurrent_write",
    "another call was writing the same prefix when this one started, and an entry can be read only once the response "
    "that writes it has begun",
    "Send one call first, or leave it to the gate (SessionManager(warmup=True), map()).",
)


def _priced(asked: Asked, tokens: int, why: _Why) -> Miss:
    usage, prompt = asked.usage, asked.prompt
    as_sent, as_read = (
        cost(one, prompt.profile, prompt.settings.params) for one in (usage, _had_it_read(usage, tokens))
    )
    price = None if as_sent is None or as_read is None else as_sent - as_read
    sentence = f"{tokens:,} cached tokens were billed again: {why.what}. {why.advice}"
    return Miss(
        cause=why.cause,
        sentence=sentence,
        tokens=tokens,
        cost=price,
        place=why.place,
        before=why.before,
        after=why.after,
    )


def _had_it_read(usage: Usage, tokens: int) -> Usage:
    """The usage, had these tokens been read: they stand right behind what was read, 1h writes first (billing rule)."""
    from_1h = min(tokens, usage.cache_write_1h)
    from_5m = min(tokens - from_1h, usage.cache_write_5m)
    plain = min(tokens - from_1h - from_5m, usage.input)
    return replace(
        usage,
        cache_read=usage.cache_read + from_1h + from_5m + plain,
        cache_write_1h=usage.cache_write_1h - from_1h,
        cache_write_5m=usage.cache_write_5m - from_5m,
        input=usage.input - plain,
    )


def _why(asked: Asked, past: Past, earlier: Callable[[Past], Prompt | None]) -> _Why:
    difference = None if past.deepest in asked.prompt.index else _difference(asked, past, earlier)
    stated = _CONCLUSIVE.get(asked.reason or "")
    if stated and (difference is None or difference.cause not in (stated, "thinking_stripped")):
        return _stated(stated)
    if difference is not None:
        late = " (its lifetime had passed as well)" if _has_lapsed(asked, past) else ""
        return _Why(
            difference.cause, difference.what + late, difference.advice, difference.place, difference.before,
            difference.after,
        )  # fmt: skip
    if _has_lapsed(asked, past):
        return _expired(asked, past)
    if asked.edited:
        return _Why(
            "messages_changed",
            "the API's context editing cleared earlier parts of the conversation",
            "Clear seldom and much at a time: raise clear_at_least in context_management.",
        )
    return _out_of_reach(asked, past) or _evicted(asked, past)


def _difference(asked: Asked, past: Past, earlier: Callable[[Past], Prompt | None]) -> Difference | None:
    old = earlier(past)
    if old is None:
        what = "the settings of the call before, which are not known any more, were other ones"
        return Difference("system_changed", "", what, "", "", "Keep what stands before the messages the same.")
    if (found := first_difference(old, asked.prompt)) is not None:
        return found
    what = "the same prompt was sent to another endpoint or workspace, which has a cache of its own"
    return Difference("model_changed", "endpoint", what, "", "", "Let the workers of a session share one endpoint.")


_STATED = {
    "model_changed": "model or speed differ from the call before",
    "tools_changed": "the tools differ from those of the call before",
    "system_changed": "the system prompt differs from that of the call before",
    "messages_changed": "earlier messages differ from those of the call before",
}


def _stated(cause: Cause) -> _Why:
    what = f"by the API's own comparison, {_STATED[cause]}"
    return _Why(cause, what, "What this process sent is the same: look for something that edits requests on their way.")


def _has_lapsed(asked: Asked, past: Past) -> bool:
    return max(asked.started + _SLACK, asked.first_event) >= past.until


def _expired(asked: Asked, past: Past) -> _Why:
    away = asked.started - past.started
    what = f"{_who_waited(asked, past)} {duration(away)} (from the start of one request to the start of the next), "
    what += f"and the entry lived for {duration(SECONDS[past.ttl])}"
    if away < SECONDS["1h"] and past.ttl == "5m" and "1h" in asked.prompt.profile.ttls:
        advice = (
            f"A 1h entry would have kept it: Fixed('1h'), a park, or expected_gap={round(away)} on the turn before."
        )
    elif away < SECONDS["1h"]:
        advice = "Only a refresh while idle would have kept it: SessionManager(tend=True)."
    else:
        advice = "No lifetime is that long: only refreshing it all the while would have kept it, which seldom pays."
    return _Why("expired", what, advice)


def _who_waited(asked: Asked, past: Past) -> str:
    if asked.turn is not None and asked.turn == past.turn:
        return "the turn itself waited for"
    if asked.latest > past.started:
        return "the turns in between were taken back, and what is left of the conversation had not been read for"
    return "the user was away for"


def duration(seconds: float) -> str:
    """A time in words: "45 seconds", "12 minutes", "3.5 hours"."""
    for unit, length in (("day", 86_400.0), ("hour", 3600.0), ("minute", 60.0)):
        if seconds >= length:
            number = f"{seconds / length:.1f}".removesuffix(".0")
            return f"{number} {unit}" + ("" if number == "1" else "s")
    return f"{round(seconds)} seconds"


def _out_of_reach(asked: Asked, past: Past) -> _Why | None:
    """The entry was there and no mark looked back that far: by the profile's rules, by a count of each block, or by
    half the look-back where a shorter entry was read."""
    prompt, profile = asked.prompt, asked.prompt.profile
    at = prompt.index[past.deepest]
    marks = sorted(prompt.index[point] for point in asked.points if point in prompt.index)
    following = next((mark for mark in marks if mark >= at), None)
    if following is None:
        return None
    positions = prompt.points[following].position - prompt.points[at].position
    far = find(prompt.points, marks, lambda point: point == past.deepest, profile.lookback) is None
    advice = "Mark a block in between: put cache_control on the one of your own blocks that should be kept."
    if not far:
        counted = profile.collapses_tools and following - at >= profile.lookback
        if not counted and not (asked.usage.cache_read and positions >= profile.lookback / 2):
            return None
        advice = "This endpoint looks back less far than its profile says: settle it with `warmline probe`."
    blocks = following - at
    return _Why("lookback", f"the next breakpoint stood {blocks} blocks behind the cached prefix, out of reach", advice)


def _evicted(asked: Asked, past: Past) -> _Why:
    lived = f"{duration(asked.started - past.started)} of its {duration(SECONDS[past.ttl])} had passed"
    what = f"the prompt was the same and {lived}, but the entry was gone: the API dropped it early"
    if past.kind in ("park", "refresh"):
        advice = f"It was kept by a {past.kind}: if that repeats, such entries do not live here (`warmline probe`)."
    else:
        advice = "Nothing of yours caused it: caching is best effort. If it repeats, ask the provider."
    return _Why("evicted", what, advice)


def _was_refused(asked: Asked, past: Past) -> bool:
    """Whether the endpoint kept nothing of a prefix that should be long enough, and again nothing could be read."""
    return past.hoped >= asked.prompt.profile.minimum_tokens * _SURELY and not asked.usage.cache_read


def _below(asked: Asked, past: Past) -> _Why:
    minimum = asked.prompt.profile.minimum_tokens
    what = f"the call before sent a prefix of {past.hoped:,} tokens, and the endpoint kept nothing of it, "
    advice = (
        "Its minimum is higher than that, or it ignores cache_control: `warmline probe` tells, and writes a profile."
    )
    return _Why("below_minimum", what + f"though {minimum:,} should be enough", advice)


def _written_twice(asked: Asked) -> int:
    """Tokens of the longest prefix that another call was writing when this one started, if it is worth waiting for."""
    prompt, profile = asked.prompt, asked.prompt.profile
    marks = [prompt.index[point] for point in asked.points if point in prompt.index]
    longest = max(_common(prompt, marks, asked.beside), default=0)
    twice = min(longest, asked.usage.cache_read + asked.usage.cache_write) - asked.usage.cache_read
    return twice if twice >= max(_BLOCK, profile.minimum_tokens) else 0


def _common(prompt: Prompt, marks: Sequence[int], beside: Sequence[Sequence[str]]) -> Iterator[int]:
    for points in beside:
        at = find(prompt.points, marks, set(points).__contains__, prompt.profile.lookback)
        if at is not None:
            yield prompt.tokens(at + 1)


def reason_of(message: dict[str, Any]) -> str | None:
    """The API's own reason for a miss in a reply, as it came; `None` where it gives none or is still comparing."""
    found = (message.get("diagnostics") or {}).get("cache_miss_reason") or {}
    return found.get("type")


def was_edited(message: dict[str, Any]) -> bool:
    """Whether the API cleared parts of the context of this call (context editing)."""
    return bool((message.get("context_management") or {}).get("applied_edits"))
