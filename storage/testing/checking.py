"""The contract of a store as a list of rules, each a small function; `check_store` runs them on any implementation."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from types import ModuleType
from typing import TypeAlias

from storage.store import Store

from . import (
    of_budgets,
    of_commits,
    of_entries,
    of_following,
    of_idle_work,
    of_leases,
    of_ledgers,
    of_sessions,
    of_trust,
    of_unleased,
    of_values,
)

Check: TypeAlias = Callable[[Store], Awaitable[None]]


def _rules(file: ModuleType) -> list[Check]:
    """Its public coroutine functions, as they stand there: one that is written is a rule, and none is forgotten."""
    functions = [value for name, value in vars(file).items() if not name.startswith("_")]
    return [
        function
        for function in functions
        if inspect.iscoroutinefunction(function) and function.__module__ == file.__name__
    ]


CHECKS: list[Check] = [
    check
    for file in (
        of_sessions,
        of_values,
        of_entries,
        of_leases,
        of_commits,
        of_ledgers,
        of_unleased,
        of_idle_work,
        of_following,
        of_trust,
        of_budgets,
    )
    for check in _rules(file)
]
"""The rules. Each takes an empty, opened store; its name and first docstring line say what must hold."""


async def check_store(make_store: Callable[[], Store | Awaitable[Store]]) -> None:
    """Runs every rule, each on a store of its own.

    `make_store` gives a new store on an empty database, not opened yet (or an awaitable of one); `upgrade`, `open` and
    `close` are called here. Raises `AssertionError` with the name of the first rule that does not hold, and the cause.
    """
    for check in CHECKS:
        promised = make_store()
        store = await promised if inspect.isawaitable(promised) else promised
        await store.upgrade()
        await store.open()
        try:
            await check(store)
        except Exception as error:
            rule = f"{check.__name__} ({(check.__doc__ or '').splitlines()[0]})"
            raise AssertionError(f"the store breaks the rule {rule}: {error}") from error
        finally:
            await store.close()
