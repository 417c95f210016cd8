"""Workloads that are not coding agents: seeded draws of who asks when, how much, and how long the answer takes.

A workload is a list of visits on one time line. All visits have its system prompt and tools, so they share a head. Same
name, seed and scale: the same visits. Another seed makes another draw of the same kind. `scale` shortens the time
that a workload covers, never its rate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import log
from random import Random

MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0


@dataclass(frozen=True, slots=True)
class Step:
    """One model call: tokens of the reply and seconds it takes; then a tool's result and seconds, or 0 at the end."""

    reply: int
    seconds: float
    result: int = 0
    takes: float = 0.0


@dataclass(frozen=True, slots=True)
class Turn:
    """A user's words, in tokens, sent at `at` seconds from the workload's start."""

    at: float
    words: int
    steps: tuple[Step, ...]

    @property
    def seconds(self) -> float:
        """How long it takes."""
        return sum(step.seconds + step.takes for step in self.steps)


@dataclass(frozen=True, slots=True)
class Visit:
    """One session. `document`: name and tokens of what is pinned at its start; visits may share one."""

    name: str
    owner: str
    turns: tuple[Turn, ...]
    document: tuple[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Workload:
    """`head`: tokens of system prompt and tools. `source`: where its shape comes from."""

    name: str
    source: str
    head: int
    visits: tuple[Visit, ...]

    @property
    def turns(self) -> int:
        """Turns of all visits."""
        return sum(len(visit.turns) for visit in self.visits)


class Draw:
    """The chances that the workloads are made of."""

    def __init__(self, name: str, seed: int) -> None:
        self.random = Random(f"{name} {seed}")

    def around(self, median: float, sigma: float, low: float, high: float) -> float:
        """Log-normal, cut off at both ends."""
        return min(high, max(low, self.random.lognormvariate(log(median), sigma)))

    def tokens(self, median: float, sigma: float, low: int, high: int) -> int:
        """Log-normal, whole."""
        return round(self.around(median, sigma, low, high))

    def between(self, low: float, high: float) -> float:
        """Even on a logarithmic scale."""
        return float(low * (high / low) ** self.random.random())

    def happens(self, chance: float) -> bool:
        """Whether a thing of that chance happens."""
        return self.random.random() < chance

    def arrivals(self, each_hour: float, hours: float) -> Iterator[float]:
        """When visitors come who know nothing of each other, at least one: seconds from the start."""
        at = self.random.expovariate(each_hour / HOUR)
        yield at
        while (at := at + self.random.expovariate(each_hour / HOUR)) < hours * HOUR:
            yield at

    def answer(self, median: float, sigma: float = 0.6) -> Step:
        """A reply of that size; 60 tokens a second, and a second before them."""
        reply = self.tokens(median, sigma, 15, 4000)
        return Step(reply, 1.0 + reply / 60)

    def call(self, result: float, takes: float, longest: float = 600.0) -> Step:
        """A reply that calls a tool."""
        called = self.answer(70, 0.4)
        size = self.tokens(result, 0.9, 30, 12_000)
        return Step(called.reply, called.seconds, size, self.around(takes, 1.1, 0.2, longest))


Gap = Callable[[int], float | None]
"""Seconds from the end of an answer to the next words after so many turns; None: there are no more."""


def _visit(
    name: str,
    owner: str,
    at: float,
    gap: Gap,
    turn: Callable[[int, float], Turn],
    *,
    document: tuple[str, int] | None = None,
) -> Visit:
    turns: list[Turn] = []
    pause: float | None = 0.0
    while pause is not None:
        at += pause
        turns.append(turn(len(turns), at))
        at += turns[-1].seconds
        pause = gap(len(turns))
    return Visit(name, owner, tuple(turns), document)


def _chat(draw: Draw, scale: float) -> list[Visit]:
    def gap(turns: int) -> float | None:
        goes_on = draw.happens(0.25 if turns == 1 else 0.6)
        return draw.around(75, 1.2, 5, 3 * HOUR) if goes_on else None

    def turn(number: int, at: float) -> Turn:
        words = draw.tokens(60, 1.0, 8, 3000) if number else draw.tokens(2500, 1.4, 40, 60_000)
        return Turn(at, words, (draw.answer(300),))

    starts = draw.arrivals(120, 2 * scale)
    return [_visit(f"chat{n}", f"user{n}", at, gap, turn) for n, at in enumerate(starts)]


def _support(each_hour: float, hours: float) -> Callable[[Draw, float], list[Visit]]:
    def visits(draw: Draw, scale: float) -> list[Visit]:
        def gap(turns: int) -> float | None:
            if draw.happens(0.03):
                return draw.around(5 * HOUR, 0.8, HOUR, DAY)  # comes back later with the same matter
            return draw.around(95, 0.8, 8, 1200) if draw.happens(_goes_on(turns)) else None

        def turn(number: int, at: float) -> Turn:
            looks = [draw.call(400, 1.5, 30) for _ in range(2) if draw.happens(0.25)]
            return Turn(at, draw.tokens(45 if number else 80, 0.7, 6, 600), (*looks, draw.answer(130)))

        starts = draw.arrivals(each_hour, hours * scale)
        return [_visit(f"case{n}", f"customer{n}", at, gap, turn) for n, at in enumerate(starts)]

    return visits


def _goes_on(turns: int) -> float:
    """Few leave at once, most have what they want after six messages."""
    return 0.95 if turns < 4 else 0.8 if turns < 6 else 0.6


def _documents(draw: Draw, scale: float) -> list[Visit]:
    def gap(turns: int) -> float | None:
        return draw.around(80, 1.1, 5, 2 * HOUR) if draw.happens(0.65) else None

    def turn(number: int, at: float) -> Turn:
        return Turn(at, draw.tokens(50, 0.7, 8, 500), (draw.answer(350),))

    visits = []
    for n, at in enumerate(draw.arrivals(12, 8 * scale)):
        shelf = draw.random.choices(range(6), weights=[1 / (rank + 1) for rank in range(6)])[0]
        document = f"upload{n}" if draw.happens(0.6) else f"handbook{shelf}"
        visits.append(_visit(f"paper{n}", f"reader{n}", at, gap, turn, document=(document, 50_000)))
    return visits


def _voice(draw: Draw, scale: float) -> list[Visit]:
    visits = []
    for n, at in enumerate(draw.arrivals(20, 4 * scale)):
        length = draw.tokens(12, 0.6, 3, 50)

        def gap(turns: int, length: int = length) -> float | None:
            return draw.random.uniform(6, 15) if turns < length else None

        def turn(number: int, at: float) -> Turn:
            looks = [draw.call(200, 0.8, 5)] if draw.happens(0.15) else []
            return Turn(at, draw.tokens(22, 0.6, 4, 120), (*looks, draw.answer(45, 0.5)))

        visits.append(_visit(f"call{n}", f"caller{n}", at, gap, turn))
    return visits


def _nightly(draw: Draw, scale: float) -> list[Visit]:
    def turn(number: int, at: float) -> Turn:
        rounds = draw.tokens(14, 0.5, 3, 40)
        steps = [draw.call(900, 4, 900) for _ in range(rounds)]
        return Turn(at, draw.tokens(2500, 0.6, 300, 9000), (*steps, draw.answer(400)))

    visits = []
    for night in range(max(2, round(16 * scale))):
        for job in range(4):
            at = night * DAY + draw.random.uniform(0, HOUR)
            visits.append(_visit(f"job{night}x{job}", "scheduler", at, lambda turns: None, turn))
    return visits


def _hours_apart(draw: Draw) -> float:
    """Seconds until somebody writes to a team's bot again."""
    kind = draw.random.random()
    if kind < 0.4:
        return draw.between(10, 5 * MINUTE)
    if kind < 0.55:
        return draw.between(5 * MINUTE, HOUR)
    return draw.around(5 * HOUR, 0.9, HOUR, 3 * DAY)


def _asks_the_bot(draw: Draw) -> Callable[[int, float], Turn]:
    def turn(number: int, at: float) -> Turn:
        looks = [draw.call(600, 2, 30)] if draw.happens(0.3) else []
        words = draw.tokens(60, 0.9, 8, 2000) if number else draw.tokens(800, 1.2, 60, 15_000)
        return Turn(at, words, (*looks, draw.answer(220)))

    return turn


def _slack(draw: Draw, scale: float) -> list[Visit]:
    def gap(turns: int) -> float | None:
        return None if draw.happens(0.22) else _hours_apart(draw)

    turn, starts = _asks_the_bot(draw), draw.arrivals(1.5, 120 * scale)
    return [_visit(f"thread{n}", f"person{draw.random.randrange(12)}", at, gap, turn) for n, at in enumerate(starts)]


def _direct(draw: Draw, scale: float) -> list[Visit]:
    def gap(turns: int) -> float | None:
        return None if draw.happens(0.025) else _hours_apart(draw)

    turn, many = _asks_the_bot(draw), max(3, round(24 * scale))
    starts = [draw.random.uniform(0, 8 * HOUR) for _ in range(many)]
    return [_visit(f"direct{n}", f"person{n}", at, gap, turn) for n, at in enumerate(starts)]


def _person(draw: Draw, scale: float) -> list[Visit]:
    def gap(turns: int) -> float | None:
        if draw.happens(0.05):
            return draw.around(4 * HOUR, 0.8, HOUR, 2 * DAY)  # goes on with it later
        return draw.around(70, 1.2, 5, HOUR) if draw.happens(0.78) else None

    def turn(number: int, at: float) -> Turn:
        words = draw.tokens(4000, 0.8, 500, 30_000) if draw.happens(0.12) else draw.tokens(70, 1.0, 6, 1500)
        return Turn(at, words, (draw.answer(450),))

    visits: list[Visit] = []
    for day in range(max(2, round(20 * scale))):
        for at in sorted(draw.random.uniform(8 * HOUR, 23 * HOUR) for _ in range(draw.random.randint(1, 6))):
            visits.append(_visit(f"mine{len(visits)}", "me", day * DAY + at, gap, turn))
    return visits


@dataclass(frozen=True, slots=True)
class Kind:
    """How a workload is drawn."""

    source: str
    head: int
    visits: Callable[[Draw, float], list[Visit]]


KINDS = {
    # Mooncake's conversation trace (github.com/kvcache-ai/Mooncake, FAST25-release/traces: 12,031 requests of Kimi in
    # an hour): three in four conversations have one turn, first prompts are long and heavy-tailed, answers 343 tokens
    # on average.
    "chat": Kind("Mooncake's conversation trace: 75 % have one turn", 2000, _chat),
    # Comm100, Live Chat Benchmark Report 2021: a chat takes 10:57 minutes. Six messages of the customer, 8k shared.
    "support-5": Kind("Comm100's Live Chat Benchmark 2021: eleven minutes; 5 an hour", 8000, _support(5, 24)),
    "support-200": Kind("the same; 200 an hour", 8000, _support(200, 1.5)),
    # Anthropic's prompt-caching page names it first: talk to books, papers and documentation. Shape assumed.
    "rag": Kind("a 50k-token document, few questions; 40 % ask one of six handbooks; assumed", 1500, _documents),
    # Turn-taking on the phone: an answer is spoken in 3 to 8 seconds, the caller's words take as long.
    "voice": Kind("6 to 15 seconds from an answer's end to the next words; assumed", 3000, _voice),
    # Cron jobs of one service account: four agents in the hour after two, nobody returns.
    "nightly": Kind("four agents each night, one owner, a median of 14 tool rounds; assumed", 6000, _nightly),
    # A team's bot, a session for each thread: 40 % of the gaps within five minutes, 15 % within the hour, the rest
    # hours; after one message in five nobody writes again.
    "slack": Kind("threads; gaps: 40 % within 5 minutes, 15 % within the hour, the rest hours; assumed", 4000, _slack),
    # The same bot's direct messages: one session for each person, for days.
    "direct": Kind("the same gaps, one session a person for days; assumed", 4000, _direct),
    # One person who keeps several conversations a day, and sometimes goes on with one after hours.
    "person": Kind("one person, one to six conversations a day; assumed", 1500, _person),
}
"""By name. "assumed": no public log has it; the shape is what such programs are built for."""


def workload(name: str, seed: int = 1, scale: float = 1.0) -> Workload:
    """The draw of that name and seed."""
    kind = KINDS[name]
    visits = kind.visits(Draw(name, seed), scale)
    return Workload(name, kind.source, kind.head, tuple(visits))
