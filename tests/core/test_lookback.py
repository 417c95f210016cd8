"""Long turns lose no look-back: every request reads exactly what the one before it read and wrote."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from sessions.core.cache import marked
from sessions.core.plan import Plan, make_plan, plan_request, render
from sessions.core.profiles import Profile, profile_for
from sessions.core.prompt import Prompt
from sessions.core.ttl import Fixed
from sessions.core.warmth import Warmth
from sessions.simulator import count
from tests.core.strategies import Api, assistant, call, document, image, result, text, thinking, tool, user
from tests.core.world import MODEL, circumstances, entries_of, planned, settings_of

BASE = {"model": MODEL, "max_tokens": 100, "system": "Be brief. " * 400, "tools": [tool()]}
COUNTING = [pytest.param(True, id="runs"), pytest.param(False, id="blocks")]


def profile_that(collapses: bool, **facts: Any) -> Profile:
    return replace(profile_for(MODEL), collapses_tools=collapses, **facts)


def sequential(rounds: int, *, thoughts: int = 0) -> list[dict[str, Any]]:
    messages = [user("Look around. " * 20)]
    for number in range(rounds):
        notes = [thinking(f"note {number} {index}") for index in range(thoughts)]
        messages += [assistant(*notes, "Looking.", call(f"toolu_{number}")), user(result(f"toolu_{number}", "r" * 200))]
    return messages


def parallel(calls: int) -> list[dict[str, Any]]:
    names = [f"toolu_{number}" for number in range(calls)]
    return [
        user("Look everywhere. " * 20),
        assistant("Looking.", *map(call, names)),
        user(*(result(name, "r" * 100) for name in names)),
        assistant("Done."),
        user("And then?"),
        assistant("Nothing."),
        user("Fine."),
    ]


def repeated(calls: int, times: int) -> list[dict[str, Any]]:
    """Several wide rounds in one turn."""
    messages = [user("Look everywhere. " * 20)]
    for turn in range(times):
        names = [f"toolu_{turn}_{number}" for number in range(calls)]
        messages += [assistant(*map(call, names)), user(*(result(name, "r" * 50) for name in names))]
    return messages


def wide(blocks: int) -> list[dict[str, Any]]:
    """A user message, then a reply, that are longer than the look-back by themselves."""
    return [
        user("Hello."),
        assistant("Yes?"),
        user(*(f"part {number}" for number in range(blocks))),
        assistant(*(f"answer {number}" for number in range(blocks))),
        user("More."),
    ]


TURNS = {
    "60 sequential rounds": sequential(60),
    "60 sequential rounds with notes": sequential(60, thoughts=3),
    "40 parallel calls": parallel(40),
    "3 rounds of 40 parallel calls": repeated(40, 3),
    "20 parallel calls": parallel(20),
    "messages of 45 blocks": wide(45),
}


def requests(messages: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """The prompt of every model call on the way."""
    for number, message in enumerate(messages, 1):
        if message["role"] == "user":
            yield messages[:number]


def ends_marked(sent: dict[str, Any]) -> bool:
    """Whether the last mark stands on the last block; then nothing may be uncached."""
    where = marked(sent)[-1][0]
    return where == ("messages", len(sent["messages"]) - 1, len(sent["messages"][-1]["content"]) - 1)


@pytest.mark.parametrize("collapses", COUNTING)
@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("ttl", ["5m", "1h"])
def test_everything_written_is_read_by_the_next_request(turn: str, collapses: bool, ttl: Any) -> None:
    """The planner alone: sizes are estimates throughout and off by any factor, the marks must hold all the same."""
    profile = profile_that(collapses)
    api, warmth, covered = Api.of(profile), Warmth(), 0
    whole = api.signed({**BASE, "messages": TURNS[turn]})
    for step, messages in enumerate(requests(whole["messages"])):
        now = 20.0 * step
        body = {**BASE, "messages": messages}
        sent, plan = plan_request(body, now=now, warmth=warmth, policy=Fixed(ttl), profile=profile)
        usage = api.post(sent, now).usage
        assert usage is not None
        assert usage.cache_read == covered
        assert usage.input == 0
        assert ends_marked(sent)
        covered = usage.cache_read + usage.cache_write
        warmth.learn(plan.marks, plan.hit, usage, now)


@pytest.mark.parametrize("collapses", COUNTING)
@pytest.mark.parametrize("turn", TURNS)
def test_the_expected_bill_is_the_bill_once_sizes_are_measured(turn: str, collapses: bool) -> None:
    """With what calls measured, reads are predicted to the token and estimates concern the newest blocks only."""
    profile = profile_that(collapses)
    api, warmth = Api.of(profile), Warmth()
    body = api.signed({**BASE, "messages": TURNS[turn]})
    prompt = Prompt(settings_of(body), profile)
    covered = last = 0
    for step, messages in enumerate(requests(body["messages"])):
        now, new = 20.0 * step, entries_of(messages)[len(prompt.messages) :]
        prompt.extend([replace(e, prompt_tokens=last) if e.role == "assistant" else e for e in new])
        plan = make(prompt, warmth, now)
        usage = api.post(render(prompt, plan.marks), now).usage
        assert usage is not None
        assert plan.expected.cache_read == usage.cache_read == covered
        covered, last = usage.cache_read + usage.cache_write, usage.total_input
        warmth.learn(plan.marks, plan.hit, usage, now)


@pytest.mark.parametrize("counts", [True, False])
def test_an_anchor_is_set_in_time_whether_thinking_counts_or_not(counts: bool) -> None:
    """The profile says that it does not: where that is wrong, nothing is lost all the same."""
    profile = profile_that(True)
    api, warmth, covered = Api.of(replace(profile, counts_thinking=counts)), Warmth(), 0
    whole = api.signed({**BASE, "messages": sequential(8, thoughts=12)})
    for step, messages in enumerate(requests(whole["messages"])):
        body = {**BASE, "messages": messages}
        sent, plan = plan_request(body, now=20.0 * step, warmth=warmth, policy=Fixed("5m"), profile=profile)
        usage = api.post(sent, 20.0 * step).usage
        assert usage is not None
        assert usage.cache_read == covered
        covered = usage.cache_read + usage.cache_write
        warmth.learn(plan.marks, plan.hit, usage, 20.0 * step)


def test_thinking_is_a_position_where_the_profile_says_so() -> None:
    messages = sequential(1, thoughts=5)
    for counts, far in ((True, 8), (False, 3)):
        prompt = Prompt(settings_of(BASE), profile_that(True, counts_thinking=counts))
        prompt.extend(entries_of(messages))
        words = next(at for at, point in enumerate(prompt.points) if point.where.tier == "messages")
        assert prompt.points[-1].position - prompt.points[words].position == far


def make(prompt: Prompt, warmth: Warmth, now: float, **options: Any) -> Plan:
    return make_plan(prompt, warmth, circumstances(prompt, now, **options))


@pytest.mark.parametrize("collapses", COUNTING)
def test_without_a_tail_the_next_request_still_finds_the_assistant_mark(collapses: bool) -> None:
    """The user will not return: only the assistant's mark is written, and 40 results later it is anchored."""
    profile = profile_that(collapses)
    api, warmth, messages = Api.of(profile), Warmth(), parallel(40)
    covered = 0
    for step, end in enumerate((1, 3, 5, 7)):
        body = {**BASE, "tools": [], "messages": messages[:end]}
        body.pop("tools")
        sent, plan = plan_request(
            body, now=20.0 * step, warmth=warmth, expected_gap=float("inf"), policy=Fixed("5m"), profile=profile
        )
        usage = api.post(sent, 20.0 * step).usage
        assert usage is not None
        assert "tail" not in [mark.slot for mark in plan.marks]
        assert usage.cache_read == covered
        covered = usage.cache_read + usage.cache_write
        warmth.learn(plan.marks, plan.hit, usage, 20.0 * step)


