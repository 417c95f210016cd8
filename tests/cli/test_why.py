"""`warmline why` and the groups of `warmline cost`, on sessions with planted misses."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import anyio
import pytest

from sessions import Fixed, tool
from sessions.simulator import engine_of, filler
from sessions.testing import ManualClock, simulated_manager
from tests.cli.conftest import Run

MODEL = "claude-sonnet-5-5"


def weather(day: str) -> Any:
    """A tool whose description says what day it is."""

    @tool
    def weather(city: str) -> str:
        """Today's weather."""
        return city

    weather.definition["description"] = f"The weather [bold] of {day}."
    return weather


async def conversations(path: Path) -> None:
    """Ada's session misses twice, hers of the next day never; nobody's loses an entry."""
    clock = ManualClock(start=1_700_000_000.0)  # 22:13 of a day in UTC
    async with simulated_manager(f"sqlite:///{path}", clock=clock, tend=False, ttl=Fixed("5m")) as manager:
        about: Any = {"model": MODEL, "max_tokens": 500, "system": filler(900)}
        one = await manager.create(id="one", owner="ada", tools=[weather("Monday")], **about)
        await one.send("Hello")
        await one.update(tools=[weather("Tuesday")], rebase=True)
        await one.send("Again")
        await clock.advance(900)
        await one.send("And again")
        other = await manager.create(id="other", **about)
        await other.send("Hello")
        engine_of(manager.runtime.client.sdk).evict()
        await other.send("Again")
        await clock.advance(86_400)
        later = await manager.create(id="later", owner="ada", **about)
        await later.send("Hello")
        await later.send("Again")


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    path = tmp_path / "sessions.db"
    anyio.run(conversations, path)
    return path


def flat(text: str) -> str:
    return " ".join(text.split())


def test_why_shows_each_miss_with_its_place_and_price(warmline: Run, stored: Path) -> None:
    ran = warmline("why", "one")
    assert ran.code == 0
    said = flat(ran.out)
    assert "Turn 2 tools_changed" in said
    assert "tools[0].description, character 23" in said
    assert "- The weather [bold] of Monday." in said
    assert "+ The weather [bold] of Tuesday." in said
    assert "Turn 3 expired" in said
    assert "the user was away for 15 minutes" in said
    assert "It added $0.0" in said


def test_why_one_turn_or_one_call(warmline: Run, stored: Path) -> None:
    assert "No miss: 1 call, 0% of the input was read from the cache." in warmline("why", "one", "--turn", "1").out
    third = json.loads(warmline("why", "one", "--turn", "3", "--json").out)
    assert [(one["turn"], one["miss"]["cause"]) for one in third["misses"]] == [(3, "expired")]
    call = third["misses"][0]["call"]
    assert "expired" in warmline("why", "one", "--call", call[:12]).out


def test_why_as_json_adds_up(warmline: Run, stored: Path) -> None:
    found = json.loads(warmline("why", "one", "--json").out)
    assert (found["calls"], found["loss"]["calls"]) == (3, 2)
    assert Decimal(found["loss"]["cost"]) == sum(Decimal(one["miss"]["cost"]) for one in found["misses"]) > 0
    assert found["hit_rate"] == 0.0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("nope",), 3, "SessionNotFound: "),
        (("one", "--owner", "bob"), 3, "SessionNotFound: "),
        (("one", "--turn", "9"), 2, "no call of a turn 9"),
        (("one", "--call", "zzz"), 2, "no calls have an id"),
        (("one", "--call", "a", "--turn", "1"), 2, "not both"),
    ],
)
def test_what_why_refuses(warmline: Run, stored: Path, arguments: tuple[str, ...], code: int, said: str) -> None:
    ran = warmline("why", *arguments)
    assert (ran.code, said in ran.err) == (code, True), ran.err


def test_cost_by_owner_day_and_kind(warmline: Run, stored: Path) -> None:
    owners = {one["owner"]: one for one in json.loads(warmline("cost", "--by", "owner", "--json").out)}
    assert {name: one["calls"] for name, one in owners.items()} == {"ada": 5, None: 2}
    assert sorted(owners["ada"]["losses"]) == ["expired", "tools_changed"]
    assert owners[None]["losses"]["evicted"]["tokens"] > 900
    days = {one["day"]: one for one in json.loads(warmline("cost", "--by", "day", "--json").out)}
    assert {name: one["calls"] for name, one in days.items()} == {"2023-11-14": 5, "2023-11-15": 2}
    (kind,) = json.loads(warmline("cost", "--by", "kind", "--json", "--owner", "ada").out)
    assert (kind["kind"], kind["calls"]) == ("turn", 5)
    usage = owners["ada"]["usage"]
    read, written = usage["cache_read"], usage["cache_write_5m"] + usage["cache_write_1h"]
    assert owners["ada"]["hit_rate"] == pytest.approx(read / (read + written + usage["input"]))


def test_every_way_to_group_adds_up_to_the_same(warmline: Run, stored: Path) -> None:
    sums = set()
    for by in ("session", "owner", "day", "kind"):
        groups = json.loads(warmline("cost", "--by", by, "--json").out)
        sums.add((sum(one["calls"] for one in groups), sum(Decimal(one["total"]) for one in groups)))
    listed = sum(Decimal(one["cost"]) for one in json.loads(warmline("list", "--json").out))
    assert sums == {(7, listed)}


def test_cost_for_a_person(warmline: Run, stored: Path) -> None:
    said = flat(warmline("cost", "--by", "owner").out)
    assert "owner calls read written uncached hit USD misses lost USD" in said
    assert "nobody 2 " in said
    assert "in all 7 " in said
    assert "evicted 1 " in said
    assert "warmline why SESSION" in said
    assert "tools_changed 1 " in flat(warmline("cost", "one").out)
    assert "missed because of" not in warmline("cost", "later").out
    assert warmline("cost", "nope", "--by", "day").code == 3
