"""The states of a turn and every way from one to another: what a turn's row becomes when something happens to it.

Nothing here reads, writes or waits. `TRANSITIONS` is the whole of it: what is not in the table does not happen. A turn
is `queued` while another one runs, `running` under a lease (without one it is an orphan, and any worker's recovery
takes it up), `waiting` for approvals, `interrupted` where its caller was told so, and over when it is `finished`,
`cancelled` or `failed`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, TypeAlias

from storage import TurnRecord
from storage.records import TurnState

ATTEMPTS = 5
"""How many workers may die over one turn after the first, before nobody takes it up by itself any more."""
TOO_OFTEN = (
    f"{ATTEMPTS} workers that took this turn up ended before it did: look into what its tools do, "
    "then resume() or send() goes on"
)

PASSED_OVER = "passed_over"
"""The stop reason of a turn whose calls nobody decided before other words came."""

Happening: TypeAlias = Literal[
    "goes on", "asks", "is answered", "is collected", "ends", "is stopped", "breaks", "is refused", "is orphaned",
    "is taken up", "is left", "is given up", "is taken back", "waits", "is decided", "is passed over",
]  # fmt: skip

TRANSITIONS: dict[Happening, Mapping[TurnState, TurnState]] = {
    # A caller asks for it again, by its key or by resume(). A failed one has no words in the chain: it gets them anew.
    # One that is queued begins.
    "goes on": {"running": "running", "interrupted": "running", "failed": "running", "queued": "running"},
    "asks": {"running": "running"},
    # A batch's reply is taken in by somebody who does not run the turn: what it asks for is left to resume().
    "is answered": {"running": "running", "interrupted": "interrupted"},
    "is collected": {"running": "interrupted", "interrupted": "interrupted"},
    "ends": {"running": "finished", "interrupted": "finished"},
    # One that is queued, or waits, is stopped by the store: no worker runs it.
    "is stopped": {"running": "cancelled", "queued": "cancelled", "waiting": "cancelled"},
    "breaks": {"running": "interrupted", "interrupted": "interrupted"},
    # By the API, or because its words, which were queued, cannot follow what has come before them.
    "is refused": {"running": "failed", "interrupted": "failed", "queued": "failed"},
    # Its worker was told to end, or may have better luck later: recovery finds it.
    "is orphaned": {"running": "running"},
    # Its worker is gone. It says `running` while it is finished, so that the next one finds it if this one dies too.
    "is taken up": {"running": "running", "interrupted": "running"},
    "is left": {"running": "interrupted", "interrupted": "interrupted"},
    "is given up": {"running": "interrupted", "interrupted": "interrupted"},
    # Not its caller gave it up, but its worker was told to end.
    "is taken back": {"interrupted": "running"},
    # Calls of its reply need the user's approval. The last decision lets it go on, in whatever worker: by the store.
    "waits": {"running": "waiting"},
    "is decided": {"waiting": "running"},
    # New words have come in place of decisions, and its calls are closed.
    "is passed over": {"waiting": "finished"},
}


def after(row: TurnRecord, happening: Happening, **fields: Any) -> TurnRecord:
    """The row when this has happened; `fields` of `TurnRecord` are set with it. The call in flight stays only if given.

    Raises `ValueError` for what cannot happen to a turn in that state.
    """
    state = TRANSITIONS[happening].get(row.state)
    if state is None:
        raise ValueError(f"turn {row.id} {happening}, which cannot be: it is {row.state}")
    return replace(row, state=state, **{"call": None, **fields})


# -- what it is --


def has_outcome(row: TurnRecord) -> bool:
    """Whether its reply is stored: the same idempotency key gives it again."""
    return row.state in ("finished", "cancelled", "waiting")


def shown(row: TurnRecord) -> TurnState:
    """Its state as users see it: one whose calls the caller runs has ended, and waits for their results."""
    return "waiting" if row.state == "finished" and row.stop_reason == "tool_use" else row.state


def is_at_rest(row: TurnRecord) -> bool:
    """Whether nothing happens in it now: it has ended, broke off, or waits."""
    return row.state not in ("running", "queued")


def is_over(row: TurnRecord) -> bool:
    """Whether it ended for good, with a reply or without."""
    return row.state in ("finished", "cancelled", "failed")


def is_under_way(row: TurnRecord) -> bool:
    """Whether its worker has not said how it ended: it runs, died, or has a call that nobody accounted for."""
    return row.state == "running" or row.call is not None


# -- how it begins --

Point: TypeAlias = Literal["stored", "nothing", "settle", "begin"]


def resume_point(keyed: TurnRecord | None, open_turn: TurnRecord | None, *, recovering: bool) -> Point:
    """Where a turn that is asked for stands. `keyed`: the one of its idempotency key; `open_turn`: the newest open one.

    "stored": its outcome is there; "nothing": it is nobody's to recover; "settle": a worker left it, what it had under
    way is to be accounted for first; "begin": it may begin, or go on.
    """
    if keyed is not None and has_outcome(keyed):
        return "stored"
    if keyed is not None and keyed.state == "queued":
        recovering = False  # it is to begin, whatever became of the one before
    if recovering and (open_turn is None or open_turn.state != "running"):
        return "nothing"
    return "settle" if open_turn is not None and is_under_way(open_turn) else "begin"


def new(
    id: str, session: str, sequence: int, *, started: float, token: int, key: str | None, digest: str | None,
    base: str | None, entry: str | None = None,
) -> TurnRecord:  # fmt: skip
    """A turn that begins under the lease of that `token`. `started`: seconds since the epoch."""
    return TurnRecord(
        id=id,
        session=session,
        sequence=sequence,
        state="running",
        key=key,
        digest=digest,
        started=started,
        token=token,
        base=base,
        entry=entry,
    )


def queued(id: str, session: str, *, started: float, key: str | None, digest: str, queued: str) -> TurnRecord:
    """A turn that waits until those before it have ended; `queued`: its words. The store gives its sequence."""
    return TurnRecord(
        id=id, session=session, sequence=0, state="queued", key=key, digest=digest, started=started, queued=queued
    )


def continued(row: TurnRecord, token: int, *, recovering: bool, places: Mapping[str, str | None]) -> TurnRecord:
    """It goes on under another lease. `places`: `base` and `entry` of words that are stored anew."""
    attempts = row.attempts if recovering else 0  # whoever asks for it begins to count anew
    return after(row, "goes on", ended=None, error=None, token=token, attempts=attempts, queued=None, **places)


def taken_up(row: TurnRecord, now: float, *, goes_on: bool, recovering: bool) -> TurnRecord:
    """Its worker is gone: what is written of it before anything else is done. The call in flight stays, to be settled.

    Attempts are counted, so that a turn which kills its worker does not kill every worker for ever.
    """
    if not goes_on:
        return after(row, "is left", call=row.call)
    if not recovering:
        return after(row, "is taken up", call=row.call)
    if row.attempts >= ATTEMPTS:
        return after(row, "is given up", call=row.call, ended=now, error=TOO_OFTEN)
    return after(row, "is taken up", call=row.call, attempts=row.attempts + 1)


def waiting(row: TurnRecord, call: str | None, error: str | None = None) -> TurnRecord:
    """Its request is others' to send: `call` says how far that is, `error` what went wrong with it."""
    return replace(row, call=call, error=error or row.error)


