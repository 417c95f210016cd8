"""What a rule expects of a store, said so that a failure names what came instead."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import replace
from typing import Any

from storage.errors import StorageError
from storage.records import Change, Lease
from storage.store import Store

from .records import call_record, tool_call_record


def equal(actual: object, expected: object) -> None:
    """Raises `AssertionError` that shows both."""
    if actual != expected:
        raise AssertionError(f"expected {expected!r:.500}, got {actual!r:.500}")


async def raises(kind: type[StorageError], work: Awaitable[Any]) -> StorageError:
    """The error that the work raises. Raises `AssertionError` if there is none."""
    try:
        result = await work
    except kind as error:
        return error
    raise AssertionError(f"expected {kind.__name__}, got {result!r:.500}")


async def refused(store: Store, kind: type[StorageError], lease: Lease, wrong: Change) -> None:
    """The change to session "s" is refused with this error, and nothing of it is there."""
    before = await store.load("s"), await store.calls("s"), await store.journal("s"), await store.turns("s")
    rows: dict[str, Any] = {
        "calls": (call_record("new"),),
        "tool_calls": (tool_call_record(),),
    }
    await raises(kind, store.commit(lease, replace(wrong, title="new", **rows)))
    equal((await store.load("s"), await store.calls("s"), await store.journal("s"), await store.turns("s")), before)
    for entry in wrong.entries:
        equal(await store.entry("s", entry.id), None)
