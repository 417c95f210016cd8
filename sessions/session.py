"""A conversation: send, stream, run, begin, resume; branch it, read it, and see what it cost."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from typing import Any, TypeAlias, get_args

from sessions import arguments
from sessions.branches.batching import Batching
from sessions.branches.parallel import all_replied, fan_out, words_of
from sessions.conversation.conversation import Conversation
from sessions.conversation.editing import Edit, check_instruction, editing, entitle, message_list
from sessions.conversation.linting import Linter
from sessions.conversation.pending import running_turn
from sessions.conversation.settings_changes import accepted, new_settings
from sessions.core.transcript import canonical
from sessions.core.usage import Usage
from sessions.errors import ModelError, SessionsError
from sessions.ledger import Call
from sessions.readable import ReadableSession
from sessions.runtime import Runtime
from sessions.tools import Toolbox
from sessions.translate import caller_errors, storage_errors
from sessions.turns.beginning import Options
from sessions.turns.begun import Begun, WhileRunning
from sessions.turns.compaction import compact
from sessions.turns.deciding import decide
from sessions.turns.driver import Driver, TurnStream
from sessions.turns.handle import TurnHandle
from sessions.turns.loop import Loop
from sessions.turns.outcome import Outcome, Step
from sessions.turns.tool_round import InDoubt, check_in_doubt
from storage import TurnRecord

Gap: TypeAlias = float | int | timedelta | None


@dataclass(frozen=True, slots=True)
class Reply(Outcome):
    """The end of a turn. `text` and `content` are the last message's; `usage`, `cost` and `calls` cover the turn.

    `raw`: the fields of the last message, beside its content, as they came. `session`: where the conversation goes on.
    """

    session: Session = field(repr=False)

    @classmethod
    def of(cls, outcome: Outcome, session: Session) -> Reply:
        """What a turn of this session gave."""
        return cls(outcome.content, outcome.stop_reason, outcome.raw, outcome.calls, session, pending=outcome.pending)

    def to_dict(self) -> dict[str, Any]:
        """The reply as plain JSON data, for a web framework to give out: as `Outcome.to_dict`, and the session's id."""
        return {"session": self.session.id, **Outcome.to_dict(self)}


class ReplyStream(TurnStream[Reply]):
    """A turn under way. Iterate it for the SDK's events and, between replies, tools' results (their `type` is
    "tool_result"); or `text_stream` for the text.

    The result of each tool is an event too, with the type "tool_result" (`call_id`, `name`, `content`, `is_error`).

    Use it as an async context manager. Leaving it early leaves the turn for `resume()`, as a cancelled task does;
    `cancel()` instead keeps what has come so far as the reply. Another task than the one that reads may leave it, and
    reading ends.
    """


class Turn(TurnHandle[Reply]):
    """A turn that belongs to its conversation: it goes on without whoever began it, and any process can read along
    (`follow`), wait for its reply (`reply`) or `stop` it. Get one from `Session.begin` or `SessionManager.turn`.
    """


