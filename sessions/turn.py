"""One turn of a session: load, decide, act, commit. `send`, `stream`, `run` and `resume` all drive this loop."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import anyio

from sessions.asking import Asking, Event
from sessions.batch_part import Part
from sessions.books import CANCELLED, Books
from sessions.core.cache import Where
from sessions.core.steps import Finished, RunTools, SubmitResults, ToolRecord, close_open_calls, next_step
from sessions.core.transcript import Entry, encode, lift_marks, tool_calls
from sessions.core.ttl import PARK_AFTER
from sessions.errors import ConfigurationError, ModelError, SessionsError
from sessions.model.failures import is_refused
from sessions.refused import advise, step_back
from sessions.replies import Call, Reply, Step
from sessions.stopping import Stop
from sessions.telemetry import inside, start_turn
from sessions.tool_round import InDoubt, ToolRound
from storage import TurnRecord

if TYPE_CHECKING:
    from sessions.session import Session


ATTEMPTS = 5
"""How many workers may die over one turn after the first, before nobody takes it up by itself any more."""
TOO_OFTEN = (
    f"{ATTEMPTS} workers that took this turn up ended before it did: look into what its tools do, "
    "then resume() or send() goes on"
)


@dataclass(frozen=True, slots=True)
class Options:
    """How a turn was asked for. `expected_gap`: seconds until the user returns.

    `recovering`: another worker's turn is finished, if it is still nobody's; nobody waits for it, so it does not wait
    for the session, and what may succeed later is left to be recovered again. `branches`: others start from the same
    head at the same time, so that even a short rest of it is written by one of them only. `streams`: somebody reads the
    events, and may press stop.
    """

    expected_gap: float | None = None
    key: str | None = None
    in_doubt: InDoubt = "report"
    recovering: bool = False
    branches: bool = False
    streams: bool = False


class Turn:
    """Runs one turn of a session under its lease. `content`: the user's words, or `None` to finish what is open."""

    def __init__(self, session: Session, content: list[dict[str, Any]] | None, options: Options) -> None:
        self._session = session
        self._manager = session._manager
        self._history = session._history
        self._content: list[dict[str, Any]] | None = None
        self._marked: tuple[int, ...] = ()
        if content is not None:
            self._content, self._marked = lift_marks(content)
        self._options = options
        self._stored: Reply | None = None
        self._accepted = 0
        self._stop = Stop(is_offered=options.streams)
        self._books = Books(session)
        self._tools = ToolRound(self._books, self._stop, options.in_doubt)
        self._asking = Asking(self._books, self._stop, streams=options.streams, branches=options.branches)

    # -- driving --

    def drive(self) -> AsyncGenerator[Event | Step | Reply]:
        """Everything that happens, as it happens; the last value is the `Reply` (none if there was nothing to do)."""
        return self._manager._lifecycle.through(self._happening())

    async def _happening(self) -> AsyncGenerator[Event | Step | Reply]:
        patience = 0.0 if self._options.recovering else None
        while True:
            async with self._manager._leases.hold(self._session.id, patience) as self._books.hold:
                await self._history.refresh(self._books.hold.lease)
                if self._idle() >= PARK_AFTER:
                    await self._history.recall()
                self._session._check_tools()
                part = Part.of_row(await self._history.open_turn())
                if part is None:
                    async with aclosing(self._under_lease()) as happening:
                        async for one in happening:
                            yield one
                    return
            batching = self._manager._batching  # outside the lease: taking the reply in needs it
            if (reply := await batching.bring_in(self._session, part, wait=self._content is None)) is not None:
                yield reply
                return

    async def _under_lease(self) -> AsyncGenerator[Event | Step | Reply]:
        if not await self._begin():
            if self._stored is not None:
                yield self._stored
            return
        books = self._books
        books.span = start_turn(self._session.id, self._history.settings.model, books.now())
        try:
            async with aclosing(self._loop()) as happening:
                async for one in happening:
                    yield one
        except BaseException as error:
            with anyio.CancelScope(shield=True):
                await self._broke(error)
            raise
        finally:
            books.end_spans()

    async def enlist(self, call: str) -> TurnRecord:
        """Stores the words of a turn whose request others send: `call` is what is known of it.

        A turn that waits already, or has its reply, stays as it is.
        """
        async with self._manager._leases.hold(self._session.id) as self._books.hold:
            await self._history.refresh(self._books.hold.lease)
            found = await self._found(_digest(self._content))
            if found is not None and (found.call is not None or found.reply is not None or found.state == "finished"):
                return found
            if Part.of_row(await self._history.open_turn()) is not None:
                raise ConfigurationError("idempotency_key was used with other contents: choose a new key")
            await self._begin()
            if (last := self._history.last) is None or last.role == "assistant":
                return found or self._books.row  # the session has gone on in another way
            await self._asking.prepare()
            self._books.row = replace(self._books.row, call=call)
            await self._books.commit(turn=self._books.row)
            return self._books.row

    def stop(self) -> None:
        """The user pressed stop: what runs is interrupted at its next await and closed truthfully."""
        self._stop.press()

    async def _loop(self) -> AsyncGenerator[Event | Step | Reply]:
        while True:
            step = next_step(self._history.entries, await self._tools.read(), by_caller=self._session._by_caller)
            if self._stop.pressed and not isinstance(step, Finished):
                yield await self._stop_here()
                return
            if isinstance(step, Finished):
                await self._finish(step.stop_reason)
                yield self._books.reply()
                return
            if isinstance(step, RunTools):
                with inside(self._books.span):
                    await self._tools.run(step)
            elif isinstance(step, SubmitResults):
                self._books.stage("user", step.content)
                yield Step("tool_results", list(step.content), self._history.last)
            else:
                async with aclosing(self._asking.once()) as events:
                    async for one in events:
                        yield one
                        if isinstance(one, Reply):
                            return

    # -- the beginning --

    async def _begin(self) -> bool:
        """Finds or makes the turn's row and stages the words. False: nothing is left to do, or the reply is stored."""
        digest = _digest(self._content) if self._content is not None else None
        found = await self._found(digest)
        if found is not None and (stored := await self._stored_reply(found)) is not None:
            self._stored = stored
            return False
        open_turn = await self._history.open_turn()
        if self._options.recovering and (open_turn is None or open_turn.state != "running"):
            return False
        if open_turn is not None and (open_turn.call is not None or open_turn.state == "running"):
            is_found = found is not None and found.id == open_turn.id
            open_turn = await self._books.settle(self._taken_up(open_turn, self._content is None or is_found))
            found = open_turn if is_found else found
            if self._options.recovering and open_turn.state == "interrupted":
                raise SessionsError(TOO_OFTEN)
        journal = await self._tools.read()
        ended = await self._ended_here()
        if self._content is None and (self._is_finished(journal) or (ended and ended == self._history.head)):
            if open_turn is not None:
                await self._close_row(open_turn)
            return False
        await self._manager._tending.meet(self._session.owner)
        self._accepted = max(self._history.answered, self._history.position(ended))
        known = open_turn if self._content is None else found
        continued = known is not None and known.entry is not None and self._history.position(known.entry) > 0
        known = known if continued or self._content is not None else None
        words = None if continued else self._content
        self._books.begin(self._new_row(known, digest, {} if words is None else self._stage_words(words)))
        if continued:
            rows = await self._manager._store.calls(self._session.id)
            self._books.calls = [Call.of(row) for row in rows if row.turn == self._books.row.id]
        if words is not None:
            self._note_gap()
        return True

    def _taken_up(self, row: TurnRecord, goes_on: bool) -> TurnRecord:
        """What is written of a turn whose worker is gone, before anything else is done.

        While it goes on its row says `running`, so that the next worker finds it if this one dies too; the attempts
        are counted, so that a turn which kills its worker does not kill every worker for ever.
        """
        if not goes_on:
            return replace(row, state="interrupted")
        if not self._options.recovering:
            return replace(row, state="running")
        if row.attempts >= ATTEMPTS:
            return replace(row, state="interrupted", ended=self._books.now(), error=TOO_OFTEN)
        return replace(row, state="running", attempts=row.attempts + 1)

    def _idle(self) -> float:
        """Seconds since the last request of this conversation; 0 before the first."""
        return 0.0 if self._history.asked is None else max(0.0, self._books.now() - self._history.asked)

    def _note_gap(self) -> None:
        """The time since the last request, and what the caller knows of the next: the forecast stands on them."""
        gaps = replace(self._history.gaps, told=self._options.expected_gap)
        if self._history.asked is not None:
            gaps = gaps.plus(self._idle())
        self._books.gaps = self._history.note(gaps)

    async def _found(self, digest: str | None) -> TurnRecord | None:
        """The turn that was sent with this idempotency key."""
        if not self._options.key:
            return None
        found = await self._manager._store.turn(self._session.id, key=self._options.key)
        if found is not None and found.digest != digest:
            raise ConfigurationError(
                f"idempotency_key {self._options.key!r} was used with other content: choose a new key"
            )
        return found

    def _is_finished(self, journal: dict[int, ToolRecord]) -> bool:
        step = next_step(self._history.entries, journal, by_caller=self._session._by_caller)
        return isinstance(step, Finished)

    async def _close_row(self, row: TurnRecord) -> None:
        await self._books.commit(turn=replace(row, state="finished", ended=self._books.now(), call=None))

    def _new_row(self, known: TurnRecord | None, digest: str | None, places: Mapping[str, Any]) -> TurnRecord:
        """The turn's row as it begins, or begins again; `places`: `base` and `entry` of words that are new."""
        token = self._books.hold.lease.token
        if known is not None:
            attempts = known.attempts if self._options.recovering else 0  # whoever asks for it begins to count anew
            known = replace(known, state="running", ended=None, error=None, call=None, token=token, **places)
            return replace(known, attempts=attempts)
        return TurnRecord(
            self._books.new_id(),
            self._session.id,
            self._history.record.totals.turns + 1,
            "running",
            self._options.key,
            digest,
            started=self._books.now(),
            token=token,
            **(places or {"base": self._ground()}),
        )

    async def _ended_here(self) -> str | None:
        """The entry behind the newest reply at which the newest turn ended for good: stopped, declined, or silent."""
        if self._history.answered == len(self._history.entries):
            return None
        newest = await self._manager._store.turns(self._session.id, limit=1)
        is_over = bool(newest) and newest[0].state in ("cancelled", "failed", "finished")
        return newest[0].result if is_over else None

    def _ground(self) -> str | None:
        """Where the head goes back to if the turn fails for its content: before all words that were never accepted."""
        accepted = self._history.entries[: self._accepted]
        return accepted[-1].id if accepted else None

    def _stage_words(self, words: list[dict[str, Any]]) -> dict[str, Any]:
        """The user's words behind the chain, with what they leave open closed before them; what their row says."""
        self._check_results(words)
        history = self._history
        while (last := history.last) is not None and last.stop_reason == "pause_turn":
            history.drop_last()  # the paused reply leaves the chain with the commit of the words
        waiting: list[str] = []
        while (last := history.last) is not None and last.role == "system":
            waiting[:0] = [str(block.get("text")) for block in last.content]  # they go behind the newest words again
            history.drop_last()
        ground = self._ground()
        content = self._closed(last, words) if last is not None and last.role == "assistant" else words
        if last is None and history.settings.context:
            content = [*history.settings.context, *content]
        marked = [words[index] for index in self._marked]
        self._asking.own_marks = tuple(
            Where("messages", len(history.entries), index)
            for index, block in enumerate(content)
            if any(block is one for one in marked)
        )
        written = self._books.stage("user", content)
        self._books.stage_instructions(waiting)
        return {"base": ground, "entry": written.entry.id}

    def _check_results(self, words: list[dict[str, Any]]) -> None:
        """Refuses results that answer no open call, and some without the others, before anything changes."""
        given = [str(one["tool_use_id"]) for one in words if one["type"] == "tool_result"]
        if not given:
            return
        spoken = (e for e in reversed(self._history.entries) if e.stop_reason != "pause_turn" and e.role != "system")
        last = next(spoken, None)
        open_calls = tool_calls(last.content) if last is not None and last.role == "assistant" else []
        ids = {str(block["id"]) for block in open_calls}
        if unknown := [id for id in given if id not in ids]:
            raise ConfigurationError(f"tool_result {unknown[0]} answers no open tool call of this session")
        theirs = [str(block["id"]) for block in open_calls if block["name"] in self._session._by_caller]
        if missing := [id for id in theirs if id not in given]:
            raise ConfigurationError(
                f"there is no tool_result for {', '.join(missing)}: hand in the results of all open calls together "
                "(one that was not run gets a result with is_error that says so)"
            )

    def _closed(self, last: Entry, words: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The words behind results for every open call."""
        results = {str(one["tool_use_id"]): one for one in words if one["type"] == "tool_result"}
        closed = close_open_calls(last, self._tools.journal, results, in_branch=self._tools.inherited)
        return [*closed, *(one for one in words if one["type"] != "tool_result")]

    async def _stored_reply(self, row: TurnRecord) -> Reply | None:
        """The reply of a turn that has finished, without a call; `None` while there is something left to do."""
        if row.state not in ("finished", "cancelled"):
            return None
        calls = [Call.of(one) for one in await self._manager._store.calls(self._session.id) if one.turn == row.id]
        content: list[dict[str, Any]] = []
        if row.reply is not None and (entry := await self._manager._store.entry(self._session.id, row.reply)):
            content = json.loads(entry.content)
        last = calls[-1] if calls else None
        raw = {"id": last.response_id if last else None, "model": last.model if last else None}
        return Reply(content, row.stop_reason, raw | {"usage": _api_usage(last)}, tuple(calls), self._session)

    async def _broke(self, error: BaseException) -> None:
        """The turn ends here: the ledger and the turn say how, in one commit; words and finished work are kept."""
        if not self._history.is_loaded or self._books.hold.released or self._books.row.state != "running":
            return  # a commit failed, or all is said: nothing may be written under this lease
        if isinstance(error, ModelError) and is_refused(error):
            await step_back(self._books, error)
            return
        if isinstance(error, ModelError):
            await advise(self._books, error)
        cancelled = not isinstance(error, Exception)
        recovering = self._options.recovering
        later = recovering and (cancelled or (isinstance(error, ModelError) and error.retryable))
        later |= cancelled and self._manager._lifecycle.is_ending  # this worker was told to end, not the turn
        calls = self._books.failed_call("cancelled" if cancelled else "error", error)
        row = self._books.broken_row("running" if later else "interrupted", error)
        if recovering and later:  # this worker lives: only those that died over the turn are counted
            row = self._books.row = replace(row, attempts=row.attempts - 1)
        await self._books.commit(turn=row, calls=calls)
        if cancelled and not later:
            self._manager._lifecycle.gave_up(self._session.id, row.id)

    async def _finish(self, reason: str | None) -> None:
        last = self._history.last
        if self._books.row.state == "running":
            if last is not None and last.role == "assistant":
                self._books.row = replace(self._books.row, reply=last.id)
            await self._books.end("finished", reason)

    async def _stop_here(self) -> Reply:
        """The user pressed stop between two calls: finished tools keep their result, the rest is closed truthfully."""
        last = self._history.last
        if last is not None and last.role == "assistant" and tool_calls(last.content):
            content = close_open_calls(last, self._tools.journal, {})
            self._books.stage("user", content)
        await self._books.end("cancelled", CANCELLED)
        return self._books.reply(CANCELLED)


def _digest(content: Any) -> str:
    return blake2b(encode(content).encode(), digest_size=16).hexdigest()


def _api_usage(call: Call | None) -> dict[str, Any]:
    usage = call.usage if call else None
    if usage is None:
        return {}
    return {
        "input_tokens": usage.input,
        "cache_read_input_tokens": usage.cache_read,
        "cache_creation_input_tokens": usage.cache_write,
        "output_tokens": usage.output,
    }
