"""A turn of the conversation: it runs in the manager's background, and nobody's leaving ends it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import repeat
from typing import Any, Literal, TypeAlias

import anyio

from sessions.background import log
from sessions.clock import monotonic
from sessions.conversation.conversation import Conversation
from sessions.conversation.pending import newest_turn, state_of
from sessions.errors import ConfigurationError, SessionBusy, SessionsError
from sessions.following.channel import Channel
from sessions.following.view import View
from sessions.runtime import Runtime
from sessions.translate import storage_errors
from sessions.turns import states
from sessions.turns.beginning import Options, are_results, digest_of, found, queued_row
from sessions.turns.driver import Collect, Driver
from sessions.turns.loop import Loop
from sessions.turns.outcome import Outcome, ended
from sessions.waiting import until as wait_until
from storage import StorageError, TurnKeyTaken, TurnRecord

WhileRunning: TypeAlias = Literal["queue", "interrupt", "refuse"]
_LOOK = 0.5
"""Seconds between two looks at what a queued turn waits for, where no news of it comes."""
FOR_EVER = 1e9
"""Seconds that a queued turn waits for its session: some thirty years."""


class Begun:
    """Begins a turn and runs it in the background. `stop_running`: stops the turn that runs, wherever that is.

    `row` is the turn as it is known when its words are durable.
    """

    def __init__(
        self, runtime: Runtime, conversation: Conversation, collect: Collect, *, timeout: float | None = None
    ) -> None:
        self._runtime, self._conversation, self._collect, self._timeout = runtime, conversation, collect, timeout
        self._row: TurnRecord | None = None
        self._error: BaseException | None = None
        self._channel: Channel | None = None
        self._is_known = anyio.Event()

    async def begin(
        self,
        content: list[dict[str, Any]],
        options: Options,
        while_running: WhileRunning,
        stop_running: Callable[[], Any],
    ) -> TurnRecord:
        """Returns when the words are durable: in the chain, or in the row of a turn that is queued.

        With the key of a turn that is there already, it is that one. Raises what keeps the turn from beginning.
        """
        known = await self._found(content, options)
        if known is not None and (states.has_outcome(known) or self._is_here(known)):
            return known

        async def run() -> None:
            await self._run(content, options, known, while_running, stop_running)

        return await self._row_of(run)

    async def go_on(self, row: TurnRecord) -> TurnRecord:
        """Goes on with a turn whose calls have been decided."""

        async def run() -> None:
            try:
                await self._drive(Options(row=row.id, patience=0.0, begun=self._begun))
            except SessionBusy:  # another worker has taken it up, or changes something else
                self._begun(row)  # who follows it reads along there, until it runs here
                await self._drive(Options(row=row.id, patience=FOR_EVER))
            if self._row is None:  # another worker was faster
                self._begun(row)

        return await self._row_of(run)

    async def resume(self, options: Options) -> TurnRecord | None:
        """Goes on with what was interrupted; `None` where there is nothing to finish."""

        async def run() -> None:
            await self._drive(replace(options, begun=self._begun))

        return await self._started(run)

    def _is_here(self, row: TurnRecord) -> bool:
        return self._runtime.following.own(row.session, row.id) is not None

    async def _row_of(self, run: Callable[[], Any]) -> TurnRecord:
        row = await self._started(run)
        if row is None:
            raise SessionsError("the manager was closed before the turn began: send it to another worker")
        return row

    async def _started(self, run: Callable[[], Any]) -> TurnRecord | None:
        """Runs it in the background, until the turn is known: its row, or `None` where none came of it."""

        async def guarded() -> None:
            try:
                with storage_errors():
                    await run()
            except Exception as error:
                self._failed(error)
            finally:
                # Whatever came of it: whoever begins the turn waits for this.
                self._is_known.set()

        self._runtime.lifecycle.check_takes_turns()
        self._runtime.background.start(guarded)
        await self._is_known.wait()
        if self._row is None and self._error is not None:
            raise self._error
        return self._row

    def _begun(self, row: TurnRecord) -> None:
        self._row = row
        # Held until whoever begins it has its handle: the turn may have ended by then, and the channel knows.
        self._channel = self._runtime.following.known(row.session, row.id)
        self._is_known.set()

    def _failed(self, error: Exception) -> None:
        self._error = error
        if self._row is None:
            return  # whoever begins it is told
        if not isinstance(error, SessionsError | TimeoutError):
            log.error("turn %s of session %s failed", self._row.id, self._row.session, exc_info=error)

    async def _run(
        self,
        content: list[dict[str, Any]],
        options: Options,
        known: TurnRecord | None,
        while_running: WhileRunning,
        stop_running: Callable[[], Any],
    ) -> None:
        try:
            # Results go first: what is queued may be waiting for just these.
            if not are_results(content) and await self._is_behind_others():
                raise SessionBusy("other turns of this session are queued: try again later")
            # Without patience: who has to wait is to have its words in a row, not in this process.
            await self._drive(replace(options, patience=0.0, begun=self._begun), content)
            if self._row is None:  # its key was used a moment ago, and that turn has ended
                self._row = await self._found(content, options)
        except ConfigurationError as error:
            if self._row is not None or not isinstance(error.__cause__, TurnKeyTaken):
                raise
            self._row = await self._found(content, options)  # meanwhile it was queued, by somebody else
        except SessionBusy:
            if self._row is not None:
                raise
            if known is not None:  # it is the one that runs, or is queued, in another process
                self._begun(known)
                return
            if while_running == "refuse":
                raise
            await self._wait_in_line(content, options, while_running, stop_running)

    async def _found(self, content: list[dict[str, Any]], options: Options) -> TurnRecord | None:
        """The turn that has its key already."""
        return await found(self._runtime.store, self._conversation.record.id, options.key, digest_of(content))

    async def _is_behind_others(self) -> bool:
        """Whether turns are queued, by whatever worker; one of this process may not be in line yet."""
        session = self._conversation.record.id
        return self._runtime.following.has_queued(session) or await self._runtime.store.queued(session) is not None

    async def _drive(self, options: Options, content: list[dict[str, Any]] | None = None) -> bool:
        """Runs one turn to its end; whether there was one to run."""
        loop = Loop(self._runtime, self._conversation, content, options)
        return await Driver(self._runtime, loop, self._collect, self._timeout).outcome() is not None

    async def _wait_in_line(
        self,
        content: list[dict[str, Any]],
        options: Options,
        while_running: WhileRunning,
        stop_running: Callable[[], Any],
    ) -> None:
        """The words become durable in a row of their own, and the turn runs when those before it have ended."""
        runtime, session = self._runtime, self._conversation.record.id
        try:
            row = await runtime.store.queue(queued_row(session, content, options, runtime.clock.now()))
        except TurnKeyTaken:  # a moment ago, by somebody who begins the same turn
            self._row = await self._found(content, options)
            return
        if row.state != "queued" or runtime.following.own(session, row.id) is not None:
            self._begun(row)  # who ran what was queued before has begun it already, here or elsewhere
            return
        # Before what runs is stopped, which takes its time: the words are durable, and `begin` returns.
        channel = self._announced(row)
        timer = self._watch_time(channel)
        try:
            if while_running == "interrupt":
                # The words are in line by now: nobody else's come between the stop and them.
                await stop_running()
            await run_queued(runtime, self._conversation, self._collect, until=row)
        except Exception as error:
            # `_give_up` may have set why already.
            channel.error = channel.error or error
            raise
        finally:
            timer.cancel()
            await self._left_alone(channel)

    def _announced(self, row: TurnRecord) -> Channel:
        """Where a turn that is to run here, but does not yet, can be followed already."""
        channel = self._runtime.following.channel(row.session, row.id, self._conversation.record.owner)
        channel.row = row
        channel.begin(0, lambda: View(state=row.state))
        self._begun(row)
        return channel

    def _watch_time(self, channel: Channel) -> anyio.CancelScope:
        """Its time limit counts from now on; a turn whose time is up before it has begun is taken out of the queue."""
        timer, seconds = anyio.CancelScope(), self._timeout
        if seconds is not None:
            channel.limit = (seconds, monotonic(self._runtime.clock) + seconds)
            self._runtime.background.start(lambda: self._give_up(channel, seconds, timer))
        return timer

    async def _give_up(self, channel: Channel, seconds: float, timer: anyio.CancelScope) -> None:
        with timer:
            await self._runtime.clock.sleep(seconds)
            if channel.row is None or channel.row.state != "queued":
                return  # whoever runs it sees to it
            channel.error = TimeoutError(f"the turn had not begun after {seconds:g} seconds: it is not run any more")
            try:
                # The store decides: another worker may have begun it in this moment.
                await self._runtime.store.ask_stop(channel.session, channel.turn, now=self._runtime.clock.now())
                await self._end_of_queued(channel)
            except StorageError as error:
                log.warning("a turn of session %s stays queued though its time is up: %s", channel.session, error)

    async def _left_alone(self, channel: Channel) -> None:
        """It did not run here: it was stopped while it waited, or another worker took it."""
        with anyio.CancelScope(shield=True):
            await self._end_of_queued(channel)
            self._runtime.following.gone(channel)

    async def _end_of_queued(self, channel: Channel) -> None:
        row = None if channel.is_over else await self._runtime.store.turn(channel.session, id=channel.turn)
        # What another worker has made of it was not told here: of a turn with words the stored snapshot tells.
        if row is not None and row.entry is None and states.is_at_rest(row):
            channel.row = row
            channel.end(ended(row, ()))


async def run_queued(
    runtime: Runtime,
    conversation: Conversation,
    collect: Collect,
    *,
    until: TurnRecord | None = None,
    recovering: bool = False,
) -> Outcome | None:
    """Runs what is queued, the oldest first, whoever queued it; to the end, or until the turn `until` has had its turn.

    A turn that ends with an error does not keep the next one waiting. Gives the newest outcome.
    """
    session, has_failed, outcome = conversation.record.id, False, None
    # Recovery looks again in a few seconds, and has other sessions to see to.
    patience = 0.0 if recovering else FOR_EVER
    while await runtime.store.queued(session) is not None:
        next_one = _Next(runtime, conversation, collect, recovering=recovering)
        try:
            if not await next_one.run(patience) and not await next_one.make_way(patience):
                break
            outcome = next_one.outcome or outcome
        except (SessionsError, TimeoutError) as error:
            row = next_one.row
            # Nothing had begun, and `until` has left the queue: it is the one that failed.
            if row is None and until is not None and not await _is_queued(runtime, until):
                raise
            if recovering or runtime.lifecycle.is_ending or (has_failed if row is None else row.id == _id(until)):
                raise
            # Where nothing had begun it is tried once more; twice in a row is more than one turn's trouble.
            has_failed = row is None
            log.warning("a queued turn of session %s could not be finished: %s", session, error)
        if until is not None and not await _is_queued(runtime, until):
            break
    return outcome


class _Next:
    """The turn of a session that is next in line. Which one that is shows under the lease: `row`, when it has begun."""

    def __init__(self, runtime: Runtime, conversation: Conversation, collect: Collect, *, recovering: bool) -> None:
        self._runtime, self._conversation, self._collect = runtime, conversation, collect
        self._recovering = recovering
        self.row: TurnRecord | None = None
        self.outcome: Outcome | None = None
        self._driver: Driver

    async def run(self, patience: float) -> bool:
        """Runs it; whether there was one that may run now."""
        await self._drive(Options(queued=True, recovering=self._recovering, patience=patience, begun=self._begun))
        return self.row is not None

    def _begun(self, row: TurnRecord) -> None:
        self.row = row
        channel = self._runtime.following.own(row.session, row.id)
        if channel is not None and channel.limit is not None:
            seconds, deadline = channel.limit
            self._driver.limit(seconds, deadline - monotonic(self._runtime.clock))

    async def make_way(self, patience: float) -> bool:
        """What comes before all that is queued: a turn that a dead worker left, or calls that wait for the user.

        False where they are left to the user.
        """
        session = self._conversation.record.id
        if (left := await self._runtime.store.open_turn(session)) is not None and left.state == "running":
            await self._drive(Options(recovering=True, patience=patience))
        elif self._recovering:
            return False
        elif (row := await self._runtime.store.queued(session)) is not None:
            await _until_it_moves(self._runtime, self._conversation, row)
        return True

    async def _drive(self, options: Options) -> None:
        self._driver = Driver(self._runtime, Loop(self._runtime, self._conversation, None, options), self._collect)
        self.outcome = await self._driver.outcome()


def _id(row: TurnRecord | None) -> str | None:
    return None if row is None else row.id


async def _until_it_moves(runtime: Runtime, conversation: Conversation, row: TurnRecord) -> None:
    """Calls are open that the user is to decide, or the caller to answer: what is queued waits for that."""
    session, head = conversation.record.id, conversation.head

    async def look() -> bool | None:
        if (await runtime.store.load(session)).head != head or not await _is_queued(runtime, row):
            return True
        newest = await newest_turn(runtime.store, session, queued=False)
        return None if newest is not None and state_of(newest) == "waiting" else True

    await runtime.lifecycle.unless_ended(
        lambda: wait_until(look, lambda: runtime.store.watch(session), runtime.clock, lambda: FOR_EVER, repeat(_LOOK))
    )


async def _is_queued(runtime: Runtime, row: TurnRecord) -> bool:
    present = await runtime.store.turn(row.session, id=row.id)
    return present is not None and present.state == "queued"
