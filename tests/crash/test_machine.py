"""A machine does to a session whatever can be done to one, in any order, and looks after each step what is left of it.

Some hundred steps that are the same every time; `WARMLINE_STEPS=5000` walks that many at random. The simulator refuses
what the API refuses; nothing may be refused but one request per session that shows what thinking is bound to.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from sessions import (
    ConfigurationError,
    InvalidHistory,
    ModelError,
    PrefixChange,
    Reply,
    Session,
    SessionsError,
)
from sessions.core.steps import INTERRUPTED, NOT_RUN, NOT_RUN_IN_BRANCH
from sessions.simulator import Fault
from storage import StoreUnavailable
from tests.crash.machine import FAULTS, MODELS, PLANS, SYSTEMS, Effects, Known, Process, script
from tests.crash.stepping import at_step
from tests.sessions.world import MODEL, World, marks, words

STEPS = int(os.environ.get("WARMLINE_STEPS", "0"))
LENGTH = 50
BOUND = "bound to a different conversation"
KEPT = "what the tools have done is kept"
REFUSED = "the tool has run; the result was refused by the API"
steps = st.integers(1, 60)
plans = st.sampled_from(PLANS)
seen: Counter[str] = Counter()
"""What the machine did, over all its runs."""


class Machine(RuleBasedStateMachine):
    """Two processes and some sessions of one tree or several, on one simulated Claude."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.directory = Path(tempfile.mkdtemp())
        self.world = World(script, url=self.directory / "a.db", faults=self._fault)
        self.effects = Effects()
        self.planned: Fault | None = None
        self.count = 0
        self.checked = 0
        self.sessions: list[Known] = []
        self.run(self._set_up())

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Runs one step to its end."""
        return self.runner.run(asyncio.wait_for(work, 60))

    async def _set_up(self) -> None:
        self.processes = [await self._process(), await self._process()]
        manager = self.processes[0].manager
        donor = await manager.create(model=MODEL, max_tokens=4000, system=SYSTEMS[0] + " donor")
        await donor.send("m0: ")
        self.foreign = donor.messages[-1]["content"]
        made = await manager.create(
            model=MODEL, max_tokens=4000, system=SYSTEMS[0], tools=self.effects.sets["all"],
            thinking={"type": "adaptive"},
        )  # fmt: skip
        self.sessions.append(Known(made.id))

    async def _process(self) -> Process:
        made = Process(self.world, self.directory / "a.db", self.effects)
        await made.manager.__aenter__()
        return made

    def _fault(self, _: int) -> Fault | None:
        planned, self.planned = self.planned, None
        return planned

    def teardown(self) -> None:
        """In the end every session goes on, whatever has happened to it."""
        try:
            self.planned = None
            self.run(self._finish())
        finally:
            self.runner.close()
            shutil.rmtree(self.directory, ignore_errors=True)

    async def _finish(self) -> None:
        try:
            if sys.exc_info()[0] is None:
                for known in self.sessions:
                    session = await self._open(known, 0)
                    await self._ends(known, None, session.resume())
                    await self._send(known, 0, "", probe=True)
                    await self._check(known)
        finally:
            for one in self.processes:
                await one.manager.__aexit__(None, None, None)

    # -- one step ------------------------------------------------------------------------------------------------------

    async def _open(self, known: Known, at: int) -> Session:
        """The session as that process has it open; with the tools that are stored."""
        process = self.processes[at]
        found = process.opened.get(known.id)
        stored = await process.manager.open(known.id)
        if found is None or self.effects.of(found) != self.effects.of(stored):
            found = await process.manager.open(known.id, tools=self.effects.of(stored))
        process.opened[known.id] = found
        return found

    def _token(self, plan: str) -> str:
        self.count += 1
        return f"m{self.count}: {plan}"

    async def _send(self, known: Known, at: int, plan: str, *, probe: bool = False) -> None:
        token = self._token(plan)
        session = await self._open(known, at)
        known.newest = token
        await self._ends(known, token, session.send(token, idempotency_key=token))
        if probe:
            assert known.said[-1:] == [token], "a session did not take new words"

    async def _ends(self, known: Known, token: str | None, work: Coroutine[Any, Any, Any]) -> Reply | None:
        """A turn runs to its end, good or bad; then the words are where they should be."""
        reply: Reply | None = None
        before = known.said
        after = before if token is None or token in before else [*before, token]
        try:
            reply = await work
        except ModelError as error:
            left = "planned" in str(error) and KEPT not in str(error)
        else:
            left = reply is not None and reply.stop_reason == "refusal"
        await self._settled(known, [after], left=left)
        return reply

    async def _settled(self, known: Known, allowed: list[list[str]], *, left: bool | None = False) -> None:
        """The words on the chain are one of those; where a turn was refused, unanswered words have left it.

        `left`: whether they have; `None`: they may have.
        """
        found = await self.processes[0].manager.open(known.id)
        known.said, before = words(found), known.said
        if left or (left is None and known.said not in allowed):
            longest = max(allowed, key=len)
            assert known.said == longest[: len(known.said)], (known.said, allowed, before)
        else:
            assert known.said in allowed, (known.said, allowed, before)

    async def _interrupted(self, known: Known, token: str, work: Coroutine[Any, Any, Any], step: int) -> bool:
        """The task is cancelled at one of its waits. Whether it was."""
        known.newest = token
        task = asyncio.ensure_future(at_step(work, step).run())
        await asyncio.wait([task])
        return task.cancelled() or isinstance(task.exception(), StoreUnavailable | ConfigurationError)

    def _maybe(self, known: Known, token: str) -> list[list[str]]:
        return [known.said, [*known.said, token]]

    # -- what can be done ----------------------------------------------------------------------------------------------

    @rule(who=st.integers(0, 9), at=st.integers(0, 1), plan=plans)
    def send(self, who: int, at: int, plan: str) -> None:
        self.run(self._send(self._who(who), at, plan))

    @rule(who=st.integers(0, 9), at=st.integers(0, 1), plan=plans, fault=st.sampled_from(FAULTS))
    def fail(self, who: int, at: int, plan: str, fault: Fault) -> None:
        """A request goes wrong."""
        self.planned = fault
        self.run(self._send(self._who(who), at, plan))
        self.planned = None

    @rule(who=st.integers(0, 9), at=st.integers(0, 1))
    def resume(self, who: int, at: int) -> None:
        async def work() -> None:
            known = self._who(who)
            session = await self._open(known, at)
            for _ in range(3):  # a refusal gives back the calls that its words had closed: they are finished next
                if await self._ends(known, None, session.resume()) is None:
                    return
            raise AssertionError("there is always something left to finish")

        self.run(work())

    @rule(who=st.integers(0, 9), at=st.integers(0, 1))
    def again(self, who: int, at: int) -> None:
        """The newest words are sent once more with their key: they are there once."""

        async def work() -> None:
            known = self._who(who)
            if known.newest is None:
                return
            session = await self._open(known, at)
            before = known.said
            reply = await session.send(known.newest, idempotency_key=known.newest)
            said = words(await self.processes[at].manager.open(known.id))
            assert said.count(known.newest) <= 1
            if reply.stop_reason == "refusal":
                assert said == before[: len(said)]
            else:
                assert said in (before, [*before, known.newest])
            known.said = said

        self.run(work())

    @rule(who=st.integers(0, 9), at=st.integers(0, 1), more=st.booleans())
    def answer(self, who: int, at: int, more: bool) -> None:
        """What the human says to the calls that wait for him."""

        async def work() -> None:
            known = await self._waiting(self._who(who))
            session = await self._open(known, at)
            stored = (await self.processes[at].manager.open(known.id)).messages
            last = stored[-1] if stored else {"role": "user", "content": []}
            asked = [one["id"] for one in last["content"] if one["type"] == "tool_use" and one["name"] == "human"]
            if last["role"] != "assistant" or not asked:
                return
            seen["answered by a human"] += 1
            token = self._token("") if more else None
            content = [{"type": "tool_result", "tool_use_id": one, "content": "yes"} for one in asked]
            content += [{"type": "text", "text": token}] if token else []
            known.newest = None
            await self._ends(known, token, session.send(content))

        self.run(work())

    async def _waiting(self, known: Known) -> Known:
        """A session that waits for the human, if there is one."""
        for one in [known, *self.sessions]:
            found = await self.processes[0].manager.open(one.id)
            if found.entries and "'name': 'human'" in str(found.entries[-1].content):
                self.current = one
                return one
        return known

    @rule(who=st.integers(0, 9), at=st.integers(0, 1), plan=plans, step=steps)
    def cancel(self, who: int, at: int, plan: str, step: int) -> None:
        """The client hangs up at some await."""

        async def work() -> None:
            known, token = self._who(who), self._token(plan)
            session = await self._open(known, at)
            await self._interrupted(known, token, session.send(token, idempotency_key=token), step)
            await self._settled(known, self._maybe(known, token), left=None if plan == "refuse" else False)

        self.run(work())

    @rule(who=st.integers(0, 9), at=st.integers(0, 1), plan=plans, step=steps)
    def stop(self, who: int, at: int, plan: str, step: int) -> None:
        """The user presses stop at some await."""

        async def work() -> None:
            known, token = self._who(who), self._token(plan)
            known.newest = None
            stream = (await self._open(known, at)).stream(token)
            async with stream:
                reply = await at_step(stream.get_final_reply(), step, stream.stop)
            await self._settled(known, self._maybe(known, token), left=reply.stop_reason == "refusal")

        self.run(work())

    @rule(
        who=st.integers(0, 9),
        at=st.integers(0, 1),
        plan=plans,
        step=steps,
        commit=st.integers(0, 6),
        after=st.booleans(),
    )
    def crash(self, who: int, at: int, plan: str, step: int, commit: int, after: bool) -> None:
        """The process dies at some await, or at some commit; another takes its place."""

        async def work() -> None:
            known, token = self._who(who), self._token(plan)
            session = await self._open(known, at)
            store = self.processes[at].store
            store.at, store.after = commit, after

            def die() -> None:
                store.dead = store.dead or commit == 0
                if store.dead:
                    asyncio.current_task().cancel()  # type: ignore[union-attr]

            task = asyncio.ensure_future(at_step(session.send(token, idempotency_key=token), step, die).run())
            await asyncio.wait([task])
            known.newest = token
            with suppress(asyncio.CancelledError):
                task.exception()
            store.dead = True
            await self._replace(at)
            await self._settled(known, self._maybe(known, token), left=None if plan == "refuse" else False)

        self.run(work())

    @rule(who=st.integers(0, 9), at=st.integers(0, 1), plan=plans, step=steps)
    def told_to_end(self, who: int, at: int, plan: str, step: int) -> None:
        """The worker is told to end at some await; the other one takes the turn up at once, without its lease's end."""

        async def work() -> None:
            known, token = self._who(who), self._token(plan)
            session, manager = await self._open(known, at), self.processes[at].manager
            ending: list[asyncio.Future[None]] = []

            def end() -> None:
                ending.append(asyncio.ensure_future(manager.__aexit__(None, None, None)))

            task = asyncio.ensure_future(at_step(session.send(token, idempotency_key=token), step, end).run())
            await asyncio.wait([task])
            await asyncio.gather(*ending)
            known.newest = token
            if not isinstance(task.exception(), SessionsError | None):
                task.result()
            found = await self.processes[1 - at].manager.recover()
            seen["told to end"] += bool(ending)
            seen["recovered"] += known.id in found
            await self._replace(at)
            await self._settled(known, self._maybe(known, token), left=None if plan == "refuse" else False)
            rows = await self.processes[at].manager.runtime.store.turns(known.id, limit=1)
            assert all(row.state != "running" for row in rows), "a turn was left without a worker"

        self.run(work())

    @rule(who=st.integers(0, 9), at=st.integers(0, 1), plan=plans, commit=st.integers(1, 4), step=steps)
    def recovery_dies(self, who: int, at: int, plan: str, commit: int, step: int) -> None:
        """A worker dies in a turn, the one that recovers it dies too, and the next one finishes it."""

        async def work() -> None:
            known, token = self._who(who), self._token(plan)
            for number, doomed in enumerate((at, 1 - at)):
                store, manager = self.processes[doomed].store, self.processes[doomed].manager
                session = await self._open(known, doomed)
                store.at, store.after = commit, bool(step % 2)
                doing = manager.recover() if number else session.send(token, idempotency_key=token)
                with suppress(ConfigurationError, SessionsError):
                    await doing
                store.dead = True
                await self._replace(doomed)
            known.newest = token
            found = await self.processes[at].manager.recover()
            seen["recovered after recovery"] += known.id in found
            await self._settled(known, self._maybe(known, token), left=None if plan == "refuse" else False)

        self.run(work())

    async def _replace(self, at: int) -> None:
        old = self.processes[at]
        await old.manager.__aexit__(None, None, None)
        await self.world.clock.advance(11)
        self.processes[at] = await self._process()

    @rule(at=st.integers(0, 1))
    def reopen(self, at: int) -> None:
        self.run(self._replace(at))

    @rule(who=st.integers(0, 9), plan=plans, other=plans)
    def two_senders(self, who: int, plan: str, other: str) -> None:
        """Two send at once from two processes: neither is lost, and no turn is mixed with the other."""

        async def work() -> None:
            known, tokens = self._who(who), (self._token(plan), self._token(other))
            known.newest = None
            sending = [
                asyncio.ensure_future((await self._open(known, at)).send(token)) for at, token in enumerate(tokens)
            ]
            moving = asyncio.ensure_future(self.world.clock.advance(30))
            done = await asyncio.gather(*sending, return_exceptions=True)
            await moving
            assert not [one for one in done if isinstance(one, BaseException)], done
            kept = [t for t, one in zip(tokens, done, strict=True) if one.stop_reason != "refusal"]
            starts = [known.said[:length] for length in range(len(known.said) + 1)] if len(kept) < 2 else [known.said]
            await self._settled(known, [[*start, *order] for start in starts for order in (kept, kept[::-1])])

        self.run(work())

    @precondition(lambda self: len(self.sessions) < 5)
    @rule(who=st.integers(0, 9), at=st.integers(0, 1), where=st.integers(0, 40))
    def fork(self, who: int, at: int, where: int) -> None:
        async def work() -> None:
            known = self._who(who)
            session = await self._open(known, at)
            entries = (await self.processes[at].manager.open(known.id)).entries
            older = await session.entries_before() if where % 3 == 0 else []
            target = [*older, *entries][-1 - where].id if where < len(older) + len(entries) else None
            if target is None and session.head != (entries[-1].id if entries else None):
                return  # an object that has not looked yet forks what it knows
            branch = await session.fork(at=target)
            made = Known(branch.id, words(branch), healed=known.healed and branch.settings.foreign)
            self.sessions.append(made)
            await self._adopt_rules(made, known.rules)
            assert await branch.verify() is None

        self.run(work())

    @rule(who=st.integers(0, 9), at=st.integers(0, 1), where=st.integers(0, 20))
    def rewind(self, who: int, at: int, where: int) -> None:
        async def work() -> None:
            known = self._who(who)
            session = await self._open(known, at)
            entries = (await self.processes[at].manager.open(known.id)).entries
            target = entries[-1 - where].id if where < len(entries) else None
            await session.rewind(target)
            assert session.head == target
            known.said = words(session)
            await self._adopt_rules(known, known.rules)

        self.run(work())

    async def _adopt_rules(self, known: Known, rules: set[str]) -> None:
        found = await self.processes[0].manager.open(known.id)
        counted = _rules(found)
        known.rules = {one for one in rules if counted[one]}

    @rule(who=st.integers(0, 9), at=st.integers(0, 1))
    def instruct(self, who: int, at: int) -> None:
        async def work() -> None:
            known, text = self._who(who), f"rule {self._token('')}"
            await (await self._open(known, at)).instruct(text)
            known.rules.add(text)

        self.run(work())

    @rule(
        who=st.integers(0, 9), at=st.integers(0, 1),
        change=st.one_of(
            st.fixed_dictionaries({"system": st.sampled_from(SYSTEMS)}),
            st.fixed_dictionaries({"model": st.sampled_from(MODELS)}),
            st.fixed_dictionaries({"tools": st.sampled_from(["few", "all"])}),
            st.fixed_dictionaries({"max_tokens": st.integers(3000, 4000)}),
        ),
    )  # fmt: skip
    def update(self, who: int, at: int, change: dict[str, Any]) -> None:
        async def work() -> None:
            known = self._who(who)
            session = await self._open(known, at)
            given = {**change, "tools": self.effects.sets[change["tools"]]} if "tools" in change else change
            try:
                await session.update(**given)
                seen["free update"] += 1
            except PrefixChange:
                await session.update(**given, rebase=True)

        self.run(work())

    @rule(who=st.integers(0, 9), at=st.integers(0, 1), foreign=st.booleans())
    def append(self, who: int, at: int, foreign: bool) -> None:
        async def work() -> None:
            known, token = self._who(who), self._token("")
            session = await self._open(known, at)
            answer = self.foreign if foreign else [{"type": "text", "text": "imported"}]
            history = [{"role": "user", "content": token}, {"role": "assistant", "content": answer}]
            try:
                await session.append(history)
            except InvalidHistory:
                seen["append refused"] += 1
                await self._settled(known, [known.said])
            else:
                await self._settled(known, [[*known.said, token]])

        self.run(work())

    @rule(who=st.integers(0, 9), at=st.integers(0, 1), step=st.integers(0, 80))
    def compact(self, who: int, at: int, step: int) -> None:
        """Sometimes cancelled: then all is as it was, or all is done."""

        async def work() -> None:
            known = self._who(who)
            session = await self._open(known, at)
            if step % 2:
                await self._ends(known, None, session.resume())
            before = (await self.processes[at].manager.open(known.id)).entries
            task = asyncio.ensure_future(at_step(session.compact(), step).run())
            await asyncio.wait([task])
            if not task.cancelled() and isinstance(task.exception(), ConfigurationError):
                return
            found = await self.processes[at].manager.open(known.id)
            if task.cancelled() and found.entries == before:
                return
            assert len(found.entries) == 1
            assert (await found.entries_before())[-len(before) :] == before
            seen["compacted"] += 1
            known.said = []
            await self._adopt_rules(known, known.rules)

        self.run(work())

    @rule(who=st.integers(0, 9), at=st.integers(0, 1))
    def prewarm(self, who: int, at: int) -> None:
        async def work() -> None:
            session = await self._open(self._who(who), at)
            if await session.prewarm() is not None:
                seen["prewarmed"] += 1

        self.run(work())

    @rule(who=st.integers(0, 9))
    def round_trip(self, who: int) -> None:
        """A copy of the history is the same history."""

        async def work() -> None:
            manager = self.processes[0].manager
            session = await manager.open(self._who(who).id)
            copy = await manager.create(model=MODEL, max_tokens=4000)
            await copy.append(await session.export())
            assert [entry.id for entry in copy.entries] == [entry.id for entry in session.entries]
            await copy.delete()

        self.run(work())

    @rule(seconds=st.sampled_from([1, 240, 301, 4000]))
    def advance(self, seconds: int) -> None:
        self.run(self.world.clock.advance(seconds))

    def _who(self, number: int) -> Known:
        seen["steps"] += 1
        self.current = self.sessions[number % len(self.sessions)]
        return self.current

    # -- what must hold ------------------------------------------------------------------------------------------------

    @invariant()
    def holds(self) -> None:
        """After each step, for the session that it was done to."""
        known = getattr(self, "current", None)
        if known is not None:
            self.run(self._check(known))

    async def _check(self, known: Known) -> None:
        self._check_requests(known)
        found = await self.processes[0].manager.open(known.id)
        assert await found.verify() is None
        assert words(found) == known.said
        assert len(set(known.said)) == len(known.said), "words are there twice"
        counted = _rules(found)
        assert {one: counted[one] for one in known.rules} == dict.fromkeys(known.rules, 1), "an instruction is lost"
        self._check_tools(found)
        rows = {one.request_id: one for one in await found.calls() if one.request_id and one.status == "ok"}
        for exchange in self.world.engine.requests:
            row = rows.get(exchange.request_id)
            if row is not None:
                assert (row.usage, row.cost) == (exchange.usage, exchange.cost)

    def _check_requests(self, known: Known) -> None:
        for exchange in self.world.requests[self.checked :]:
            seen["requests"] += 1
            body: Mapping[str, Any] = exchange.body or {}
            assert len(marks(body)) <= 4
            _check_pairs([message for message in body["messages"] if message["role"] != "system"])
            if exchange.state == "refused":
                assert BOUND in str(exchange.error), exchange.error
                assert not known.healed, "what was learnt has been forgotten"
                known.healed = True
                seen["learnt"] += 1
        self.checked = len(self.world.requests)

    def _check_tools(self, session: Session) -> None:
        """What the model was told of each call is true, and nothing ran twice."""
        repeated = {key: count for key, count in self.effects.done.items() if count > 1}
        assert not repeated, f"ran twice: {repeated}"
        keys: dict[str, str] = {}
        for block in (block for message in session.messages for block in message["content"]):
            if block["type"] == "tool_use" and isinstance(block["input"], dict):
                keys[block["id"]] = block["input"].get("key", "") if block["name"] in ("once", "thread") else ""
            if block["type"] == "tool_result" and (key := keys.get(block["tool_use_id"])):
                told, ran = block["content"], self.effects.done[key]
                refused = told.startswith(REFUSED)
                assert refused or told in (f"did {key}", INTERRUPTED, NOT_RUN, NOT_RUN_IN_BRANCH), told
                assert ran or not (refused or told == f"did {key}")
                assert not ran or told != NOT_RUN


