"""What a ledger shows of when users come back, and how far it can be believed: the older part says what comes next.

Plans go by `core/experience`; this is for people who want to see what was learnt, and for a file that another
deployment can begin with.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from sessions.core.experience import WEIGHT, Experience, Kind, Seen, kinds
from sessions.core.gaps import FITTED, Prior, curve

WINDOWS = (300.0, 3600.0, 86_400.0)
"""Seconds within which users may come back; who has not within the last of them counts as gone."""
TURNS = (1, 2, 3, 4, 5, 6)
"""Turn numbers that are told apart."""
ENOUGH = int(WEIGHT)
"""Gaps from which on they weigh as much as what was known before them."""
OLDER = 0.7
"""The share of the gaps, the older ones, that is fitted where the rest is to judge it."""
BINS = 5


@dataclass(frozen=True, slots=True)
class Gap:
    """The time after a session's turn. `number`: which turn it was. `settings`: the digest of the session's.

    `began`: the start of the turn's last request; `ended`: that of the next turn's first one, `None`: there is none
    yet. Seconds since the epoch.
    """

    settings: str
    number: int
    began: float
    ended: float | None = None

    def returned(self, seconds: float, now: float) -> bool | None:
        """Whether the user came back within so many seconds; `None` before they have passed."""
        if now - self.began < seconds:
            return None  # also of one who is back: else the quick ones would be counted first
        return self.ended is not None and self.ended - self.began <= seconds


@dataclass(frozen=True, slots=True)
class Shares:
    """The chance of a return within five minutes and within an hour, and of none within a day; `None`: not known."""

    soon: float | None
    hour: float | None
    never: float | None

    @classmethod
    def of(cls, prior: Prior) -> Shares:
        """Those that plans go by."""
        soon, hour, day = (curve(prior.shares).within(seconds) for seconds in WINDOWS)
        return cls(soon, hour, 1.0 - day)


SHIPPED = Shares.of(FITTED)


@dataclass(frozen=True, slots=True)
class Row:
    """What sessions with these settings did after so many turns. `None`: whatever settings, however many turns.

    `gaps`: those of which it is known whether they lasted for an hour. `seen`: what the ledger shows, without what was
    known before; `used`: what plans go by (`None`: none is made of it).
    """

    settings: str | None
    turns: int | None
    gaps: int
    seen: Shares
    used: Shares | None

    @property
    def enough(self) -> bool:
        """Whether what was seen weighs as much as what was known before."""
        return self.gaps >= ENOUGH


@dataclass(frozen=True, slots=True)
class Bin:
    """Gaps that were given like chances: how many, the chance on average, and the share that came true."""

    gaps: int
    told: float
    happened: float


@dataclass(frozen=True, slots=True)
class Judged:
    """How chances of a return within so many seconds, from the older gaps, fared with the newer ones.

    `learnt`, `shipped`: the Brier scores (the mean squared difference between the chance and what happened; 0 is
    perfect) of what was learnt, and of the shipped prior.
    """

    seconds: float
    gaps: int
    bins: tuple[Bin, ...]
    learnt: float
    shipped: float


@dataclass(frozen=True, slots=True)
class Fit:
    """What requests show. `rows`: of all sessions first, then of each settings with enough gaps.

    `few`: how many settings have fewer. `judged`: nothing where there are too few gaps for it. `priors`: the number
    of gaps and what is known beforehand, of every kind of sessions with enough.
    """

    sessions: int
    requests: int
    since: float | None
    rows: tuple[Row, ...]
    few: int
    judged: tuple[Judged, ...]
    priors: dict[Kind, tuple[int, Prior]]


def gaps_of(requests: Iterable[Seen]) -> list[Gap]:
    """The gaps between the turns of each session, in the order in which they ended, then those that go on."""
    waiting: dict[str, tuple[str, Gap]] = {}
    found: list[Gap] = []
    for request in requests:
        turn, before = waiting.get(request.session, (request.turn, None))
        if before is not None and request.started < before.began:
            continue  # late news: what has followed it is known
        number = before.number if before is not None else 1
        if before is not None and request.turn != turn:
            found.append(replace(before, ended=request.started))
            number += 1
        waiting[request.session] = request.turn, Gap(request.settings, number, request.started)
    return [*found, *(gap for _, gap in waiting.values())]


def fit(requests: Sequence[Seen], now: float) -> Fit:
    """What these requests show, in the order in which they were written down; `now`: seconds since the epoch."""
    gaps, experience = gaps_of(requests), Experience()
    experience.take_in(requests)
    counted = Counter(gap.settings for gap in gaps if _is_known(gap, now))
    many = [settings for settings, number in counted.most_common() if number >= ENOUGH]
    rows = [row for settings in (None, *many) for row in _rows(settings, gaps, experience, now)]
    return Fit(
        sessions=len({request.session for request in requests}),
        requests=len(requests),
        since=min((request.started for request in requests), default=None),
        rows=tuple(rows),
        few=len({gap.settings for gap in gaps} - set(many)),
        judged=_judged(requests, gaps, now),
        priors=_priors(gaps, experience, now),
    )


def _is_known(gap: Gap, now: float) -> bool:
    return gap.returned(WINDOWS[1], now) is not None


def _rows(settings: str | None, gaps: Sequence[Gap], experience: Experience, now: float) -> list[Row]:
    """One of all turns, and one for each number of turns after which there was a gap."""
    own = [gap for gap in gaps if settings in {None, gap.settings}]
    found = []
    for turns in (None, *TURNS):
        some = [gap for gap in own if turns in {None, gap.number}]
        # Of all settings together plans tell no turns apart.
        made = settings is not None or turns is None
        used = Shares.of(experience.prior(settings, turns, now)) if made else None
        if some or turns is None:
            found.append(Row(settings, turns, sum(_is_known(gap, now) for gap in some), _seen(some, now), used))
    return found


def _seen(gaps: Sequence[Gap], now: float) -> Shares:
    soon, hour, day = (_share(gaps, seconds, now) for seconds in WINDOWS)
    return Shares(soon, hour, None if day is None else 1.0 - day)


def _share(gaps: Sequence[Gap], seconds: float, now: float) -> float | None:
    outcomes = [back for gap in gaps if (back := gap.returned(seconds, now)) is not None]
    return sum(outcomes) / len(outcomes) if outcomes else None


def _priors(gaps: Sequence[Gap], experience: Experience, now: float) -> dict[Kind, tuple[int, Prior]]:
    """What is known beforehand of each kind with enough gaps; the kinds are those that plans tell apart."""
    counted: Counter[Kind] = Counter()
    asked: dict[Kind, tuple[str | None, int | None]] = {}
    for gap in gaps:
        if _is_known(gap, now):
            for settings, turns in ((None, None), (gap.settings, None), (gap.settings, gap.number)):
                kind = kinds(settings, turns)[-1]
                counted[kind] += 1
                asked[kind] = settings, turns
    many = sorted(kind for kind, number in counted.items() if number >= ENOUGH)
    return {kind: (counted[kind], experience.prior(*asked[kind], now)) for kind in many}


def _judged(requests: Sequence[Seen], gaps: Sequence[Gap], now: float) -> tuple[Judged, ...]:
    """The chances that the older part of the ledger gives, beside what happened in the newer one."""
    if len(gaps) < ENOUGH:
        return ()
    split = sorted(gap.began for gap in gaps)[int(OLDER * len(gaps))]
    experience = Experience()
    experience.take_in(request for request in requests if request.started <= split)
    newer = [gap for gap in gaps if gap.began > split]
    found = [_judge(newer, seconds, experience, split, now) for seconds in WINDOWS[:2]]
    return tuple(one for one in found if one is not None)


def _judge(gaps: Sequence[Gap], seconds: float, experience: Experience, split: float, now: float) -> Judged | None:
    pairs: list[tuple[float, bool]] = []
    for gap in gaps:
        back = gap.returned(seconds, now)
        if back is not None:
            pairs.append((curve(experience.prior(gap.settings, gap.number, split).shares).within(seconds), back))
    if len(pairs) < ENOUGH:
        return None
    always = curve(FITTED.shares).within(seconds)
    return Judged(seconds, len(pairs), _bins(pairs), _brier(pairs), _brier([(always, back) for _, back in pairs]))


def _bins(pairs: Sequence[tuple[float, bool]]) -> tuple[Bin, ...]:
    """Bins of equal width, from the least chance on; those that nothing falls into are left out."""
    by_bin: dict[int, list[tuple[float, bool]]] = {}
    for chance, back in pairs:
        by_bin.setdefault(min(BINS - 1, int(chance * BINS)), []).append((chance, back))
    return tuple(
        Bin(len(some), sum(chance for chance, _ in some) / len(some), sum(back for _, back in some) / len(some))
        for _, some in sorted(by_bin.items())
    )


def _brier(pairs: Sequence[tuple[float, bool]]) -> float:
    return sum((chance - back) ** 2 for chance, back in pairs) / len(pairs)
