"""Tells what in a prompt silently breaks its cache, once per place, as Python warnings."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sessions.clock import Clock
from sessions.core.cache import text_of
from sessions.core.lint import Hint, lint, named, reordered
from sessions.core.profiles import Profile
from sessions.core.settings import Settings
from sessions.errors import PromptWarning

_REMEMBERED = 256
"""Prefixes that need no second look, and sets of tools whose order is remembered."""


class Linter:
    """One per manager: what it has warned of once it does not warn of again.

    `characters_per_token`: where the endpoint is known to count so; `None` estimates sizes as the profile says.
    """

    def __init__(self, clock: Clock, profile_of: Callable[[str], Profile], characters_per_token: float | None) -> None:
        self._characters_per_token = characters_per_token
        self._clock, self._profile_of = clock, profile_of
        self._told: set[tuple[str, str]] = set()
        self._seen: dict[int, None] = {}
        self._orders: dict[frozenset[str], tuple[dict[str, Any], ...]] = {}

    def check(self, settings: Settings, owner: str | None, metadata: str, before: Settings | None = None) -> None:
        """Warns (`PromptWarning`) of what these settings do to the cache. The user's own call must call it.

        `metadata`: JSON text. `before`: the settings that they replace. Where warnings are errors it raises, so it
        comes before anything is stored.
        """
        stored = before.tools if before is not None else self._orders.get(_set_of(settings.tools), settings.tools)
        order = reordered(stored, settings.tools)
        self._remember(settings.tools)
        profile = self._profile_of(settings.model)
        if self._characters_per_token is not None:
            profile = replace(profile, characters_per_token=self._characters_per_token)
        hints = [] if self._is_known(settings) else lint(settings, profile, now=self._clock.now())
        for hint in [*([order] if order else []), *hints, *named(settings, owner, json.loads(metadata))]:
            self._tell(hint)

    @property
    def remembered(self) -> int:
        """How many prefixes, or sets of tools, it remembers: whichever is more."""
        return max(len(self._seen), len(self._orders))

    def _is_known(self, settings: Settings) -> bool:
        """Whether this very prefix has been looked at: sessions are made often, prefixes seldom."""
        # Not the text, which may be long: of two prefixes with one hash no more than a hint is lost.
        prefix = hash(text_of([settings.model, list(settings.system), list(settings.tools), list(settings.context)]))
        known = prefix in self._seen
        self._seen[prefix] = None
        _trim(self._seen)
        return known

    def _tell(self, hint: Hint) -> None:
        if (hint.kind, hint.place) not in self._told:
            self._told.add((hint.kind, hint.place))
            warnings.warn(hint.message, PromptWarning, stacklevel=4)

    def _remember(self, tools: tuple[dict[str, Any], ...]) -> None:
        if len(tools) > 1:
            self._orders.setdefault(_set_of(tools), tools)
        _trim(self._orders)


def _set_of(tools: tuple[dict[str, Any], ...]) -> frozenset[str]:
    return frozenset(text_of(tool) for tool in tools)


def _trim(known: dict[Any, Any]) -> None:
    while len(known) > _REMEMBERED:
        del known[next(iter(known))]
