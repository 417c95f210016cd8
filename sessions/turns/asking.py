"""Asking the model within a turn: what is sent is made ready, planned, written down, sent and listened to."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import replace
from decimal import Decimal
from functools import partial
from typing import Any

import anyio

from sessions.calls.gate import Passage
from sessions.calls.request import Request
from sessions.conversation.settings_changes import without_foreign_thinking
from sessions.core.cache import Where
from sessions.core.cleared import Clearing, decided
from sessions.core.clearing import clearing
from sessions.core.incoming import Incoming
from sessions.core.plan import Plan, make_plan, render
from sessions.core.prices import cost
from sessions.core.settings import COMPACT
from sessions.errors import BudgetExceeded, ModelError, StepLimitReached
from sessions.runtime import Runtime
from sessions.turns import states
from sessions.turns.compaction import cheaper, make_room, obstacle, room_before
from sessions.turns.outcome import Event, Outcome, Step
from sessions.turns.receiving import Receiving
from sessions.turns.stopping import Stop
from sessions.turns.writer import CANCELLED, TurnWriter
from storage import BudgetFull


class Asking:
    """The model calls of one turn. `own_marks`: where the user's words carried `cache_control`.

    `streams`: somebody reads the events. `branches` as in `Options`.
    """

    def __init__(self, runtime: Runtime, writer: TurnWriter, stop: Stop, *, streams: bool, branches: bool) -> None:
        self._runtime, self._writer, self._stop = runtime, writer, stop
        self._streams, self._branches = streams, branches
        self._conversation, self._receiving = writer.conversation, Receiving(runtime, writer)
        self._calls = 0
        self._clearing: Clearing | None = None
        self._compacts = True  # until an attempt fails: each may be paid for
        self.own_marks: tuple[Where, ...] = ()
        self.max_cost: Decimal | None = None
        """What the turn may cost, in USD."""

    def _plan(self) -> Plan:
        conversation = self._conversation
        turns = self._writer.row.sequence
        at = self._runtime.forecaster.circumstances(conversation, self._writer.now(), self.own_marks, turns=turns)
        return replace(make_plan(conversation.prompt, conversation.recent.warmth, at), clearing=self._clearing)

    def _request(self, passage: Passage) -> Request:
        conversation, plan = self._conversation, passage.plan
        prompt = conversation.prompt
        body = render(prompt, plan.marks)
        if prompt.profile.diagnostics and self._runtime.limits.diagnostics:
            body["diagnostics"] = {"previous_message_id": self._previous_message()}
        return Request(
            id=self._writer.new_id(),
            kind="turn",
            body=body,
            plan=plan,
            planned=self._writer.now(),
            asked_from=conversation.last.id if conversation.last else None,
            waited=passage.waited,
        )

    def _previous_message(self) -> str | None:
        for entry in reversed(self._conversation.entries):
            if entry.role == "assistant":
                return entry.message_id if entry.model == self._conversation.settings.model else None
        return None

    async def once(self) -> AsyncGenerator[Event | Step | Outcome]:
        if self._calls >= self._runtime.limits.max_steps:
            raise StepLimitReached(
                f"the turn has made {self._calls} model calls (max_steps); all results are stored: "
                "resume() or send() goes on"
            )
        self._calls += 1
        # Before the gate: what is planned there is the prompt, which this may still change.
        await self.prepare()
        if not self._branches:
            await self._make_cheaper()
        passage = await self._stop.run_unless_stopped(self._go_first_or_wait)
        if passage is None:
            return  # stopped while it waited: the turn's loop closes it
        try:
            async with passage:
                # Inside the passage: where it raises, the next in line writes the prefix.
                self._check_cost(passage.plan)
                request = await self._write_down(passage)
                if request is None:
                    return  # stopped while it waited for room
                async with aclosing(self._listen(request, passage)) as events:
                    async for event in events:
                        yield Event(event)
        except ModelError as error:
            # Where it is healed nothing was added to the chain: the turn's loop comes back here, with other settings.
            if not await self._asks_to_drop(error):
                raise
            return
        # A stop that comes behind the end of the answer takes nothing of it back: it is whole, and paid.
        if self._stop.pressed and not request.incoming.ended:
            await self._receiving.keep_partial(request.incoming)
            yield self._writer.outcome(CANCELLED)
            return
        call, outcome = await self._receiving.receive(request.incoming)
        if outcome is not None:
            yield outcome
            return
        entry = self._conversation.last
        assert entry is not None
        yield Step("reply", list(entry.content), entry, entry.stop_reason, call)

    def _check_cost(self, plan: Plan) -> None:
        """Raises `BudgetExceeded` where what was spent and the request's expected input are more than it may cost.

        A request whose price is not published counts as nothing.
        """
        if self.max_cost is None:
            return
        settings, profile = self._conversation.settings, self._conversation.prompt.profile
        spent = sum((call.cost or Decimal(0) for call in self._writer.calls), start=Decimal(0))
        expected = cost(plan.expected, profile, settings.params) or Decimal(0)
        if spent + expected > self.max_cost:
            raise BudgetExceeded(
                f"the turn has cost ${spent}, and its next request is expected to cost ${expected} before its answer: "
                f"more than max_cost (${self.max_cost}); all results are stored: resume() or send() goes on",
                left=max(self.max_cost - spent, Decimal(0)),
            )

    async def _write_down(self, passage: Passage) -> Request | None:
        """The request, stored as the call in flight before it is sent; `None` where the user pressed stop before.

        Raises `BudgetExceeded`: then the turn is as it was, and all that was to be sent is stored.
        """
        request = self._request(passage)
        request.incoming.heard = self._writer.channel.hear
        if not await self._stored_with_room(request):
            return None
        # After the commit, which takes its time: lifetimes count from the start of the request (docs/provider.md, 2).
        self._runtime.requests.start(request, self._conversation, self._writer.span)
        return request

    async def _stored_with_room(self, request: Request) -> bool:
        """Writes it down with the room that it needs; False where the user pressed stop while it waited for that."""
        writer, budgets, before = self._writer, self._runtime.budgets, self._writer.row
        while True:
            writer.send(request)
            writer.row = states.after(before, "asks", call=request.stored)
            reserve = self._runtime.requests.reservation(request, self._conversation)
            try:
                # If this process dies from here on, the next worker finds what may have been paid for
                # (`TurnWriter.settle`): the API has no key by which it could be asked (docs/provider.md, 12).
                await writer.commit(turn=writer.row, reserve=reserve)
                return True
            except BudgetFull as error:
                full = error
            writer.hold_back(before)
            assert reserve is not None
            # Whatever comes of it: what was to be sent is durable.
            await writer.commit(turn=before)
            await self._stop.run_unless_stopped(partial(budgets.wait, full, reserve, request.planned))
            if self._stop.pressed:
                return False

    async def prepare(self) -> None:
        """What holds before every request, whoever sends it: instructions stand behind the words, and the window fits.

        Where the session compacts by itself, a summary makes room, at most one attempt a turn that fails.
        """
        instructions = self._conversation.settings.instructions
        # Behind a reply they have no place (docs/provider.md, 10): there they wait for the next words.
        if instructions and (last := self._conversation.last) is not None and last.role != "assistant":
            self._writer.stage_instructions(instructions)
            self._conversation.adopt(replace(self._conversation.settings, instructions=()))
            # With the commit that writes their entry: where that fails, they still wait.
            self._writer.settings = self._conversation.settings.to_json()
        if self._conversation.settings.compact in COMPACT and self._compacts:
            await self._stop.run_unless_stopped(self._make_room)

    async def _make_room(self) -> None:
        count = room_before(self._conversation)
        if count is not None:
            await self._summarize(count)

    async def _make_cheaper(self) -> None:
        """Less is sent from now on, where that is cheaper. Not before branches, which share what is cached."""
        if self._calls == 1 and self._conversation.settings.compact == "cheapest":
            await self._stop.run_unless_stopped(self._shorten)
        if self._conversation.prompt.cleared is not None:
            self._clear()

    async def _shorten(self) -> None:
        """A new turn begins behind a summary where that is cheaper than carrying on."""
        turns = self._writer.row.sequence
        found = cheaper(self._runtime, self._conversation, turns) if self._compacts else None
        if found is not None and self._affords(found[1].price):
            await self._summarize(found[0], found[1].saves)

    def _clear(self) -> None:
        """From this request on more old tool results are cleared, where that is cheaper; stored with the request."""
        conversation, now = self._conversation, self._writer.now()
        self._clearing, prompt = None, conversation.prompt
        at = self._runtime.forecaster.circumstances(conversation, now, self.own_marks, turns=self._writer.row.sequence)
        warmth = conversation.recent.warmth
        found = clearing(prompt, make_plan(prompt, warmth, at), warmth, at)
        if found is None or found.saves <= 0 or not self._affords(found.price):
            return
        settings, entries = conversation.settings, conversation.entries
        conversation.use(replace(settings, cleared=decided(settings, entries, found.count)))
        # With the commit that writes the request down: where that fails, nothing was cleared.
        self._writer.settings = conversation.settings.to_json()
        self._clearing = found

    def _affords(self, more: Decimal) -> bool:
        """Whether so much more than the next request (USD) is within what the turn may cost."""
        if self.max_cost is None:
            return True
        settings, profile = self._conversation.settings, self._conversation.prompt.profile
        return more + (cost(self._plan().expected, profile, settings.params) or Decimal(0)) <= self.max_cost

    async def _summarize(self, count: int, saves: Decimal | None = None) -> None:
        if obstacle(self._conversation.settings, self._conversation.prompt.profile) is not None:
            return
        self._compacts = await make_room(self._runtime, self._writer, count, saves)
        if self._compacts:
            self._writer.channel.show_again()  # its entries have other ids
            # One message stands in place of the first `count` now.
            self.own_marks = tuple(mark._replace(message=mark.message - count + 1) for mark in self.own_marks)

    async def _go_first_or_wait(self) -> Passage:
        """The way through the gate. Who has to wait there has its words stored before."""
        minimum = 1 if self._branches else self._conversation.prompt.profile.worth_waiting_for
        self._branches = False  # what comes after the first answer is this branch's own
        return await self._runtime.gate.enter(self._plan, minimum, lambda: self._writer.commit(turn=self._writer.row))

    async def _asks_to_drop(self, error: ModelError) -> bool:
        """True: it was refused for thinking of another conversation, which the API is from now on asked to drop."""
        settings = without_foreign_thinking(self._conversation, error)
        if settings is None:
            return False
        self._calls -= 1  # the request that is healed is no step of the turn
        record = self._writer.failed_call(error)
        self._writer.row = states.after(self._writer.row, "asks")
        await self._writer.commit(turn=self._writer.row, calls=record, settings=settings.to_json())
        # After the commit: where that fails, nothing here may be other than what is stored.
        self._conversation.use(settings)
        return True

    async def _listen(self, request: Request, passage: Passage) -> AsyncGenerator[Any]:
        """Takes the answer in until it ends or the user presses stop. Gives its events where somebody reads them.

        Where nobody does, one scope is enough for all of it: one for each event of a long reply would be a good part of
        what it costs.
        """
        if not self._streams:
            async with self._keeping(request.incoming):
                await self._stop.run_unless_stopped(lambda: self._take_in(request, passage))
            return
        # A stack: a stop may interrupt the opening of the stream, and what was opened is to be closed in either case.
        async with self._keeping(request.incoming), AsyncExitStack() as stack:
            stream = self._runtime.requests.stream(request, typed=True)
            events = await self._stop.run_unless_stopped(lambda: stack.enter_async_context(stream))
            while events is not None and not self._stop.pressed:
                event = await self._stop.run_unless_stopped(lambda: anext(events, None))
                if event is None:
                    return
                await self._heard(request, passage)
                yield event

    async def _take_in(self, request: Request, passage: Passage) -> None:
        async with self._runtime.requests.stream(request) as events:
            async for _ in events:
                await self._heard(request, passage)

    async def _heard(self, request: Request, passage: Passage) -> None:
        """An event has come; the first one opens the gate for others."""
        if request.first_event is None:
            self._runtime.requests.begun(request)
        if request.incoming.started and not passage.is_open:
            usage, unasked = request.incoming.usage, self._conversation.prompt.profile.caches_unasked
            # Learnt before the gate opens: who waits there plans again with what is warm now.
            self._conversation.recent.warmth.learn(
                request.plan.marks, request.plan.hit, usage, request.started, unasked=unasked
            )
            await passage.opened()

    @asynccontextmanager
    async def _keeping(self, incoming: Incoming) -> AsyncIterator[None]:
        """A reply that has come whole is paid: it is stored also where its caller is cancelled just then."""
        try:
            yield
        except BaseException as error:
            if incoming.ended and not isinstance(error, Exception):
                with anyio.CancelScope(shield=True), suppress(ModelError):  # what cannot be stored is the ledger's
                    await self._receiving.receive(incoming)
            raise
