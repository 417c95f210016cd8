"""Turns of the conversation, on four workers that share one PostgreSQL, are killed and told to end, as is the server.

Nothing acknowledged is lost, nothing happens twice, no tool runs that nobody has approved, nobody is stuck, and what a
follower saw adds up to what is stored. The seed is printed; `WARMLINE_SEED` gives one, `WARMLINE_TURNS=2000` makes it
the full run (two hundred conversations). Nothing of it waits for ever: what is stuck is named (`_watched`).
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from sessions import Session, TurnEvent
from sessions.conversation.leases import LEASE_SECONDS
from sessions.core.steps import INTERRUPTED, NOT_RUN, call_id, calls_of
from sessions.following.events import Ended, Snapshot
from sessions.following.view import View
from sessions.simulator import Engine, Latency
from sessions.turns.tool_round import DENIED
from storage import DecisionRecord, StorageError, Store, TurnRecord, open_store
from tests.crash.outside import SYSTEM, bill, check_chain, model_server
from tests.crash.turns import WORDS, TurnsJob, answer_to, number_of, script
from tests.crash.worker import MODEL, noted
from tests.servers import make_database, own_server

pytest.importorskip("psycopg", reason="no PostgreSQL driver: install the extra postgres")
from tests.crash.foreman import WORKERS, Failed, Foreman, Gone  # needs the driver

TURNS = int(os.environ.get("WARMLINE_TURNS", "40"))
EACH = 10
"""Turns of a conversation."""
AT_ONCE = 10
"""Conversations that go on at the same time."""
SLACK = 10.0 if "WARMLINE_TURNS" in os.environ else 60.0
"""Seconds that a busy machine may take for what takes none: more where other tests run beside it."""
STUCK = LEASE_SECONDS + SLACK + 20.0
"""Seconds without a sign of life after which the test does not wait for the end any more."""
LIMIT = 120.0 + 3.0 * TURNS
"""Seconds after which it does not wait for the end either, whatever is heard."""
CHECKS = 60.0 + 0.5 * TURNS
"""Seconds for what comes before and after that."""

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")


@dataclass(eq=False)
class Follower:
    """One who reads a turn along, now here, now there, and goes on where it was."""

    session: str
    message: int
    turn: str
    view: View = field(default_factory=View)
    ids: list[str] = field(default_factory=list)
    ended: Ended | None = None

    def hear(self, event: TurnEvent) -> None:
        last = self.ids[-1] if self.ids else ""
        is_all_there_is = isinstance(event, Snapshot) and event.id == last  # so it may begin where it goes on elsewhere
        assert event.id > last or is_all_there_is, f"{self}: {event.type} {event.id} came behind {last}"
        assert self.ids or isinstance(event, Snapshot), f"{self} saw {event.type} first, not a snapshot"
        self.ids.append(event.id)
        self.view.add(event)
        self.ended = event if isinstance(event, Ended) else None

    @property
    def shows_waiting(self) -> bool:
        return self.ended is not None and self.ended.state == "waiting"

    @property
    def saw_the_end(self) -> bool:
        return self.ended is not None and self.ended.state in ("finished", "cancelled")

    def __repr__(self) -> str:
        return f"<follower of message {self.message} of {self.session}, turn {self.turn}>"


class Users:
    """Those who talk, read, stop and decide. What was acknowledged to them is kept, and compared in the end."""

    def __init__(self, foreman: Foreman, seed: int) -> None:
        self._foreman, self._rng = foreman, random.Random(f"users {seed}")
        self._newest: defaultdict[str, str] = defaultdict(str)
        self.turns: dict[tuple[str, int], str] = {}
        self.followers: list[Follower] = []
        self.decided: dict[str, str] = {}
        self.asked: defaultdict[str, set[str]] = defaultdict(set)
        self.stopped: Counter[str] = Counter()
        self.under_way: dict[str, int] = {}

    async def converse(self, session: str, messages: Iterable[int]) -> None:
        """Says them in this order; the next one often before the one before is answered."""
        self._alive(session)
        async with asyncio.TaskGroup() as group:
            for message in messages:
                while_running = self._rng.choice(["queue", "queue", "interrupt"])
                turn = await self._begin(session, message, while_running)
                talk = group.create_task(self._see_through(session, message, turn))
                if self._rng.random() < 0.3:
                    await asyncio.sleep(self._rng.uniform(0, 0.5))
                else:
                    await talk
        self.under_way.pop(session)

    async def _begin(self, session: str, message: int, while_running: str) -> str:
        self.under_way[session] = message
        both = self._rng.random() < 0.1
        self._foreman.happened["given to two workers"] += both
        asked = {"do": "begin", "message": message, "while_running": while_running}
        ids = set(await asyncio.gather(*(self._insist(session, **asked) for _ in range(1 + both))))
        assert len(ids) == 1, f"one key is two turns: {ids}"
        self.turns[session, message] = turn = json.loads(ids.pop())
        return str(turn)

    async def _insist(self, session: str, **asked: Any) -> str:
        """Asks one worker after the other, until one does it."""
        while True:
            try:
                answer = await self._ask(session, **asked)
            except (Gone, Failed):
                await asyncio.sleep(0.1)
            else:
                self._alive(session)
                return answer

    async def _ask(self, session: str, heard: Any = None, **asked: Any) -> str:
        try:
            return await self._foreman.ask(await self._foreman.somebody(), heard, session=session, **asked)
        except Gone:
            self._foreman.happened["worker gone"] += 1
            raise
        except Failed as error:
            self._foreman.happened[f"{asked['do']}: {str(error).partition(':')[0]}"] += 1
            raise

    def _alive(self, session: str) -> None:
        self._foreman.known[session].append(time.time())

    async def _see_through(self, session: str, message: int, turn: str) -> None:
        """Reads a turn to its end, and decides what it asks for; others read along, and some stop it."""
        others = [
            asyncio.create_task(self._read_along(session, message, turn)) for _ in range(self._rng.choice([0, 1, 2]))
        ]
        if self._rng.random() < 0.15:
            others.append(asyncio.create_task(self._stop(session, turn)))
        follower = self._new(session, message, turn)
        while not follower.saw_the_end:
            if follower.shows_waiting:
                await self._decide(session)
            elif follower.ended is not None:  # interrupted: the user says it again
                self._foreman.happened[f"begun anew: {follower.ended.state}"] += 1
                await self._begin(session, message, "queue")
            await self._follow(follower, self._rng.choice([0.3, 1.0, 30.0]))
        await asyncio.gather(*others)
        self._foreman.answered += 1

    async def _read_along(self, session: str, message: int, turn: str) -> None:
        """Comes and goes; each time anew, or going on where it was."""
        await asyncio.sleep(self._rng.uniform(0, 0.5))
        follower = self._new(session, message, turn)
        while not follower.saw_the_end:
            await self._follow(follower, self._rng.uniform(0.05, 1.5))
            await asyncio.sleep(self._rng.uniform(0, 0.3))
            if self._rng.random() < 0.3 and not follower.saw_the_end:
                follower = self._new(session, message, turn)

    def _new(self, session: str, message: int, turn: str) -> Follower:
        self.followers.append(follower := Follower(session, message, turn))
        return follower

    async def _follow(self, follower: Follower, seconds: float) -> None:
        faults: list[AssertionError] = []

        def hear(text: str) -> None:
            event = TurnEvent.from_json(text)
            if event.id > self._newest[follower.turn]:
                self._newest[follower.turn] = event.id
                self._alive(follower.session)
            try:
                follower.hear(event)
            except AssertionError as error:
                faults.append(error)

        asked = {"do": "follow", "turn": follower.turn, "after": follower.ids[-1] if follower.ids else None}
        try:
            await self._ask(follower.session, hear, seconds=seconds, **asked)
        except (Gone, Failed):
            await asyncio.sleep(0.05)
        if faults:
            raise faults[0]

    async def _stop(self, session: str, turn: str) -> None:
        await asyncio.sleep(self._rng.uniform(0, 0.8))
        state = json.loads(await self._insist(session, do="stop", turn=turn))
        self.stopped[state] += 1
        is_at_rest = state not in ("queued", "running", "waiting")
        assert is_at_rest, f"turn {turn} of {session} is {state} after it was stopped"

    async def _decide(self, session: str) -> None:
        """Somebody decides, on some worker; at times two at once."""

        def hear(text: str) -> None:
            told = json.loads(text)
            self._foreman.happened[f"{told['how']}: {told['became']}"] += told["became"] != "asked"
            if told["became"] == "asked":
                self.asked[told["call"]].add(told["how"])
            if told["became"] == "done":
                assert told["call"] not in self.decided, f"{told['call']} was decided twice"
                self.decided[told["call"]] = told["how"]
                self._alive(session)

        async def decide() -> None:
            try:
                await self._ask(session, hear, do="decide")
            except (Gone, Failed):
                await asyncio.sleep(0.05)

        await asyncio.gather(*(decide() for _ in range(self._rng.choice([1, 1, 2]))))
        await asyncio.sleep(0.05)


async def test_turns_of_a_conversation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seed = int(os.environ.get("WARMLINE_SEED") or random.SystemRandom().randrange(10**6))

    def say(text: str) -> None:
        with capsys.disabled():
            sys.stdout.write(text)
            sys.stdout.flush()

    say(f"\n{TURNS} turns, seed {seed}: ")
    async with asyncio.timeout(LIMIT + CHECKS):
        await _run(seed, tmp_path, say)


async def _run(seed: int, directory: Path, say: Callable[[str], None]) -> None:
    engine = Engine(script, keep=1_000_000, keep_messages=10**7)
    names = {f"s{number}": range(100 * number, 100 * number + EACH) for number in range(TURNS // EACH)}
    with (
        own_server() as (server, control),
        model_server(engine, Latency(first_event=0.02, per_output_token=0.002)) as url,
    ):
        store = make_database(server)
        await open_store(store).upgrade()
        job = TurnsJob(store, url, str(directory), pause=0.05, seed=seed)
        await _create(job, names)
        async with Foreman(job, seed, "tests.crash.turns") as foreman:
            await foreman.somebody()  # they take their time to start where much else runs
            began, users = time.time(), Users(foreman, seed)
            limit = asyncio.Semaphore(AT_ONCE)

            async def converse(session: str) -> None:
                async with limit:
                    await users.converse(session, names[session])

            async with (
                foreman.trouble(lambda mode: control("-m", mode, "restart"), TURNS),
                _watched(job, foreman, users),
                asyncio.TaskGroup() as group,
            ):
                for session in names:
                    group.create_task(converse(session))
        seconds = time.time() - began
        longest = _longest_silence(foreman, engine)
        say(_figures(foreman, users, engine, job, seconds, longest))
        assert bill(url)["refused"] == 0, [one.error for one in engine.requests if one.state == "refused"]
        await _check(job, names, users)
        assert longest <= LEASE_SECONDS + SLACK, f"a session was stuck for {longest:.1f} seconds"


async def _create(job: TurnsJob, names: Iterable[str]) -> None:
    async with job.manager() as manager:
        for name in names:
            await manager.create(
                model=MODEL, max_tokens=4000, system=SYSTEM, tools=job.tools(), id=name, thinking={"type": "adaptive"}
            )


@asynccontextmanager
async def _watched(job: TurnsJob, foreman: Foreman, users: Users) -> AsyncIterator[None]:
    """Does not wait for ever for a session that is stuck, or for the end, but says how things are."""
    task = asyncio.current_task()
    assert task is not None
    found: list[str] = []

    async def watch() -> None:
        began = time.time()
        while True:
            await asyncio.sleep(2)
            is_late = time.time() - began > LIMIT
            stuck = {
                session: message
                for session, message in users.under_way.items()
                if is_late or time.time() - max(foreman.known[session], default=began) > STUCK
            }
            if stuck or is_late:
                asked = foreman.open_asks()
                found.append(f"not done after {time.time() - began:.0f} s; {dict(foreman.happened)}; asked: {asked}")
                for session, message in stuck.items():
                    found.append(f"{session} is at message {message}: {await _state(job, session)}")
                task.cancel()
                return

    watching = asyncio.create_task(watch())
    try:
        yield
    except BaseException as error:
        if found:
            raise AssertionError("\n".join(found)) from error
        raise
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def _state(job: TurnsJob, session: str) -> str:
    store = open_store(job.store)
    try:
        async with asyncio.timeout(10):
            await store.open()
            rows = [str(row) for row in await store.turns(session) if row.state not in ("finished", "cancelled")]
            return "; ".join([*rows, str(await store.load(session))[-300:]])
    except (StorageError, TimeoutError) as error:
        return f"not to be read: {error!r}"
    finally:
        await store.close()


# -- what is left --


async def _check(job: TurnsJob, names: dict[str, range], users: Users) -> None:
    booked: defaultdict[str, list[tuple[str, float]]] = defaultdict(list)
    for id, key, moment in noted(job.effects):
        booked[id].append((key, float(moment)))
    known = set[str]()
    async with job.manager() as manager:
        store = manager.runtime.store
        for name, messages in names.items():
            session = await manager.open(name)
            await check_chain(session)
            rows = await store.turns(name)
            _check_rows(name, messages, rows, users)
            _check_words(session, messages, rows)
            known |= await _check_calls(session, rows, store, booked, users)
            _check_followers(session, rows, [one for one in users.followers if one.session == name])
    assert set(booked) <= known, "a booking was made for a call that is not in any conversation"
    assert set(users.decided) <= known, "a call was decided that is not in any conversation"


def _check_rows(session: str, messages: range, rows: list[TurnRecord], users: Users) -> None:
    """One turn for each key, the one that was acknowledged, and it has ended."""
    assert {row.key: row.id for row in rows} == {f"key {number}": users.turns[session, number] for number in messages}
    assert len(rows) == len(messages)
    assert {row.state for row in rows} <= {"finished", "cancelled"}


def _check_words(session: Session, messages: range, rows: list[TurnRecord]) -> None:
    """Words are there once and in order, but for those of a turn that was stopped before it began; so are answers."""
    by_key = {row.key: row for row in rows}
    said = {number: by_key[f"key {number}"] for number in messages}
    order = [number for entry in session.entries for number in _numbers(entry)]
    assert order == [number for number, row in said.items() if row.entry is not None], "words are lost, or there twice"
    assert all(row.entry is not None or row.state == "cancelled" for row in rows)
    for number, row in said.items():
        answers = [
            block["text"]
            for entry in _stored(session, rows).get(row.id, [])
            if entry.role == "assistant"
            for block in entry.content
            if block["type"] == "text" and block["text"].startswith("answer")
        ]
        if row.state == "finished" and row.stop_reason == "end_turn":
            assert answers == [answer_to(number)]
        else:
            assert len(answers) <= 1
            assert all(answer_to(number).startswith(text) for text in answers)


def _numbers(entry: Any) -> list[int]:
    texts = [block["text"] for block in entry.content if block["type"] == "text"] if entry.role == "user" else []
    return [int(found[1]) for text in texts if (found := WORDS.match(text))]


def _stored(session: Session, rows: list[TurnRecord]) -> dict[str, list[Any]]:
    """The entries of each turn: from its words to the next turn's."""
    turns = {row.entry: row.id for row in rows if row.entry is not None}
    found: dict[str, list[Any]] = {}
    here: list[Any] = []
    for entry in session.entries:
        if entry.id in turns:
            here = found[turns[entry.id]] = []
        here.append(entry)
    return found


