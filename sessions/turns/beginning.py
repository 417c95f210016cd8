"""How a turn begins: its row is found or made, what a dead worker left is accounted for, the words are staged."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from hashlib import blake2b
from typing import Any

from sessions.conversation.pending import newest_turn
from sessions.core.cache import Where
from sessions.core.steps import Finished, ToolRecord, close_open_calls, next_step
from sessions.core.transcript import Entry, encode, lift_marks, tool_calls
from sessions.errors import ConfigurationError, SessionBusy, SessionsError, named
from sessions.ledger import Call
from sessions.runtime import Runtime
from sessions.turns import states
from sessions.turns.outcome import Outcome
from sessions.turns.tool_round import InDoubt, ToolRound
from sessions.turns.writer import Begun, TurnWriter
from storage import Store, TurnRecord


@dataclass(frozen=True, slots=True)
class Options:
    """How a turn was asked for. `expected_gap`: seconds until the user returns.

    `recovering`: another worker's turn is finished, if it is still nobody's; nobody waits for it, so it does not wait
    for the session, and what may succeed later is left to be recovered again. `branches`: others start from the same
    head at the same time, so that even a short rest of it is written by one of them only. `streams`: somebody reads the
    events. `row`: the id of the turn to go on with, where it is known: one whose calls have been decided. `queued`: the
    oldest turn that is queued is to run, if it may. `max_cost`: what it may cost, in USD. `patience`: seconds to wait
    for the session, where not the manager's. `begun` is told of the row when its words are durable.
    """

    expected_gap: float | None = None
    key: str | None = None
    in_doubt: InDoubt = "report"
    recovering: bool = False
    branches: bool = False
    streams: bool = False
    row: str | None = None
    queued: bool = False
    max_cost: Decimal | None = None
    patience: float | None = None
    begun: Begun | None = None


class Beginning:
    """The beginning of one turn, under its lease. `content`: the user's words; `None`: what is open is finished.

    `stored` is the outcome where the turn has it already; `own_marks` are the places where the user's words carried
    `cache_control`.
    """

    def __init__(
        self,
        runtime: Runtime,
        writer: TurnWriter,
        tools: ToolRound,
        content: list[dict[str, Any]] | None,
        options: Options,
    ) -> None:
        self._runtime, self._store, self._writer, self._tools = runtime, runtime.store, writer, tools
        self.conversation = writer.conversation
        self._content: list[dict[str, Any]] | None = None
        self._marked: tuple[int, ...] = ()
        if content is not None:
            self._content, self._marked = lift_marks(content)
        self._digest = None if self._content is None else digest_of(self._content)
        self._options, self._expected_gap, self.max_cost = options, options.expected_gap, options.max_cost
        self._accepted = 0
        self.stored: Outcome | None = None
        self.own_marks: tuple[Where, ...] = ()

    @property
    def has_words(self) -> bool:
        """Whether the turn has words of its own."""
        return self._content is not None

    async def begin(self) -> bool:
        """Finds or makes the turn's row and stages the words. False: nothing is left to do, or the outcome is stored.

        Raises `SessionsError` where it was given up, `ConfigurationError` for words that cannot follow.
        """
        # No other turn begins while this one has the lease; one with the same key may be queued (`TurnKeyTaken`).
        keyed, open_turn = await self.found(), await self.conversation.open_turn()
        asking = await self._asking()
        waiting = asking if asking is not None and asking.state == "waiting" else None
        if open_turn is None and asking is not None and asking.state == "running":
            open_turn = asking  # decided in another process, which needs no lease: what is known here is older
        self._check_order(open_turn, keyed)
        if self._options.queued or self._options.row is not None:
            if not self._may_go_on(keyed, open_turn, waiting):
                return False
            open_turn = open_turn if self._content is not None else keyed
        point = states.resume_point(keyed, open_turn, recovering=self._options.recovering)
        if point == "stored":
            assert keyed is not None
            self.stored = await self._outcome(keyed)
        if point in ("stored", "nothing"):
            return False
        if point == "settle":
            assert open_turn is not None
            is_found = keyed is not None and keyed.id == open_turn.id
            open_turn = await self._settled(open_turn, goes_on=self._content is None or is_found)
            keyed = open_turn if is_found else keyed
        # After `_asking`, which says what was held: such calls wait whatever their tools say by now.
        journal = await self._tools.read()
        ended = await self._ended_here()
        if self._content is None and self._is_finished(journal, ended) and not self._is_to_wait(open_turn):
            if open_turn is not None:
                await self._writer.commit(turn=states.ended(open_turn, open_turn.stop_reason, self._writer.now()))
            return False
        await self._runtime.forecaster.learn(self.conversation)
        if self._content is not None and waiting is not None:
            self._check_results(self._content)  # before anything changes
            # A commit of its own, since one holds the row of one turn.
            await self._writer.commit(turn=states.passed_over(waiting, self._writer.now()))
        self._accepted = max(self.conversation.answered, self.conversation.position(ended))
        await self._go_on_or_fail(open_turn if self._content is None else keyed)
        return True

    def _is_to_wait(self, open_turn: TurnRecord | None) -> bool:
        """Whether calls need an approval that nobody could be asked for, since the turn broke off just before."""
        return bool(self._tools.held) and open_turn is not None and open_turn.reply == self.conversation.head

    def _check_order(self, open_turn: TurnRecord | None, keyed: TurnRecord | None) -> None:
        """Raises `SessionBusy` where a turn that is begun would be said before a dead worker's turn has ended.

        Words that are sent, and results that the caller brings, go first: they close what that turn has left open.
        """
        if self._options.begun is None or self._content is None or open_turn is None or open_turn.state != "running":
            return
        if not are_results(self._content) and (keyed is None or keyed.id != open_turn.id):
            raise SessionBusy("a turn of this session, which its worker left, is to end first: try again later")

    async def _outcome(self, row: TurnRecord) -> Outcome:
        """What is stored of it, and what it waits for where it is the newest."""
        outcome = await stored_outcome(self._store, row)
        is_last = row.reply is not None and row.reply == self.conversation.head
        return replace(outcome, pending=self.conversation.pending) if is_last else outcome

    async def _go_on_or_fail(self, known: TurnRecord | None) -> None:
        try:
            await self._go_on(known)
        except ConfigurationError as error:
            if known is not None and known.state == "queued":  # its words cannot follow: others shall not wait for it
                await self._writer.commit(turn=states.refused(known, named(error), self._writer.now()))
            raise

    def _may_go_on(self, row: TurnRecord | None, open_turn: TurnRecord | None, waiting: TurnRecord | None) -> bool:
        """Whether the turn that was named is to be run now; the words of one that was queued are in its row.

        What a dead worker left comes before what is queued.
        """
        if row is None or states.is_at_rest(row):
            return False
        if row.state == "queued":
            if (open_turn is not None and open_turn.state == "running") or self._is_answered_first(waiting):
                return False
            words, self._expected_gap, self.max_cost = asked_of(row)
            self._content, self._marked = lift_marks(words)
        return True

    async def _asking(self) -> TurnRecord | None:
        """The turn that asked for approvals of the last entry's calls; which calls those are is stored, and stays so.

        Also when it waits no more: a worker whose tools no longer ask heeds what was decided, and what was not.
        """
        last = self.conversation.last
        if last is None or last.role != "assistant" or not tool_calls(last.content):
            return None
        row = await newest_turn(self._store, self.conversation.record.id, queued=False)
        if row is None or row.pending is None:
            return None
        self._tools.held_before(row)
        return row

    def _is_answered_first(self, waiting: TurnRecord | None) -> bool:
        """Whether calls are open that somebody may be about to decide or answer: queued words do not close them."""
        last = self.conversation.last
        calls = tool_calls(last.content) if last is not None and last.role == "assistant" else []
        return bool(calls) and (waiting is not None or any(c["name"] in self.conversation.by_caller for c in calls))

    async def _settled(self, open_turn: TurnRecord, *, goes_on: bool) -> TurnRecord:
        """A worker left this turn: what it had under way is in the ledger, and what becomes of it is written."""
        recovering = self._options.recovering
        row = states.taken_up(open_turn, self._writer.now(), goes_on=goes_on, recovering=recovering)
        row = await self._writer.settle(row)
        if recovering and row.state == "interrupted":
            raise SessionsError(states.TOO_OFTEN)
        return row

    async def _go_on(self, known: TurnRecord | None) -> None:
        """The turn's row, for the next commit, and its words where the chain does not hold them."""
        continued = known is not None and known.entry is not None and self.conversation.position(known.entry) > 0
        known = known if continued or self._content is not None else None
        words = None if continued else self._content
        self._writer.begin(self._row(known, {} if words is None else self._stage_words(words)))
        if continued:
            # What it may cost, and what it gives in the end, counts the calls of its earlier attempts too.
            rows = await self._store.calls(self.conversation.record.id)
            self._writer.calls = [Call.of(row) for row in rows if row.turn == self._writer.row.id]
        if words is not None:
            self._note_gap()

    def idle(self) -> float:
        """Seconds since the last request of this conversation; 0 before the first."""
        return (
            0.0
            if self.conversation.recent.asked is None
            else max(0.0, self._writer.now() - self.conversation.recent.asked)
        )

    def _note_gap(self) -> None:
        """The time since the last request, and what the caller knows of the next: the forecast stands on them."""
        gaps = replace(self.conversation.gaps, told=self._expected_gap)
        if self.conversation.recent.asked is not None:
            gaps = gaps.plus(self.idle())
        self._writer.gaps = self.conversation.note(gaps)

    async def found(self) -> TurnRecord | None:
        """The turn that was sent with this idempotency key. Raises `ConfigurationError` where it had other words."""
        session = self.conversation.record.id
        if self._options.queued:
            return await self._store.queued(session)
        if self._options.row is not None:
            return await self._store.turn(session, id=self._options.row)
        return await found(self._store, session, self._options.key, self._digest)

    def _is_finished(self, journal: dict[int, ToolRecord], ended: str | None) -> bool:
        """Whether nothing is left to do: the chain says so, or the newest turn ended where it ends (`ended`)."""
        step = next_step(
            self.conversation.entries, journal, by_caller=self.conversation.by_caller, held=self._tools.held
        )
        return isinstance(step, Finished) or (ended is not None and ended == self.conversation.head)

    def _row(self, known: TurnRecord | None, places: Mapping[str, str | None]) -> TurnRecord:
        """The turn's row as it begins, or begins again; `places`: `base` and `entry` of words that are new."""
        token = self._writer.hold.lease.token
        if known is not None:
            return states.continued(known, token, recovering=self._options.recovering, places=places)
        record = self.conversation.record
        return states.new(
            self._writer.new_id(),
            record.id,
            record.totals.turns + 1,
            started=self._writer.now(),
            token=token,
            key=self._options.key,
            digest=self._digest,
            base=places["base"] if places else self._before_turn(),
            entry=places.get("entry"),
        )

    async def _ended_here(self) -> str | None:
        """The entry behind the newest reply at which the newest turn ended for good: stopped, declined, or silent."""
        if self.conversation.answered == len(self.conversation.entries):
            return None
        newest = await newest_turn(self._store, self.conversation.record.id, queued=False)
        return newest.result if newest is not None and states.is_over(newest) else None

    def _before_turn(self) -> str | None:
        """Where the head goes back to if the turn fails for its content: before all words that were never accepted."""
        entries = self.conversation.entries
        count = min(self._accepted, len(entries))  # a paused reply, which was accepted, may have left the chain since
        return entries[count - 1].id if count else None

    def _stage_words(self, words: list[dict[str, Any]]) -> dict[str, str | None]:
        """The user's words behind the chain, with what they leave open closed before them; what their row says."""
        self._check_results(words)
        conversation = self.conversation
        while (last := conversation.last) is not None and last.stop_reason == "pause_turn":
            conversation.withdraw_last()  # the paused reply leaves the chain with the commit of the words
        waiting: list[str] = []
        while (last := conversation.last) is not None and last.role == "system":
            waiting[:0] = [str(block.get("text")) for block in last.content]  # they go behind the newest words again
            conversation.withdraw_last()
        before_turn = self._before_turn()
        content = self._closed(last, words) if last is not None and last.role == "assistant" else words
        if last is None and conversation.settings.context:
            content = [*conversation.settings.context, *content]
        marked = [words[index] for index in self._marked]
        self.own_marks = tuple(
            Where("messages", len(conversation.entries), index)
            for index, block in enumerate(content)
            # By identity: blocks may be equal, and results before the words have moved their places.
            if any(block is marked_block for marked_block in marked)
        )
        written = self._writer.stage("user", content)
        self._writer.stage_instructions(waiting)
        return {"base": before_turn, "entry": written.entry.id}

    def _check_results(self, words: list[dict[str, Any]]) -> None:
        """Refuses results that answer no open call, and some without the others, before anything changes."""
        given = [str(block["tool_use_id"]) for block in words if block["type"] == "tool_result"]
        if not given:
            return
        spoken = (
            e for e in reversed(self.conversation.entries) if e.stop_reason != "pause_turn" and e.role != "system"
        )
        last = next(spoken, None)
        open_calls = tool_calls(last.content) if last is not None and last.role == "assistant" else []
        ids = {str(block["id"]) for block in open_calls}
        if unknown := [id for id in given if id not in ids]:
            raise ConfigurationError(f"tool_result {unknown[0]} answers no open tool call of this session")
        theirs = [str(block["id"]) for block in open_calls if block["name"] in self.conversation.by_caller]
        if undecided := [call.call_id for call in self._tools.undecided()]:
            raise ConfigurationError(
                f"the calls {', '.join(undecided)} wait for approval: approve() or deny() them first, "
                "then hand in the results of the others"
            )
        if missing := [id for id in theirs if id not in given]:
            raise ConfigurationError(
                f"there is no tool_result for {', '.join(missing)}: hand in the results of all open calls together "
                "(one that was not run gets a result with is_error that says so)"
            )

    def _closed(self, last: Entry, words: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The words behind results for every open call."""
        results = {str(block["tool_use_id"]): block for block in words if block["type"] == "tool_result"}
        closed = close_open_calls(last, self._tools.journal, results, in_branch=self._tools.inherited)
        return [*closed, *(block for block in words if block["type"] != "tool_result")]


async def stored_outcome(store: Store, row: TurnRecord) -> Outcome:
    """The outcome of a turn, from what is stored, without a call."""
    calls = [Call.of(call) for call in await store.calls(row.session) if call.turn == row.id]
    content: list[dict[str, Any]] = []
    if row.reply is not None and (entry := await store.entry(row.session, row.reply)):
        content = json.loads(entry.content)
    last = calls[-1] if calls else None
    raw = {"id": last.response_id if last else None, "model": last.model if last else None}
    reason = "cancelled" if row.state == "cancelled" else row.stop_reason
    return Outcome(content, reason, raw | {"usage": _api_usage(last)}, tuple(calls))


def are_results(content: list[dict[str, Any]]) -> bool:
    """Whether the words answer open calls, which all that is queued, or was left, may wait for."""
    return any(block["type"] == "tool_result" for block in content)


async def found(store: Store, session: str, key: str | None, digest: str | None) -> TurnRecord | None:
    """The turn of a session with this idempotency key. Raises `ConfigurationError` where it had other words."""
    keyed = await store.turn(session, key=key) if key else None
    if keyed is not None and keyed.digest != digest:
        raise ConfigurationError(f"idempotency_key {key!r} was used with other content: choose a new key")
    return keyed


def queued_row(session: str, content: list[dict[str, Any]], options: Options, now: float) -> TurnRecord:
    """The row of a turn that waits for its session: its words and what was said with them."""
    limit = None if options.max_cost is None else str(options.max_cost)
    asked = {"words": content, "expected_gap": options.expected_gap, "max_cost": limit}
    return states.queued(
        # Written without a lease, so there is no token to make an id of.
        uuid.uuid4().hex,
        session,
        started=now,
        key=options.key,
        digest=digest_of(content),
        queued=encode([asked])[1:-1],
    )


def asked_of(row: TurnRecord) -> tuple[list[dict[str, Any]], float | None, Decimal | None]:
    """What `queued_row` wrote: the words, in how many seconds the user is expected back, and what the turn may cost."""
    asked = json.loads(row.queued or "{}")
    limit = asked.get("max_cost")
    return asked["words"], asked["expected_gap"], None if limit is None else Decimal(limit)


def digest_of(content: Any) -> str:
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
