"""The states of a turn: the table, what each way writes, and that nothing else happens. No loop, no store."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest

from sessions.turns import states
from sessions.turns.states import ATTEMPTS, TOO_OFTEN, TRANSITIONS, Happening
from storage import TurnRecord
from storage.records import TurnState

STATES: tuple[TurnState, ...] = get_args(TurnState)
NOW = 1000.0


def turn(state: TurnState = "running", **fields: object) -> TurnRecord:
    row = states.new("t1", "s1", 3, started=900.0, token=7, key="k", digest="d", base="before", entry="words")
    return replace(row, state=state, **fields)  # type: ignore[arg-type]


def test_the_table_names_every_happening_and_only_states_that_there_are() -> None:
    assert set(TRANSITIONS) == set(get_args(Happening))
    for ways in TRANSITIONS.values():
        assert {*ways, *ways.values()} <= set(STATES)


@pytest.mark.parametrize("happening", sorted(TRANSITIONS))
@pytest.mark.parametrize("state", STATES)
def test_what_is_not_in_the_table_does_not_happen(happening: Happening, state: TurnState) -> None:
    row = turn(state, call="in flight")
    if state in TRANSITIONS[happening]:
        after = states.after(row, happening)
        assert (after.state, after.call) == (TRANSITIONS[happening][state], None)
        assert replace(after, state=row.state, call=row.call) == row, "nothing else changes by itself"
    else:
        with pytest.raises(ValueError, match=rf"turn t1 {happening}, which cannot be: it is {state}"):
            states.after(row, happening)


def test_every_state_is_open_or_over_or_waits_and_three_have_an_outcome() -> None:
    assert [state for state in STATES if turn(state).is_open] == ["running", "interrupted"]
    assert [state for state in STATES if states.is_over(turn(state))] == ["finished", "failed", "cancelled"]
    assert [state for state in STATES if states.has_outcome(turn(state))] == ["waiting", "finished", "cancelled"]
    assert [state for state in STATES if not states.is_at_rest(turn(state))] == ["queued", "running"]


def test_no_way_leads_out_of_a_turn_that_has_an_outcome() -> None:
    for ways in TRANSITIONS.values():
        assert not {"finished", "cancelled"} & set(ways)


@pytest.mark.parametrize(
    ("found", "open_turn", "recovering", "point"),
    [
        (None, None, False, "begin"),
        (None, None, True, "nothing"),
        (turn("finished"), None, False, "stored"),
        (turn("cancelled"), turn(), False, "stored"),
        (turn("failed"), None, False, "begin"),
        (None, turn("interrupted"), False, "begin"),
        (None, turn("interrupted"), True, "nothing"),
        (None, turn("interrupted", call="{}"), False, "settle"),
        (None, turn(), False, "settle"),
        (None, turn(), True, "settle"),
    ],
)
def test_where_a_turn_that_is_asked_for_stands(
    found: TurnRecord | None, open_turn: TurnRecord | None, recovering: bool, point: str
) -> None:
    assert states.resume_point(found, open_turn, recovering=recovering) == point


def test_a_new_turn_runs() -> None:
    assert turn() == TurnRecord(
        "t1", "s1", 3, "running", "k", "d", started=900.0, token=7, base="before", entry="words"
    )


def test_it_goes_on_under_another_lease_with_or_without_its_words() -> None:
    broken = turn("interrupted", error="why", ended=950.0, call="{}", attempts=2)
    asked = states.continued(broken, 8, recovering=False, places={})
    assert asked == turn(token=8)
    anew = states.continued(turn("failed", error="why"), 8, recovering=False, places={"base": "b", "entry": "e"})
    assert anew == turn(token=8, base="b", entry="e")
    assert states.continued(broken, 8, recovering=True, places={}).attempts == 2


def test_attempts_are_counted_until_nobody_takes_it_up_by_itself() -> None:
    row = turn(call="in flight")
    for attempt in range(1, ATTEMPTS + 1):
        row = states.taken_up(row, NOW, goes_on=True, recovering=True)
        assert (row.state, row.attempts, row.call) == ("running", attempt, "in flight")
    given_up = states.taken_up(row, NOW, goes_on=True, recovering=True)
    assert (given_up.state, given_up.error, given_up.ended) == ("interrupted", TOO_OFTEN, NOW)
    assert states.taken_up(row, NOW, goes_on=True, recovering=False).state == "running", "its user may ask for it"
    assert states.taken_up(row, NOW, goes_on=False, recovering=False).state == "interrupted"


def test_a_worker_that_lives_gives_its_attempt_back() -> None:
    row = states.taken_up(turn(), NOW, goes_on=True, recovering=True)
    later = states.broken(row, "503", NOW, orphaned=True, recovering=True)
    assert (later.state, later.attempts, later.error) == ("running", 0, "503")
    ended = states.broken(row, "told to end", NOW, orphaned=True, recovering=False)
    assert (ended.state, ended.attempts) == ("running", 1)
    assert states.broken(row, "400", NOW, orphaned=False, recovering=True).state == "interrupted"


def test_how_it_ends() -> None:
    row = turn(call="in flight")
    more = states.answered(row, reply="r", stop_reason="tool_use", ended=None)
    assert more == turn(reply="r", stop_reason="tool_use")
    last = states.answered(row, reply="r", stop_reason="end_turn", ended=NOW)
    assert last == turn("finished", reply="r", stop_reason="end_turn", ended=NOW)
    assert states.ended(more, "end_turn", NOW, reply="r2") == turn(
        "finished", reply="r2", stop_reason="end_turn", ended=NOW
    )
    stopped = states.stopped(more, "cancelled", NOW, result="here", reply="r")
    assert stopped == turn("cancelled", reply="r", stop_reason="cancelled", result="here", ended=NOW)
    refused = states.withdrawn(states.refused(row, "400", NOW))
    assert refused == turn("failed", error="400", ended=NOW, result="before")


def test_a_reply_that_was_collected_from_a_batch_leaves_its_tools_to_resume() -> None:
    row = states.collected(turn(call="in flight"), 9)
    assert (row.state, row.call, row.token) == ("interrupted", "in flight", 9)
    assert states.answered(row, reply="r", stop_reason="tool_use", ended=None).state == "interrupted"
    assert states.answered(row, reply="r", stop_reason="end_turn", ended=NOW).state == "finished"


def test_a_turn_that_its_caller_did_not_give_up_is_taken_back() -> None:
    row = states.taken_back(turn("interrupted", ended=NOW, error="cancelled"))
    assert (row.state, row.ended, row.error) == ("running", None, "cancelled")


def test_a_summary_gives_its_entries_other_names() -> None:
    row = states.renamed(turn(reply="old"), {"old": "new", "words": "words2", None: "never"})
    assert (row.base, row.entry, row.reply) == ("before", "words2", "new")


def test_an_ending_is_added_in_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table is the one place: a row in it, and the turn can end so."""
    monkeypatch.setitem(TRANSITIONS, "is archived", {"finished": "cancelled"})  # type: ignore[arg-type]
    archived = states.after(turn("finished"), "is archived", error="older than a year")  # type: ignore[arg-type]
    assert (archived.state, archived.error) == ("cancelled", "older than a year")
    with pytest.raises(ValueError, match="it is running"):
        states.after(turn(), "is archived")  # type: ignore[arg-type]