class Session(ReadableSession):
    """One conversation of a manager. Get one from `SessionManager.create` or `SessionManager.open`.

    Attributes never touch the store (`entries` says when it must); every method but `stream`, `resume_stream` and
    `run` is a coroutine. `runtime` and `conversation` are for the parts of this package.
    """

    def __init__(self, runtime: Runtime, batching: Batching, linter: Linter, conversation: Conversation) -> None:
        super().__init__(runtime, conversation)
        self._batching, self._linter = batching, linter

    # -- turns --

    async def send(
        self,
        content: Any,
        *,
        expected_gap: Gap = None,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        max_cost: Decimal | float | None = None,
    ) -> Reply:
        """One whole turn: stores the words, asks the model, runs its tools until it has answered.

        `content`: a str or content blocks. `expected_gap`: seconds (or a timedelta) until the user returns, if you know
        it. `idempotency_key`: the same key again gives the stored reply, or finishes that turn. `timeout`: seconds for
        the whole turn. `max_cost`: USD for the whole turn; a request that would take it above is not sent. Raises
        `ModelError`, `SessionBusy`, `StepLimitReached`, `BudgetExceeded`, `LeaseLost`, `ToolsChanged`,
        `ConfigurationError`, `TimeoutError`; whatever is raised, the words are kept, except where the API refused them.
        """
        outcome = await self._driver(content, expected_gap, idempotency_key, timeout, max_cost).outcome()
        if outcome is None:
            raise SessionsError("the turn ended without a reply")  # pragma: no cover - a turn with words always replies
        return Reply.of(outcome, self)

    def stream(
        self,
        content: Any,
        *,
        expected_gap: Gap = None,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        max_cost: Decimal | float | None = None,
    ) -> ReplyStream:
        """As `send`, as a stream: `async with session.stream(…) as stream: async for text in stream.text_stream: …`"""
        driver = self._driver(content, expected_gap, idempotency_key, timeout, max_cost, streams=True)
        return ReplyStream(driver, lambda outcome: Reply.of(outcome, self))

    async def run(
        self,
        content: Any,
        *,
        expected_gap: Gap = None,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        max_cost: Decimal | float | None = None,
    ) -> AsyncGenerator[Step]:
        """As `send`, step by step: each reply of the model and each set of tool results, when it is stored."""
        driver = self._driver(content, expected_gap, idempotency_key, timeout, max_cost)
        try:
            while (one := await driver.next()) is not None:
                if isinstance(one, Step):
                    yield one
        finally:
            await driver.close()

    async def resume(self, *, in_doubt: InDoubt = "report") -> Reply | None:
        """Finishes a turn that a crash, an error or a limit interrupted; `None` when there is nothing to finish.

        `in_doubt`: what to do with calls of tools that are not idempotent and may have taken effect: "report" tells
        the model so, "rerun" runs them again, "raise" raises `InDoubtToolCalls`.
        """
        outcome = await self._resuming(in_doubt).outcome()
        return None if outcome is None else Reply.of(outcome, self)

    def resume_stream(self, *, in_doubt: InDoubt = "report") -> ReplyStream:
        """As `resume`, as a stream; without events, and with no final reply, where there is nothing to finish."""
        return ReplyStream(self._resuming(in_doubt, streams=True), lambda outcome: Reply.of(outcome, self))

    def _resuming(self, in_doubt: InDoubt, *, streams: bool = False) -> Driver:
        check_in_doubt(in_doubt)
        self.conversation.check_tools()
        loop = Loop(self.runtime, self.conversation, None, Options(in_doubt=in_doubt, streams=streams))
        return Driver(self.runtime, loop, self._batching.collect)

    async def begin(
        self,
        content: Any,
        *,
        expected_gap: Gap = None,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        max_cost: Decimal | float | None = None,
        while_running: WhileRunning = "queue",
    ) -> Turn:
        """Begins a turn that belongs to the conversation; returns when its words are durable.

        It runs in the manager's background: it outlives the request that began it, and, where a worker recovers
        (`recover=True`), its process. `while_running`: what becomes of it while another turn runs: "queue" (first come,
        first served), "interrupt" (stops that one, keeps what there is of it, then goes), "refuse" (`SessionBusy`).
        `max_cost`: USD. A request that would take the turn above it is not sent: the turn is interrupted, its error is
        `BudgetExceeded`, `resume()` or other words go on. The rest as in `send`; the same `idempotency_key` again gives
        the same turn.
        """
        arguments.check_choice("while_running", while_running, get_args(WhileRunning))
        words, options, seconds = self._asked(content, expected_gap, idempotency_key, timeout, max_cost)
        begun = self._begun(seconds)
        with storage_errors():
            return self._turn(await begun.begin(words, options, while_running, self._stop_running))

    def _begun(self, timeout: float | None = None) -> Begun:
        return Begun(self.runtime, self.conversation, self._batching.collect, timeout=timeout)

    def _turn(self, row: TurnRecord) -> Turn:
        async def reply_of(outcome: Outcome) -> Reply:
            return Reply.of(outcome, self)

        return Turn(self.runtime, row, reply_of)

    async def _stop_running(self) -> None:
        row = await running_turn(self._store, self.id)
        if row is not None:
            await self._turn(row).stop()

    async def go_on(self, *, in_doubt: InDoubt = "report") -> Turn | None:
        """As `resume`, as a turn of the conversation: it runs in the manager's background, and this returns at once.

        `None` when there is nothing to finish.
        """
        check_in_doubt(in_doubt)
        self.conversation.check_tools()
        with storage_errors():
            row = await self._begun().resume(Options(in_doubt=in_doubt))
        return None if row is None else self._turn(row)

    async def approve(self, call_id: str, input: dict[str, Any] | None = None) -> None:
        """Lets a tool call run that waits for approval, in whatever process it was asked for.

        `input`: another input in place of the model's, which is told of it. When the last call is decided, the turn
        goes on in this manager's background. Raises `Conflict` where it is decided already, or other words have come,
        `ConfigurationError` (naming what is open) for a call that does not wait here, `ToolsChanged`.
        """
        changed = None if input is None else arguments.tool_input_text(input)
        await self._decide(call_id, approved=True, input=changed)

    async def deny(self, call_id: str, reason: str | None = None) -> None:
        """Refuses a tool call that waits for approval; the model is told so, with the `reason`. Raises as `approve`."""
        arguments.check_texts(reason=reason)
        await self._decide(call_id, approved=False, reason=reason)

    async def _decide(self, call_id: str, **decision: Any) -> None:
        arguments.check_texts(call_id=call_id)
        self.conversation.check_tools()
        self.runtime.lifecycle.check_takes_turns()  # before anything is written: the last decision lets a turn go on
        await self.refresh()
        with storage_errors():
            decided = await decide(self._store, self.conversation, call_id, self.runtime.clock.now(), **decision)
            if decided is not None:
                await self._begun().go_on(decided)

    def _driver(
        self, content: Any, gap: Gap, key: str | None, timeout: float | None, max_cost: Any, *, streams: bool = False
    ) -> Driver:
        words, options, seconds = self._asked(content, gap, key, timeout, max_cost, streams=streams)
        loop = Loop(self.runtime, self.conversation, words, options)
        return Driver(self.runtime, loop, self._batching.collect, seconds)

    def _asked(
        self, content: Any, gap: Gap, key: str | None, timeout: float | None, max_cost: Any, *, streams: bool = False
    ) -> tuple[list[dict[str, Any]], Options, float | None]:
        """What the caller gave, checked: the words, how the turn is asked for, its time limit in seconds."""
        self.conversation.check_tools()
        arguments.check_key(key)
        with caller_errors():
            words = canonical(content)
        limit = arguments.dollars("max_cost", max_cost)
        options = Options(arguments.seconds("expected_gap", gap), key, streams=streams, max_cost=limit)
        return words, options, arguments.seconds("timeout", timeout)

    # -- branches --

    async def fork(self, at: str | None = None) -> Session:
        """A second session that shares the history up to entry `at` (the head where `None`); nothing is copied.

        Raises `Conflict` if this session's tree has no such entry.
        """
        arguments.check_texts(at=at)
        with storage_errors():
            head = self.head if at is None else at
            return self._beside(await self.runtime.conversations.fork(self.conversation, head))

    def _beside(self, conversation: Conversation) -> Session:
        """Another session of the same manager."""
        return Session(self.runtime, self._batching, self._linter, conversation)

    async def rewind(self, to: str | None, *, expected: str | None = None) -> None:
        """Moves the head back to an entry of the chain (`None`: before the first). What lies behind stays readable.

        `expected`: the entry that the conversation must still end with, so that nobody's newer words are left behind.
        Raises `Conflict` if it does not, or if the entry is not on the chain.
        """
        arguments.check_texts(to=to, expected=expected)
        async with self._editing() as edit:
            await edit.rewind(to, expected)

    async def map(self, contents: Iterable[Any], *, limit: int | None = None) -> list[Reply]:
        """One branch per content from this head, in parallel; what they share is written to the cache once.

        This session does not move; each reply's `.session` is its branch. `limit`: how many run at the same time. If
        some fail, the others still finish; then the error of the first content that failed is raised.
        """
        self.conversation.check_tools()
        if limit is not None:
            arguments.check_counts(1, limit=limit)
        words = words_of(contents)
        ended = await fan_out(self.runtime, self._batching.collect, self.conversation, words, limit)
        return [self._reply_of(branch, outcome) for branch, outcome in ended]

    def _reply_of(self, branch: Conversation, outcome: Outcome) -> Reply:
        return Reply.of(outcome, self._beside(branch))

    async def batch(
        self,
        contents: Iterable[Any],
        *,
        idempotency_key: str | None = None,
        poll: float = 30.0,
        timeout: float | None = None,
    ) -> list[Reply]:
        """As `map`, at half price and with time to wait: the branches' requests go out as Message Batches.

        The first one goes alone, so that what all share is written to the cache once, and the others follow. A batch
        takes minutes, at most 24 hours; `poll` is the longest time between two looks, `timeout` ends the waiting
        (`TimeoutError`), not the batch: the same `idempotency_key` and contents again, in any process, go on from
        there, and so does `manager.recover()`; nothing is sent twice. A reply that calls tools leaves its branch to
        `reply.session.resume()`. Raises `BatchIncomplete`, which holds all outcomes, if any request has no reply.
        """
        self.conversation.check_tools()
        arguments.check_pause("poll", poll)
        timeout = arguments.seconds("timeout", timeout)
        arguments.check_key(idempotency_key)
        words = words_of(contents)
        if not words:
            return []
        with storage_errors():
            sent = await self._batching.send(self.conversation, words, idempotency_key, poll, timeout)
        return all_replied([end if isinstance(end, ModelError) else self._reply_of(*end) for end in sent])

    async def append(self, messages: Iterable[Any]) -> None:
        """Imports history without calling the model: all messages are checked first, then all are written or none.

        `messages`: a list, or an object that holds one as `messages`. Thinking in it stays as it is; where the model
        binds thinking to its prefix, later calls ask the API to drop what belongs to another one.

        Raises `InvalidHistory` naming the message and the rule.
        """
        messages = message_list(messages)
        async with self._editing() as edit:
            await edit.append(messages)

    async def update(self, *, rebase: bool = False, **changes: Any) -> None:
        """Changes settings (those of `create`, and `title`, `metadata`).

        What keeps the cached prefix is free. What breaks it raises `PrefixChange` naming the tokens that will be billed
        again, unless `rebase=True`. Warns (`PromptWarning`) of what in the new prompt silently breaks its cache. A
        title alone waits for no turn that runs.
        """
        title, metadata = changes.pop("title", None), changes.pop("metadata", None)
        arguments.check_switches(rebase=rebase)
        arguments.check_texts(title=title)
        metadata = None if metadata is None else arguments.metadata_text(metadata)
        if title is not None and metadata is None and not changes:
            await entitle(self._store, self.conversation, title)
            return
        toolbox = Toolbox(arguments.tool_list(changes["tools"])) if "tools" in changes else self.conversation.toolbox
        async with self._editing() as edit:
            endpoint, now = self.runtime.endpoint, self.runtime.clock.now()
            settings = new_settings(self.settings, changes, toolbox)
            endpoint.check(settings)
            settings, broken = accepted(self.conversation, settings, endpoint.profile_of, rebase=rebase, now=now)
            if broken:
                self._linter.check(settings, self.owner, metadata or self.conversation.record.metadata, self.settings)
            await edit.change_settings(settings, toolbox, title=title, metadata=metadata)

    async def instruct(self, text: str) -> None:
        """New instructions of the operator, from the next call on; the system prompt and its cached prefix stay.

        They go out behind the newest user message: as a `system` message where the model takes them there, elsewhere as
        a block of the user message that is marked as an instruction. Raises `ConfigurationError` for blank text.
        """
        check_instruction(text)
        async with self._editing() as edit:
            await edit.instruct(text)

    async def prewarm(self) -> Usage | None:
        """Writes the prefix to the cache with a zero-token request, so that the next turn starts warm.

        `None` if the prefix is below the model's minimum, already warm, or cannot be warmed with these settings.
        Raises `ModelError`.
        """
        if self.runtime.leases.is_held(self.id):
            return None  # a turn of this process is about to write the prefix itself
        async with self._editing() as edit:
            return await edit.healing(lambda: self.runtime.zero_token.prewarm(self.conversation))

    async def compact(self) -> Call:
        """Replaces the history by the API's own summary of it, as a new head on a new chain; gives the call that did.

        `entries` then shows the new chain and `entries_before()` the earlier ones; `fork(at=…)` an old entry goes on
        without the summary. Raises `ConfigurationError` where the platform has no compaction or a turn is open.
        """
        async with self._editing() as edit:
            summarize = lambda: compact(self.runtime, self.conversation, edit.lease)  # noqa: E731
            return await self.runtime.lifecycle.unless_ended(lambda: edit.healing(summarize))

    async def delete(self) -> None:
        """Really deletes the session; entries that a fork still reaches stay."""
        await self.runtime.conversations.delete(self.id, None)

    def _editing(self) -> AbstractAsyncContextManager[Edit]:
        return editing(self.runtime.store, self.runtime.clock, self.runtime.leases, self.conversation)
