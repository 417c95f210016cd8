"""Waiting for others and renewing what is held, each alone: when they look, and when they stop."""

from __future__ import annotations

from collections.abc import Iterator

import anyio
import pytest

from sessions.background import Background
from sessions.testing import ManualClock
from sessions.waiting import Renewal, until
from storage.watching import Deaf
from tests.sessions.world import everywhere


class Bell(Deaf):
    """A watch whose news is told by hand."""

    is_live = True

    def __init__(self, pause: float) -> None:
        super().__init__(pause)
        self.rung = anyio.Event()

    async def news(self) -> None:
        await self.rung.wait()
        self.rung = anyio.Event()


class Looking:
    """Keeps when it was asked; from that moment on it answers, after the patience it gives up."""

    def __init__(self, answers_at: float, patience: float = 100.0) -> None:
        self.clock = ManualClock(start=0.0)
        self.answers_at, self.patience = answers_at, patience
        self.looks: list[float] = []
        self.watches = 0

    def seconds_left(self) -> float:
        return self.patience - self.clock.monotonic()

    async def look(self) -> str | None:
        self.looks.append(self.clock.monotonic())
        if self.clock.monotonic() >= self.answers_at:
            return "answer"
        if self.seconds_left() <= 0:
            raise TimeoutError
        return None

    async def wait(self, watch: Deaf, pauses: Iterator[float] | None = None) -> str:
        def watching() -> Deaf:
            self.watches += 1
            return watch

        async with anyio.create_task_group() as group:
            group.start_soon(self.clock.advance, 200)
            answer = await until(self.look, watching, self.clock, self.seconds_left, pauses)
            group.cancel_scope.cancel()
        return answer


@everywhere
async def test_an_answer_at_the_first_look_costs_no_watch() -> None:
    looking = Looking(answers_at=0)
    assert await looking.wait(Deaf(1.0)) == "answer"
    assert (looking.looks, looking.watches) == ([0.0], 0)


@everywhere
async def test_without_news_it_looks_after_each_pause() -> None:
    looking = Looking(answers_at=3)
    assert await looking.wait(Deaf(1.0)) == "answer"
    assert (looking.looks, looking.watches) == ([0.0, 1.0, 2.0, 3.0], 1)
    looking = Looking(answers_at=6)
    assert await looking.wait(Deaf(1.0), pauses=iter([1.0, 2.0, 4.0])) == "answer"
    assert looking.looks == [0.0, 1.0, 3.0, 7.0]


@everywhere
async def test_news_is_heard_once_the_watch_was_there_before_the_look() -> None:
    """The first look came before the watch: what was told in between was not heard, so the second one comes at once."""
    looking, bell = Looking(answers_at=25), Bell(60.0)

    async def ring() -> None:
        for moment in (20.0, 25.0):
            await looking.clock.sleep(moment - looking.clock.monotonic())
            bell.rung.set()

    async with anyio.create_task_group() as group:
        group.start_soon(ring)
        assert await looking.wait(bell, pauses=iter([1.0, 1.0, 1.0])) == "answer"
    assert looking.looks == [0.0, 0.0, 20.0, 25.0]


@everywhere
async def test_who_hears_nothing_looks_once_more_at_the_end_of_its_patience() -> None:
    looking = Looking(answers_at=1000, patience=30.0)
    with pytest.raises(ExceptionGroup) as caught:
        await looking.wait(Bell(20.0), pauses=iter([1.0, 1.0, 1.0]))
    assert caught.group_contains(TimeoutError)
    assert looking.looks == [0.0, 0.0, 20.0, 30.0]


@everywhere
async def test_one_task_renews_all_that_is_held_and_ends_when_nothing_is() -> None:
    clock, background = ManualClock(start=0.0), Background()
    held: dict[str, int] = {}
    renewed: list[tuple[float, str, int]] = []

    async def renew(name: str, value: int) -> None:
        renewed.append((clock.monotonic(), name, value))

    renewal = Renewal(clock, background, held, renew, lambda: 3.0)
    held["a"] = 1
    renewal.start()
    await clock.advance(2)
    held["b"] = 2
    renewal.start()
    await clock.advance(4)
    assert renewed == [(3.0, "a", 1), (3.0, "b", 2), (6.0, "a", 1), (6.0, "b", 2)]
    held.clear()
    await clock.advance(30)
    held["c"] = 3
    await clock.advance(30)
    assert len(renewed) == 4  # nobody has started it again
    renewal.start()
    await clock.advance(3)
    assert renewed[4:] == [(69.0, "c", 3)]
    await background.close()
