"""What conversations tell each other about warm points, and which marks of a plan are worth waiting for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sessions.core.cache import SECONDS
from sessions.core.plan import Plan
from sessions.core.prompt import Where
from sessions.core.usage import Usage
from sessions.core.warmth import RECENT, Alive, Mark, Warmth


def mark(point: str, tokens: int) -> Mark:
    return Mark("tail", Where("messages", 0, 0), "5m", point, tokens)


def test_what_one_has_learnt_all_know() -> None:
    shared = Warmth(limit=100)
    one, other = Warmth(shared=shared), Warmth(shared=shared)
    one.learn([mark("a", 1000)], None, Usage(cache_write_5m=1000), 100.0)
    assert other.find("a") == Alive("5m", 400.0)
    assert (other.is_alive("a", 399.0), other.is_alive("a", 400.0), other.is_alive("b", 0.0)) == (True, False, False)
    assert (list(one.points), list(other.points)) == (["a"], [])
    other.learn([mark("a", 1000)], "a", Usage(cache_read=1000), 200.0)
    assert one.find("a") == Alive("5m", 500.0)


def test_old_news_does_not_replace_newer() -> None:
    """A session that is opened learns its old calls again."""
    shared = Warmth(limit=100)
    Warmth(shared=shared).learn([mark("a", 1000)], None, Usage(cache_write_5m=1000), 500.0)
    Warmth(shared=shared).learn([mark("a", 1000)], None, Usage(cache_write_5m=1000), 100.0)
    assert shared.find("a") == Alive("5m", 800.0)


def test_what_was_not_read_is_not_there_unless_a_later_request_has_shown_it() -> None:
    shared = Warmth(limit=100)
    one, other = Warmth(shared=shared), Warmth(shared=shared)
    one.learn([mark("a", 1000)], None, Usage(cache_write_5m=1000), 100.0)
    other.learn([mark("b", 2000)], "a", Usage(cache_write_5m=2000), 110.0, expected_read=1000)
    assert (one.is_alive("a", 111.0), other.is_alive("b", 111.0)) == (False, True)
    other.know("a", Alive("5m", 500.0))
    one.learn([mark("b", 2000)], "a", Usage(cache_write_5m=2000), 150.0, expected_read=1000)
    assert one.find("a") == other.find("a") == Alive("5m", 500.0)


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 10_000)), max_size=300))
def test_the_newest_are_kept_and_no_more(events: list[tuple[int, int]]) -> None:
    shared = Warmth(limit=40)
    own = Warmth(shared=shared)
    for number, started in events:
        own.know(str(number), Alive("5m", started + 300.0))
        assert own.is_alive(str(number), started + 299.0)
    order = list(dict.fromkeys(str(number) for number, _ in reversed(events)))
    assert list(reversed(own.points)) == order[:RECENT]
    assert list(reversed(shared.points)) == order[:40]
    for name in own.points:
        started = max(at for number, at in events[_first_since(events, name) :] if str(number) == name)
        assert own.points[name].since <= started


def _first_since(events: list[tuple[int, int]], name: str) -> int:
    return min(index for index, (number, _) in enumerate(events) if str(number) == name)


def test_a_long_conversation_keeps_the_mark_that_every_call_sets() -> None:
    """The shared prefix is only read through, call after call: it is renewed, and not forgotten."""
    warmth = Warmth()
    warmth.learn([mark("system", 1000), mark("0", 2000)], None, Usage(cache_write_5m=2000), 0.0)
    for number in range(1, 200):
        size = 2000 + 100 * number
        marks = [mark("system", 1000), mark(str(number - 1), size - 100), mark(str(number), size)]
        warmth.learn(marks, str(number - 1), Usage(cache_read=size - 100, cache_write_5m=100), float(number))
    assert warmth.points["system"] == Alive("5m", 499.0)
    warmth.learn([mark("system", 1000)], "late", Usage(cache_read=9000), 800.0)
    assert warmth.points["system"] == Alive("5m", 499.0), "what had lapsed is not renewed"
    assert len(warmth.points) == RECENT
    assert Alive("1h", 3600.0).since == 3600.0 - SECONDS["1h"]


def test_a_deep_read_renews_what_is_marked_before_it_by_its_own_lifetime() -> None:
    """Recorded usage (docs/provider.md, 18). What had lapsed before stays lapsed: the read does not show it."""
    warmth = Warmth()
    for point, alive in {"hour": Alive("1h", 3600.0), "late": Alive("5m", 100.0), "old": Alive("5m", 450.0)}.items():
        warmth.know(point, alive)
    warmth.know("deep", Alive("5m", 300.0))
    marks = [mark("hour", 500), mark("late", 700), mark("old", 900), mark("new", 950), mark("deep", 2000)]
    warmth.learn(marks, "deep", Usage(cache_read=2000), 120.0)
    assert warmth.points == {
        "hour": Alive("1h", 3720.0), "late": Alive("5m", 100.0), "old": Alive("5m", 450.0), "deep": Alive("5m", 420.0),
    }  # fmt: skip


def test_marks_worth_waiting_for_end_what_is_not_read() -> None:
    marks = (mark("a", 1000), mark("b", 1400), mark("c", 5000))
    for read, minimum, expected in (
        (0, 512, "abc"),
        (1000, 512, "c"),
        (1000, 400, "bc"),
        (5000, 0, ""),
        (4999, 0, "c"),
    ):
        plan = Plan(marks, Usage(cache_read=read))
        assert "".join(one.point for one in plan.writes(minimum)) == expected, (read, minimum)
