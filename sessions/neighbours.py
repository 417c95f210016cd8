"""Looks, before anything else is imported, whether `storage` is ours: a folder of the user's own may hide it.

It imports next to nothing itself: until the command line runs, Ctrl-C would show the user a traceback.
"""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder
from os.path import basename, dirname, join, realpath

OURS = join(dirname(dirname(realpath(__file__))), "storage")


def check_storage() -> None:
    """Raises `ImportError` that names both places where `import storage` finds, or has found, another one."""
    loaded = sys.modules.get("storage")
    spec = PathFinder.find_spec("storage") if loaded is None else loaded.__spec__
    if spec is None:
        return  # some other finder has it, or the import itself says that there is none
    places = list(spec.submodule_search_locations or ())
    if any(realpath(place) == OURS for place in places):
        return
    found = spec.origin or places[0]
    found = dirname(found) if basename(found) == "__init__.py" else found
    raise ImportError(
        f"{found} hides {OURS}, which this library needs under the name 'storage': rename the first, "
        "or start the program from another folder",
        name="storage",
        path=found,
    )


check_storage()