async def _check_calls(
    session: Session, rows: list[TurnRecord], store: Store, booked: dict[str, list[tuple[str, float]]], users: Users
) -> set[str]:
    """No booking was made that nobody had approved, none twice, and what the model was told of it is true."""
    results = {
        block["tool_use_id"]: _text(block["content"])
        for entry in session.entries
        for block in entry.content
        if block["type"] == "tool_result"
    }
    ids = set[str]()
    is_stopped = next((row.state == "cancelled" for row in reversed(rows) if row.entry is not None), False)
    for entry in session.entries:
        calls = calls_of(entry.content) if entry.role == "assistant" else []
        decisions = {one.index: one for one in await store.decisions(session.id, entry.id)} if calls else {}
        for call in calls:
            ids.add(id := call_id(session.id, entry.id, call.index))
            # Of a turn that was stopped while it waited: they are closed when words follow.
            text = results.get(call.id, NOT_RUN) if is_stopped and entry.id == session.head else results[call.id]
            if call.name == "look":
                assert text in (f"did look {call.input['key']}", INTERRUPTED, NOT_RUN), text
                continue
            _check_booking(id, call.input["key"], decisions.get(call.index), booked.get(id, []), text)
            _check_decision(id, decisions.get(call.index), users)
    return ids


def _text(content: Any) -> str:
    """A result's text: of one that ran with another input, also the note that says so."""
    return content if isinstance(content, str) else " ".join(block["text"] for block in content)


