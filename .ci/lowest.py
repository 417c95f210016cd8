"""Prints constraints with the lowest release of each direct dependency that a pyproject.toml allows."""

import re
import sys
import tomllib
from pathlib import Path

BOUND = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?>=([0-9.]+)")


def main(path: str) -> None:
    settings = tomllib.loads(Path(path).read_text())
    project = settings["project"]
    # What `make bench-cost` and `make bench-speed` compare with us has pins of its own.
    optional = [*project["optional-dependencies"].values(), settings["dependency-groups"]["dev"]]
    for line in [*project["dependencies"], *(line for lines in optional for line in lines)]:
        bound = BOUND.fullmatch(line)
        if bound is None:
            sys.exit(f"{path}: {line!r} has no lower bound: write it as name>=version")
        print("==".join(bound.groups()))


main(*sys.argv[1:])
