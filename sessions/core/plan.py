"""Where the cache breakpoints of one request go, how long they should live, and what the request should be billed.

Four slots in prompt order: *shared* (the last markable block of tools and system), *context* (the last pinned context
block), *assistant* (the last markable block of the latest assistant message), *tail* (the last block of the newest
user message). Markers live in the outgoing request only; what is stored never holds one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from sessions.core.cache import SECONDS, THINKING, Where, bill, find
from sessions.core.circumstances import Circumstances, relative_prices
from sessions.core.cleared import Clearing, clearing_edit
from sessions.core.gaps import NONE, forecast
from sessions.core.prices import prices_for
from sessions.core.profiles import Profile, Ttl, profile_for
from sessions.core.prompt import Prompt
from sessions.core.settings import make_settings
from sessions.core.shared import SHARED, context_place, shared_ttl, staying
from sessions.core.transcript import Entry, Malformed, canonical, lift_marks
from sessions.core.ttl import ExpectedCost, Option, Outlook, Policy, chosen
from sessions.core.usage import Usage
from sessions.core.warmth import Alive, Mark, Slot, Warmth

MAX_MARKS = 4
"""Breakpoints per request that the API takes (September 2026)."""
_CERTAINLY = 1.6
"""An estimate this many times too small would still be below the minimum: only then is a mark left out."""
_UNSURE = 0.6
"""The share of the chance that pays for marking the tail below which it is not marked: forecasts are estimates."""
_CARRIED = ("stream", "diagnostics", "thread", "compaction")
"""Request fields that are no part of the prompt's plan: a planned request keeps them as they are."""
_SETTINGS = ("model", "max_tokens", "system", "tools", "thinking", "tool_choice", "output_config")


@dataclass(frozen=True, slots=True)
class Plan:
    """The marks of one request in prompt order, the usage it should show (without output), and the point to read.

    Of a compaction: `summarized`, the tokens that the summary will stand for, and `saves`, what it is expected to save
    (USD), where it is made for that.

    `cleared`: of how many tool uses the results are cleared; `None` where none may be. `clearing`: what this request is
    the first to clear.
    """

    marks: tuple[Mark, ...]
    expected: Usage
    hit: str | None = None
    summarized: int = 0
    saves: Decimal | None = None
    cleared: int | None = None
    clearing: Clearing | None = None

    def writes(self, minimum: int) -> tuple[Mark, ...]:
        """The marks that end at least `minimum` tokens more than this request can read, the shortest prefix first."""
        return tuple(mark for mark in self.marks if mark.tokens - self.expected.cache_read >= max(1, minimum))


def make_plan(prompt: Prompt, warmth: Warmth, at: Circumstances) -> Plan:
    """Places the marks, chooses their lifetime and predicts the bill; looks only at what is new and what is warm."""
    if not prompt.profile.markers:
        return _unmarked(prompt, warmth, at)
    wanted = _slots(prompt, at.own_marks)
    slots = with_anchor(prompt, wanted, warmth, at.now)
    hit = readable_point(prompt, slots, warmth, at.now)
    ttl: Ttl = "1h" if chosen(at.policy, _outlook(prompt, slots, hit, warmth, at)) == "1h" else "5m"
    if not _tail_pays(prompt, slots, ttl, warmth, at):
        untailed: dict[int, Slot] = {index: slot for index, slot in wanted.items() if slot != "tail"}
        slots = with_anchor(prompt, untailed, warmth, at.now)
        hit = readable_point(prompt, slots, warmth, at.now)
    return predict(prompt, slots, _lifetimes(prompt, slots, ttl, at), hit)


def _lifetimes(prompt: Prompt, slots: Mapping[int, Slot], own: Ttl, at: Circumstances) -> dict[int, Ttl]:
    """The lifetime of each mark: what other sessions use too has its own, where it is known how they use it.

    What stands before a 1-hour mark is marked for an hour: the API wants these first.
    """
    ttls = dict.fromkeys(slots, own)
    for index in sorted(slots) if own == "5m" else ():
        if slots[index] in SHARED and shared_ttl(prompt, index, slots[index], at) == "1h":
            ttls.update(dict.fromkeys((place for place in slots if place <= index), "1h"))
    return ttls


