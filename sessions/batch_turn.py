"""One branch's turn in a fan-out: its words stored, its request planned, its reply taken in, each under its lease."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sessions.batch_part import Part
from sessions.books import Books
from sessions.core.gaps import NEVER, known
from sessions.core.incoming import Incoming
from sessions.core.plan import Circumstances, make_plan, render
from sessions.core.prices import prices_for
from sessions.core.ttl import Fixed
from sessions.errors import ModelError, without_words
from sessions.flight import Flight
from sessions.leases import Hold
from sessions.model.failures import api_type
from sessions.replies import Reply
from sessions.turn import Options, Turn
from storage import TurnRecord
from storage.records import TurnState

if TYPE_CHECKING:
    from sessions.session import Session

_RETRYABLE = ("api_error", "overloaded_error", "rate_limit_error", "timeout_error")
_REFUSED = ("invalid_request_error", "request_too_large")
_GONE = "the batch or its results are gone (results are kept for 29 days); usage is what was expected"


async def enlist(session: Session, words: list[dict[str, Any]], key: str, call: str) -> TurnRecord:
    """Stores the words of a turn that is to wait for a batch; one that has gone further stays as it is."""
    return await Turn(session, words, Options(key=key)).enlist(call)


def plan(session: Session, *, alone: bool) -> Flight:
    """The request of a branch: 1h marks on what all branches share, none on its own words, which nobody reads again."""
    history, manager = session._history, session._manager
    prompt, now = history.prompt, manager.clock.now()
    policy = manager.ttl if alone else Fixed("1h")
    at = Circumstances(now, policy, known(NEVER), prices_for(prompt.profile, prompt.total), True)
    planned = make_plan(prompt, history.warmth, at)
    body = render(prompt, planned.marks)
    head = history.last.id if history.last else None
    return Flight(uuid.uuid4().hex, body, planned, now, head, prompt.total, kind="batch")


@asynccontextmanager
async def _held(session: Session, hold: Hold | None, patience: float | None) -> AsyncIterator[Hold]:
    if hold is not None:
        await session._history.refresh(hold.lease)
        yield hold
        return
    async with session._manager._leases.hold(session.id, patience) as own:
        await session._history.refresh(own.lease)
        yield own


async def put(session: Session, row: TurnRecord, before: Part, hold: Hold | None, patience: float | None) -> TurnRecord:
    """Writes a branch's row, unless it no longer waits as `before` says; gives the row that then stands."""
    async with _held(session, hold, patience) as held:
        present = await session._manager._store.turn(session.id, id=row.id)
        if present is None or Part.of_row(present) != before:
            return present or replace(row, call=None)
        books = Books(session)
        books.hold = held
        await books.commit(turn=replace(row, token=held.lease.token))
        return row


async def take_in(
    session: Session, row: TurnRecord, result: dict[str, Any], ended: float | None, patience: float | None
) -> Reply | ModelError | None:
    """Stores what came of a branch's request, in one commit; `None` where somebody else has done it."""
    async with _held(session, None, patience) as held:
        turn = await _turn(session, row, held)
        if turn is None:
            return None
        flight = turn._books.flight
        if flight is not None:
            flight.first_event = ended
        if result["type"] != "succeeded":
            return await _failed(turn, result)
        assert turn._books.incoming is not None
        turn._books.incoming.take(result["message"])
        return await _succeeded(turn)


async def settle(session: Session, row: TurnRecord, patience: float | None) -> ModelError:
    """The results are gone: the ledger takes what the request should have cost, and the turn is left open."""
    async with _held(session, None, patience) as held:
        turn = await _turn(session, row, held)
        if turn is not None:
            await turn._books.settle(replace(turn._books.row, error=_GONE), "batch")
    return ModelError(_GONE, retryable=True)


async def _turn(session: Session, row: TurnRecord, hold: Hold) -> Turn | None:
    """The turn that waits for this request, ready to be ended; `None` if it no longer does."""
    present = await session._manager._store.turn(session.id, id=row.id)
    part, expected = Part.of_row(present), Part.of_row(row)
    if present is None or part is None or part.flight is None or part != expected:
        return None
    turn = Turn(session, None, Options())
    books = turn._books
    books.hold, books.row = hold, replace(present, state="interrupted", token=hold.lease.token)
    books.flight = Flight.restored(part.flight, "batch")
    books.flight.asked_from = part.head
    books.incoming = Incoming(request_id=part.batch)
    return turn


async def _succeeded(turn: Turn) -> Reply | ModelError:
    books, history = turn._books, turn._history
    part = Part.of_row(books.row)
    if part is None or history.head != part.head:
        return await _unplaced(turn)
    try:
        _, reply = await turn._asking._receive(books.incoming or Incoming())
    except ModelError as error:
        await _end(turn, error, "interrupted")
        return error
    return reply or books.reply()


async def _unplaced(turn: Turn) -> ModelError:
    """The branch has gone on meanwhile: the reply has no place behind it. It was paid all the same."""
    error = ModelError("the session went on before the batch had ended, so that the reply has no place in it")
    await _end(turn, error, "failed")
    return error


async def _failed(turn: Turn, result: dict[str, Any]) -> ModelError:
    """The request was not answered, and not billed: errored, expired or canceled."""
    envelope = result.get("error") or {}
    found = envelope.get("error") or {}
    kind, batch = str(found.get("type")), turn._books.incoming.request_id if turn._books.incoming else None
    if result["type"] == "errored":
        text = f"{kind}: {found.get('message')}"
    else:
        text = {"expired": "not processed within 24 hours", "canceled": "the batch was canceled"}[result["type"]]
    refused = kind in _REFUSED
    retryable = kind in _RETRYABLE or result["type"] != "errored"
    advice = "resume() of the branch asks again" if not refused else "correct the content"
    about = f"(session {turn._session.id} in {batch}; {advice})"
    named = text if result["type"] != "errored" else " ".join(["the API refused it:", *api_type(kind)])
    error = ModelError(f"{text} {about}", retryable=retryable, kind=f"{named} {about}")
    error.request_id = envelope.get("request_id")
    await _end(turn, error, "failed" if refused else "interrupted", back=refused)
    return error


async def _end(turn: Turn, error: ModelError, state: TurnState, *, back: bool = False) -> None:
    books = turn._books
    text = without_words(error)
    record = books.record("error", error=text)
    books.row = replace(books.row, state=state, ended=books.now(), call=None, error=text)
    if back:
        await books.withdraw((record,))
    else:
        await books.commit(turn=books.row, calls=(record,))


async def stored_reply(session: Session, row: TurnRecord) -> Reply | None:
    """The reply that a branch's turn has, from what is stored; one that waits for tools too."""
    if row.state != "finished" and row.reply is None:
        return None
    return await Turn(session, None, Options())._stored_reply(replace(row, state="finished"))