def test_models_that_strip_thinking_lose_only_what_is_stripped() -> None:
    """Inside a turn nothing is lost; the next words strip the thinking, and all before it is still read."""
    profile = replace(profile_for("claude-haiku-4-5"), minimum_tokens=512)
    api, warmth = Api.of(profile), Warmth()
    messages = [*sequential(8, thoughts=1), assistant(thinking("so"), "Done."), user("Thanks.")]
    body = api.signed({**BASE, "model": "claude-haiku-4-5", "messages": messages})
    reads, writes = [], []
    for step, part in enumerate(requests(body["messages"])):
        sent, plan = plan_request({**body, "messages": part}, now=20.0 * step, warmth=warmth, profile=profile)
        usage = api.post(sent, 20.0 * step).usage
        assert usage is not None
        assert usage.input == 0
        warmth.learn(plan.marks, plan.hit, usage, 20.0 * step)
        reads.append(usage.cache_read)
        writes.append(usage.cache_write)
    within = list(zip(reads[1:-1], reads[:-2], writes[:-2], strict=True))
    assert all(read == before + written for read, before, written in within)
    first = api.engine.requests[0].usage
    assert first is not None
    assert reads[-1] == first.cache_write  # up to the first words: nothing behind them is as it was


def test_the_first_image_costs_the_messages_and_nothing_above_them() -> None:
    api, warmth = Api.of(), Warmth()
    messages = [user("Hello. " * 200), assistant("Yes?"), user(image()), assistant("A pixel."), user(image())]
    seen = []
    for step, part in enumerate(requests(messages)):
        sent, plan = plan_request({**BASE, "messages": part}, now=20.0 * step, warmth=warmth)
        usage = api.post(sent, 20.0 * step).usage
        assert usage is not None
        assert usage.cache_read == pytest.approx(plan.expected.cache_read, rel=0.6)
        warmth.learn(plan.marks, plan.hit, usage, 20.0 * step)
        seen.append(usage)
    assert seen[1].cache_read == seen[0].cache_write - count(messages[0]["content"][0]) > 0
    assert seen[2].cache_read == seen[1].cache_read + seen[1].cache_write


def test_the_first_citation_costs_the_system_prompt_too() -> None:
    warmth = Warmth()
    _, first = planned({**BASE, "messages": [user("Hi.")]}, profile_that(True), warmth)
    warmth.learn(first.marks, first.hit, first.expected, 0.0)
    messages = [user("Hi."), assistant("Yes?"), user(document(cited=True))]
    _, plan = planned({**BASE, "messages": messages}, profile_that(True), warmth, 10.0)
    assert plan.hit is None


def test_prompts_with_context_give_the_context_slot_to_the_anchor() -> None:
    """Five places to mark: the context goes, then the shared one (docs/how-it-works.md#where-the-breakpoints-go)."""
    profile = profile_that(False)
    settings = settings_of(BASE, context=[text("A long paper. " * 300)])
    messages = parallel(40)
    messages[0] = user(*(one["text"] for one in settings.context), "Look.")
    warmth = Warmth()
    prompt = Prompt(settings, profile)
    prompt.extend(entries_of(messages[:1]))
    plan = make(prompt, warmth, 0.0)
    assert [mark.slot for mark in plan.marks] == ["shared", "context", "tail"]
    warmth.learn(plan.marks, plan.hit, plan.expected, 0.0)
    prompt.extend(entries_of(messages)[1:3])
    plan = make(prompt, warmth, 10.0)
    assert [mark.slot for mark in plan.marks] == ["shared", "anchor", "assistant", "tail"]
    assert plan.hit == plan.marks[1].point