def _unmarked(prompt: Prompt, warmth: Warmth, at: Circumstances) -> Plan:
    """The plan where `cache_control` is not sent: its points are where requests meet that share a prefix, and what an
    endpoint that caches by itself has seen before should be read, wherever it ends."""
    slots = _slots(prompt, at.own_marks)
    live = (deepest_live(prompt, warmth, at.now), readable_point(prompt, slots, warmth, at.now))
    hit = max((index for index in live if index is not None), default=None)
    read = 0 if hit is None else prompt.tokens(hit + 1)
    usage = Usage(input=prompt.total - read, cache_read=read, counters=prompt.profile.counters)
    marks = tuple(_mark(prompt, index, slot, "5m") for index, slot in sorted(slots.items()))
    return Plan(marks, usage, None if hit is None else prompt.points[hit].digest, cleared=prompt.cleared)


def _mark(prompt: Prompt, index: int, slot: Slot, ttl: Ttl) -> Mark:
    point = prompt.points[index]
    return Mark(slot, point.where, ttl, point.digest, prompt.tokens(index + 1))


def _slots(prompt: Prompt, own: Sequence[Where]) -> dict[int, Slot]:
    """The points to mark, at most four, by slot; one point that serves two slots counts once."""
    found: dict[int, Slot] = {}
    wanted: list[tuple[Slot, int | None]] = [
        ("assistant", latest_assistant(prompt)),
        ("tail", _tail(prompt)),
        ("shared", prompt.last_markable(0, prompt.head_points)),
        ("context", context_place(prompt)),
        *[("user", _own(prompt, where)) for where in reversed(own)],
    ]
    for slot, index in wanted:
        if index is None or index in found or len(found) == MAX_MARKS:
            continue
        if slot != "assistant" and _below_minimum(prompt, index):
            continue
        found[index] = slot
    return found


def _below_minimum(prompt: Prompt, index: int) -> bool:
    return prompt.tokens(index + 1) * _CERTAINLY < prompt.profile.minimum_tokens


def _starts(prompt: Prompt, number: int) -> int:
    """The index of the first point of message `number`, or of what follows it."""
    low, high = prompt.head_points, len(prompt.points)
    while low < high:
        middle = (low + high) // 2
        if prompt.points[middle].where.message < number:
            low = middle + 1
        else:
            high = middle
    return low


def latest_assistant(prompt: Prompt) -> int | None:
    """The last markable block of the latest assistant message that has one."""
    for number in range(len(prompt.messages) - 1, -1, -1):
        if prompt.messages[number]["role"] == "assistant":
            index = prompt.last_markable(_starts(prompt, number), _starts(prompt, number + 1))
            if index is not None:
                return index
    return None


def _tail(prompt: Prompt) -> int | None:
    number = len(prompt.messages)
    while number and prompt.messages[number - 1]["role"] != "assistant":
        number -= 1
    return prompt.last_markable(_starts(prompt, number), len(prompt.points))


def _own(prompt: Prompt, where: Where) -> int | None:
    first, end = (0, prompt.head_points) if where.tier != "messages" else _span(prompt, where.message)
    for index in range(first, end):
        if prompt.points[index].where == where:
            return index if prompt.markable[index] else None
    return None


def _span(prompt: Prompt, number: int) -> tuple[int, int]:
    return _starts(prompt, number), _starts(prompt, number + 1)


def deepest_live(prompt: Prompt, warmth: Warmth, now: float) -> int | None:
    """The longest prefix that is believed readable now: the index of its last point."""
    return max(live_points(prompt, warmth, now), default=None)


def lost_tokens(old: Prompt, new: Prompt, warmth: Warmth, now: float) -> int:
    """How much of `old` is believed readable now and will not be in `new`: what changing to it bills again."""
    before, after = deepest_live(old, warmth, now), deepest_live(new, warmth, now)
    kept = 0 if after is None else old.tokens(old.index.get(new.points[after].digest, -1) + 1)
    return 0 if before is None else max(0, old.tokens(before + 1) - kept)


def live_points(prompt: Prompt, warmth: Warmth, now: float) -> list[int]:
    """The indexes of the points that are believed readable now."""
    return [prompt.index[point] for point in warmth.points if point in prompt.index and warmth.is_alive(point, now)]


