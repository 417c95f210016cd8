"""What the lint of a prompt finds, and what it leaves alone."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from sessions.core.lint import Hint, lint, named, reordered, too_short
from sessions.core.profiles import profile_for
from sessions.core.settings import make_settings

MODEL = "claude-sonnet-5-5"
modest = hypothesis(deadline=None)  # regular expressions over long texts, on a busy machine
NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC).timestamp()


def settings(system: Any = None, **given_: Any) -> Any:
    return make_settings(model=MODEL, max_tokens=100, system=system, **given_)


def hints(system: Any = None, *, now: float = NOW, **given_: Any) -> list[Hint]:
    return lint(settings(system, **given_), profile_for(MODEL), now=now)


FOUND = [
    ("Today is 2024-03-01.", "date", "2024-03-01"),
    ("Today's date: March 3, 2025", "date", "March 3, 2025"),
    ("Today's date is Wednesday, 25 November 2026.", "date", "25 November 2026"),
    ("The current date is 25 November 2026 and you help.", "date", "25 November 2026"),
    ("Today is Tuesday, and you help.", "date", "Tuesday"),
    ("Today is Monday, March 3rd, 2025.", "date", "March 3rd, 2025"),
    ("The current month is November 2026.", "date", "November 2026"),
    ("You are kind. The date is 2024-05-05.", "date", "2024-05-05"),
    ("As of today (2026-11-25) the shop is open.", "date", "2026-11-25"),
    ("Generated 11/25/2026.", "date", "11/25/2026"),
    ("Erstellt am 25.11.2026.", "date", "25.11.2026"),
    ("<date>2026-11-24</date>\nYou are kind.", "date", "2026-11-24"),
    ("2021-01-01\nYou are kind.", "date", "2021-01-01"),
    ("You are kind.\n(2021-01-01)", "date", "2021-01-01"),
    ("The menu, e.g. of 2026-11-25, is long.", "date", "2026-11-25"),
    ("It is now 14:47.", "time", "14:47"),
    ("It is currently 9:15 am.", "time", "9:15 am"),
    ("Current time: 2:47 pm UTC", "time", "2:47 pm UTC"),
    ("The current time is 2026-11-25T14:47:54Z", "time", "2026-11-25T14:47:54Z"),
    ("Current date and time: 2020-01-01 00:00", "time", "2020-01-01 00:00"),
    ("Current datetime (UTC): 2024-05-05 12:00:01", "time", "2024-05-05 12:00:01"),
    ("Wed Nov 25 14:47:54 2026: you are kind.", "time", "Nov 25 14:47:54 2026"),
    ("Date: Wed, 3 Mar 2021 10:00:00 GMT\nYou are kind.", "time", "3 Mar 2021 10:00:00 GMT"),
    ("[2021-01-01 10:00] You are kind.", "time", "2021-01-01 10:00"),
    (f"Started {NOW - 60:.2f}.", "time", f"{NOW - 60:.2f}"),
    (f"Started {int(NOW * 1000)}", "time", f"{int(NOW * 1000)}"),
    ("You serve request 7b9e6a1e-3c39-4a6a-9b9f-2f6f4bb5a111.", "id", "7b9e6a1e-3c39-4a6a-9b9f-2f6f4bb5a111"),
    ("session id: 8f3a9b2c11", "id", "8f3a9b2c11"),
    ("The `trace_id` is `ab12cd34`.", "id", "ab12cd34"),
]


@pytest.mark.parametrize(("text", "kind", "found"), FOUND)
def test_what_changes_from_call_to_call_is_found(text: str, kind: str, found: str) -> None:
    [hint] = hints(text)
    assert (hint.kind, hint.place, hint.found) == (kind, "system[0]", found)
    assert text[hint.start : hint.end] == found
    assert f"system[0], characters {hint.start} to {hint.end}: {found!r}" in hint.message


ORDINARY = """
You have worked here since 2019.
Founded in 1998, it moved in May 2003.
Answer within 2 hours, or in 10 minutes at most.
Use ISO 8601 and RFC 3339, and UTF-8.
The standard is ISO 9001:2015, clause 7.1.
Version 3.11.2 of 2024 is out; 10.12.2024.3 is not.
The current version is 2024.11.25-beta.
The law of 25 May 2018 applies.
As of 1 January 2024 the rate is 19 %.
The current rate is 3.5 %.
anthropic-version: 2023-06-01
You are claude-haiku-4-5-20251001.
Open 9:00 to 17:00 today and tomorrow.
Now that the reform of 2020-01-01 holds, ask for both forms.
Give dates as YYYY-MM-DD, e.g. 2024-01-31.
If today is a Monday, say so.
Timestamps look like 2024-01-01T00:00:00Z.
Write times such as 14:05, never 2:05 pm.
The ratio is 16:9; see Genesis 3:16.
Call get_order with an id such as 6d1cfa35-0a5c-4f2c-9a2a-0a77c2e7f0aa.
The nil id is 00000000-0000-0000-0000-000000000000.
Knowledge cutoff: January 2025.
{"date": "2024-01-31", "time": "10:00", "amount": 12}
ERROR 2024-01-01 10:00:00 disk full
Call +1 555 010 9999 or 0800 123456789.
The price is 1499999999 dong.
Use port 8080:80 and 127.0.0.1:5432.
Today we answer kindly; at 5:30 the phones close.
Colour #25112026, part 11-25-2026-7.
There may be 3 2024 models; the 31.31.2024 form does not exist.
The session key is kept for 30 minutes.
Ask for the request id before you search.
""".strip().splitlines()


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_prompts_raise_no_alarm(text: str) -> None:
    assert hints(f"You are kind.\n{text}\nAnswer in English.") == []
    assert hints(text) == []


words = st.lists(st.sampled_from(" ".join(ORDINARY).split()), min_size=1, max_size=60).map(" ".join)
"""Ordinary words, numbers and figures in any order."""
calm = st.lists(st.sampled_from(ORDINARY), max_size=8).map("\n".join)


@modest
@given(calm)
def test_no_mixture_of_ordinary_lines_raises_an_alarm(text: str) -> None:
    assert hints(f"You are kind.\n{text}\nAnswer.") == []


@modest
@given(words, st.floats(0, 4e9))
def test_whatever_is_found_is_in_the_text(text: str, now: float) -> None:
    for hint in hints(f"You {text}", now=now):
        assert f"You {text}"[hint.start : hint.end] == hint.found != ""


@modest
@given(calm, calm, st.floats(1e9, 3e9), st.sampled_from(["%Y-%m-%d", "%d %B %Y", "%B %d, %Y", "%d.%m.%Y", "%c"]))
def test_todays_date_is_found_wherever_it_stands(before: str, after: str, now: float, form: str) -> None:
    stamp = datetime.fromtimestamp(now, UTC).strftime(form)
    text = f"You are kind.\n{before}\nWritten {stamp} by a clock.\n{after}"
    found = [hint.found for hint in hints(text, now=now)]
    assert any(one in stamp for one in found), (stamp, found)


@modest
@given(calm, st.uuids())
def test_an_id_is_found_wherever_it_stands(before: str, id: UUID) -> None:
    assert [hint.found for hint in hints(f"{before}\nServe {id} now.")] == [str(id)]


def test_yesterday_counts_and_last_week_does_not() -> None:
    for days, count in ((1, 1), (-1, 1), (7, 0), (-7, 0)):
        day = datetime.fromtimestamp(NOW, UTC) - timedelta(days=days)
        assert len(hints(f"You know the facts of {day:%d %B %Y}.")) == count


def test_each_place_tells_its_own() -> None:
    system = [
        {"type": "text", "text": "You are kind."},
        {"type": "text", "text": "Today is 2024-01-01, it is now 9:30."},
    ]
    tool = {
        "name": "find",
        "description": "Finds things. Today is Friday.",
        "input_schema": {
            "type": "object",
            "properties": {"on": {"type": "string", "description": "The current date is 2024-02-02."}},
            "anyOf": [{"description": "Fine."}],
        },
    }
    found = [(hint.place, hint.kind) for hint in hints(system, tools=[tool])]
    assert found == [
        ("tools[0].description", "date"),
        ("tools[0].input_schema.properties.on.description", "date"),
        ("system[1]", "date"),
        ("system[1]", "time"),
    ]


NAMED = [
    ("You help Ada.", "ada", None, "owner"),
    ("The user is user-42.", "user-42", None, "owner"),
    ("Write to ADA@example.com.", None, {"contact": "ada@example.com"}, "metadata['contact']"),
    ("You help Ada Lovelace.", None, {"userName": "Ada Lovelace"}, "metadata['userName']"),
    ("You help Ada Lovelace.", None, {"who": {"full_name": "Ada Lovelace"}}, "metadata['who']['full_name']"),
    ("Account 12345 is theirs.", "12345", None, "owner"),
]


@pytest.mark.parametrize(("text", "owner", "metadata", "source"), NAMED)
def test_whose_session_it_is_does_not_belong_into_the_prefix(text: str, owner: Any, metadata: Any, source: str) -> None:
    [hint] = named(settings(text), owner, metadata or {})
    assert hint.kind == "name"
    assert f"is this session's {source}, " in hint.message
    assert "context=" in hint.message


UNNAMED = [
    ("You are a support agent.", "support", None),
    ("You help Adam and Canada.", "ada", None),
    ("There are 42 rules.", "42", None),
    ("Answer in English.", None, {"language": "English", "plan": "pro", "age": 30}),
    ("You serve users of the app.", "users", {"name": "app"}),
    ("You are kind.", "", {"name": "  "}),
]


@pytest.mark.parametrize(("text", "owner", "metadata"), UNNAMED)
def test_ordinary_words_name_nobody(text: str, owner: Any, metadata: Any) -> None:
    assert named(settings(text), owner, metadata or {}) == []


def test_the_same_tools_in_another_order() -> None:
    one, two, three = ({"name": name, "input_schema": {}} for name in ("one", "two", "three"))
    server = {"type": "web_search_20260101"}
    assert reordered([one, two], [one, two]) is None
    assert reordered([one, two], [one, three]) is None
    assert reordered([one], [one, two]) is None
    hint = reordered([one, two, server], [one, server, two])
    assert hint is not None
    assert hint.message.startswith("tools[1]: the same tools stand in another order than before ('web_search_20260101'")


def sized(tokens: int) -> str:
    return "x" * round((tokens - 4) * 2.75)


@pytest.mark.parametrize(("tokens", "told"), [(420, False), (436, True), (500, True), (511, True), (513, False)])
def test_a_prefix_just_below_the_minimum(tokens: int, told: bool) -> None:
    hint = too_short(settings(sized(tokens)), profile_for(MODEL))
    assert (hint is not None) is told
    if hint is not None:
        saved = (tokens * 2.0 - 512 * 0.1) / 1000
        assert f"about {tokens} tokens long, {512 - tokens} below the 512" in hint.message
        assert f"1000 opening turns cost about ${saved:.2f} less" in hint.message


def test_a_price_that_nobody_knows_is_not_told() -> None:
    hint = too_short(settings(sized(500)), replace(profile_for(MODEL), price_as=None))
    assert hint is not None
    assert "$" not in hint.message


NOT_SHORT = [
    (settings(sized(500), context=sized(100)), profile_for(MODEL)),
    (settings(None, tools=[{"name": "a", "description": sized(150), "input_schema": {}}]), profile_for(MODEL)),
    (settings(sized(500)), profile_for(MODEL, "vllm")),
    (settings(sized(500)), replace(profile_for(MODEL), minimum_tokens=4096)),
]


@pytest.mark.parametrize(("given_", "profile"), NOT_SHORT)
def test_a_prefix_that_lengthening_would_not_help(given_: Any, profile: Any) -> None:
    assert too_short(given_, profile) is None


def test_the_minimum_is_told_last() -> None:
    found = hints(f"Today is Friday. {sized(496)}")
    assert [hint.kind for hint in found] == ["date", "short"]
    assert isinstance(found[0], Hint)
