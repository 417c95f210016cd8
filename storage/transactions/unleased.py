"""What is said to a session by those who do not hold its lease: turns to be run, turns to be stopped, decisions.

As `writing.commit` they lock the session, ask first and write then; whoever watches the session hears of it.
"""

from __future__ import annotations

from dataclasses import replace

from storage.errors import DecisionTaken, HeadMoved, TurnKeyTaken, TurnMissing
from storage.records import DecisionRecord, TurnRecord, TurnState
from storage.values import seconds as finite

from . import statements as sql
from .database import Database, Steps
from .rows import decision_cells, decision_record, moving, totals_cells, turn_cells, turn_record


def queue(db: Database, turn: TurnRecord) -> Steps[TurnRecord]:
    """The turn as it stands in the queue, behind all that the session has. A turn with its id is left as it is.

    Raises `SessionMissing`, `TurnKeyTaken`.
    """
    locked = db.run(sql.LOCK, {"session": turn.session})
    same = db.run(sql.TURN_BY_ID, {"session": turn.session, "id": turn.id})
    keyed = db.run(sql.TURN_BY_KEY, {"session": turn.session, "key": turn.key})
    yield
    session = moving(locked, turn.session)
    if (row := same.fetchone()) is not None:
        return turn_record(row)
    if turn.key is not None and keyed.fetchone() is not None:
        raise TurnKeyTaken(turn.session, turn.key)
    session["turns"] += 1
    turn = replace(turn, state="queued", sequence=session["turns"])
    db.run(sql.INSERT_TURN, turn_cells(turn))
    db.run(sql.ADD_TOTALS, totals_cells(session) | {"session": turn.session})
    db.tell(turn.session)
    return turn


def ask_stop(db: Database, session: str, turn: str, now: float) -> Steps[TurnState]:
    """Ends a turn that nobody runs, or asks who runs it to stop; gives its state before.

    `now`: when it ended then, in seconds since the epoch. Raises `SessionMissing`, `TurnMissing`.
    """
    finite("now", now)
    locked = db.run(sql.LOCK, {"session": session})
    same = db.run(sql.TURN_BY_ID, {"session": session, "id": turn})
    yield
    moving(locked, session)
    row = same.fetchone()
    if row is None:
        raise TurnMissing(session, turn)
    state = turn_record(row).state
    if state in ("queued", "waiting"):
        db.run(sql.SET_STATE, {"of_session": session, "of_id": turn, "state": "cancelled", "ended": now})
    elif state == "running":
        db.run(sql.SET_STOP, {"session": session, "stop": turn})
    else:
        return state
    db.tell(session)
    return state


def entitle(db: Database, session: str, title: str) -> Steps[None]:
    """Raises `SessionMissing`."""
    locked = db.run(sql.LOCK, {"session": session})
    yield
    moving(locked, session)
    db.run(sql.SET_TITLE, {"session": session, "title": title})


def decide(db: Database, decision: DecisionRecord, turn: str, of: int) -> Steps[int]:
    """How many calls of that entry, of `of` that wait, are undecided then; with the last one the turn goes on.

    Raises `SessionMissing`, `DecisionTaken`, `HeadMoved`, `TurnMissing`.
    """
    locked = db.run(sql.LOCK, {"session": decision.session})
    same = db.run(sql.TURN_BY_ID, {"session": decision.session, "id": turn})
    asked = db.run(sql.DECISIONS, {"session": decision.session, "entry": decision.entry})
    yield
    session = moving(locked, decision.session)
    present = {found.index: found for found in map(decision_record, asked.fetchall())}
    if decision.index in present:
        if db.again and present[decision.index] == decision:
            return max(0, of - len(present))
        raise DecisionTaken(decision.session, decision.entry, decision.index)
    if session["head"] != decision.entry:
        raise HeadMoved(decision.entry, session["head"])
    state = None if (row := same.fetchone()) is None else turn_record(row).state
    if state != "waiting":
        raise TurnMissing(decision.session, turn, state)
    db.run(sql.INSERT_DECISION, decision_cells(decision))
    left = max(0, of - len(present) - 1)
    if not left:
        db.run(sql.SET_STATE, {"of_session": decision.session, "of_id": turn, "state": "running", "ended": None})
    db.tell(decision.session)
    return left


def decisions(db: Database, session: str, entry: str) -> list[DecisionRecord]:
    rows = db.run(sql.DECISIONS, {"session": session, "entry": entry}).fetchall()
    return list(map(decision_record, rows))