def live_entry(prompt: Prompt, warmth: Warmth, index: int) -> Alive:
    """What is known of a point that is alive."""
    found = warmth.find(prompt.points[index].digest)
    assert found is not None, "only points that are alive are asked about"
    return found


def readable_point(prompt: Prompt, slots: Mapping[int, Slot], warmth: Warmth, now: float) -> int | None:
    """The point to read: alive and, as far as sizes are known, long enough to have been written."""
    minimum = prompt.profile.minimum_tokens

    def readable(point: str) -> bool:
        return warmth.is_alive(point, now) and prompt.tokens(prompt.index[point] + 1) >= minimum

    return find(prompt.points, list(slots), readable, prompt.profile.lookback)


def with_anchor(prompt: Prompt, slots: dict[int, Slot], warmth: Warmth, now: float) -> dict[int, Slot]:
    """Adds the deepest live point where no mark would find it: it lies a look-back or more before the next mark."""
    deepest = deepest_live(prompt, warmth, now)
    if deepest is None or deepest in slots or not prompt.markable[deepest]:
        return slots
    following = min((index for index in slots if index > deepest), default=None)
    if following is not None and _apart(prompt, deepest, following) < prompt.profile.lookback:
        return slots
    kept: dict[int, Slot] = {**slots, deepest: "anchor"}
    for slot in ("user", "context", "shared"):
        for index in [index for index, name in kept.items() if name == slot]:
            if len(kept) > MAX_MARKS:
                del kept[index]
    return kept


def _apart(prompt: Prompt, first: int, last: int) -> int:
    """Positions between two points. Thinking counts here whatever the profile says: recorded usage has settled that it
    does not, but an anchor too many costs nothing, and one too few the whole prefix."""
    positions = prompt.points[last].position - prompt.points[first].position
    if prompt.profile.counts_thinking:
        return positions
    return positions + sum(
        prompt.block(point.where).get("type") in THINKING for point in prompt.points[first + 1 : last + 1]
    )


def _outlook(prompt: Prompt, slots: Mapping[int, Slot], hit: int | None, warmth: Warmth, at: Circumstances) -> Outlook:
    read, write_5m, write_1h = relative_prices(at)
    last = max(slots, default=None)
    prefix = prompt.tokens(last + 1) if last is not None else 0
    known = prompt.tokens(hit + 1) if hit is not None else 0
    shared, stays = staying(prompt, warmth, at)
    ttl = live_entry(prompt, warmth, hit).ttl if hit is not None else None
    options: tuple[Option, ...] = prompt.profile.ttls if at.lasting or ttl != "5m" else ("5m",)
    return Outlook(
        options=options,
        prefix=prefix,
        new=max(0, prefix - max(known, shared)),
        read=read,
        write_5m=write_5m,
        write_1h=write_1h,
        forecast=at.forecast,
        kept=known if ttl == "1h" else 0,
        kept_until=float(SECONDS["1h"]),
        parks=at.parks,
        # A choice that is made while it is found out is no choice for good.
        lasting=at.lasting is not False,
        tended=at.tended,
        told=at.told,
        stays=min(prefix, stays),
    )


def _tail_pays(prompt: Prompt, slots: Mapping[int, Slot], ttl: Ttl, warmth: Warmth, at: Circumstances) -> bool:
    """Whether writing the tail now beats paying it plain now and writing it with the next turn.

    Marked: w + p·r + (1-p)·w later; unmarked: 1 + w later. So it pays when p > (w-1)/(w-r), with p the chance that the
    next request finds it. A tail that is warm already is only read. One that need not have been marked costs little,
    one that had to be costs another write: it is left out where p is below that by far.
    """
    tail = next((index for index, slot in slots.items() if slot == "tail"), None)
    if tail is not None and warmth.is_alive(prompt.points[tail].digest, at.now):
        return True
    read, write_5m, write_1h = relative_prices(at)
    write = write_5m if ttl == "5m" else write_1h
    alive = SECONDS["1h"] if ttl == "1h" or at.parks else SECONDS["5m"]
    return write <= read or at.forecast.within(alive) > _UNSURE * (write - 1) / (write - read)


