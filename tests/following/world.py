"""What tests of following share: workers on one store, a model that speaks when told to, and what a follower saw."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import Any

import anyio
import pytest

from sessions import SessionManager, Turn, simulator
from sessions.core.transcript import Entry
from sessions.following.events import Ended, EntryStored, Snapshot, TurnEvent
from sessions.following.view import View
from sessions.simulator import Engine, Latency
from sessions.testing import ManualClock
from storage import Store

MODEL = "claude-sonnet-5-5"
TOKEN = 0.01
"""Seconds of the model's clock for each token of its answers."""
ENOUGH = 60.0
"""Seconds that a busy machine may take for what takes hardly any."""


def anywhere(test: Callable[..., Any]) -> Callable[..., Any]:
    """Runs an async test, which is given the URL of an empty store, on both loops and both databases."""

    def both(where: tuple[str, str], **given: Any) -> None:
        backend, url = where
        anyio.run(functools.partial(test, url, **given), backend=backend)

    own = inspect.Parameter("where", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    others = list(inspect.signature(test).parameters.values())[1:]
    both.__signature__ = inspect.Signature([own, *others])  # type: ignore[attr-defined]
    both.__name__, both.__doc__, both.__module__ = test.__name__, test.__doc__, test.__module__
    both.pytestmark = list(getattr(test, "pytestmark", []))  # type: ignore[attr-defined]
    places = ["asyncio-sqlite", "trio-sqlite", "asyncio-postgresql", "asyncio-pooler"]
    return pytest.mark.parametrize("where", places, indirect=True)(both)


class Cluster:
    """Workers on one store, and one model. Its clock stands still until a test turns it; theirs is the machine's."""

    def __init__(self, url: str, script: Any = None, **options: Any) -> None:
        self.url = url
        self.engine = Engine(script, **options)
        self.clock = ManualClock()

    def worker(self, **given: Any) -> SessionManager:
        """A manager, as a process of its own would make it."""
        client = simulator.client(
            engine=self.engine, clock=self.clock, latency=Latency(per_output_token=TOKEN), max_retries=0
        )
        options = {"tend": False, "warmup": False, **given}
        return SessionManager(options.pop("store", self.url), client=client, **options)

    async def speak(self, seconds: float = 1e6) -> None:
        """The model says as much as it can say in that time."""
        await self.clock.advance(seconds)

    @asynccontextmanager
    async def speaking(self, pause: float = 0.02, seconds: float = 5 * TOKEN) -> AsyncIterator[None]:
        """Inside, the model goes on a little every `pause` seconds."""

        async def speak() -> None:
            while True:
                await anyio.sleep(pause)
                await self.clock.advance(seconds)

        async with anyio.create_task_group() as group:
            group.start_soon(speak)
            yield
            group.cancel_scope.cancel()


class Seen:
    """What one follower saw of a turn, added up; each event must come after the one before."""

    def __init__(self) -> None:
        self.events: list[TurnEvent] = []
        self.view = View()
        self.ended: Ended | None = None

    def add(self, event: TurnEvent) -> None:
        assert event.id > self.last, (event, self.events[-1])
        assert self.events or isinstance(event, Snapshot), event
        if isinstance(event, EntryStored) and self.view.reply is not None and event.entry.stop_reason != "cancelled":
            said = [self.view.reply.content, event.entry.content]
            assert texts_of(said[0]) == texts_of(said[1]), said
        self.events.append(event)
        self.view.add(event)
        self.ended = event if isinstance(event, Ended) else None

    @property
    def last(self) -> str:
        return self.events[-1].id if self.events else ""

    @property
    def types(self) -> list[str]:
        """The types of the events, neighbours of one type as one."""
        found: list[str] = []
        for event in self.events:
            found += [event.type] if not found or found[-1] != event.type else []
        return found

    @property
    def text(self) -> str:
        """The text of the reply under way."""
        blocks = self.view.reply.content if self.view.reply is not None else []
        return "".join(str(block.get("text", "")) for block in blocks)

    async def follow(self, turn: Turn, until: Callable[[], bool] = lambda: False) -> None:
        """Follows to the end, or until that is so after an event; goes on behind the last event seen before."""
        async with aclosing(turn.follow(self.last or None)) as events:
            async for event in events:
                self.add(event)
                if until():
                    return

    async def until(self, turn: Turn, until: Callable[[], bool]) -> None:
        """As `follow`; that it comes to be so is expected."""
        with anyio.fail_after(ENOUGH):
            await self.follow(turn, until)
        assert until(), self.types


def texts_of(blocks: Any) -> list[str]:
    """Texts and thinking of an answer; those without a word are not stored."""
    said = [str(block.get("text") or block.get("thinking") or "") for block in blocks]
    return [text for text in said if text.strip()]


@asynccontextmanager
async def following(turn: Turn) -> AsyncIterator[Seen]:
    """Somebody follows the turn inside, and to its end when what is inside is done."""
    seen = Seen()
    async with anyio.create_task_group() as group:
        group.start_soon(seen.follow, turn)
        yield seen
        with anyio.fail_after(ENOUGH):
            await until(lambda: seen.ended is not None)


async def until(condition: Callable[[], Any]) -> None:
    with anyio.fail_after(ENOUGH):
        while not condition():
            await anyio.sleep(0.01)


async def stored(cluster: Cluster, session: str) -> View:
    """The newest turn as a process that has just started finds it."""
    async with cluster.worker() as manager:
        turn = await manager.turn(session)
        assert turn is not None
        seen = Seen()
        with anyio.fail_after(ENOUGH):
            await seen.follow(turn)
    return seen.view


def check(seen: Seen, expected: View) -> None:
    """What was seen adds up to what is stored."""
    assert seen.ended is not None
    assert plain(seen.view) == plain(expected)


def plain(view: View) -> tuple[Any, ...]:
    """A view as values that can be compared."""
    blocks = view.reply.content if view.reply is not None else []
    return view.state, [entry_of(entry) for entry in view.entries], blocks, view.tools, view.pending


def entry_of(entry: Entry) -> tuple[Any, ...]:
    return entry.id, entry.parent, entry.role, entry.content, entry.stop_reason


async def talk(manager: SessionManager, **given: Any) -> Any:
    """A session."""
    return await manager.create(**{"model": MODEL, "max_tokens": 4000, **given})


def store_of(manager: SessionManager) -> Store:
    return manager.runtime.store


@contextmanager
def writes(manager: SessionManager) -> Iterator[Callable[[], int]]:
    """How many writes its store has been asked for inside."""
    before = store_of(manager).statistics().writes
    yield lambda: store_of(manager).statistics().writes - before
