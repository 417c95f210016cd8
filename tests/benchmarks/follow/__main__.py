"""`python -m tests.benchmarks.follow`: what `make bench-follow` prints; smaller numbers for a quick look."""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import platform
import tempfile
import time
from pathlib import Path

import psycopg

from tests.benchmarks.follow import measures
from tests.benchmarks.speed.__main__ import server


async def main(given: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="follow", ignore_cleanup_errors=True) as name:
        root = Path(name)
        places = {"SQLite": f"sqlite:///{root}/a.db"}
        with server(root) as url:
            with psycopg.connect(url.format(database="postgres"), autocommit=True) as raw:
                raw.execute("CREATE DATABASE follow")
            places["PostgreSQL"] = url.format(database="follow")
            for kind, place in places.items():
                print(f"\n{(await measures.elsewhere(place, given.turns, kind)).text()}", flush=True)
                print(f"\n{(await measures.nobody(place, given.turns, given.rounds, kind)).text()}", flush=True)
        gc.collect()
        print(f"\n{(await measures.together(root, given.together, given.followers)).text()}")


def run() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=64, help="at once")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--together", type=int, default=100, help="turns in one process")
    parser.add_argument("--followers", type=int, default=1000, help="of those")
    given = parser.parse_args()
    began = time.time()
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    asyncio.run(main(given))
    print(f"\nin {time.time() - began:.0f} s")


if __name__ == "__main__":
    run()
