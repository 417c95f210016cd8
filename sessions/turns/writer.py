"""What a turn writes, and the one place where it commits."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, TypeAlias

from sessions.calls.request import Request
from sessions.conversation.conversation import Conversation
from sessions.conversation.entries import Written, make_entry
from sessions.conversation.leases import Hold
from sessions.core.prices import cost
from sessions.core.transcript import Role
from sessions.following.channel import NOBODY
from sessions.following.events import EntryStored, PendingCall, UsageKnown
from sessions.following.view import View
from sessions.ledger import Call
from sessions.runtime import Runtime
from sessions.telemetry import end_call, end_turn
from sessions.turns import states
from sessions.turns.outcome import Outcome
from storage import BudgetFull, CallRecord, Change, Reservation, ToolCallRecord, TurnRecord
from storage.records import CallKind, CallStatus

if TYPE_CHECKING:
    from opentelemetry.trace import Span

Begun: TypeAlias = Callable[[TurnRecord], None]

CANCELLED = "cancelled"
"""The stop reason of a reply that the user stopped."""
_MISSING = "usage is what was expected: the process ended before the reply was stored"


class TurnWriter:
    """What one turn knows and writes: its row, its calls, entries and journal rows that the next commit takes along.

    `request` is the model call under way, or the one before it; `settings` (JSON text) are to be written with the next
    commit. `channel`: where followers of the turn hear what is written; `view`: what it looks like to who begins to
    follow. `begun` is told of the first commit of the row.
    """

    def __init__(self, runtime: Runtime, conversation: Conversation, begun: Begun | None = None) -> None:
        self._runtime, self.conversation, self._begun = runtime, conversation, begun
        self.channel = NOBODY
        self.view: Callable[[], View] = View
        self.hold: Hold
        self.row: TurnRecord
        self._is_row_due = self._is_new = False
        self.calls: list[Call] = []
        self.request: Request | None = None
        self.is_asking = False
        """Whether `request` is under way: its row of the ledger has not been made."""
        self.span: Span | None = None
        self.unsaved: list[ToolCallRecord] = []
        self.settings: str | None = None
        self.gaps: str | None = None
        self._pending: list[Written] = []

    def new_id(self) -> str:
        """An id for the turn or a call of it that no other worker gives: the token of a lease is given out once.

        Not random: each question to the system for random digits gives the interpreter to another thread, and waiting
        to have it back costs more than a turn's plan.
        """
        self.hold.ids_given += 1
        lease, record = self.hold.lease, self.conversation.record
        parts = (record.tree, record.id, lease.session, lease.token, self.hold.ids_given)
        return blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()

    @property
    def turn_id(self) -> str:
        """The turn's id; empty before it has a row."""
        return self.channel.turn

    def now(self) -> float:
        """Seconds since the epoch, by the manager's clock."""
        return self._runtime.clock.now()

    def begin(self, row: TurnRecord) -> None:
        """The turn's row as it begins or goes on: whatever is committed next takes it along."""
        self.row, self._is_row_due, self._is_new = row, True, True

    def stage(self, role: Role, content: Sequence[Any], **facts: Any) -> Written:
        """An entry behind the last one, for the next commit; `facts` are fields of `Entry`."""
        return self.add(self.made(role, content, **facts))

    def made(self, role: Role, content: Sequence[Any], **facts: Any) -> Written:
        """What `stage` would add; `add` does."""
        return make_entry(self.conversation.last, role, content, self.now(), **facts)

    def add(self, written: Written) -> Written:
        """Stages what was made."""
        self.conversation.stage([written])
        self._pending.append(written)
        return written

    def stage_instructions(self, texts: Sequence[str]) -> None:
        """The operator's instructions as a message of their own behind the newest user message."""
        if texts:
            self.stage("system", [{"type": "text", "text": text} for text in texts])

    async def commit(
        self,
        *,
        turn: TurnRecord | None = None,
        calls: Sequence[CallRecord] = (),
        head: str | None = None,
        back: bool = False,
        settings: str | None = None,
        tend_after: float | None = None,
        release: bool = False,
        reserve: Reservation | None = None,
    ) -> None:
        """Writes all that is pending in one transaction. `back`: the head goes to `head`, without pending entries.

        `tend_after`: seconds until the cache of the session is to be looked after, if nothing happens before.
        `release`: the turn is over, and the lease is given back with it. `reserve`: the room for the request that is
        sent next. Raises `BudgetFull` where there is none; then nothing is written, and all that is pending still is.
        """
        # Taken now: other tools of the turn may end, and add theirs, while this commit is under way.
        pending, unsaved = tuple(self._pending), tuple(self.unsaved)
        turn = self.row if turn is None and self._is_row_due else turn
        if back and (texts := self.instructions_behind(self.conversation.position(head))):
            waiting = replace(
                self.conversation.settings, instructions=(*texts, *self.conversation.settings.instructions)
            )
            self.conversation.adopt(waiting)
            settings = waiting.to_json()
        entries = () if back else tuple(entry.record for entry in pending)
        new_head = head if back else entries[-1].id if entries else self.conversation.head
        change = Change(
            expected_head=self.conversation.head,
            head=new_head,
            entries=entries,
            calls=tuple(calls),
            tool_calls=unsaved,
            turn=turn,
            settings=self.settings if settings is None else settings,
            prompts=self.conversation.unsaved_settings(calls),
            gaps=self.gaps,
            tend_after=tend_after,
            release=release,
            reserve=reserve,
            updated_at=self.now(),
        )
        # Before the commit: a renewal that finds the lease gone meanwhile is told that nobody took it (`Leases`).
        self.hold.releasing = release
        try:
            await self._runtime.store.commit(self.hold.lease, change)
        except BudgetFull:
            raise
        except BaseException as error:
            if not _was_done(error):
                self.hold.releasing = False
                self.conversation.roll_back()
                raise
            # What is kept here follows the store; the cancellation goes on.
            self._written(change, pending, unsaved)
            raise
        self._written(change, pending, unsaved)

    def instructions_behind(self, count: int) -> tuple[str, ...]:
        """The operator's instructions behind the first `count` entries: they stay when words leave the chain."""
        leaving = self.conversation.entries[count:]
        return tuple(str(block.get("text")) for entry in leaving if entry.role == "system" for block in entry.content)

    def _written(self, change: Change, pending: Sequence[Written], unsaved: Sequence[ToolCallRecord]) -> None:
        # By identity: what came while the store wrote stays for the next commit.
        self._pending = [entry for entry in self._pending if not any(entry is other for other in pending)]
        self.unsaved = [row for row in self.unsaved if not any(row is other for other in unsaved)]
        self.settings = None
        self._is_row_due = self._is_row_due and change.turn is None
        self.hold.released = change.release
        self.conversation.committed(change)
        self.gaps = None
        # Another turn's row may be written under this lease: one that was left, or is passed over.
        if change.turn is not None and self.channel.turn == change.turn.id:
            self.channel.row = change.turn
            if self._is_new:
                self._tell_that_it_runs(change.turn)
                return
        if self.channel.is_followed:
            self._tell_entries(change, pending)

    def _tell_that_it_runs(self, row: TurnRecord) -> None:
        # Not before its row is durable: an attempt that comes to nothing is none, and nobody has heard of it.
        self._is_new = False
        self.channel.begin(self.hold.lease.token, self.view)
        if self._begun is not None:
            self._begun(row)

    def _tell_entries(self, change: Change, pending: Sequence[Written]) -> None:
        """What has become durable; where something has left the chain, all there is now."""
        follows = pending[0].record.parent == change.expected_head if pending else change.head == change.expected_head
        if not follows or (pending and change.head != pending[-1].record.id):
            self.channel.show_again()
            return
        for written in pending:
            self.channel.publish(EntryStored(entry=written.entry))

    async def withdraw(self, calls: Sequence[CallRecord]) -> None:
        """Ends the turn, as its row says, before its words: they leave the chain, and nothing is left to finish."""
        self.row = states.withdrawn(self.row)
        await self.commit(turn=self.row, calls=calls, head=self.row.base, back=True)

    async def stopped(self, calls: Sequence[CallRecord] = (), *, reply: str | None = None) -> None:
        """The user stopped the turn at the last entry; `reply`: what is kept of an answer, where it is new."""
        last, row = self.conversation.last, self.row
        self.row = states.stopped(
            row, CANCELLED, self.now(), result=last.id if last else None, reply=reply or row.reply
        )
        await self.commit(turn=self.row, calls=calls)

    async def settle(self, row: TurnRecord, kind: CallKind = "turn") -> TurnRecord:
        """The turn's process ended; a call in flight becomes a row of the ledger with what it should have cost."""
        settled = states.waiting(row, None)
        if row.call is None:
            await self.commit(turn=settled)
            return settled
        record = _expected_record(json.loads(row.call), row, kind)
        record = replace(record, cost=self._price(record))
        await self.commit(turn=settled, calls=(record,))
        # Its span died with its process; the metrics count it all the same.
        end_call(None, Call.of(record))
        return settled

    def _price(self, record: CallRecord) -> Any:
        settings = self.conversation.settings
        profile, batch = self.conversation.prompt.profile, record.kind == "batch"
        return cost(Call.of(record).usage, profile, settings.params, batch=batch)

    def send(self, request: Request) -> None:
        """A model call of this turn is under way from now on."""
        self.request, self.is_asking = request, True

    def hold_back(self, row: TurnRecord) -> None:
        """It is not sent, and was not written down; `row`: the turn's before it."""
        self.row, self.is_asking = row, False

    def record(self, status: CallStatus, *, reply: str | None = None, error: str | None = None) -> CallRecord:
        """The ledger row of the call under way, which ends here; what it shows about the cache is learnt.

        `reply`: the entry that it made, which is no part of the history yet.
        """
        assert self.request is not None
        ended = self._runtime.requests.end(
            self.request, self.conversation, status, turn=self.row.id, reply=reply, error=error
        )
        return self._ended(*ended, reply)

    def failed_call(self, error: BaseException) -> tuple[CallRecord, ...]:
        """The ledger row of the call under way, if there is one, which ends with this error."""
        if self.request is None or not self.is_asking:
            return ()
        ended = self._runtime.requests.fail(self.request, self.conversation, error, turn=self.row.id)
        return (self._ended(*ended),)

    def _ended(self, record: CallRecord, call: Call, reply: str | None = None) -> CallRecord:
        assert self.request is not None
        self.is_asking = False
        self.calls.append(call)
        self.channel.publish(UsageKnown(usage=call.usage, cost=call.cost))
        # This worker is in use: from now on it looks for what others have left, too.
        self._runtime.schedule.wake(None)
        # Before the conversation learns it: whether a park had kept its prefix alive shows in what was known until now.
        self._runtime.forecaster.observe(self.conversation, call)
        self.conversation.learn(call if reply is None else replace(call, entry=self.request.asked_from))
        self._runtime.heads.used(self.conversation, call)
        return record

    def end_spans(self) -> None:
        """The turn is over for now, and so is a call whose row could not be written."""
        if self.is_asking and self.request is not None and self.request.span is not None:
            self.request.span.end()
        end_turn(self.span, self.row, self.calls, self.now())

    def outcome(
        self,
        reason: str | None = None,
        content: list[dict[str, Any]] | None = None,
        pending: tuple[PendingCall, ...] = (),
    ) -> Outcome:
        """What the turn ends with, from what is stored, or with content that is not kept."""
        last = self.conversation.last
        if content is None:
            content = list(last.content) if last and last.role == "assistant" and self.row.reply == last.id else []
            reason = reason or (last.stop_reason if last else None)
        if reason != CANCELLED and last is not None and any(block.get("type") == "tool_use" for block in content):
            reason = "tool_use"
        raw: dict[str, Any] = {}
        if self.request is not None:
            incoming = self.request.incoming
            raw = {**incoming.message, "usage": incoming.usage_fields}
        return Outcome(content, reason, raw, tuple(self.calls), pending=pending)


def _was_done(error: BaseException) -> bool:
    """Whether a commit went through although its task was cancelled (see `storage.threads.outcome`)."""
    return isinstance(error, asyncio.CancelledError) and error.__cause__ is None


def _expected_record(stored: dict[str, Any], row: TurnRecord, kind: CallKind) -> CallRecord:
    expected = stored["expected"]
    return CallRecord(
        id=stored["id"],
        session=row.session,
        kind=kind,
        model=stored.get("model", ""),
        started=stored["started"],
        status="error",
        turn=row.id,
        entry=row.entry,
        input=expected["input"],
        cache_read=expected["read"],
        cache_write_5m=expected["write_5m"],
        cache_write_1h=expected["write_1h"],
        counters=expected["counters"],
        points=stored["points"],
        estimated=True,
        waited=stored.get("waited", 0.0),
        error=_MISSING,
    )
