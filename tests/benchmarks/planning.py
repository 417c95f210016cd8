"""What planning one request costs in a conversation of many messages: `python -m tests.benchmarks.planning`.

Without and with other sessions that use its head and its context; rounds alternate. Printed is the median of the
processor time, in which others on the machine do not count.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache

from sessions.core.experience import USES, Experience, Others, Seen, nobody
from sessions.core.gaps import NONE, forecast
from sessions.core.plan import Circumstances, make_plan
from sessions.core.prices import prices_for
from sessions.core.profiles import profile_for
from sessions.core.prompt import Prompt
from sessions.core.settings import make_settings
from sessions.core.transcript import Entry
from sessions.core.ttl import ExpectedCost
from sessions.core.usage import Usage
from sessions.core.warmth import Warmth

MODEL = "claude-sonnet-5-5"
NOW = 1_000_000.0
CONTEXT = {"type": "text", "text": "A shared document. " * 1000}


def prompt_of(messages: int) -> Prompt:
    """A conversation with a head and a context that others may share."""
    settings = make_settings(model=MODEL, max_tokens=1000, system="Be brief. " * 2000, context=[CONTEXT])
    prompt = Prompt(settings, profile_for(MODEL))
    prompt.extend(
        Entry(
            str(number),
            None,
            "assistant" if number % 2 else "user",
            ([CONTEXT] if number == 0 else []) + [{"type": "text", "text": f"{number} " + "x" * 1000}],
            NOW,
        )
        for number in range(messages)
    )
    return prompt


def used_by_others(points: tuple[str, ...], uses: int) -> Experience:
    """A ledger in which so many other sessions have used these points, a hundred seconds apart."""
    found = Experience()
    found.take_in(Seen(f"v{n}", f"t{n}", "s", NOW - 100.0 * n, points) for n in reversed(range(uses)))
    return found


def planner(prompt: Prompt, uses: int) -> Callable[[], None]:
    """Makes one plan, of a request behind another one."""
    expected = forecast(NONE, NONE, expected_gap=None, tools=False)
    at = Circumstances(NOW, ExpectedCost(), expected, prices_for(prompt.profile, prompt.total), False, (), parks=True)
    plan, warmth = make_plan(prompt, Warmth(), at), Warmth()
    warmth.learn(plan.marks, plan.hit, Usage(cache_write_5m=prompt.total), NOW)
    shared = tuple(mark.point for mark in plan.marks if mark.slot in {"shared", "context"})
    experience = used_by_others(shared, uses)

    def others() -> Callable[[str], Others]:
        return cache(lambda point: experience.others(point, "own", NOW)) if uses else nobody

    def work() -> None:
        make_plan(prompt, warmth, replace(at, others=others()))

    return work


def milliseconds(work: Callable[[], None], times: int) -> float:
    """Processor time of one, on average."""
    started = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - started) / times * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=41)
    given = parser.parse_args()
    prompt = prompt_of(given.messages)
    work = {uses: planner(prompt, uses) for uses in (0, 16, USES)}
    rounds = [{uses: milliseconds(one, 50) for uses, one in work.items()} for _ in range(given.rounds)]
    for uses in work:
        figure = statistics.median(one[uses] for one in rounds)
        print(f"{given.messages} messages, {uses} uses of its head and context known: {figure:.3f} ms a plan")


if __name__ == "__main__":
    main()
