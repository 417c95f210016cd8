"""What may be spent: a limit in USD for each owner, each session, or all of a store, in any stretch of time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Literal, TypeAlias, get_args

from sessions import arguments
from sessions.errors import ConfigurationError

Per: TypeAlias = Literal["owner", "session", "manager"]

MOST = Decimal(1_000_000)
"""The largest limit, in USD."""


@dataclass(frozen=True, slots=True, init=False)
class Budget:
    """At most `usd` in any `window`, for each owner, each session, or all sessions of the store together.

    `usd`: a number of USD, a `Decimal` then. `per`: sessions without an owner share one budget; "manager" is one for
    all managers on the store that have it. `window`: seconds, or a timedelta, seconds then. Give it to
    `SessionManager(budgets=…)`: before any request is sent, over all processes, what is expected of it is set against
    what is left. Requests without a published price count as nothing. Raises `ConfigurationError`.
    """

    usd: Decimal
    per: Per
    window: float

    def __init__(self, usd: Decimal | float, per: Per = "owner", window: float | timedelta = 86_400.0) -> None:
        dollars = arguments.dollars("usd", usd)
        if dollars is None or dollars > MOST:
            raise ConfigurationError(f"usd must be a number of USD, at most {MOST:,}, not {usd!r}")
        arguments.check_choice("per", per, get_args(Per))
        seconds = arguments.duration("window", window)
        if not seconds:
            raise ConfigurationError("window must be more than 0 seconds")
        for name, value in (("usd", dollars), ("per", per), ("window", seconds)):
            object.__setattr__(self, name, value)

    def __str__(self) -> str:
        whose = "all sessions" if self.per == "manager" else f"each {self.per}"
        return f"${self.usd} for {whose} in {timedelta(seconds=self.window)}"