def predict(prompt: Prompt, slots: Mapping[int, Slot], ttls: Mapping[int, Ttl], hit: int | None) -> Plan:
    """The plan with these marks, and the usage that its request should show. `ttls`: the lifetime of each mark."""
    profile = prompt.profile
    marks = {index: _mark(prompt, index, slot, ttls[index]) for index, slot in sorted(slots.items())}
    sizes = {index: mark.tokens for index, mark in marks.items()}
    if hit is not None:
        sizes[hit] = prompt.tokens(hit + 1)
    billed = bill(
        sizes, prompt.total, [(index, mark.ttl) for index, mark in marks.items()], hit, profile.minimum_tokens
    )
    usage = Usage(billed.input, billed.read, billed.write_5m, billed.write_1h, counters=profile.counters)
    point = prompt.points[hit].digest if hit is not None else None
    return Plan(tuple(marks.values()), usage, point, cleared=prompt.cleared)


def render(prompt: Prompt, marks: Sequence[Mark]) -> dict[str, Any]:
    """The request body: settings and messages with these markers, where the endpoint honours any, and with what makes
    the API clear old tool results. Stored content is copied where it is marked."""
    body = dict(prompt.request)
    messages: list[dict[str, Any]] = list(prompt.messages)
    for mark in marks if prompt.profile.markers else ():
        control = {"type": "ephemeral", "ttl": "1h"} if mark.ttl == "1h" else {"type": "ephemeral"}
        tier, number, index = mark.where
        if tier == "messages":
            if messages[number] is prompt.messages[number]:
                messages[number] = {**messages[number], "content": list(messages[number]["content"])}
            content = messages[number]["content"]
            content[index] = {**content[index], "cache_control": control}
        else:
            body[tier] = list(body[tier])
            body[tier][index] = {**body[tier][index], "cache_control": control}
    if prompt.results is not None and prompt.cleared:
        body["context_management"] = clearing_edit(prompt.results.uses, prompt.cleared)
    return {**body, "messages": messages}


def plan_request(
    request: Mapping[str, Any],
    *,
    now: float,
    warmth: Warmth | None = None,
    policy: Policy | None = None,
    expected_gap: float | None = None,
    profile: Profile | None = None,
) -> tuple[dict[str, Any], Plan]:
    """The planner alone, for callers who keep their own history: a Messages API request body in, the same body with
    markers out, and the plan.

    `now`: seconds since the epoch at which the request starts. `warmth`: one per conversation; after each call tell it
    `warmth.learn(plan.marks, plan.hit, Usage.from_api(...), now)` (`unasked=True` where the endpoint caches by itself).
    Markers on blocks are lifted out and become
    candidates for a free slot; a top-level `cache_control` would take a slot and is refused. Raises `Malformed` for
    that and for what the API would refuse.
    """
    fields = dict(request)
    given = fields.pop("messages", ())
    named = {name: fields.pop(name, None) for name in _SETTINGS}
    carried = {name: fields.pop(name) for name in _CARRIED if name in fields}
    settings = make_settings(**{**named, "tools": named["tools"] or ()}, params=fields or None)
    prompt = Prompt(settings, profile or profile_for(settings.model))
    own = [Where("tools" if place == "tools" else "system", 0, index) for place, index in settings.marks]
    for number, message in enumerate(given):
        content, marks = lift_marks(_content(message, number))
        own += [Where("messages", number, index) for index in marks]
        prompt.extend([Entry(str(number), None, message["role"], content, now)])
    back = forecast(NONE, NONE, expected_gap=expected_gap, tools=bool(settings.tools))
    prices = prices_for(prompt.profile, prompt.total)
    at = Circumstances(now, policy or ExpectedCost(), back, prices, expected_gap is not None, tuple(own))
    plan = make_plan(prompt, warmth or Warmth(), at)
    body = render(prompt, plan.marks)
    body["messages"] = [dict(message) for message in body["messages"]]  # plain, as they were given
    return {**body, **carried}, plan


def _content(message: Mapping[str, Any], number: int) -> list[dict[str, Any]]:
    if set(message) != {"role", "content"}:
        raise Malformed(f"messages[{number}] must have a role and a content, and nothing else")
    return canonical(message["content"], where=f"messages[{number}].content")
