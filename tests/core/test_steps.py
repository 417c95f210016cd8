"""What a turn does next, as tables."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from sessions.core.steps import (
    INTERRUPTED,
    NOT_RUN,
    NOT_RUN_IN_BRANCH,
    CallModel,
    Finished,
    RunTools,
    SubmitResults,
    ToolRecord,
    call_id,
    calls_of,
    close_open_calls,
    next_step,
    result_block,
)
from sessions.core.transcript import Entry
from tests.core.strategies import call, result, text


def entry(role: Any, *content: dict[str, Any], stop_reason: str | None = None) -> Entry:
    return Entry("id", None, role, list(content), 0.0, stop_reason)


TURNS = [
    ([], Finished(None)),
    ([entry("user", text("a"))], CallModel()),
    ([entry("user", text("a")), entry("system", text("b"))], CallModel()),
    ([entry("user", result("t"))], CallModel()),
    *[
        ([entry("assistant", text("a"), stop_reason=reason)], Finished(reason))
        for reason in (
            "end_turn",
            "stop_sequence",
            "max_tokens",
            "model_context_window_exceeded",
            "refusal",
            "new",
            None,
        )
    ],
    ([entry("assistant", text("a"), stop_reason="tool_use")], Finished("tool_use")),
    ([entry("assistant", text("a"), stop_reason="pause_turn")], CallModel()),
]


@pytest.mark.parametrize(("transcript", "step"), TURNS)
def test_the_last_entry_decides(transcript: list[Entry], step: Any) -> None:
    assert next_step(transcript, {}) == step


STATES = ("fresh", "in doubt", "done")


@pytest.mark.parametrize(("first", "second", "theirs"), list(product(STATES, STATES, [True, False])))
@pytest.mark.parametrize("stop_reason", ["tool_use", "end_turn", "max_tokens"])
def test_calls_are_run_then_submitted(first: str, second: str, theirs: bool, stop_reason: str) -> None:
    """Two calls of ours and perhaps one of the caller's between them, in every state; no stop reason changes it."""
    content = [call("a"), *([{**call("c"), "name": "ask"}] if theirs else []), call("b")]
    last = entry("assistant", *content, stop_reason=stop_reason)
    at = {"a": 0, "b": 2 if theirs else 1}
    states = {"a": first, "b": second}
    journal = {
        at[name]: ToolRecord(at[name], result(name) if state == "done" else None)
        for name, state in states.items()
        if state != "fresh"
    }
    step = next_step([last], journal, by_caller=["ask"])
    if "fresh" in states.values() or "in doubt" in states.values():
        assert isinstance(step, RunTools)
        assert [one.id for one in step.fresh] == [name for name, state in states.items() if state == "fresh"]
        assert [one.id for one in step.in_doubt] == [name for name, state in states.items() if state == "in doubt"]
    elif theirs:
        assert step == Finished("tool_use", (calls_of(content)[1],))
    else:
        assert step == SubmitResults((result("a"), result("b")))


@pytest.mark.parametrize(("first", "second", "third"), list(product(["free", "held"], STATES, ["free", "held"])))
def test_calls_that_wait_for_an_approval_do_not_run_and_are_waited_for(first: str, second: str, third: str) -> None:
    """One call that was never started, one in every state that may be held too, and one of the caller's between."""
    content = [call("a"), {**call("c"), "name": "ask"}, call("b")]
    held = {0: first, 2: third}
    journal = {} if second == "fresh" else {2: ToolRecord(2, result("b") if second == "done" else None)}
    is_held = [index for index, word in held.items() if word == "held"]
    step = next_step([entry("assistant", *content)], journal, by_caller=["ask"], held=is_held)
    a, theirs, b = calls_of(content)
    fresh = tuple(one for one in (a, b) if one.index not in is_held and one.index not in journal)
    doubtful = (b,) if second == "in doubt" and third == "free" else ()
    if fresh or doubtful:
        assert step == RunTools(fresh, doubtful)
    else:  # what has its result is waited for no more, whatever is said of it
        assert step == Finished("tool_use", (a, theirs, b) if second != "done" else (a, theirs))


def test_results_are_submitted_when_nothing_is_held_any_more() -> None:
    last = entry("assistant", call("a"), call("b"))
    done = {0: ToolRecord(0, result("a"))}
    assert next_step([last], done, held=[1]) == Finished("tool_use", (calls_of(last.content)[1],))
    done[1] = ToolRecord(1, result("b"))
    assert next_step([last], done) == next_step([last], done, held=[1]) == SubmitResults((result("a"), result("b")))


def test_the_name_of_a_call_is_its_own_and_stays() -> None:
    """A service that was given it in one version must know it again in the next."""
    assert call_id("s", "e", 0) == "568f49010b9d420d83b15a74ce8acd06"
    places = [("s", "e", 0), ("s", "e", 1), ("s", "f", 0), ("t", "e", 0), ("se", "", 0), ("", "se", 0)]
    assert len({call_id(*place) for place in places}) == len(places)


def test_repeated_ids_are_told_apart_by_their_number() -> None:
    last = entry("assistant", call("a"), call("a"))
    step = next_step([last], {0: ToolRecord(0, result("a", "first"))})
    assert step == RunTools((calls_of(last.content)[1],))


def test_an_unknown_tool_is_ours() -> None:
    step = next_step([entry("assistant", {**call("a"), "name": "never offered"})], {}, by_caller=["ask"])
    assert isinstance(step, RunTools)


GIVEN = result("a", "given")
CLOSED = [
    # journal, given, in a branch -> content
    (ToolRecord(0, result("a", "done")), {}, False, result("a", "done")),
    (ToolRecord(0, result("a", "done")), {"a": GIVEN}, True, result("a", "done")),
    (ToolRecord(0), {"a": GIVEN}, False, GIVEN),
    (None, {"a": GIVEN}, True, GIVEN),
    (ToolRecord(0), {}, False, {**result("a", INTERRUPTED), "is_error": True}),
    (None, {}, False, {**result("a", NOT_RUN), "is_error": True}),
    (ToolRecord(0), {}, True, {**result("a", NOT_RUN_IN_BRANCH), "is_error": True}),
    (None, {}, True, {**result("a", NOT_RUN_IN_BRANCH), "is_error": True}),
]


@pytest.mark.parametrize(("record", "given", "branch", "closed"), CLOSED)
def test_open_calls_are_closed_truthfully(record: Any, given: Any, branch: bool, closed: Any) -> None:
    journal = {0: record} if record else {}
    assert close_open_calls(entry("assistant", call("a")), journal, given, in_branch=branch) == [closed]


def test_calls_are_closed_in_call_order() -> None:
    last = entry("assistant", call("a"), text("and"), call("b"), call("c"))
    closed = close_open_calls(last, {2: ToolRecord(2, result("c"))}, {"a": GIVEN})
    assert [one["tool_use_id"] for one in closed] == ["a", "b", "c"]
    assert close_open_calls(entry("assistant", text("a")), {}, {}) == []


def test_a_result_block_says_error_only_when_it_is_one() -> None:
    (one,) = calls_of([call("a")])
    assert result_block(one, "x") == result("a", "x")
    assert result_block(one, "x", is_error=True)["is_error"] is True
