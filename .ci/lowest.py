"""Prints constraints with the lowest release of each direct dependency that a pyproject.toml allows."""

import re
import sys
import tomllib
from pathlib import Path

BOUND = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?>=([0-9.]+)")


def main(path: str) -> None:
    project = tomllib.loads(Path(path).read_text())["project"]
    extras = project["optional-dependencies"]
    # What `make bench-cost` and `make bench-speed` compare with us has pins of its own.
    ours = [line for name, lines in extras.items() if name not in ("bench-cost", "bench-speed") for line in lines]
    for line in [*project["dependencies"], *ours]:
        bound = BOUND.fullmatch(line)
        if bound is None:
            sys.exit(f"{path}: {line!r} has no lower bound: write it as name>=version")
        print("==".join(bound.groups()))


main(*sys.argv[1:])
