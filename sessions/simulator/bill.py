"""What an engine has charged, added up exchange by exchange."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal

from sessions.core.usage import Usage


@dataclass(frozen=True, slots=True)
class Bill:
    """What an engine has charged: tokens in all five buckets, USD (None if any price is unknown), how many requests."""

    usage: Usage = field(default_factory=Usage)
    cost: Decimal | None = Decimal(0)
    charged: int = 0
    refused: int = 0

    def plus(self, usage: Usage, cost: Decimal | None) -> Bill:
        """With one request more: its tokens, and its USD."""
        total = None if self.cost is None or cost is None else self.cost + cost
        return Bill(self.usage + usage, total, self.charged + 1, self.refused)