def _check_booking(
    id: str, key: str, decision: DecisionRecord | None, booked: list[tuple[str, float]], text: str
) -> None:
    assert len(booked) <= 1, f"{id} was booked {len(booked)} times"
    for what, moment in booked:
        assert decision is not None, f"{id} was booked, and nobody had decided it"
        assert decision.approved, f"{id} was booked, and was denied"
        assert decision.decided <= moment, f"{id} was booked before it was approved"
        assert what == (json.loads(decision.input)["key"] if decision.input else key), f"{id} booked {what}"
    if f"did book {key}" in text:
        assert booked, f"{id} was not booked, and the model was told it was"
    elif text.startswith(DENIED) or text == NOT_RUN:
        assert not booked, f"{id} was booked, and the model was told it was not: {text}"
    else:
        assert text == INTERRUPTED, text


def _check_decision(id: str, decision: DecisionRecord | None, users: Users) -> None:
    """What was acknowledged is what is stored, and nothing is stored that nobody has asked for."""
    how = users.decided.get(id)
    if decision is None:
        assert how is None, f"the decision of {id} is lost"
        return
    stored = ("approve another" if decision.input else "approve") if decision.approved else "deny"
    assert how in (None, stored), f"{id}: {how} was acknowledged, {stored} is stored"
    assert stored in users.asked[id], f"{id}: {stored} is stored, and nobody has asked for it"


