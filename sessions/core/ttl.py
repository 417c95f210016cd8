"""How long a prefix should stay cached: what a write should ask for, and whether to keep it alive while nobody writes.

A policy is a value with one method, `choose`: from an `Outlook` (sizes, prices, when the next request will come) it
takes one of the options open now. Time counts from the start of one request to the start of the next.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, get_args, runtime_checkable

from sessions.core.cache import SECONDS
from sessions.core.gaps import NEVER, Forecast
from sessions.core.keeping import costs
from sessions.core.profiles import Ttl

Option = Literal["5m", "1h", "lapse", "park", "refresh"]
"""When writing: "5m" or "1h". When idle: "lapse" (do nothing), "park" (a 1-hour entry behind the warm 5-minute prefix
for the price of a read), "refresh" (read a 1-hour entry so that it lives on)."""

PARK_AFTER = 270.0
"""Seconds after the start of the last request at which a 5-minute prefix is parked: it lives 30 more."""
_MOST_RETURNS = 100.0


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a policy may know. Sizes are tokens, prices relative to the plain input price, times seconds.

    `prefix`: tokens up to the last mark; `new`: those of them that no live entry covers, so that they are written.
    `forecast`: when the next request will come, counted from the start of the last one; `waited`: how long ago that was
    (0 when writing). `kept`: tokens of the prefix that a 1-hour entry covers until `kept_until`, counted likewise.
    `parks`: a 5-minute write can be parked later. `reply`: tokens by which the prefix grows with each turn. `lasting`:
    a 1-hour entry outlives the 5-minute prefix that it was written behind. `tended`: the conversation is looked after
    while idle. `told`: the caller gave `expected_gap`. `stays`: tokens of the prefix that other sessions are expected
    to keep alive, whatever becomes of this one. `recurs`: the prefix is one that many sessions use, again and again,
    and `forecast` is that of their next use; `keeps`: where that pays, its 1-hour entry is refreshed while none asks.
    """

    options: tuple[Option, ...]
    prefix: int
    new: int
    read: float
    write_5m: float
    write_1h: float
    forecast: Forecast
    waited: float = 0.0
    kept: int = 0
    kept_until: float = 0.0
    parks: bool = False
    reply: int = 500
    lasting: bool = True
    tended: bool = True
    told: bool = False
    stays: int = 0
    recurs: bool = False
    keeps: bool = False

    def cost(self, option: Option) -> float:
        """What an option and the next request's prefix are expected to cost, in plain input tokens.

        A 1h mark behind a warm prefix is billed for the tokens behind that prefix alone, and its entry is the whole
        prefix (mixed-lifetime billing, September 2026).
        """
        if self.recurs:
            return self._each_use(option)
        if option in SECONDS and not self.lasting:
            return self._for_good(option)  # type: ignore[arg-type]
        if option == "5m":
            lapse = self._following(SECONDS["5m"]) + self._chosen_again()
            return self.new * self.write_5m + (min(lapse, self._parked()) if self.parks else lapse)
        if option == "1h":
            return self.new * self.write_1h + self._following(SECONDS["1h"])
        if option == "park":
            read = (self.prefix - self.new) * self.read
            return read + self.new * self.write_1h + self._following(self.waited + SECONDS["1h"])
        if option == "refresh":
            return self.kept * self.read + self._following(0.0, self.waited + SECONDS["1h"])
        return self._following(SECONDS["5m"] if "park" in self.options else 0.0)

    def _each_use(self, option: Option) -> float:
        """What a use of the prefix costs in the long run, with entries of this lifetime; when idle, the next use."""
        if option == "5m":
            return self.prefix * costs(self.forecast, SECONDS["5m"], self.read, self.write_5m)[0]
        lapses = SECONDS["1h"] if option == "1h" else self.kept_until
        each = costs(self.forecast.after(self.waited), lapses, self.read, self.write_1h)
        if option == "refresh":
            # Where nothing more can be found, one refresh costs what it reads.
            return self.prefix * min(each[1:], default=each[0] + self.read)
        return self.prefix * (min(each) if option == "1h" and self.keeps else each[0])

    def _for_good(self, ttl: Ttl) -> float:
        """What it costs now and at all returns to come, where a prefix keeps its first lifetime for good.

        It grows by a reply each time: what is added is written with the same lifetime, and so is what has lapsed.
        """
        write, ever = self.write_5m if ttl == "5m" else self.write_1h, self.forecast.ever
        if not ever:
            return self.new * write
        returns = ever / max(1.0 - ever, 1.0 / _MOST_RETURNS)
        alive = self.forecast.within(SECONDS[ttl]) / ever
        size = self.prefix + self.reply * returns / 2
        found = size * self.read + self.reply * write
        return self.new * write + returns * (alive * found + (1.0 - alive) * (size + self.reply) * write)

    def _chosen_again(self) -> float:
        """What a later write for an hour adds where nothing is done while idle: whoever comes within the hour and finds
        nothing shows that an hour had been right, so that the next choice is that one."""
        if self.tended:
            return 0.0
        between = self.forecast.within(SECONDS["1h"]) - self.forecast.within(SECONDS["5m"])
        return between * min(self.new, self.prefix - self.stays) * (self.write_1h - self.write_5m)

    def _parked(self) -> float:
        """The cost from now on if the prefix is parked unless the next request comes before.

        The reply that is written with it is left out where the return is a guess: the next turn would write it
        otherwise. Whoever tells of a return gets the hour for it, unless a park costs far less.
        """
        late = 1.0 - self.forecast.within(PARK_AFTER)
        park = self.prefix * self.read + (self.reply * self.write_1h if self.told else 0.0)
        return late * park + self._following(PARK_AFTER + SECONDS["1h"])

    def _following(self, until: float, kept_until: float | None = None) -> float:
        """The expected cost of the next request's prefix if all of it can be read `until`, and its part `kept`."""
        kept_until = max(until, self.kept_until if kept_until is None else kept_until)
        later = self.forecast.after(self.waited)
        whole, part = later.within(until), later.within(kept_until)
        kept = max(self.kept, self.stays)
        again = self.stays * self.read + (self.prefix - self.stays) * self.write_5m
        partly = kept * self.read + (self.prefix - kept) * self.write_5m
        return whole * self.prefix * self.read + (part - whole) * partly + (later.within(NEVER) - part) * again


