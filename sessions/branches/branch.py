"""One branch's turn in a fan-out: its words stored, its request planned, its reply taken in, each under its lease."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sessions.calls.request import Request
from sessions.conversation.conversation import Conversation
from sessions.conversation.leases import Hold
from sessions.core.circumstances import Circumstances
from sessions.core.gaps import NEVER, known
from sessions.core.plan import make_plan, render
from sessions.core.prices import prices_for
from sessions.core.ttl import Fixed
from sessions.errors import ModelError, without_words
from sessions.model.failures import api_type
from sessions.runtime import Runtime
from sessions.turns import states
from sessions.turns.batched import Part
from sessions.turns.beginning import Options, stored_outcome
from sessions.turns.loop import Loop
from sessions.turns.outcome import Outcome
from sessions.turns.receiving import Receiving
from sessions.turns.writer import TurnWriter
from storage import Reservation, TurnRecord

_RETRYABLE = ("api_error", "overloaded_error", "rate_limit_error", "timeout_error")
_REFUSED = ("invalid_request_error", "request_too_large")
_GONE = "the batch or its results are gone (results are kept for 29 days); usage is what was expected"


async def store_words(
    runtime: Runtime, conversation: Conversation, words: list[dict[str, Any]], key: str, call: str
) -> TurnRecord:
    """Stores the words of a turn that is to wait for a batch; one that has gone further stays as it is."""
    return await Loop(runtime, conversation, words, Options(key=key)).store_words(call)


def plan(runtime: Runtime, conversation: Conversation, *, alone: bool) -> Request:
    """The request of a branch: 1h marks on what all branches share, none on its own words, which nobody reads again."""
    prompt, now = conversation.prompt, runtime.clock.now()
    # A batch may take hours (docs/provider.md, 15): five minutes would be over before most branches are processed.
    policy = runtime.forecaster.policy if alone else Fixed("1h")
    at = Circumstances(now, policy, known(NEVER), prices_for(prompt.profile, prompt.total), True)
    planned = make_plan(prompt, conversation.recent.warmth, at)
    return Request(
        id=uuid.uuid4().hex,
        kind="batch",
        body=render(prompt, planned.marks),
        plan=planned,
        planned=now,
        asked_from=conversation.last.id if conversation.last else None,
    )


class BranchTurn:
    """The turn of one branch whose request is in a batch. `patience`: seconds to wait for its session."""

    def __init__(self, runtime: Runtime, conversation: Conversation, row: TurnRecord, patience: float | None) -> None:
        self._runtime, self._conversation, self._row, self._patience = runtime, conversation, row, patience
        self._writer = TurnWriter(runtime, conversation)

    @asynccontextmanager
    async def _held(self, hold: Hold | None = None) -> AsyncIterator[Hold]:
        # The first branch is held by whoever sends: its lease cannot be had a second time.
        if hold is not None:
            await self._conversation.catch_up(hold.lease)
            yield hold
            return
        async with self._runtime.leases.hold(self._conversation.record.id, self._patience) as own:
            await self._conversation.catch_up(own.lease)
            yield own

    async def put(self, before: Part, hold: Hold | None, reserve: Reservation | None = None) -> TurnRecord:
        """Writes the branch's row, unless it no longer waits as `before` says; gives the row that then stands.

        `reserve`: the room for the request that is sent next. Raises `BudgetFull` where there is none.
        """
        async with self._held(hold) as self._writer.hold:
            present = await self._present()
            if present is None or Part.of_row(present) != before:
                return present or states.waiting(self._row, None)
            row = states.under(self._row, self._writer.hold.lease.token)
            await self._writer.commit(turn=row, reserve=reserve)
            return self._row

    async def store_result(self, result: dict[str, Any], ended: float | None) -> Outcome | ModelError | None:
        """Stores what came of the request, in one commit; `None` where somebody else has done it.

        `ended`: when the batch did (seconds since the epoch).
        """
        async with self._held() as self._writer.hold:
            request = await self._restored()
            if request is None:
                return None
            # A result has no times of its own: it was there when its batch had ended.
            request.first_event = ended
            if result["type"] != "succeeded":
                return await self._failed(request, result)
            request.incoming.take(result["message"])
            return await self._succeeded(request)

    async def settle(self) -> ModelError:
        """The results are gone: the ledger takes what the request should have cost, and the turn is left open."""
        async with self._held() as self._writer.hold:
            if await self._restored() is not None:
                await self._writer.settle(states.waiting(self._writer.row, self._writer.row.call, error=_GONE), "batch")
        return ModelError(_GONE, retryable=True)

    async def stored(self) -> Outcome | None:
        """The reply that the turn has, from what is stored; one that waits for tools too."""
        if self._row.state != "finished" and self._row.reply is None:
            return None
        return await stored_outcome(self._runtime.store, self._row)

    async def _present(self) -> TurnRecord | None:
        return await self._runtime.store.turn(self._conversation.record.id, id=self._row.id)

    async def _restored(self) -> Request | None:
        """The request that the turn waits for, ready to be ended; `None` if it no longer does."""
        present = await self._present()
        part, expected = Part.of_row(present), Part.of_row(self._row)
        # Somebody else has taken it in, or its request was sent anew in another batch.
        if present is None or part is None or part.flight is None or part != expected:
            return None
        self._writer.row = states.collected(present, self._writer.hold.lease.token)
        request = Request.restored(part.flight, "batch")
        request.asked_from, request.incoming.request_id = part.head, part.batch
        self._writer.send(request)
        return request

    async def _succeeded(self, request: Request) -> Outcome | ModelError:
        part = Part.of_row(self._writer.row)
        if part is None or self._conversation.head != part.head:
            return await self._unplaced()
        try:
            _, outcome = await Receiving(self._runtime, self._writer).receive(request.incoming)
        except ModelError as error:
            await self._end(error, is_over=False)
            return error
        return outcome or self._writer.outcome()

    async def _unplaced(self) -> ModelError:
        """The branch has gone on meanwhile: the reply has no place behind it. It was paid all the same."""
        error = ModelError("the session went on before the batch had ended, so that the reply has no place in it")
        await self._end(error, is_over=True)
        return error

    async def _failed(self, request: Request, result: dict[str, Any]) -> ModelError:
        """The request was not answered, and not billed: errored, expired or canceled."""
        envelope = result.get("error") or {}
        failure = envelope.get("error") or {}
        kind, batch = str(failure.get("type")), request.incoming.request_id
        if result["type"] == "errored":
            text = f"{kind}: {failure.get('message')}"
        else:
            text = {"expired": "not processed within 24 hours", "canceled": "the batch was canceled"}[result["type"]]
        refused = kind in _REFUSED
        retryable = kind in _RETRYABLE or result["type"] != "errored"
        if refused and self._runtime.endpoint.learn_refused_item(
            str(failure.get("message")), request.body, request.plan
        ):
            refused, retryable = False, True
        advice = "resume() of the branch asks again" if not refused else "correct the content"
        about = f"(session {self._conversation.record.id} in {batch}; {advice})"
        named = text if result["type"] != "errored" else " ".join(["the API refused it:", *api_type(kind)])
        error = ModelError(f"{text} {about}", retryable=retryable, kind=f"{named} {about}")
        error.request_id = envelope.get("request_id")
        await self._end(error, is_over=refused, back=refused)
        return error

    async def _end(self, error: ModelError, *, is_over: bool, back: bool = False) -> None:
        writer = self._writer
        text = without_words(error)
        record = writer.record("error", error=text)
        if is_over:
            writer.row = states.refused(writer.row, text, writer.now())
        else:
            writer.row = states.broken(writer.row, text, writer.now(), orphaned=False, recovering=False)
        if back:
            # Words that the API refuses leave the chain, as in a turn of their own: nothing could be sent behind them.
            await writer.withdraw((record,))
        else:
            await writer.commit(turn=writer.row, calls=(record,))