def _check_followers(session: Session, rows: list[TurnRecord], followers: list[Follower]) -> None:
    """What each saw adds up to what is stored: to all of it, where it saw the end."""
    stored, states = _stored(session, rows), {row.id: row.state for row in rows}
    for follower in followers:
        entries = stored.get(follower.turn, [])
        seen = follower.view.entries
        if follower.saw_the_end:
            assert follower.view.state == states[follower.turn], f"{follower} saw {follower.view.state}"
            assert seen == entries, f"{follower} saw {len(seen)} entries, {len(entries)} are stored"
        else:
            assert seen == entries[: len(seen)], f"{follower} saw entries that are not stored"


# -- figures --


def _longest_silence(foreman: Foreman, engine: Engine) -> float:
    """The most seconds for which nothing was heard of a session that had something to do, the server being there."""
    for exchange in engine.requests:
        if exchange.request is None or not (exchange.body or {}).get("max_tokens"):
            continue  # refused at the door; or it keeps the prefix of a conversation that is at rest
        numbers = [number for message in exchange.request.messages if (number := number_of(message)) is not None]
        times = (exchange.started, exchange.began, exchange.ended)
        if numbers:
            foreman.known[f"s{numbers[-1] // 100}"] += [one for one in times if one is not None]
    longest = 0.0
    for times in foreman.known.values():
        for before, after in pairwise(sorted(times)):
            away = sum(max(0.0, min(after, up) - max(before, down)) for down, up in foreman.down)
            longest = max(longest, after - before - away)
    return longest


def _figures(foreman: Foreman, users: Users, engine: Engine, job: TurnsJob, seconds: float, longest: float) -> str:
    states = Counter(one.state for one in engine.requests)
    happened = ", ".join(f"{count} {what}" for what, count in sorted(foreman.happened.items()))
    ended = sum(one.saw_the_end for one in users.followers)
    stopped = ", ".join(f"{count} {state}" for state, count in users.stopped.items())
    return (
        f"{WORKERS} workers, {TURNS // EACH} conversations in {seconds:.0f} s; {len(engine.requests)} requests"
        f" ({states['cut']} cut), {len(noted(job.effects))} bookings; {len(users.followers)} followers, {ended} saw the"
        f" end; {len(users.decided)} decisions; after a stop: {stopped}; {happened}; longest silence {longest:.1f} s\n"
    )
