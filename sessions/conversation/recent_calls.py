"""The newest calls of a conversation: what they left in the cache, and what later ones are judged by."""

from __future__ import annotations

from sessions.core.cache import SECONDS
from sessions.core.diagnosis import KEPT, Past, Trail
from sessions.core.lifetimes import written_for
from sessions.core.settings import Settings
from sessions.core.warmth import Warmth
from sessions.ledger import Call, marks_of

RECENT_CALLS = KEPT
"""Calls read back when a session is opened: what they marked may still be warm."""


def past_of(call: Call) -> Past:
    """What a call that reached the model left in the cache."""
    deepest = call.points[-1][1]
    marks = marks_of(call.points)
    lifetimes = written_for([mark.tokens for mark in marks], [mark.ttl for mark in marks], call.usage)
    expected, usage = call.expected or call.usage, call.usage
    share = (expected.cache_read + expected.cache_write) / (expected.total_input or 1)
    return Past(
        id=call.id,
        kind=call.kind,
        started=call.started,
        # What it wrote can be read once its answer has begun (docs/provider.md, 7).
        readable=call.first_event or call.started,
        covered=usage.cache_read + usage.cache_write,
        # Planned sizes are estimates: of the input that was billed, the share that was to be cached.
        hoped=round(usage.total_input * share),
        deepest=deepest,
        ttl=lifetimes[-1],
        entry=call.entry,
        turn=call.turn,
        settings=call.settings,
    )


class RecentCalls:
    """What the newest calls of one conversation have shown. `shared`: points that all conversations of a manager share.

    `asked`: when the last request of a turn started (epoch seconds). `parked`: the 1-hour points written behind a
    5-minute prefix, and when. `idle`: the newest parks and refreshes. `settings`: those of the calls in `trail`, by
    digest, where they are known. `unsummarized`: when a summary was last asked for and did not come (epoch seconds).
    `is_long`: the last turn's deepest entry lives for an hour. `alone`: see `was_left_alone`.
    """

    def __init__(self, shared: Warmth) -> None:
        self.warmth, self.trail = Warmth(shared=shared), Trail()
        self.settings: dict[str, Settings] = {}
        self.asked: float | None = None
        self.parked: dict[str, float] = {}
        self.idle: list[Call] = []
        self.unsummarized: float | None = None
        self.is_long = self.alone = False

    def was_left_alone(self, now: float) -> bool:
        """Whether what the last turn had written for five minutes lapsed although the user came back within the hour:
        until now, or the last time that this could be seen. Then nobody looks after it, whatever was planned."""
        if self.asked is None or not SECONDS["5m"] < now - self.asked <= SECONDS["1h"] or self.is_long:
            return self.alone
        return not any(one.started > self.asked for one in self.idle)

    def learn(self, call: Call, settings: Settings, digest: str, *, unasked: bool) -> None:
        """Takes in what a call that reached the model shows about the cache. `settings`, `digest`: the present ones.

        `unasked`: the endpoint caches by itself.
        """
        # Gaps and waits count between turns: what is sent while nobody talks is no sign of the user.
        if call.kind == "turn":
            self.alone = self.was_left_alone(call.started)
            self.asked = max(self.asked or 0.0, call.started)
        if call.kind == "compact" and call.status != "ok":
            self.unsummarized = max(self.unsummarized or 0.0, call.started)
        if call.first_event is None or not call.points:
            return
        if call.kind == "turn":
            self.is_long = past_of(call).ttl == "1h"
        if call.kind in ("park", "refresh"):
            # Its row may be read again (`Conversation.catch_up`), and counts once.
            self.idle = [*(other for other in self.idle if other.id != call.id), call][-RECENT_CALLS:]
        known = self.warmth.find(call.hit or "")
        if call.usage.cache_write_1h and call.usage.cache_read and known is not None and known.ttl == "5m":
            self.parked = {point: call.started for _, point, ttl, _ in call.points if ttl == "1h"}
        expected = call.expected.cache_read if call.expected else 0
        marks = marks_of(call.points)
        self.warmth.learn(marks, call.hit, call.usage, call.started, expected, unasked=unasked)
        if call.kind in ("compact", "batch"):
            return  # what they leave belongs to no later call of this chain
        self.trail.add(past_of(call), call.usage)
        if call.settings == digest:
            self.settings[digest] = settings
        kept = {past.settings for past in self.trail.calls}
        self.settings = {name: value for name, value in self.settings.items() if name in kept}
