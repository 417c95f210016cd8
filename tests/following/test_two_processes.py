"""As `test_any_moment`, with workers that are real processes, on both databases, and by the machine's own clock.

`WARMLINE_EXAMPLES=100` tries that many in place of a few.
"""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeAlias

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import sessions
from sessions import SessionManager, SessionsError, Turn
from sessions.simulator import Engine, Latency, Request, Scripted
from storage import open_store
from tests.crash.outside import model_server
from tests.following.test_any_moment import Answer, faults, texts
from tests.following.worker import tools
from tests.following.world import ENOUGH, MODEL, Seen, check
from tests.sessions.world import call

EXAMPLES = int(os.environ.get("WARMLINE_EXAMPLES", "3"))
FOLLOWERS = 4
"""Two at each of two managers of this process."""

answers = st.builds(
    Answer,
    texts=st.lists(texts, min_size=1, max_size=3).map(tuple),
    thinking=st.none() | texts,
    tools=st.lists(st.sampled_from(["quick", "slow", "thread", "fail"]), max_size=3).map(tuple),
    fault=faults,
)
moments = st.sampled_from([0.0, 0.03, 0.12, 0.3])
doings = st.sampled_from(
    [*((what, who) for what in ("attach", "leave") for who in range(FOLLOWERS)), ("stop", 0), ("kill", 0)]
)
plans = st.lists(answers, min_size=1, max_size=4)
scripts = st.lists(st.tuples(doings, moments), min_size=3, max_size=12)


class Crew:
    """Two workers; who is killed is followed by another. The model answers each session by its plan."""

    def __init__(self, store: str) -> None:
        self.store, self.plans = store, dict[str, list[Answer]]()
        self._asked: dict[tuple[str, int], int] = {}
        self._model = model_server(Engine(self._script), Latency(first_event=0.03, per_output_token=0.01))
        self._workers: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Self:
        self._url = self._model.__enter__()
        self._workers = [self._started(), self._started()]
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.kill()
            worker.communicate()
        self._model.__exit__(None, None, None)

    def _started(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-W", "ignore", "-m", "tests.following.worker", self.store, self._url]
        root = str(Path(__file__).parents[2])
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(sessions.__file__).parents[1]), root])}
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=root, env=environment, stdin=pipe, stdout=pipe, text=True)

    def begin(self, session: str) -> None:
        """Returns when the words are durable."""
        worker = self._workers[0]
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdin.write(f"{session}\n")
        worker.stdin.flush()
        assert worker.stdout.readline().strip() == session

    def kill(self) -> None:
        """The one who was told to begin; the other finishes what it has left."""
        worker = self._workers.pop(0)
        worker.kill()
        worker.communicate()
        self._workers.append(self._started())

    def _script(self, request: Request) -> Scripted:
        plan = self.plans[request.system]
        done = sum(message["role"] == "assistant" for message in request.messages)
        answer = plan[done] if done < len(plan) else Answer(("the end",))
        place = (request.system, done)
        self._asked[place] = self._asked.get(place, 0) + 1
        content: list[dict[str, Any]] = [{"type": "text", "text": text} for text in answer.texts]
        content += [call(name, key=f"{done}.{number}") for number, name in enumerate(answer.tools)]
        fault = answer.fault if self._asked[place] == 1 else None
        return Scripted(content, thinking=answer.thinking, fault=fault)


@dataclass
class Client:
    """It follows, leaves, and comes again behind what it has seen."""

    manager: SessionManager
    session: str
    seen: Seen = field(default_factory=Seen)
    scope: anyio.CancelScope | None = None

    def attach(self, group: TaskGroup) -> None:
        if self.scope is None:
            self.scope = anyio.CancelScope()
            group.start_soon(self._follow, self.scope)

    async def _follow(self, scope: anyio.CancelScope) -> None:
        with scope:
            turn = await self.manager.turn(self.session)
            assert turn is not None
            await self.seen.follow(turn)
        self.scope = None


Script: TypeAlias = list[tuple[tuple[str, int], float]]


async def play(crew: Crew, plan: list[Answer], script: Script) -> None:
    name = uuid.uuid4().hex
    crew.plans[name] = plan
    async with SessionManager(crew.store, tend=False) as one, SessionManager(crew.store, tend=False) as two:
        await one.create(
            model=MODEL, max_tokens=4000, thinking={"type": "adaptive"}, tools=tools(), system=name, id=name
        )
        await anyio.to_thread.run_sync(crew.begin, name)
        clients = [Client((one, two)[number % 2], name) for number in range(FOLLOWERS)]
        async with anyio.create_task_group() as group:
            await do(crew, two, clients, script, group)
            with anyio.fail_after(ENOUGH):
                turn = await settled(two, clients, group)
        expected = Seen()
        await expected.follow(turn)
        for client in clients:
            check(client.seen, expected.view)


async def do(crew: Crew, manager: SessionManager, clients: list[Client], script: Script, group: TaskGroup) -> None:
    is_killed = False
    for (doing, number), pause in script:
        client = clients[number]
        if doing == "attach":
            client.attach(group)
        elif doing == "leave" and client.scope is not None:
            client.scope.cancel()
        elif doing == "stop":
            group.start_soon(stop, manager, client.session)
        elif doing == "kill" and not is_killed:
            is_killed = True
            await anyio.to_thread.run_sync(crew.kill)
        await anyio.sleep(pause)


async def settled(manager: SessionManager, clients: list[Client], group: TaskGroup) -> Turn:
    """Everybody follows until the turn has ended, and once more, behind what they have seen, when it has."""
    while (turn := await manager.turn(clients[0].session)) is None or turn.state in ("running", "queued"):
        for client in clients:
            client.attach(group)
        await anyio.sleep(0.05)
    for again in (True, False):
        while any(client.scope is not None for client in clients):
            await anyio.sleep(0.01)
        for client in clients if again else ():
            client.attach(group)
    return turn


async def stop(manager: SessionManager, session: str) -> None:
    with suppress(SessionsError), anyio.fail_after(ENOUGH):
        turn = await manager.turn(session)
        if turn is not None:
            await turn.stop()


def test_what_is_seen_in_another_process_is_what_is_stored(new_place: Callable[[], str]) -> None:
    store = new_place()
    anyio.run(open_store(store).upgrade)

    @given(plan=plans, script=scripts)
    @settings(
        max_examples=EXAMPLES,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.nested_given],
    )
    def examples(plan: list[Answer], script: Script) -> None:
        anyio.run(play, crew, plan, script)

    with Crew(store) as crew:
        examples()