def under(row: TurnRecord, token: int) -> TurnRecord:
    """It is written under another lease, and stays as it is."""
    return replace(row, token=token)


def renamed(row: TurnRecord, ids: Mapping[str | None, str]) -> TurnRecord:
    """Its entries have other ids: a summary has taken the place of what lay before them."""
    places = {name: ids.get(id, id) for name in ("base", "entry", "reply") if (id := getattr(row, name)) is not None}
    return replace(row, **places)


# -- how it ends --


def answered(row: TurnRecord, *, reply: str | None, stop_reason: str, ended: float | None) -> TurnRecord:
    """A reply is stored; `ended` where it is the turn's last one."""
    if ended is None:
        return after(row, "is answered", reply=reply, stop_reason=stop_reason)
    return after(row, "ends", reply=reply, stop_reason=stop_reason, ended=ended)


def broken(row: TurnRecord, error: str, now: float, *, orphaned: bool, recovering: bool) -> TurnRecord:
    """An error or a cancellation ended it. `orphaned`: it is left to be recovered."""
    if not orphaned:
        return after(row, "breaks", ended=now, error=error)
    # A worker that lives gives its attempt back: only those that died over the turn are counted.
    attempts = row.attempts - 1 if recovering else row.attempts
    return after(row, "is orphaned", ended=now, error=error, attempts=attempts)


def ended(row: TurnRecord, stop_reason: str | None, now: float, **places: str | None) -> TurnRecord:
    """It has come to its end. `places`: `reply`, or the `result` behind which nothing of it is left to do."""
    return after(row, "ends", stop_reason=stop_reason, ended=now, **places)


def stopped(row: TurnRecord, stop_reason: str, now: float, *, result: str | None, reply: str | None) -> TurnRecord:
    """The user stopped it; `result` is the entry at which it did, `reply` what is kept of an answer."""
    return after(row, "is stopped", stop_reason=stop_reason, ended=now, result=result, reply=reply)


def waits(row: TurnRecord, pending: str, now: float) -> TurnRecord:
    """It waits for the user's approval; `pending`: of which calls."""
    return after(row, "waits", pending=pending, stop_reason="tool_use", ended=now)


def passed_over(row: TurnRecord, now: float) -> TurnRecord:
    """The user said something else in place of deciding: it ends as a turn whose calls were left to the caller."""
    return after(row, "is passed over", ended=now, stop_reason=PASSED_OVER)


def refused(row: TurnRecord, error: str, now: float) -> TurnRecord:
    """The API refused it, and it cannot go on as it is."""
    return after(row, "is refused", ended=now, error=error)


def withdrawn(row: TurnRecord) -> TurnRecord:
    """Its words leave the chain: nothing of it is left to finish behind its base."""
    return replace(row, result=row.base)


def collected(row: TurnRecord, token: int) -> TurnRecord:
    """Its request, which others sent, is taken in under this lease; the call in flight is still to be ended."""
    return after(row, "is collected", call=row.call, token=token)


def taken_back(row: TurnRecord) -> TurnRecord:
    """It was not given up by its caller: recovery finds it again."""
    return after(row, "is taken back", ended=None)


def summary(
    id: str, session: str, sequence: int, *, started: float, ended: float, token: int, base: str | None, reply: str
) -> TurnRecord:
    """The turn that a compaction is: it has ended when it is written."""
    return TurnRecord(
        id=id,
        session=session,
        sequence=sequence,
        state="finished",
        started=started,
        ended=ended,
        base=base,
        reply=reply,
        stop_reason="compaction",
        token=token,
    )