def _rules(session: Session) -> Counter[str]:
    """How often each instruction is there: on the chain, or waiting for the next call."""
    on_chain = [block["text"] for entry in session.entries if entry.role == "system" for block in entry.content]
    return Counter([*on_chain, *session.settings.instructions])


def _check_pairs(messages: list[Any]) -> None:
    """Every tool call is answered right behind it."""
    for at, message in enumerate(messages):
        calls = [one["id"] for one in message["content"] if one["type"] == "tool_use"]
        after = messages[at + 1]["content"] if at + 1 < len(messages) else []
        assert calls == [one["tool_use_id"] for one in after if one["type"] == "tool_result"][: len(calls)]


@pytest.mark.parametrize("then", ["resume", "send"])
@pytest.mark.parametrize("how", ["fork", "rewound"])
async def test_a_branch_does_not_run_again_what_it_inherited(how: str, then: str, tmp_path: Path) -> None:
    """The other session has run these calls; the branch knows no more than that they were not run in it."""
    world, effects = World(script, url=tmp_path / "a.db"), Effects()
    async with world.manager() as manager:
        session = await manager.create(model=MODEL, max_tokens=4000, tools=effects.sets["few"])
        await session.send("m1: once thread")
        asking = session.entries[1]
        branch = await session.fork(at=asking.id if how == "fork" else None)
        if how == "rewound":
            await branch.rewind(asking.id)
        await (branch.resume() if then == "resume" else branch.send("m2: "))
        assert set(effects.done.values()) == {1}, "a tool ran twice"
        told = [one["content"] for one in branch.messages[2]["content"] if one["type"] == "tool_result"]
        assert told == [NOT_RUN_IN_BRANCH] * 2
    world.check()


