"""`python -m tests.benchmarks.follow`: what `make bench-follow` prints; smaller numbers for a quick look."""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import time

from tests.benchmarks.follow import measures


async def main(given: argparse.Namespace) -> None:
    async for table in measures.tables(given.turns, given.rounds, given.together, given.followers):
        print(f"\n{table.text()}", flush=True)


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