@runtime_checkable
class Policy(Protocol):
    """Chooses a lifetime, and what to do for an idle conversation."""

    def choose(self, outlook: Outlook) -> Option:
        """One of `outlook.options`; an option that is not open now counts as the first ("5m", or "lapse" when idle)."""
        ...


@dataclass(frozen=True, slots=True)
class Fixed:
    """Always the same lifetime, "5m" or "1h" (5m where the endpoint offers nothing else), and nothing while idle."""

    ttl: Ttl

    def __post_init__(self) -> None:
        if self.ttl not in SECONDS:
            raise ValueError(f"ttl must be '5m' or '1h', not {self.ttl!r}")

    def choose(self, outlook: Outlook) -> Option:
        return self.ttl if self.ttl in outlook.options else outlook.options[0]


@dataclass(frozen=True, slots=True)
class ExpectedCost:
    """The option of the least expected cost; of equal ones the first, which is the least to do."""

    def choose(self, outlook: Outlook) -> Option:
        return min(outlook.options, key=outlook.cost)


def chosen(policy: Policy, outlook: Outlook) -> Option:
    """What the policy chooses, or the first option where its answer is one that is not open now.

    Raises `ValueError` where the answer is no option at all.
    """
    answer = policy.choose(outlook)
    if answer not in get_args(Option):
        raise ValueError(
            f"{type(policy).__name__}.choose returned {answer!r:.80}: it must return one of {outlook.options}"
        )
    return answer if answer in outlook.options else outlook.options[0]
