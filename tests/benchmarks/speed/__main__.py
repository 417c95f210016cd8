"""`python -m tests.benchmarks.speed`: what `make bench-speed` prints; `--only` and smaller sizes for a quick look."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import psycopg

from tests.benchmarks.follow import measures as following
from tests.benchmarks.speed import measures, memory, peers, scale
from tests.benchmarks.speed.measures import Table
from tests.benchmarks.speed.subjects import Subject, Warmline, WarmlineSdk

ON_SQLITE: list[type[Subject]] = [
    Warmline, WarmlineSdk, peers.OpenAIAgents, peers.OpenAIAgentsSQLAlchemy, peers.LangGraph, peers.GoogleAdk,
    peers.PydanticHarness, peers.Llm,
]  # fmt: skip
ON_POSTGRESQL: list[type[Subject]] = [
    Warmline, peers.OpenAIAgentsSQLAlchemy, peers.LangGraphPostgres, peers.GoogleAdk,
]  # fmt: skip
PACKAGES = (
    "anthropic",
    "openai-agents",
    "langgraph",
    "langgraph-checkpoint-sqlite",
    "langgraph-checkpoint-postgres",
    "google-adk",
    "pydantic-ai-slim",
    "pydantic-ai-harness",
    "llm",
    "sqlalchemy",
    "asyncpg",
    "psycopg",
)
PARTS = ("length", "files", "parallel", "postgresql", "scale", "memory", "follow")


class Places:
    """A new folder for each subject of each part."""

    def __init__(self, root: Path) -> None:
        self._root, self._count = root, 0

    def folder(self, _: str) -> Path:
        self._count += 1
        made = self._root / str(self._count)
        made.mkdir()
        return made


async def on_postgresql(given: argparse.Namespace, root: Path) -> list[Table]:
    count, found = 0, list[Table]()
    with measures.server(root) as url:

        def database(_: str) -> str:
            nonlocal count
            count += 1
            with psycopg.connect(url.format(database="postgres"), autocommit=True) as raw:
                raw.execute(f"CREATE DATABASE d{count}")  # type: ignore[arg-type]
            return url.format(database=f"d{count}")

        if "scale" in given.only:
            found += await scale.measure(database("scale"))
        if "postgresql" in given.only:
            found += await beside_others(given, database)
    return found


async def beside_others(given: argparse.Namespace, database: Callable[[str], str]) -> list[Table]:
    async with measures.started(ON_POSTGRESQL, database) as subjects:
        found = await measures.parallel(subjects, given.at_once, given.seconds, given.rounds_at_once)
        found += await measures.by_length(subjects, [10, given.sizes[-1]], given.rounds)
    for table in found:
        table.title += " on PostgreSQL"
    return found


def of_memory(given: argparse.Namespace) -> Table:
    columns = ["kB each", "open files each", "tasks", "MB in the bounded cache"]
    sessions = given.sessions
    table = Table(f"{sessions} open idle sessions of 20 messages", columns, digits=2)
    for name in memory.KINDS:
        measures.note(f"{name}: memory")
        count = sessions if name == "warmline" else sessions // 20
        found = memory.in_process(name, count, 20)
        table.rows[name if count == sessions else f"{name} ({count})"] = [
            found["each"] / 1000, found["files"], found["tasks"], found["cached"] / 1e6,
        ]  # fmt: skip
    return table


async def main(given: argparse.Namespace) -> list[Table]:
    found: list[Table] = []
    with tempfile.TemporaryDirectory(prefix="speed", ignore_cleanup_errors=True) as name:
        root = Path(name)
        places = Places(root)
        if "length" in given.only:
            async with measures.started(ON_SQLITE, places.folder) as subjects:
                found += await measures.by_length(subjects, given.sizes, given.rounds)
        if "files" in given.only:
            kinds = [kind for kind in ON_SQLITE if kind is not WarmlineSdk]
            found.append(await measures.file_sizes(kinds, places.folder, given.turns, max(1, given.turns // 10)))
        if "parallel" in given.only:
            async with measures.started([one for one in ON_SQLITE if one.parallel], places.folder) as subjects:
                tables = await measures.parallel(subjects, given.at_once, given.seconds, given.rounds_at_once)
            for table in tables:
                table.title += " on SQLite (write-ahead log, synchronous=FULL)"
            found += tables
        if {"postgresql", "scale"} & set(given.only):
            found += await on_postgresql(given, root)
    if "memory" in given.only:
        found.append(of_memory(given))
    if "follow" in given.only:
        found += [table async for table in following.tables()]
    return found


def run() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", choices=PARTS, default=PARTS)
    parser.add_argument("--sizes", type=int, nargs="*", default=[10, 100, 1000, 5000])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--turns", type=int, default=1000, help="turns before the file is measured")
    parser.add_argument("--at-once", type=int, nargs="*", default=[1, 16, 64])
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds-at-once", type=int, default=3)
    parser.add_argument("--sessions", type=int, default=10_000)
    parser.add_argument("--output", type=Path, help="a folder for the figures as JSON")
    given = parser.parse_args()
    start = time.time()
    tables = asyncio.run(main(given))
    versions = {name: version(name) for name in PACKAGES}
    day, took = time.strftime("%d %B %Y", time.gmtime(start)), time.time() - start
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {day}, in {took:.0f} s")
    print("medians; all sides by turns; in brackets, how many times the first row's figure")
    print(", ".join(f"{name} {found}" for name, found in versions.items()))
    for table in tables:
        print(f"\n{table.text()}")
    if given.output:
        given.output.mkdir(parents=True, exist_ok=True)
        content = {"started": start, "versions": versions, "tables": [asdict(table) for table in tables]}
        (given.output / "speed.json").write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
    run()