async def test_cancelled_while_it_reads_what_another_process_wrote(tmp_path: Path) -> None:
    """At each await: what the other wrote stays, however far the reading had come."""
    for step in range(1, 100):
        world = World(script, url=tmp_path / f"{step}.db")
        async with world.manager() as one, world.manager() as two:
            session = await one.create(model=MODEL, max_tokens=4000)
            await session.send("m1: ")
            await (await two.open(session.id)).send("m2: ")
            task = asyncio.ensure_future(at_step(session.send("m3: "), step).run())
            await asyncio.wait([task])
            await session.send("m4: ")
            said = words(await two.open(session.id))
            assert said in (["m1: ", "m2: ", "m4: "], ["m1: ", "m2: ", "m3: ", "m4: "]), step
            assert session.messages == (await two.open(session.id)).messages
        world.check()
        if not task.cancelled():
            return
    raise AssertionError("the turn never came through")


def test_whatever_is_done_to_a_session(capsys: pytest.CaptureFixture[str]) -> None:
    chosen = settings(
        max_examples=max(1, STEPS // LENGTH) if STEPS else 25,
        stateful_step_count=LENGTH if STEPS else 30,
        derandomize=not STEPS,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
        phases=[Phase.generate],
    )
    seen.clear()
    try:
        run_state_machine_as_test(Machine, settings=chosen)
    finally:
        with capsys.disabled():
            sys.stdout.write(f"\n{dict(seen)}\n")
