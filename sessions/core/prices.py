"""What tokens cost, in USD, from the `genai-prices` tables; never a constant of ours."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from sessions.core.profiles import Profile, bare_name, is_of_bedrock, is_regional
from sessions.core.usage import Usage

_MILLION = Decimal(1_000_000)
_US_ONLY, _FAST, _BATCH = Decimal("1.1"), Decimal(2), Decimal("0.5")
_AS_SAID, _REGIONAL = Decimal(1), Decimal("1.1")


@dataclass(frozen=True, slots=True)
class Prices:
    """USD per million tokens, by bucket."""

    input: Decimal
    cache_read: Decimal
    cache_write_5m: Decimal
    cache_write_1h: Decimal
    output: Decimal

    @property
    def read(self) -> float:
        """A cached token's price as a share of the plain input price (0.1, 0.05 or 0.025 on Claude)."""
        return float(self.cache_read / self.input) if self.input else 0.0

    @property
    def write_5m(self) -> float:
        """A 5-minute write's price as a multiple of the plain input price."""
        return float(self.cache_write_5m / self.input) if self.input else 1.0

    @property
    def write_1h(self) -> float:
        """A 1-hour write's price as a multiple of the plain input price."""
        return float(self.cache_write_1h / self.input) if self.input else 1.0

    def of(self, usage: Usage) -> Decimal:
        """USD for these tokens."""
        return (
            usage.input * self.input
            + usage.cache_read * self.cache_read
            + usage.cache_write_5m * self.cache_write_5m
            + usage.cache_write_1h * self.cache_write_1h
            + usage.output * self.output
        ) / _MILLION


def _places(name: str) -> Iterator[tuple[str | None, str, Decimal]]:
    """Where in the tables a model may stand: the provider, its name there, and a factor for what is said there."""
    if is_of_bedrock(name):
        yield "aws", name, _AS_SAID
        # A region that the tables do not have yet: a tenth more, as in all that they have (pricing page, August 2026).
        yield "anthropic", bare_name(name), _REGIONAL if is_regional(name) else _AS_SAID
        return
    for each in (name, bare_name(name)):
        yield "anthropic", each, _AS_SAID
        yield None, each, _AS_SAID


@dataclass(frozen=True, slots=True, eq=False)
class _Row:
    """A model's row of the tables, and a factor for its prices."""

    model: Any
    factor: Decimal


@functools.cache
def _row(name: str) -> _Row | None:
    from genai_prices.data_snapshot import get_snapshot  # a megabyte of tables: loaded when first asked for

    for provider, there, factor in _places(name):
        try:
            return _Row(get_snapshot().find_provider_model(there, None, provider, None)[1], factor)
        except LookupError:
            continue
    return None


@functools.lru_cache(maxsize=1024)
def _table(row: _Row, minute: int) -> Any:
    return row.model.get_prices(datetime.fromtimestamp(60 * minute, UTC))


@functools.lru_cache(maxsize=1024)
def _prices(row: _Row, minute: int, total_input: int) -> Prices | None:
    table = _table(row, minute)
    if table.input_mtok is None:
        return None

    def at(bucket: str, default: Decimal) -> Decimal:
        price = getattr(table, bucket, None)
        if price is None:
            return default
        if isinstance(price, Decimal):
            return price * row.factor
        reached = [tier.price for tier in price.tiers if total_input > tier.start]
        return Decimal(reached[-1] if reached else price.base) * row.factor

    plain = at("input_mtok", Decimal(0))
    write = at("cache_write_mtok", plain)
    return Prices(
        plain, at("cache_read_mtok", plain), write, at("cache_write_1h_mtok", write), at("output_mtok", Decimal(0))
    )


def prices_for(profile: Profile, total_input: int = 0, *, at: datetime | None = None) -> Prices | None:
    """The price card for a prompt of that many tokens (some models charge more for all of a long one).

    `at`: when it is sent; now by default. Some providers charge by the hour of the day, or other prices from a day on.
    `None` where no price is published: the cost is then unknown, not zero.
    """
    row = _row(profile.price_as) if profile.price_as is not None else None
    if row is None:
        return None
    # The minute whose prices hold, by the real date: a turned clock does not change what is paid.
    is_by_date = isinstance(row.model.prices, list)
    minute = int((at or datetime.now(UTC)).timestamp()) // 60 if is_by_date else 0
    tiers = getattr(_table(row, minute).input_mtok, "tiers", ())
    reached = max((tier.start for tier in tiers if total_input > tier.start), default=-1)
    return _prices(row, minute, reached + 1)


def multiplier(params: Mapping[str, Any] | None, *, batch: bool = False) -> Decimal:
    """What `inference_geo: "us"` (1.1), `speed: "fast"` (2) and a batch (0.5) do to every price (August 2026)."""
    params = params or {}
    factor = _US_ONLY if params.get("inference_geo") == "us" else Decimal(1)
    factor *= _FAST if params.get("speed") == "fast" else Decimal(1)
    return factor * (_BATCH if batch else Decimal(1))


def cost(
    usage: Usage, profile: Profile, params: Mapping[str, Any] | None = None, *, batch: bool = False
) -> Decimal | None:
    """USD for one call, at the tier of its own prompt size; `None` where no price is published."""
    prices = prices_for(profile, usage.total_input)
    return None if prices is None else prices.of(usage) * multiplier(params, batch=batch)
