"""What one call read, wrote and produced, in tokens: the five buckets that the API bills."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MOST_TOKENS = 1_000_000_000
"""More than one request can have: a larger figure is a server's mistake, and a few thousand would overflow a total."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens by billing bucket. `input` is what follows the last cache breakpoint, as the API reports it.

    `counters` is False where the endpoint reported no cache counter at all: then a missing read is not a miss.
    """

    input: int = 0
    cache_read: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    output: int = 0
    counters: bool = True

    @property
    def cache_write(self) -> int:
        """Tokens written to the cache, both lifetimes together."""
        return self.cache_write_5m + self.cache_write_1h

    @property
    def total_input(self) -> int:
        """The size of the prompt in tokens: read + written + uncached."""
        return self.input + self.cache_read + self.cache_write

    @property
    def hit_rate(self) -> float:
        """The share of the prompt that was read from the cache, 0.0 to 1.0 (0.0 for an empty prompt)."""
        return self.cache_read / self.total_input if self.total_input else 0.0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input + other.input,
            self.cache_read + other.cache_read,
            self.cache_write_5m + other.cache_write_5m,
            self.cache_write_1h + other.cache_write_1h,
            self.output + other.output,
            self.counters and other.counters,
        )

    @classmethod
    def from_api(cls, usage: Mapping[str, Any]) -> Usage:
        """Reads a `usage` object of the Messages API. Every cache field may be null or absent.

        With the compaction and fallback betas the top level leaves out some attempts: `iterations`, where present,
        is the sum that is billed (streaming page, 2026). A figure that is no sane count is treated as absent.
        """
        iterations = usage.get("iterations")
        if isinstance(iterations, list) and iterations:
            return sum((cls._from_one(_object(one)) for one in iterations), start=cls())
        return cls._from_one(usage)

    @classmethod
    def _from_one(cls, usage: Mapping[str, Any]) -> Usage:
        split = _object(usage.get("cache_creation"))
        written = _count(usage.get("cache_creation_input_tokens"))
        read = _count(usage.get("cache_read_input_tokens"))
        one_hour = _count(split.get("ephemeral_1h_input_tokens")) or 0
        five_minutes = _count(split.get("ephemeral_5m_input_tokens")) or 0
        total = written if written is not None else one_hour + five_minutes
        return cls(
            input=_count(usage.get("input_tokens")) or 0,
            cache_read=read or 0,
            cache_write_5m=max(0, total - one_hour),
            cache_write_1h=one_hour,
            output=_count(usage.get("output_tokens")) or 0,
            counters=written is not None or read is not None or bool(split),
        )


def _count(value: Any) -> int | None:
    """A number of tokens, or `None` for what cannot be one."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MOST_TOKENS:
        return None
    return int(value)


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
