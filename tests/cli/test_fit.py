"""`warmline fit`: what the ledger shows of users' gaps, and the file that another manager begins with."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from sessions import ConfigurationError, SessionManager
from sessions.calls.prior_file import read_prior
from sessions.core.experience import kinds
from sessions.core.fitting import SHIPPED
from sessions.core.gaps import FITTED, Prior
from sessions.simulator import Request
from sessions.testing import ManualClock, simulated_manager
from sessions.tools import Toolbox
from tests.cli.conftest import Run

MODEL = "claude-sonnet-5-5"


def answer(_: Request) -> str:
    return "fine"


async def conversations(path: Path) -> None:
    """Twenty threads of a support agent whose users come back after a minute, twenty of others who never do."""
    clock = ManualClock(start=1_700_000_000.0)
    async with simulated_manager(f"sqlite:///{path}", answer, clock, tend=False) as manager:
        for number in range(20):
            about: Any = {"model": MODEL, "max_tokens": 500, "owner": f"user{number % 2}"}
            support = await manager.create(
                id=f"support{number}", system="Help.", metadata={"agent": "help [bold]desk"}, **about
            )
            await support.send("Hello")
            await clock.advance(60)
            await support.send("Again")
            other = await manager.create(id=f"other{number}", system="Chat.", **about)
            await other.send("Hello")
        single = await manager.create(id="single", system="Alone.", model=MODEL, max_tokens=500)
        await single.send("Hello")


@pytest.fixture
def store(tmp_path: Path) -> str:
    path = tmp_path / "sessions.db"
    anyio.run(conversations, path)
    return f"sqlite:///{path}"


def test_it_shows_the_whole_store_and_each_settings_beside_the_shipped_prior(warmline: Run, store: str) -> None:
    ran = warmline("fit", "--store", store)
    assert ran.code == 0, ran.err
    lines = {line.split("  ")[0].strip(): line.split() for line in ran.out.splitlines()}
    assert "41 sessions, 61 calls since" in ran.out
    assert lines["all sessions"][2:6] == ["61", "33%", "33%", "67%"]
    support = next(number for number, line in enumerate(ran.out.splitlines()) if line.startswith("help [bold]desk"))
    first, second = (ran.out.splitlines()[support + more].split() for more in (1, 2))
    assert first[:7] == ["after", "turn", "1", "20", "100%", "100%", "0%"]
    assert second[:7] == ["after", "turn", "2", "20", "0%", "0%", "100%"]
    assert int(first[7].rstrip("%")) > 70 > 30 > int(second[7].rstrip("%"))
    assert f"{MODEL} " in ran.out
    assert lines["the shipped prior"][-3:] == [f"{SHIPPED.soon:.0%}", f"{SHIPPED.hour:.0%}", f"{SHIPPED.never:.0%}"]
    assert "1 other settings have fewer than 10 gaps" in ran.out
    assert "back within five minutes" in ran.out
    assert "Brier score" in ran.out


def test_too_little_is_told_and_not_written(warmline: Run, store: str, tmp_path: Path) -> None:
    ran = warmline("fit", "--store", store, "--owner", "nobody", "--write", str(tmp_path / "prior.json"))
    assert ran.code == 2
    assert "below 10 gaps the shipped prior weighs more" in ran.out
    assert "Too little data to judge it" in ran.out
    assert "nothing was written: 0 gaps are known, 10 are needed" in ran.err
    assert not (tmp_path / "prior.json").exists()


def test_few_gaps_are_marked(warmline: Run, tmp_path: Path) -> None:
    async def few() -> None:
        clock = ManualClock(start=1_700_000_000.0)
        async with simulated_manager(f"sqlite:///{tmp_path}/few.db", answer, clock) as manager:
            session = await manager.create(model=MODEL, max_tokens=500)
            await session.send("Hello")

    anyio.run(few)
    ran = warmline("fit", "--store", f"sqlite:///{tmp_path}/few.db")
    assert ran.code == 0
    assert "1 *" in ran.out
    assert "* fewer than 10 gaps" in ran.out


def test_one_owners_sessions_alone(warmline: Run, store: str) -> None:
    found = json.loads(warmline("fit", "--store", store, "--owner", "user1", "--json").out)
    assert (found["sessions"], found["calls"]) == (20, 30)
    assert found["rows"][0] == {
        "enough": True,
        "settings": None,
        "turns": None,
        "gaps": 30,
        "seen": {"soon": pytest.approx(1 / 3), "hour": pytest.approx(1 / 3), "never": pytest.approx(2 / 3)},
        "used": found["rows"][0]["used"],
    }
    assert [one["seconds"] for one in found["judged"]] == []
    assert any(name.startswith("help [bold]desk ") for name in found["names"].values())


def test_json_has_the_calibration(warmline: Run, store: str, tmp_path: Path) -> None:
    ran = warmline("fit", "--store", store, "--json", "--write", str(tmp_path / "prior.json"))
    found = json.loads(ran.out)
    assert [one["seconds"] for one in found["judged"]] == [300.0, 3600.0]
    assert all(one["learnt"] < one["shipped"] for one in found["judged"])
    assert (tmp_path / "prior.json").exists()


def test_a_new_deployment_begins_with_what_was_written(warmline: Run, store: str, tmp_path: Path) -> None:
    path = tmp_path / "prior.json"
    ran = warmline("fit", "--store", store, "--write", str(path))
    assert ran.code == 0, ran.err
    assert "kinds of sessions in" in ran.out
    priors = read_prior(path)

    async def begins_with(**more: Any) -> Prior:
        async with simulated_manager("sqlite://", answer, ManualClock(), **more) as manager:
            session = await manager.create(model=MODEL, max_tokens=500, system="Help.")
            conversation = await manager.runtime.conversations.open(session.id, Toolbox(()))
            return manager.runtime.forecaster.prior(conversation, 0.0, turns=1)

    digest = next(settings for settings, turns in priors if settings and (settings, 2) in priors)
    assert anyio.run(partial(begins_with, prior=path)) == priors[kinds(digest, 1)[-1]]
    assert anyio.run(begins_with) == FITTED
    again = warmline("fit", "--store", store, "--write", str(path))
    assert again.code == 2
    assert "--force" in again.err
    assert warmline("fit", "--store", store, "--write", str(path), "--force").code == 0


def test_the_store_itself_is_not_overwritten(warmline: Run, store: str) -> None:
    ran = warmline("fit", "--store", store, "--force", "--write", store.removeprefix("sqlite:///"))
    assert ran.code == 2
    assert "belongs to the store itself" in ran.err


def test_a_manager_takes_it_by_a_path_only() -> None:
    with pytest.raises(ConfigurationError, match="prior must be the path of a file, not 3"):
        SessionManager("sqlite://", prior=3)  # type: ignore[arg-type]
